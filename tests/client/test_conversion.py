"""Python values as tensors: what a model declares decides, and no value changes but by rounding."""

import dataclasses
import json

import msgspec
import numpy as np
import pytest

from mooring.client.conversion import differing, encode_value, is_exact, to_tensor, to_tensors
from mooring.core.errors import InvalidInput
from mooring.core.tensors import RAW, Tensor, TensorSpec


def spec(datatype="FP32", shape=(-1, 3), name="x", **more):
    return TensorSpec(name, datatype, list(shape), **more)


def made(value, declared):
    tensor = to_tensor("x", value, declared)
    return tensor.datatype, tensor.shape, tensor.array().tolist()


JSON = spec("BYTES", [1], content_type="application/json")


@pytest.mark.parametrize(
    ("value", "declared", "expected"),
    [
        (np.array([[1.5, 2, 3]]), spec(), ("FP32", [1, 3], [[1.5, 2, 3]])),
        ([[1, 2, 3]], spec(), ("FP32", [1, 3], [[1, 2, 3]])),
        ([1, 2, 3], spec(), ("FP32", [1, 3], [[1, 2, 3]])),
        (np.array([1, 2]), spec("INT32", [-1]), ("INT32", [2], [1, 2])),
        (np.array([1.0, 2.0]), spec("INT8", [-1]), ("INT8", [2], [1, 2])),
        (5, spec("INT64", []), ("INT64", [], 5)),
        (5, spec("INT64", [-1, 1]), ("INT64", [1, 1], [[5]])),
        ([0, 1], spec("BOOL", [-1]), ("BOOL", [2], [False, True])),
        ([1.5], spec("BF16", [-1]), ("BF16", [1], [1.5])),
        ("hi", spec("BYTES", [-1]), ("BYTES", [1], [b"hi"])),
        ("hi", spec("BYTES", [-1, 1]), ("BYTES", [1, 1], [[b"hi"]])),
        (["a", "\u00fc"], spec("BYTES", [-1]), ("BYTES", [2], [b"a", "\u00fc".encode()])),
        (b"a\0", spec("BYTES", [-1]), ("BYTES", [1], [b"a\0"])),
        ([b"a\0", b"b"], spec("BYTES", [-1]), ("BYTES", [2], [b"a\0", b"b"])),
        (np.array(["a", "b"]), spec("BYTES", [-1]), ("BYTES", [2], [b"a", b"b"])),
        (np.zeros((2, 0)), spec("INT32", [-1, -1]), ("INT32", [2, 0], [[], []])),
        # What is not declared has numpy's own type.
        ([1.5, 2], None, ("FP64", [2], [1.5, 2])),
        ("hi", None, ("BYTES", [1], [b"hi"])),
    ],
)  # fmt: skip
def test_a_value_becomes_what_is_declared(value, declared, expected):
    assert made(value, declared) == expected


@pytest.mark.parametrize(
    ("value", "declared", "reason"),
    [
        ([1.5], spec("INT32", [-1]), "input 'x' holds 1.5"),
        ([300], spec("UINT8", [-1]), "input 'x' holds 300"),
        ([1e39], spec("FP32", [-1]), "input 'x' holds a number too large for FP32"),
        ([2**70], spec("INT64", [-1]), "more than 64 bits"),
        ([[1, 2], [3]], spec(), "input 'x' is ragged"),
        ([1, "a"], spec(), "holds int and str"),
        (["a"], spec(), "holds strings"),
        ([True], spec(), "holds booleans"),
        ([1], spec("BYTES", [-1]), "holds numbers"),
        ({"a": 1}, spec(), r"holds an object; the model takes FP32 \[-1, 3\]"),
        ([1.0, None], spec(), "holds lists with objects"),
        (np.array([{}]), spec("BYTES", [-1]), "holds dict"),
        (np.array([1j]), None, "no datatype"),
        (np.ma.array([1.0, 2.0], mask=[0, 1]), None, r"has masked elements; .*filled\(value\)"),
        (["\ud800"], None, "input 'x' holds half a surrogate pair"),
        (np.array([2**70], object), None, "more than 64 bits"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name_and_not_changed(value, declared, reason):
    with pytest.raises(InvalidInput, match=reason):
        made(value, declared)


def test_an_array_of_objects_that_are_numbers_is_one_of_numbers():
    assert made(np.array([1, 2], object), None) == made([1, 2], None)
    assert made(np.array([1, 2.5], object), spec("FP32", [-1])) == made([1, 2.5], spec("FP32", [-1]))
    assert made(np.array([True], object), None) == made([True], None)


def test_a_tensor_goes_as_it_is_under_its_name():
    mine = Tensor("", "BF16", [1], b"\0\0")
    assert to_tensor("x", mine, spec()) == Tensor("x", "BF16", [1], b"\0\0")
    named = Tensor("x", "BF16", [1], b"\0\0")
    assert to_tensor("x", named, None) is named


@dataclasses.dataclass
class Point:
    x: int


class Line(msgspec.Struct):
    start: Point


@pytest.mark.parametrize(
    ("value", "text"),
    [({"a": [1, None, "\u00fc"]}, '{"a":[1,null,"\u00fc"]}'), (Point(1), '{"x":1}'), (Line(Point(2)), '{"start":{"x":2}}'),
     ({"n": np.float32(1.5), "v": np.arange(2)}, '{"n":1.5,"v":[0,1]}'), (b"\xff", '"/w=="'), (float("nan"), "NaN")],
)  # fmt: skip
def test_json_holds_what_python_calls_values(value, text):
    assert encode_value("x", value).decode() == text
    tensor = to_tensor("x", value, JSON)
    assert (tensor.datatype, tensor.shape, tensor.parameters) == (
        "BYTES",
        [1],
        {"content_type": "application/json"},
    )


@pytest.mark.parametrize("value", [object(), {"a": object()}, 1j])
def test_what_json_has_no_form_for_is_refused_by_name(value):
    with pytest.raises(InvalidInput, match="input 'x' cannot be written as JSON"):
        encode_value("x", value)


@pytest.mark.parametrize("value", [{"a": 1}, None, [{"a": 1}], Point(1)])
@pytest.mark.parametrize("declared", [None, spec("BYTES", [1])])
def test_a_value_that_no_tensor_holds_travels_as_json(value, declared):
    assert to_tensor("x", value, declared).parameters == {"content_type": "application/json"}


def test_a_value_alone_is_the_only_input():
    assert to_tensors("m", np.ones((1, 3)), [spec()])[0].name == "x"
    two = [spec(), spec("INT64", [1], "n", optional=True)]
    assert to_tensors("m", [1, 2, 3], two)[0].name == "x"
    with pytest.raises(
        InvalidInput,
        match=r"model 'm' takes 'x' \(FP32 \[-1, 3\]\), 'n' \(INT64 \[1\]\): give inputs by name",
    ):
        to_tensors("m", 1, [spec(), spec("INT64", [1], "n")])
    with pytest.raises(InvalidInput, match="model 'm' declares no inputs"):
        to_tensors("m", [1], [])


def test_none_for_an_optional_input_leaves_it_out():
    declared = [spec(), spec("INT64", [1], "n", optional=True)]
    assert [each.name for each in to_tensors("m", {"x": [1, 2, 3], "n": None}, declared)] == ["x"]


def test_a_mapping_is_the_value_of_a_lone_json_input_unless_it_names_it():
    def values(inputs):
        return [(each.name, json.loads(each.data[0])) for each in to_tensors("m", inputs, [JSON])]

    assert values({"x": {"messages": []}}) == [("x", {"messages": []})]
    assert values({"messages": []}) == [("x", {"messages": []})]
    assert values({}) == [("x", {})]
    assert values({"x": 1, "y": 2}) == [("x", {"x": 1, "y": 2})]
    assert to_tensors("m", {"messages": [1]}, [spec()])[0].name == "messages"


def test_only_types_that_somebody_chose_need_no_declaration():
    exact = {"x": np.ones(3, np.float32), "y": Tensor("", "FP64", [1], bytes(8)), "z": np.array(["a"])}
    assert is_exact(exact)
    for odd in (np.ones(3), np.arange(3), [1.0], 1, "a", None):
        assert not is_exact({**exact, "w": odd})
        assert not is_exact(odd)


def test_other_tensors_of_the_same_values_are_noticed():
    sent = to_tensors("m", {"x": [1.0]}, [])
    assert differing(sent, to_tensors("m", {"x": [1.0]}, [spec()]))
    assert not differing(sent, to_tensors("m", {"x": [1.0]}, [spec("FP64", [-1])]))


def test_a_tensor_says_what_it_is_and_not_all_its_bytes():
    assert repr(Tensor("x", "FP32", [1, 2], bytes(8))) == "Tensor('x', FP32 [1, 2])"
    packed = Tensor("x", "BYTES", [1], b"", {"content_type": "a"}, RAW)
    assert repr(packed) == "Tensor('x', BYTES [1], {'content_type': 'a'}, RAW)"

"""Whatever a function returns becomes JSON, a body or tensors, or an error names the place of what cannot."""

import dataclasses
import datetime as dt
import enum
import inspect
import io
import json
import math
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import Any

import attrs
import jsonschema
import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mooring.backends.values.results import result_type
from mooring.core.buffers import view_of
from mooring.core.errors import InvalidOutput

NOTHING = inspect.Parameter.empty
ANY = result_type(NOTHING)


@dataclasses.dataclass
class Answer:
    user: Any
    tags: set[str] = dataclasses.field(default_factory=set)


class Tagged(msgspec.Struct, tag=True, rename="camel", omit_defaults=True):
    own_name: Any
    rest: int = 3


class User(pydantic.BaseModel):
    name: str = pydantic.Field(alias="called")
    weight: float = 0.0

    @pydantic.computed_field
    def initial(self) -> str:
        return self.name[:1]


class Mixed(enum.Enum):
    HALF = 0.5


@attrs.define
class Parcel:
    size: float


class Text(str):
    __slots__ = ()


class Unknown:
    pass


DAY = dt.date(2026, 1, 31)
IMAGE = Image.new("CMYK", (2, 1))


@pytest.mark.parametrize(
    ("value", "document"),
    [
        (5, 5),
        ("ä", "ä"),
        (None, None),
        ([1, (2, {3})], [1, [2, [3]]]),
        ({"a": {None: 3, True: 4, np.int64(5): 6}}, {"a": {"null": 3, "true": 4, "5": 6}}),
        ({DAY: 1, 0.5: 2}, {"2026-01-31": 1, "0.5": 2}),
        (Answer({"id": 1}, {"a"}), {"user": {"id": 1}, "tags": ["a"]}),
        (Answer({(np.int64(1)): Tagged(1)}), {"user": {"1": {"type": "Tagged", "ownName": 1}}, "tags": []}),
        (Tagged([User(called="Ann")]), {"type": "Tagged", "ownName": [{"called": "Ann", "weight": 0.0, "initial": "A"}]}),
        (np.float32(1.5), 1.5),
        (np.array([[1, 2]], np.int8), [[1, 2]]),
        (np.array([1.5, 2], np.float16), [1.5, 2]),
        (np.array(["a"]), ["a"]),
        (np.arange(6).reshape(2, 3)[:, ::2], [[0, 2], [3, 5]]),
        ({"a": [np.bool_(True), np.datetime64("2026-01-31")]}, {"a": [True, "2026-01-31"]}),
        ([DAY, uuid.UUID(int=1), Mixed.HALF, Text("t")], ["2026-01-31", str(uuid.UUID(int=1)), 0.5, "t"]),
        ([b"\xff", bytearray(b"a")], ["/w==", "YQ=="]),
        ((b"\xff", "image/png"), "/w=="),
        ((b"\xff", "no type"), ["/w==", "no type"]),
        ([range(3), {1: 2}.keys(), OrderedDict(a=1)], [[0, 1, 2], [1], {"a": 1}]),
        ([math.nan, np.array([math.inf, 1]), User(called="A", weight=math.nan)],
         [None, [None, 1], {"called": "A", "weight": None, "initial": "A"}]),
        (10**30, 10**30),
    ],
)  # fmt: skip
def test_values_become_json(value, document):
    assert json.loads(ANY.encode_json(value)) == document


def test_nan_is_null_or_a_token():
    assert ANY.encode_json([Parcel(math.nan)], null=False) == b'[{"size":NaN}]'
    value = {"a": [math.nan, None, np.float32(math.inf)], "u": User(called="ä", weight=-math.inf)}
    assert ANY.encode_json(value, null=False) == (
        '{"a":[NaN,null,Infinity],"u":{"called":"ä","weight":-Infinity,"initial":"ä"}}'.encode()
    )
    assert ANY.encode_json(value) == (
        '{"a":[null,null,null],"u":{"called":"ä","weight":null,"initial":"ä"}}'.encode()
    )
    assert ANY.encode_json({"a": 1.5}, null=False) == b'{"a":1.5}'


def contains_itself():
    value: list[Any] = []
    value.append(value)
    return value


async def forgotten():
    return 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Answer({"when": Unknown()}), "output.user.when holds an Unknown; return what JSON can say"),
        ([1, Tagged({1: [Unknown()]})], "output[1].ownName.1[0] holds an Unknown; return"),
        ({"a": (i for i in ())}, "output.a holds a generator; return list(...), or yield the pieces"),
        ({(1, 2): 3}, "output has a key that is a tuple; JSON has strings alone as keys: return str(key)"),
        (np.array([1j]), "output[0] holds a complex; return"),
        (contains_itself(), "output is nested too deep, or contains itself"),
        ({"a": "\ud800"}, "output.a holds text with half a surrogate pair"),
        (User, "output holds a ModelMetaclass; return"),
    ],
)
def test_what_cannot_be_written_is_named_with_its_place(value, text):
    for write in (ANY.encode_json, ANY.encode_body, ANY.to_tensors, result_type(dict).to_tensors):
        with pytest.raises(InvalidOutput) as refused:
            write(value)
        assert refused.value.message.startswith(text)


def test_a_coroutine_says_that_it_was_not_awaited():
    coroutine = forgotten()
    with pytest.raises(InvalidOutput, match=r"output\.a holds a coroutine: await it"):
        ANY.encode_json({"a": coroutine})
    coroutine.close()


@pytest.mark.parametrize(
    "text",
    [
        "text/plain\r\n\r\n;a",
        "text/plain; a\rb",
        "text/plain \n ;x",
        "a/b; \0",
        "a/b; 七",
        "a/b;" + "x" * 2000,
    ],
)
def test_what_no_header_can_hold_is_no_content_type(text):
    body, content_type = ANY.encode_body((b"a", text))
    assert (json.loads(body), content_type) == (["YQ==", text], "application/json")


def test_an_array_of_objects_is_json_and_not_what_they_print():
    (tensor,) = ANY.to_tensors(np.array([1, "a", None], object))
    assert (tensor.data, tensor.parameters) == ([b'[1,"a",null]'], {"content_type": JSON})
    (tensor,) = ANY.to_tensors(np.array(["a", b"b"], object))
    assert (tensor.data, tensor.shape) == ([b"a", b"b"], [2])


def test_bodies_have_the_content_type_of_what_they_are():
    assert ANY.encode_body({"a": 1}) == (b'{"a":1}', "application/json")
    assert ANY.encode_body("text") == (b'"text"', "application/json")
    assert ANY.encode_body(b"\xff") == (b"\xff", "application/octet-stream")
    assert ANY.encode_body(memoryview(b"a")) == (b"a", "application/octet-stream")
    assert ANY.encode_body((b"<p>", "text/html; charset=utf-8")) == (b"<p>", "text/html; charset=utf-8")
    assert ANY.encode_body(("a", "image/png")) == (b'["a","image/png"]', "application/json")
    data, content_type = ANY.encode_body(IMAGE)
    assert content_type == "image/png"
    assert Image.open(io.BytesIO(data)).size == (2, 1)


def shown(outputs):
    """The outputs as datatype, shape, elements and content type, by name."""
    found = {}
    for output in outputs:
        elements = output.data if output.datatype == "BYTES" else output.array().ravel().tolist()
        found[output.name] = (output.datatype, output.shape, elements, *(output.parameters or {}).values())
    return found


JSON = "application/json"


@pytest.mark.parametrize(
    ("hint", "value", "output"),
    [
        (NOTHING, 5, ("INT64", [1], [5])),
        (NOTHING, 1.5, ("FP64", [1], [1.5])),
        (NOTHING, True, ("BOOL", [1], [True])),
        (NOTHING, "ä", ("BYTES", [1], ["ä".encode()])),
        (NOTHING, b"\xff", ("BYTES", [1], [b"\xff"])),
        (NOTHING, (b"\xff", "audio/wav"), ("BYTES", [1], [b"\xff"], "audio/wav")),
        (NOTHING, None, ("BYTES", [1], [b"null"], JSON)),
        (NOTHING, [1, 2], ("INT64", [2], [1, 2])),
        (NOTHING, (1, 2.5), ("FP64", [2], [1.0, 2.5])),
        (NOTHING, [["a"], ["b"]], ("BYTES", [2, 1], [b"a", b"b"])),
        (NOTHING, [[1], [2, 3]], ("BYTES", [1], [b"[[1],[2,3]]"], JSON)),
        (NOTHING, [1, "a"], ("BYTES", [1], [b'[1,"a"]'], JSON)),
        (NOTHING, [], ("BYTES", [1], [b"[]"], JSON)),
        (NOTHING, {"a": 1}, ("BYTES", [1], [b'{"a":1}'], JSON)),
        (NOTHING, 2**63, ("BYTES", [1], [b"9223372036854775808"], JSON)),
        (NOTHING, DAY, ("BYTES", [1], [b"2026-01-31"])),
        (NOTHING, np.float32(2), ("FP32", [1], [2.0])),
        (NOTHING, np.array([[1]], np.int8), ("INT8", [1, 1], [1])),
        (NOTHING, np.array(3), ("INT64", [1], [3])),
        (NOTHING, [np.float32(1), 2], ("FP64", [2], [1.0, 2.0])),
        (NOTHING, np.datetime64("2026-01-31"), ("BYTES", [1], [b'"2026-01-31"'], JSON)),
        (float, 5, ("FP64", [1], [5.0])),
        (float, None, ("BYTES", [1], [b"null"], JSON)),
        (int, 1.5, ("FP64", [1], [1.5])),
        (int, np.float32(3), ("INT64", [1], [3])),
        (int, 3.0, ("INT64", [1], [3])),
        (np.float32, 3, ("FP32", [1], [3.0])),
        (float, 10**400, ("BYTES", [1], [str(10**400).encode()], JSON)),
        (list[float], [1, 2], ("FP64", [2], [1.0, 2.0])),
        (list[float], [], ("FP64", [0], [])),
        (list[list[str]], [], ("BYTES", [0, 0], [])),
        (npt.NDArray[np.float32], np.arange(2), ("FP32", [2], [0.0, 1.0])),
        (dict, {"a": "x"}, ("BYTES", [1], [b'{"a":"x"}'], JSON)),
        (list, [1, 2], ("BYTES", [1], [b"[1,2]"], JSON)),
        (str | None, "a", ("BYTES", [1], [b"a"])),
    ],
)  # fmt: skip
def test_values_become_tensors(hint, value, output):
    assert shown(result_type(hint).to_tensors(value)) == {"output": output}


def test_a_dict_of_arrays_is_an_output_for_each():
    value = {"a": np.arange(2), "b": np.float32([[1]])}
    outputs = {"a": ("INT64", [2], [0, 1]), "b": ("FP32", [1, 1], [1.0])}
    assert shown(ANY.to_tensors(value)) == outputs
    assert shown(result_type(dict[str, np.ndarray]).to_tensors(value)) == outputs
    with pytest.raises(InvalidOutput, match="a is a numpy array of complex128, which no protocol can carry"):
        ANY.to_tensors({"a": np.array([1j])})


def test_an_image_is_a_tensor_of_png():
    for value, shape in ((IMAGE, [1]), ([IMAGE, IMAGE], [2])):
        (output,) = ANY.to_tensors(value)
        assert (output.datatype, output.shape) == ("BYTES", shape)
        assert Image.open(io.BytesIO(view_of(output.data[0]))).size == (2, 1)
    assert json.loads(ANY.encode_json({"image": IMAGE}))["image"].startswith("iVBOR")


def test_tensors_of_torch_are_arrays():
    torch = pytest.importorskip("torch")
    value = torch.ones(2, requires_grad=True)
    assert ANY.encode_json({"a": value}) == b'{"a":[1.0,1.0]}'
    assert shown(ANY.to_tensors(value)) == {"output": ("FP32", [2], [1.0, 1.0])}
    assert shown(ANY.to_tensors({"half": value.detach().bfloat16()})) == {"half": ("FP32", [2], [1.0, 1.0])}


@pytest.mark.parametrize(
    ("hint", "content_type", "outputs"),
    [
        (NOTHING, "", [("", [], "")]),
        (Any, "", [("", [], "")]),
        (int, JSON, [("INT64", [1], "")]),
        (list[str], JSON, [("BYTES", [-1], "")]),
        (dict, JSON, [("BYTES", [1], JSON)]),
        (Answer, JSON, [("BYTES", [1], JSON)]),
        (None, JSON, [("BYTES", [1], JSON)]),
        (bytes, "application/octet-stream", [("BYTES", [1], "")]),
        (tuple[bytes, str], "*/*", [("BYTES", [1], "")]),
        (Image.Image, "image/png", [("BYTES", [1], "image/png")]),
        (np.ndarray, JSON, [("", [], "")]),
        (npt.NDArray[np.float32], JSON, [("FP32", [], "")]),
        (dict[str, np.ndarray], JSON, []),
        (Iterator[str], JSON, [("BYTES", [1], "")]),
        (Generator[int, None, str], JSON, [("INT64", [1], "")]),
        (AsyncIterator[User], JSON, [("BYTES", [1], JSON)]),
        (Coroutine[Any, Any, bool], JSON, [("BOOL", [1], "")]),
        (Unknown, "", [("", [], "")]),
        ("Nobody", "", [("", [], "")]),
    ],
)
def test_the_metadata_declares_what_a_return_hint_says(hint, content_type, outputs):
    kind = result_type(hint)
    binary = kind.schema.get("contentMediaType")
    assert (binary or (JSON if kind.schema else "")) == content_type
    assert [(each.datatype, each.shape, each.content_type) for each in kind.tensors] == outputs
    assert all(each.name == "output" for each in kind.tensors)


def test_the_schema_is_that_of_what_is_written():
    schema = result_type(dict[str, list[User]]).schema
    jsonschema.validate(json.loads(ANY.encode_json({"a": [User(called="A")]})), schema)
    assert "initial" in json.dumps(schema)
    assert result_type(Image.Image).schema == {"type": "string", "contentMediaType": "image/png"}
    assert result_type(NOTHING).schema == {}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_the_slow_way_writes_what_the_fast_way_does(value):
    fast, slow = ANY.encode_json(value), ANY.encode_json({None: value})
    assert json.loads(slow) == {"null": json.loads(fast)}
    tokens = json.loads(ANY.encode_json(value, null=False))
    assert repr(tokens) == repr(value)


def test_an_array_of_half_surrogate_pairs_is_refused():
    with pytest.raises(InvalidOutput, match="output holds text with half a surrogate pair"):
        ANY.to_tensors(np.array(["\ud800"]))


@pytest.mark.filterwarnings("error")
def test_nan_for_an_integer_stays_what_it_is_and_warns_nobody():
    (tensor,) = result_type(int).to_tensors(np.array([math.nan, 1.0]))
    assert tensor.datatype == "FP64"

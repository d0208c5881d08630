"""Files as inputs: what they are decides how they are read, what the model declares decides what they become."""

import io

import numpy as np
import pytest
from PIL import Image

from mooring.cli.inputs import Content, is_json, read_content, read_inputs
from mooring.core.errors import InvalidInput
from mooring.core.service import ModelMetadata
from mooring.core.tensors import TensorSpec


def specs(*found):
    inputs = [
        TensorSpec(name, datatype, shape, content_type=more[0] if more else "")
        for name, datatype, shape, *more in found
    ]
    return ModelMetadata("m", inputs=inputs)


HANDLER, FUNCTION = specs(), ModelMetadata("m", platform="python")
CHAT = specs(("messages", "BYTES", [1], "application/json"))


PIXELS = specs(("image", "FP32", [-1, 1, 2, 2]))
SETTINGS = {"image_height": "2", "image_width": "2", "image_mode": "L", "image_scale": "0.5"}


def nothing():
    raise AssertionError("nobody needs to know")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(value):
    file = io.BytesIO()
    Image.new("L", (2, 2), value).save(file, "PNG")
    return file.getvalue()


def only(data, declared, settings=nothing, *, is_json=False):
    (tensor,) = read_inputs({"": Content(data, is_json)}, declared, settings).values()
    return tensor


def test_an_array_takes_the_declared_type_and_the_missing_batch_dimension():
    tensor = only(npy(np.arange(3)), specs(("x", "FP16", [-1, 3])))
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", "FP16", [1, 3])
    assert tensor.array().tolist() == [[0, 1, 2]]


def test_an_array_that_has_the_batch_dimension_keeps_its_shape():
    assert only(npy(np.ones((2, 3))), specs(("x", "FP32", [-1, 3]))).shape == [2, 3]


def test_a_value_that_does_not_fit_the_type_is_refused_and_not_changed():
    with pytest.raises(InvalidInput, match="300"):
        only(b"[300]", specs(("x", "UINT8", [-1])))


def test_bfloat16_is_what_the_model_declares():
    assert only(b"[1.5]", specs(("x", "BF16", [-1]))).datatype == "BF16"


def test_an_image_becomes_what_the_models_parameters_say():
    tensor = only(png(100), PIXELS, lambda: SETTINGS)
    assert tensor.array().tolist() == [[[[50, 50], [50, 50]]]]


def test_an_image_for_a_model_that_says_nothing_of_images_is_refused():
    with pytest.raises(InvalidInput, match=r"give an \.npy file"):
        only(png(0), PIXELS, dict)


def test_an_input_of_bytes_gets_the_file_as_it_is():
    for data in (b"{no json", b"{}", b'{"a": 1}', b"", png(0)):
        assert only(data, specs(("text", "BYTES", [-1, 1]))).data == [data]
        assert only(data, HANDLER).data == [data]
    assert only(b"x", specs(("text", "BYTES", [-1, 1]))).shape == [1, 1]
    assert only(b"x", HANDLER).name == "data"


def test_a_lone_value_needs_a_lone_input():
    with pytest.raises(InvalidInput, match="name the inputs"):
        only(b"[1]", specs(("x", "FP32", [-1]), ("y", "FP32", [-1])))


def test_an_object_names_the_inputs():
    declared = specs(("x", "FP32", [-1]), ("y", "INT8", [-1]))
    found = read_inputs({"": Content(b'{"x": [1], "y": [2]}')}, declared, nothing)
    assert {name: tensor.datatype for name, tensor in found.items()} == {"x": "FP32", "y": "INT8"}
    with pytest.raises(InvalidInput, match="unexpected input 'z'"):
        read_inputs({"": Content(b'{"z": 1}')}, declared, nothing)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"", "empty"), (b"# Notes", "not a .npy file, an image or JSON")]
)
def test_what_no_number_can_be_read_from_is_said_with_what_the_model_takes(data, reason):
    with pytest.raises(InvalidInput, match=rf"input 'x' is {reason}.*the model takes FP32 \[-1\]"):
        only(data, specs(("x", "FP32", [-1])))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InvalidInput, match=r"gone\.npy: No such file .*; a value is written as JSON"):
        read_content("gone.npy")


def test_a_function_that_declares_nothing_takes_json():
    tensors = read_inputs({"": Content(b'{"x": [1, 2.5], "s": "a"}')}, FUNCTION, nothing)
    assert [(each.name, each.datatype, each.shape) for each in tensors.values()] == [
        ("x", "FP64", [2]), ("s", "BYTES", [1]),
    ]  # fmt: skip
    tensors = read_inputs({"x": Content(b"[1, 2]"), "t": Content(b"a text")}, FUNCTION, nothing)
    assert (tensors["x"].array().tolist(), tensors["t"].data) == ([1, 2], [b"a text"])
    with pytest.raises(InvalidInput, match="model 'm' declares no inputs: name them"):
        only(b"[1]", FUNCTION)


def test_a_json_input_takes_values_texts_and_objects_that_are_it_or_name_it():
    for data in (b'{"messages": [1]}', b"[1]"):
        assert only(data, CHAT).data == [b"[1]"]
    assert only(b'{"other": 1}', CHAT).data == [b'{"other":1}']
    assert only(b"a text\n", CHAT).data == [b'"a text\\n"']
    assert only(b"1", CHAT).parameters == {"content_type": "application/json"}


def test_text_on_the_command_line_is_json_and_a_file_of_text_is_its_bytes():
    declared = specs(("text", "BYTES", [-1]))
    assert only(b'"a"', declared, is_json=True).data == [b"a"]
    assert only(b'["a", "b"]', declared, is_json=True).data == [b"a", b"b"]
    assert only(b'"a"', declared).data == [b'"a"']


def test_a_json_file_may_begin_with_a_byte_order_mark_and_is_not_empty(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_content(str(file)) == (b"[1]", True)
    file.write_bytes(b"\n")
    with pytest.raises(InvalidInput, match=r"a\.json is empty"):
        read_content(str(file))
    with pytest.raises(InvalidInput, match="an input has no value: name a file"):
        read_content("")


def test_what_is_no_file_may_be_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("[1]")
    assert read_content("a.json") == (b"[1]", True)
    assert read_content('{"x": 1}') == (b'{"x": 1}', True)
    assert read_content("5") == (b"5", True)
    assert is_json('{"x": "a=b"}')
    assert not is_json("x=5")

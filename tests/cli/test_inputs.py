"""Files as inputs: what they are decides how they are read, what the model declares decides what they become."""

import io

import numpy as np
import pytest
from PIL import Image

from mooring.cli.inputs import read_content, read_inputs
from mooring.core.errors import InvalidInput
from mooring.core.tensors import TensorSpec


def specs(*found):
    return {name: TensorSpec(name, datatype, shape) for name, datatype, shape in found}


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


def only(data, declared, settings=nothing):
    (tensor,) = read_inputs({"": data}, declared, settings).values()
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
        assert only(data, {}).data == [data]
    assert only(b"x", specs(("text", "BYTES", [-1, 1]))).shape == [1, 1]
    assert only(b"x", {}).name == "data"


def test_a_lone_value_needs_a_lone_input():
    with pytest.raises(InvalidInput, match="name the inputs"):
        only(b"[1]", specs(("x", "FP32", [-1]), ("y", "FP32", [-1])))


def test_an_object_names_the_inputs():
    declared = specs(("x", "FP32", [-1]), ("y", "INT8", [-1]))
    found = read_inputs({"": b'{"x": [1], "y": [2]}'}, declared, nothing)
    assert {name: tensor.datatype for name, tensor in found.items()} == {"x": "FP32", "y": "INT8"}
    with pytest.raises(InvalidInput, match="unexpected input 'z'"):
        read_inputs({"": b'{"z": 1}'}, declared, nothing)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InvalidInput, match=r"gone\.npy: No such file"):
        read_content("gone.npy")

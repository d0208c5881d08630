"""TorchServe bodies for tensor models: every content type, and what is wrong with the wrong ones."""

import base64
import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mooring.codecs.bodies import decode_body, decode_instances, encode_classes
from mooring.codecs.images import ImageSettings
from mooring.codecs.signature import Signature
from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.requests import BodyKind, Form, InferenceRequest, UndecodedBody
from mooring.core.tensors import Tensor, TensorSpec

ONE = Signature.of([TensorSpec("x", "FP32", [-1, 3])])
TWO = Signature.of([TensorSpec("a", "INT32", [-1]), TensorSpec("b", "FP32", [-1])])
TEXT = Signature.of([TensorSpec("text", "BYTES", [1])])
ANY = Signature()
IMAGE = Signature.of(
    [TensorSpec("pixels", "FP32", [-1, 3, 4, 5])], ImageSettings(height=4, width=5, scale=1 / 255)
)


def field(data, content_type="", name="body"):
    return Tensor(name, "BYTES", [1], [data], {"content_type": content_type} if content_type else None)


def read(data, signature, content_type="application/json"):
    return decode_body([field(data, content_type)], signature).inputs


def saved(write, *arrays, **named):
    file = io.BytesIO()
    write(file, *arrays, **named)
    return file.getvalue()


def png(color, size=(5, 4), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2, 3]],
        {"x": [[1, 2, 3]]},
        {"data": [[1, 2, 3]]},
        {"body": {"x": [[1, 2, 3]]}},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]},
        {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 3], "data": [[1], [2], [3]]}]},
    ],
)
def test_json_says_the_same_in_many_ways(value):
    found = read(json.dumps(value).encode(), ONE)["x"]
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    "content_type", ["", "application/json; charset=utf-8", "text/plain", "application/cloudevents+json"]
)
def test_json_is_what_a_body_of_no_other_type_is(content_type):
    assert read(b'{"a": [1], "b": [2.5]}', TWO, content_type)["b"].tolist() == [2.5]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], "name the inputs: the model takes 'a', 'b'"),
        ({"c": [1]}, "unexpected input 'c'"),
        ({"inputs": [{"name": "a", "shape": [1], "data": [1]}]}, "every input needs name"),
        (
            {"inputs": [{"name": "a", "datatype": "INT32", "shape": [2], "data": [1]}]},
            "its shape [2] needs 2",
        ),
        ({"inputs": [{"name": "a", "datatype": "INT", "shape": [1], "data": [1]}]}, "unknown datatype 'INT'"),
        ({"inputs": [{"name": "a", "datatype": "INT32", "shape": [-2], "data": [1]}]}, "non-negative"),
        ({"instances": 3}, '"instances" must be a list'),
    ],
)
def test_json_that_does_not_fit_is_refused_with_the_reason(value, says):
    with pytest.raises(InvalidInput) as refusal:
        read(json.dumps(value).encode(), TWO)
    assert says in refusal.value.message


def test_without_declared_inputs_names_are_free_and_a_bare_value_is_input():
    assert read(b"[1, 2]", ANY)["input"].tolist() == [1, 2]
    assert read(b'{"q": 1.5}', ANY)["q"].shape == ()


def test_instances_in_a_body_are_rows():
    assert decode_body([field(b'{"instances": [[1, 2, 3]]}')], ONE).instances == [[1, 2, 3]]


def test_npy_and_npz_are_known_by_type_and_by_their_first_bytes():
    array = np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    for content_type in ("application/x-npy", ""):
        found = read(saved(np.save, array), ONE, content_type)["x"]
        assert found.dtype == np.float32
        assert found.tolist() == array.tolist()
    for content_type in ("application/x-npz", "application/octet-stream"):
        found = read(saved(np.savez_compressed, a=np.array([1]), b=np.array([2.5])), TWO, content_type)
        assert found["a"].dtype == np.int32
        assert found["b"].tolist() == [2.5]
    assert read(saved(np.savez, array), ONE, "application/x-npz")["x"].shape == (2, 3)


def test_an_npy_of_objects_is_never_unpickled():
    with pytest.raises(InvalidInput, match="object"):
        read(saved(np.save, np.array([{"a": 1}], object)), ANY, "application/x-npy")


def test_an_npy_that_claims_more_than_it_brings_is_refused_before_memory_is_taken():
    data = saved(np.save, np.zeros(3)).replace(b"(3,)", b"(9999999999999,)")
    with pytest.raises(InvalidInput, match="needs"):
        read(data, ANY, "application/x-npy")


def test_an_npz_that_unpacks_to_too_much_is_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(InvalidInput, match="unpacks to more"):
        read(file.getvalue(), ANY, "application/x-npz")


@given(st.binary(max_size=200), st.integers(0, 199))
@settings(max_examples=200)
def test_damaged_files_are_invalid_input(noise, position):
    for whole in (saved(np.save, np.arange(5)), saved(np.savez_compressed, a=np.arange(5)), png("red")):
        data = whole[:position] + noise
        for content_type in ("", "application/x-npy", "application/x-npz", "image/png", "application/json"):
            with contextlib.suppress(InvalidInput):
                read(data, IMAGE, content_type)


def test_raw_bytes_fill_a_shape_with_one_open_size():
    data = np.arange(6, dtype="<f4").tobytes()
    assert read(data, ONE, "application/octet-stream")["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InvalidInput, match="5 bytes do not fill input 'x'"):
        read(data[:5], ONE, "application/octet-stream")


def test_a_bytes_input_takes_whatever_comes():
    for data in (b"hello", b"\xff\x00", b"{broken", b""):
        assert read(data, TEXT, "")["text"].item() == data
    assert read(b'{"text": "hi"}', TEXT, "")["text"].item() == b"hi"
    assert read(b'"hi"', TEXT)["text"].item() == b"hi"


def test_form_fields_are_inputs_by_name_each_of_its_own_type():
    found = decode_body([field(b"[1]", "", "a"), field(saved(np.save, np.ones(2)), "", "b")], TWO).inputs
    assert found["a"].tolist() == [1]
    assert found["b"].dtype == np.float32


def test_one_form_field_of_any_name_is_the_body():
    assert decode_body([field(b"[[1, 2, 3]]", "", "data")], ONE).inputs["x"].tolist() == [[1, 2, 3]]


def test_the_same_form_field_twice_is_refused():
    with pytest.raises(InvalidInput, match="twice"):
        decode_body([field(b"[1]", "", "a"), field(b"[1]", "", "a")], TWO)


@pytest.mark.parametrize("content_type", ["image/png", "", "application/octet-stream"])
def test_an_image_becomes_the_tensor_the_model_asks_for(content_type):
    found = read(png((255, 0, 51)), IMAGE, content_type)["pixels"]
    assert (found.shape, found.dtype) == ((3, 4, 5), np.float32)
    np.testing.assert_allclose(found[:, 0, 0], [1, 0, 0.2], rtol=1e-6)


def test_an_image_comes_in_base64_too():
    text = base64.b64encode(png("white")).decode()
    assert read(json.dumps({"b64": text}).encode(), IMAGE)["pixels"].shape == (3, 4, 5)


def test_an_image_is_resized_and_normalized():
    settings_ = ImageSettings.of(
        {
            "image_height": 2,
            "image_width": 2,
            "image_mode": "l",
            "image_layout": "HWC",
            "image_mean": "55",
            "image_std": "2",
        }
    )
    assert settings_.decode(png(255, (8, 8), "L")).tolist() == [[[100], [100]], [[100], [100]]]


def test_image_parameters_that_make_no_sense_keep_the_model_from_loading():
    for wrong in (
        {"image_mode": "CMYK"},
        {"image_std": "0"},
        {"image_height": "tall"},
        {"image_mean": "1,2"},
    ):
        with pytest.raises(ModelLoadFailed):
            ImageSettings.of({"image_height": 2, "image_width": 2} | wrong)
    assert ImageSettings.of({"image_height": 2}) is None


def test_an_image_for_a_model_that_takes_none_is_refused():
    with pytest.raises(InvalidInput, match=r"the body is a PNG image .*; the model takes JSON or a tensor"):
        read(png("red"), ONE, "image/png")


def test_undecoded_instances_are_found_in_the_whole_body():
    assert decode_instances(undecoded(b'{"instances": [1, 2]}')) == [1, 2]
    for body in (b"[]", b"{}", b'{"instances": {}}', b'{"instances": "a"}'):
        with pytest.raises(InvalidInput):
            decode_instances(undecoded(body))


def undecoded(body):
    return InferenceRequest("m", "", "id", [], form=Form.INSTANCES, body=UndecodedBody(BodyKind.V1, body))


def test_classes_are_the_likeliest_label_of_probabilities_or_logits():
    labels = {"0": "cat", "1": ["n02", "dog"]}
    logits = np.array([[0.0, np.log(3)], [5.0, -5.0]], np.float32)
    found = [json.loads(text) for text in encode_classes(logits, labels)]
    assert [each["class"] for each in found] == ["dog", "cat"]
    assert found[0]["probability"] == pytest.approx(0.75)
    assert json.loads(encode_classes(np.array([0.25, 0.75]), {})[0]) == {"class": "1", "probability": 0.75}

"""AMD's models: their arithmetic, through every form of request."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mooring.core.errors import InvalidInput, ModelLoadFailed, Unsupported
from mooring.core.requests import Form, InferenceRequest, Operation, RequestedOutput


def words(*values):
    return np.array(values, np.uint32)


def run(backend, reply, *requests):
    return backend.infer(requests, reply)


def test_echo_adds_one_and_wraps(builtin, reply, ask):
    echo = builtin("echo")
    found = run(echo, reply, ask.tensors(a=words(41)), ask.tensors(a=words(2**32 - 1, 7)))
    assert [ask.read(each) for each in found] == [{"": [42]}, {"": [0]}]
    assert found[0].outputs[0].shape == [1]
    assert ask.read(run(echo, reply, ask.body([41]))[0]) == {"output": [42]}
    assert ask.read(run(echo, reply, ask.body({"anything": 41}))[0]) == {"output": [42]}
    assert ask.read(run(echo, reply, ask.instances([1], [2]))[0]) == [[2], [3]]


def test_echo_answers_every_input(builtin, reply, ask):
    (found,) = run(builtin("echo"), reply, ask.tensors(a=words(1), b=words(2)))
    assert [tensor.array().tolist() for tensor in found.outputs] == [[2], [3]]


def test_requested_names_rename_the_outputs_in_order(builtin, reply, ask):
    asked = {
        "outputs": [
            RequestedOutput("first"),
            RequestedOutput(""),
            RequestedOutput("third"),
            RequestedOutput("more"),
        ]
    }
    (found,) = run(builtin("echo_multi"), reply, ask.tensors(asked, a=words(3), b=words(2, 7)))
    assert ask.read(found) == {"first": [3], "output1": [2, 7, 3, 2], "third": [7, 3, 2]}
    asked = {"outputs": [RequestedOutput("only")]}
    (found,) = run(builtin("echo_multi"), reply, ask.tensors(asked, a=words(3), b=words(2, 7)))
    assert list(ask.read(found)) == ["only", "output1", "output2"]


def test_echo_multi_refuses_other_sizes(builtin, reply, ask):
    (found,) = run(builtin("echo_multi"), reply, ask.tensors(a=words(3), b=words(2)))
    assert isinstance(found, InvalidInput)


@pytest.mark.parametrize(
    "body", [b'{"x": [1.5]}', b"[-1]", b"[4294967296]", b'["1"]', b"[]", b"{}", b"", b"[null]"]
)
def test_what_is_no_uint32_is_refused_alone(builtin, reply, ask, body):
    bad, good = run(builtin("echo"), reply, ask.body(body), ask.body([1]))
    assert isinstance(bad, InvalidInput)
    assert ask.read(good) == {"output": [2]}


def test_a_tensor_of_another_datatype_is_refused(builtin, reply, ask):
    (found,) = run(builtin("echo"), reply, ask.tensors(a=np.float32([1])))
    assert "is FP32; the model takes UINT32" in found.message


def test_invert_image_is_its_own_inverse_and_keeps_the_shape(builtin, reply, ask):
    model, image = builtin("invert_image"), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    (once,) = run(model, reply, ask.tensors(image=image))
    assert ask.read(once)["output"] == (255 - image).tolist()
    assert ask.read(run(model, reply, ask.body(image.tolist()))[0])["output"] == (255 - image).tolist()
    assert ask.read(run(model, reply, ask.instances(image.tolist(), [[1]]))[0]) == [
        (255 - image).tolist(),
        [[254]],
    ]


def encoded(color):
    file = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(file, "PNG")
    return file.getvalue()


def test_base64_decode_gives_blue_first(builtin, reply, ask):
    model, text = builtin("base64_decode"), base64.encodebytes(encoded((255, 10, 0)))
    (found,) = run(model, reply, ask.tensors(image=np.array([text], object)))
    assert found.outputs[0].datatype == "UINT8"
    assert ask.read(found)["output"] == [[[0, 10, 255]] * 3] * 2
    assert ask.read(run(model, reply, ask.body(text, "text/plain"))[0])["output"][0][0] == [0, 10, 255]
    assert ask.read(run(model, reply, ask.instances(text.decode()))[0])[0][0][0] == [0, 10, 255]


@pytest.mark.parametrize("text", [b"!!", b"aGVsbG8=", b""])
def test_base64_decode_refuses_what_is_no_image(builtin, reply, ask, text):
    (found,) = run(builtin("base64_decode"), reply, ask.body(text, "text/plain"))
    assert isinstance(found, InvalidInput)


def test_encode_then_decode_changes_little(builtin, reply, ask):
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    (found,) = run(builtin("base64_encode"), reply, ask.tensors(image=image))
    text = found.outputs[0].data[0]
    assert b"\n" not in text
    (back,) = run(builtin("base64_decode"), reply, ask.tensors(text=np.array([text], object)))
    assert np.abs(back.outputs[0].array().astype(int) - image).mean() < 2
    (found,) = run(builtin("base64_encode"), reply, ask.tensors(image=image[0]))
    assert isinstance(found, InvalidInput)


def test_a_form_without_fields_is_nothing_to_give_back(builtin, reply):
    (found,) = run(builtin("fake"), reply, InferenceRequest("m", "1", "id", [], form=Form.BODY))
    assert isinstance(found, InvalidInput)


def test_fake_is_the_identity(builtin, reply, ask):
    fake = builtin("fake")
    (found,) = run(fake, reply, ask.body(b"\xffany", "application/octet-stream"))
    assert (found.outputs[0].data, found.head.content_type) == ([b"\xffany"], "application/octet-stream")
    (found,) = run(fake, reply, ask.tensors(a=np.float16([[1.5]]), b=np.array([b"\xff"], object)))
    assert [(each.name, each.datatype, each.shape) for each in found.outputs] == [
        ("a", "FP16", [1, 1]),
        ("b", "BYTES", [1]),
    ]
    assert ask.read(run(fake, reply, ask.instances(1, "a", [2.5]))[0]) == [1, "a", [2.5]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=3)))
def test_echo_answers_or_refuses_any_json(builtin, reply, ask, value):
    (found,) = run(builtin("echo"), reply, ask.body(json.dumps(value).encode()))
    assert isinstance(found, InvalidInput) or list(ask.read(found)) == ["output"]


def test_metadata_is_amds_unless_the_configuration_says_otherwise(builtin):
    metadata = builtin("echo").metadata
    assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [("", "UINT32", [1])]
    assert metadata.versions == ["1"]


def test_an_unknown_builtin_does_not_load(builtin):
    with pytest.raises(ModelLoadFailed, match="known are echo"):
        builtin("nope")


@pytest.mark.parametrize("operation", [Operation.EXPLAIN, Operation.DESCRIBE])
def test_a_builtin_only_infers(builtin, reply, ask, operation):
    (found,) = run(builtin("echo"), reply, ask.body([1], operation=operation))
    assert isinstance(found, Unsupported)


@pytest.mark.parametrize(("value", "kind"), [([1], "a list"), ({"a": 1}, "an object")])
def test_what_is_no_function_refuses_parameters_that_are_no_plain_values(builtin, reply, ask, value, kind):
    request = ask.tensors({"parameters": {"k": 1, "stop": value}}, input=np.uint32([1]))
    (found,) = run(builtin("echo"), reply, request)
    assert isinstance(found, InvalidInput)
    assert f"parameter 'stop' of the request is {kind}; model 'm' is a file of tensors" in found.message

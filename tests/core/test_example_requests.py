"""A request to try, made of what a model declares."""

import json

import pytest

from mooring.core.example_requests import ExampleRequest, example_request
from mooring.core.service import ModelMetadata, ValueDescription
from mooring.core.tensors import TensorSpec


def asked(*inputs, values=None, **how):
    described = None if values is None else ValueDescription(values, {})
    return example_request(ModelMetadata("my model", ["1"], "p", list(inputs), values=described), **how)


METADATA = ExampleRequest("/v2/models/my%20model", "/v2/models/my%20model")


def test_declared_inputs_are_filled_with_small_values():
    request = asked(
        TensorSpec("x", "FP32", [-1, 2]),
        TensorSpec("ids", "INT64", [-1, -1]),
        TensorSpec("on", "BOOL", []),
        TensorSpec("text", "BYTES", [1]),
        TensorSpec("rest", "FP32", [1000], optional=True),
    )
    assert request.path == "/predictions/my%20model"
    assert json.loads(request.body) == {"x": [[1.0, 1.0]], "ids": [[1, 1, 1]], "on": True, "text": ["text"]}


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [TensorSpec("image", "FP32", [-1, 3, 224, 224])],
        [TensorSpec("x", "", [1])],
        [TensorSpec("x", "FP32", [], unknown_rank=True)],
    ],
)
def test_where_no_request_can_be_typed_the_command_shows_what_the_model_takes(inputs):
    assert asked(*inputs) == METADATA


def test_a_model_of_values_is_asked_by_its_schema():
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    assert json.loads(asked(values=schema).body) == {"text": "hello"}
    assert asked(values={"type": "string", "contentMediaType": "image/png"}).file == "IMAGE.png"
    assert asked(values={"type": "string", "minLength": 1000}) == METADATA
    assert asked(values={"type": "string", "pattern": "^(very)(odd){7}$"}) == METADATA


def test_what_a_handler_reads_is_a_file():
    request = asked(TensorSpec("x", "FP32", [1]), file="FILE", note="FILE is what it reads")
    assert (request.file, request.body, request.note) == ("FILE", "", "FILE is what it reads")

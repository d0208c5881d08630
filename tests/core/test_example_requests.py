"""A request to try, made of what a model declares."""

import json

import msgspec
import pytest

from mooring.core.example_requests import ExampleRequest, example_request, example_value
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
    assert json.loads(asked(values=schema).body) == {"text": "text"}
    assert asked(values={"type": "string", "contentMediaType": "image/png"}).file == "IMAGE.png"
    assert asked(values={"type": "string", "minLength": 1000}) == METADATA


def test_what_a_handler_reads_is_a_file():
    request = asked(TensorSpec("x", "FP32", [1]), file="FILE", note="FILE is what it reads")
    assert (request.file, request.body, request.note) == ("FILE", "", "FILE is what it reads")


class Point(msgspec.Struct):
    x: int
    y: float = 0.5


class Tree(msgspec.Struct):
    name: str
    children: "list[Tree]" = []


@pytest.mark.parametrize(
    "hint",
    [
        str,
        int,
        float,
        bool,
        bytes,
        list[int],
        tuple[int, str],
        dict[str, int],
        int | None,
        Point,
        list[Point],
        Tree,
    ],
)
def test_the_example_of_a_hint_can_be_read_as_one(hint):
    (schema,), definitions = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
    value = example_value({**schema, "$defs": definitions})
    msgspec.json.decode(json.dumps(value), type=hint)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, 1),
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 7}, 7),
        ({"examples": ["given"], "type": "string"}, "given"),
        ({"type": "integer", "default": 3}, 3),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "integer", "exclusiveMinimum": 1}, 2),
        ({"type": "number", "maximum": 0.5}, 0.5),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "string", "format": "date"}, "2026-01-31"),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, "text"),
        ({"type": "object"}, {}),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, None),
    ],
)
def test_a_schema_has_an_example_within_its_limits(schema, value):
    assert example_value(schema) == value

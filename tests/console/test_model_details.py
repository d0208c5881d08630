"""Requests to try, for each protocol."""

import pytest

from mooring.console.model_details import _find_examples
from mooring.core.example_requests import ExampleRequest, example_request
from mooring.core.service import ModelMetadata, ValueDescription
from mooring.core.tensors import TensorSpec

X = TensorSpec("x", "FP32", [-1, 2])


@pytest.mark.parametrize(
    ("inputs", "v1", "v2"),
    [
        ([X], [[1.0, 1.0]], [("x", [1, 2], [[1.0, 1.0]])]),
        ([X, TensorSpec("n", "INT64", [-1])], [{"x": [1.0, 1.0], "n": 1}], [("x", [1, 2], [[1.0, 1.0]]), ("n", [1], [1])]),
        ([X, TensorSpec("n", "INT64", [-1], optional=True)], [{"x": [1.0, 1.0]}], [("x", [1, 2], [[1.0, 1.0]])]),
        ([TensorSpec("fixed", "FP32", [2])], None, [("fixed", [2], [1.0, 1.0])]),
        ([TensorSpec("large", "FP32", [-1, 3, 224, 224])], None, None),
        ([TensorSpec("any", "FP32", [], unknown_rank=True)], None, None),
        ([], None, None),
    ],
)  # fmt: skip
def test_tensors_have_a_body_of_v1_and_of_v2(inputs, v1, v2):
    metadata = ModelMetadata("m", inputs=inputs)
    found = _find_examples(metadata, example_request(metadata))
    assert found["v1"] == (v1 and {"instances": v1})
    tensors = found["v2"] and [(each["name"], each["shape"], each["data"]) for each in found["v2"]["inputs"]]
    assert tensors == v2


def test_values_have_a_body_of_each_protocol():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    metadata = ModelMetadata("m", inputs=[TensorSpec("n", "INT64", [1])], values=ValueDescription(schema, {}))
    found = _find_examples(metadata, example_request(metadata))
    assert found["predictions"] == {"content_type": "application/json", "body": '{"n": 1}'}
    assert found["v1"] == {"instances": [{"n": 1}]}
    assert found["v2"]["inputs"][0]["name"] == "n"


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("IMAGE.png", {"content_type": "image/png", "body": ""}),
        ("TEXT.txt", {"content_type": "text/plain", "body": ""}),
        ("FILE", None),
    ],
)
def test_what_a_handler_reads_is_told_by_its_type(file, found):
    example = ExampleRequest("/predictions/m", "/v2/models/m", file=file)
    assert _find_examples(ModelMetadata("m"), example)["predictions"] == found

"""The calls of a model of Python values are described by its schemas, in valid documents with one id for each call."""

import json

import pytest
from openapi_spec_validator import validate

from mooring.core.service import ModelMetadata, ModelState, ValueDescription
from mooring.core.tensors import TensorSpec
from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve.operations import INFER, MODEL
from mooring.protocols.openapi import ApiDescription
from mooring.protocols.responses import Responses
from mooring.protocols.torchserve.operations import PREDICT
from mooring.protocols.value_operations import name_prefix
from mooring.tokens import Access, Tokens

USER = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 3}}, "required": ["age"]}
REQUEST = {
    "type": "object",
    "properties": {"user": {"$ref": "#/$defs/User"}, "n": {"type": "integer", "default": 2}},
    "required": ["user"],
    "additionalProperties": False,
    "$defs": {"User": USER},
}
INPUTS = [
    TensorSpec("user", "BYTES", [1], content_type="application/json"),
    TensorSpec("n", "INT64", [1], optional=True),
]
OUTPUTS = [TensorSpec("output", "BYTES", [1], content_type="application/json")]


def described(request=REQUEST, response=USER, inputs=INPUTS, outputs=OUTPUTS, name="my-model", **more):
    values = ValueDescription(request, response, **more)
    return ModelMetadata(name, ["1"], "python", inputs, outputs, values)


class Service:
    def __init__(self, *loaded):
        self.loaded = {each.name: each for each in loaded}

    def models(self):
        return [ModelState(name, "1", "READY", ready=True, is_default=True) for name in self.loaded]

    def metadata(self, model, version=""):
        return self.loaded[model]


def description(service=None, gate=None):
    made = ApiDescription(Responses(Metrics().responses), "1", service=service, gate=gate)
    made.add_endpoints(
        [
            Endpoint("/predictions/{model_name}", print, Access.INFERENCE, PREDICT),
            Endpoint("/v2/models/{model_name}/infer", print, Access.INFERENCE, INFER),
            Endpoint("/v2/models/{model_name}", print, Access.INFERENCE, MODEL),
        ]
    )
    return made


def document_of(model):
    document = json.loads(description().model_document(model.name, model))
    validate(document)
    return document


def predict(document, path="/predictions/my-model"):
    return document["paths"][path]["post"]


def test_a_body_is_described_with_its_example_and_the_models_own_words():
    call = predict(document_of(described(text="What it does.")))
    schema = call["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"] == {
        "user": {"$ref": "#/components/schemas/User"},
        "n": {"type": "integer", "default": 2},
    }
    assert schema["example"] == {"user": {"age": 3}}
    assert call["description"].startswith("What it does.\n\n")
    assert call["requestBody"]["required"]
    assert (
        call["responses"]["200"]["content"]["application/json"]["schema"]["properties"] == USER["properties"]
    )


def test_tensors_are_described_by_name_with_what_json_text_holds():
    call = predict(document_of(described()), "/v2/models/my-model/infer")
    schema = call["requestBody"]["content"]["application/json"]["schema"]
    user, n = schema["properties"]["inputs"]["items"]["anyOf"]
    assert user["properties"]["name"]["enum"] == ["user"]
    assert user["properties"]["data"]["items"]["x-contentSchema"] == {"$ref": "#/components/schemas/User"}
    assert n["description"] == "INT64 of shape [1]"
    assert schema["example"] == {
        "inputs": [
            {
                "name": "user", "datatype": "BYTES", "shape": [1],
                "parameters": {"content_type": "application/json"}, "data": ['{"age": 3}'],
            }
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "schema", "tensor"),
    [
        (TensorSpec("x", "INT64", [1]), {"type": "integer"}, {"shape": [1], "data": [1]}),
        (
            TensorSpec("x", "FP64", [-1]),
            {"type": "array", "items": {"const": 2.5}},
            {"shape": [1], "data": [2.5]},
        ),
        (TensorSpec("x", "BYTES", [-1, 1]), {"type": "string"}, {"shape": [1, 1], "data": [["hello"]]}),
        (
            TensorSpec("x", "BYTES", [1]),
            {"type": "string", "contentEncoding": "base64"},
            {"shape": [1], "data": ["hello"]},
        ),
    ],
)
def test_the_example_of_tensors_has_the_declared_shape(spec, schema, tensor):
    request = {
        "anyOf": [{"type": "object", "properties": {"x": schema}, "additionalProperties": False}, schema]
    }
    call = predict(document_of(described(request, inputs=[spec])), "/v2/models/my-model/infer")
    (found,) = call["requestBody"]["content"]["application/json"]["schema"]["example"]["inputs"]
    assert found == {"name": "x", "datatype": spec.datatype} | tensor


@pytest.mark.parametrize(
    ("response", "streams", "content"),
    [
        ({"type": "string"}, True, {"text/plain": {"type": "string"}}),
        (USER, True, {"application/x-ndjson": {"type": "string", "x-itemSchema": USER}}),
        ({"type": "string", "contentMediaType": "image/png"}, False, {"image/png": {"type": "string", "format": "binary"}}),
        ({}, False, {"*/*": {"type": "string", "format": "binary"}}),
        ({"type": "null"}, False, {"application/json": {"schema": {"enum": [None], "nullable": True}}}),
    ],
)  # fmt: skip
def test_answers_are_described_as_they_are_sent(response, streams, content):
    call = predict(document_of(described(response=response, streams=streams)))
    found = call["responses"]["200"]["content"]
    assert found == {kind: each if "schema" in each else {"schema": each} for kind, each in content.items()}


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string", "contentEncoding": "base64"}, "application/octet-stream"),
        (
            {"anyOf": [{"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}]},
            "image/*",
        ),
    ],
)
def test_bytes_and_images_may_be_the_body_itself(schema, kind):
    call = predict(document_of(described(schema, inputs=[TensorSpec("x", "BYTES", [1])])))
    assert list(call["requestBody"]["content"]) == ["application/json", kind]


def test_the_document_of_the_listener_has_the_calls_to_every_such_model():
    service = Service(described(), described(name="my_model"), ModelMetadata("tensors"))
    made = description(service)
    document = json.loads(made.to_json())
    validate(document)
    assert predict(document)["operationId"] == "predictionsMyModel"
    assert predict(document, "/predictions/my_model")["operationId"] == "predictionsMyModel_"
    assert "/predictions/tensors" not in document["paths"]
    assert "/predictions/{model_name}" in document["paths"]
    assert "MyModelUser" in document["components"]["schemas"]
    assert made.to_json() is made.to_json()
    del service.loaded["my-model"]
    assert "/predictions/my-model" not in json.loads(made.to_json())["paths"]


def test_models_are_not_told_to_anybody_where_their_calls_need_a_token():
    gate = Gate(Tokens(fixed={Access.INFERENCE: b"an-inference-token"}))
    assert "my-model" not in description(Service(described()), gate).to_json().decode()


def test_a_model_that_is_loaded_anew_is_described_anew():
    made = description()
    first = made.model_document("my-model", described(text="first"))
    second = described(text="second")
    assert b"first" in first
    assert b"second" in made.model_document("my-model", second)
    assert made.model_document("my-model", second) is made.model_document("my-model", second)
    assert b"second" not in made.model_document("my-model", None)


def test_names_of_models_begin_names_of_schemas():
    assert name_prefix("my-model.v2") == "MyModelV2"

"""The calls of one model of Python values, described by its own schemas in place of the general ones.

``CallForm`` says what a call is made of: a body, instances or tensors. What is said of one model is a copy of the general
description with another body and another answer.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mooring.core.example_requests import shape_of_lists
from mooring.core.example_values import example_value
from mooring.core.service import ModelMetadata, ValueDescription
from mooring.core.tensors import TensorSpec
from mooring.protocols.endpoints import Body, CallForm, Operation
from mooring.protocols.openapi_schemas import Components, Schema

_JSON = "application/json"
_BINARY: Schema = {"type": "string", "format": "binary"}
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")


def describe_call(
    operation: Operation, model: ModelMetadata, components: Components, *, prefix: str = ""
) -> Operation:
    """Return the operation as a call to this model; the definitions of its schemas are added to the components.

    ``model.values`` must be there; an operation without a ``form`` stays as it is.
    """
    values = model.values
    assert values is not None
    if operation.form is None:
        return operation
    described = _CallsOfModel(model, values, components, prefix)
    body, answer = {
        CallForm.BODY: described.describe_body,
        CallForm.INSTANCES: described.describe_instances,
        CallForm.TENSORS: described.describe_tensors,
    }[operation.form](operation)
    text = f"{values.text}\n\n{operation.description}" if values.text else operation.description
    return msgspec.structs.replace(operation, body=body, answer=answer, description=text)


def example_v2_body(model: ModelMetadata) -> dict[str, Any] | None:
    """Return a body of the Open Inference Protocol for a model of Python values; None where there is no example."""
    assert model.values is not None
    return _CallsOfModel(model, model.values, Components(), "").example_tensors()


def name_prefix(model: str) -> str:
    """Return the name of a model as the beginning of a name in the components.

    >>> name_prefix("my-model.v2")
    'MyModelV2'
    """
    return "".join(part[:1].upper() + part[1:] for part in _NO_NAME.split(model))


class _CallsOfModel:
    """The bodies and answers of one model."""

    def __init__(
        self, model: ModelMetadata, values: ValueDescription, components: Components, prefix: str
    ) -> None:
        self._model = model
        self._values = values
        self._components = components
        self._prefix = prefix

    def describe_body(self, operation: Operation) -> tuple[Body, Body]:
        """Return body and answer of a call whose body is the value."""
        general = operation.body
        assert general is not None
        request = self._values.request
        schema = self._components.add(request, self._prefix)
        if (example := _example(request)) is not None:
            schema = _with_example(schema, example)
        also = dict.fromkeys(_binary_kinds(request), _BINARY)
        required = bool(request.get("required")) or "properties" not in request
        return Body(_JSON, schema, "The input of the model", required, also), self._describe_answer(operation)

    def _describe_answer(self, operation: Operation) -> Body:
        response = self._values.response
        if not response:
            return operation.answer
        if self._values.streams:
            if response.get("type") == "string":
                return Body(
                    "text/plain", {"type": "string"}, "The pieces of the answer, each as soon as it is there"
                )
            return Body(
                "application/x-ndjson",
                {"type": "string", "x-itemSchema": self._components.add(response, self._prefix)},
                "The pieces of the answer, a line of JSON each",
            )
        if _is_binary(response):
            return Body(response["contentMediaType"], _BINARY, "The answer of the model")
        return Body(_JSON, self._components.add(response, self._prefix), "The answer of the model")

    def describe_instances(self, operation: Operation) -> tuple[Body, Body]:
        """Return body and answer of a call with a list of values."""
        assert operation.body is not None
        instance = self._components.add(self._values.request, self._prefix)
        body = _with_property(operation.body, "instances", {"type": "array", "items": instance})
        if (example := _example(self._values.request)) is not None:
            body = msgspec.structs.replace(body, schema=_with_example(body.schema, {"instances": [example]}))
        response = self._values.response
        if _is_binary(response):
            response = {"type": "string", "contentEncoding": "base64"}
        prediction = self._components.add(response, self._prefix)
        if self._values.streams:
            prediction = {"type": "array", "items": prediction}
        key = next(iter(operation.answer.schema["properties"]))
        return body, _with_property(operation.answer, key, {"type": "array", "items": prediction})

    def describe_tensors(self, operation: Operation) -> tuple[Body, Body]:
        """Return body and answer of a call with tensors."""
        assert operation.body is not None
        general = operation.body.schema["properties"]["inputs"]["items"]
        inputs = [
            self._describe_tensor(spec, general, self._schema_of(spec.name)) for spec in self._model.inputs
        ]
        body = _with_tensors(operation.body, "inputs", inputs)
        if (example := self.example_tensors()) is not None:
            body = msgspec.structs.replace(body, schema=_with_example(body.schema, example))
        outputs = [
            self._describe_tensor(spec, general, self._values.response)
            for spec in self._model.outputs
            if spec.datatype or self._values.response
        ]
        return body, _with_tensors(operation.answer, "outputs", outputs)

    def _schema_of(self, name: str) -> Schema:
        """Return the schema of one input: a property of the request, or all of it where it is the only input."""
        found = _property_of(self._values.request, name)
        if found is None:
            return self._values.request if len(self._model.inputs) == 1 else {}
        definitions = self._values.request.get("$defs")
        return {**found, "$defs": definitions} if definitions else found

    def _describe_tensor(self, spec: TensorSpec, general: Mapping[str, Any], schema: Schema) -> Schema:
        properties = {**general["properties"], "name": {"type": "string", "enum": [spec.name]}}
        shape = "any" if spec.unknown_rank else spec.shape
        text = f"{spec.datatype or 'any datatype'} of shape {shape}"
        if spec.content_type == _JSON:
            text = "One element of BYTES, shape [1], with JSON text in it"
            # OpenAPI 3.0 has no word for the schema of a text's content.
            content = self._components.add(schema, self._prefix)
            properties["data"] = {"type": "array", "items": {"type": "string", "x-contentSchema": content}}
        elif spec.content_type:
            text += f", of the type {spec.content_type}"
        return {**general, "properties": properties, "description": text}

    def example_tensors(self) -> Schema | None:
        """Return a body with an example of every input that a request must have; None where there is none."""
        tensors = []
        for spec in self._model.inputs:
            if spec.optional:
                continue
            if (example := _example(self._schema_of(spec.name))) is None or spec.content_type.startswith(
                "image/"
            ):
                return None
            if self._schema_of(spec.name).get("contentEncoding") == "base64":
                example = "hello"  # an element of BYTES is the bytes themselves
            tensor: Schema = {"name": spec.name, "datatype": spec.datatype}
            if spec.content_type == _JSON:
                tensor |= {"shape": [1], "parameters": {"content_type": _JSON}, "data": [json.dumps(example)]}
            else:
                shape = shape_of_lists(example)
                tensor |= {"shape": shape or [1], "data": example if shape else [example]}
            if len(spec.shape) > len(tensor["shape"]):  # with a dimension of samples in front
                tensor |= {"shape": [1, *tensor["shape"]], "data": [tensor["data"]]}
            tensors.append(tensor)
        return {"inputs": tensors} if tensors else None


def _property_of(schema: Mapping[str, Any], name: str) -> Schema | None:
    """Return the schema of a property, also where the object is one of several things."""
    for each in (schema, *schema.get("anyOf", ())):
        found = each.get("properties", {}).get(name)
        if found is not None and each.get("additionalProperties") is False:
            return dict(found)
    return None


def _example(schema: Mapping[str, Any]) -> Any:
    """Return an example, None where none is found."""
    try:
        return example_value(schema)
    except ValueError:
        return None


def _is_binary(schema: Mapping[str, Any]) -> bool:
    return "contentMediaType" in schema and "contentEncoding" not in schema


def _binary_kinds(request: Mapping[str, Any]) -> Iterable[str]:
    """Return the content types of bodies that are not JSON: of a model whose only input is bytes or an image."""
    for each in (request, *request.get("anyOf", ())):
        if each.get("contentEncoding") == "base64":
            media = each.get("contentMediaType", "")
            return ["image/*"] if media.startswith("image/") else ["application/octet-stream"]
    return []


def _with_example(schema: Mapping[str, Any], example: Any) -> Schema:
    return {"allOf": [schema], "example": example} if "$ref" in schema else {**schema, "example": example}


def _with_property(body: Body, name: str, schema: Schema) -> Body:
    properties = {**body.schema["properties"], name: schema}
    return msgspec.structs.replace(body, schema={**body.schema, "properties": properties})


def _with_tensors(body: Body, name: str, tensors: list[Schema]) -> Body:
    if not tensors:
        return body
    items = tensors[0] if len(tensors) == 1 else {"anyOf": tensors}
    return _with_property(body, name, {"type": "array", "items": items})

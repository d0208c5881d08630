"""A request that fits a model, made of what the model declares: for the greeting, and whoever else shows how to ask it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from mooring.core.service import ModelMetadata
from mooring.core.tensors import TensorSpec

JSON = "application/json"
# Elements of an example; what takes more is asked with a file.
_MOST_ELEMENTS = 64
# Characters of the JSON of an example.
_MOST_CHARACTERS = 400
# The size of an open dimension after the first, which is that of a batch.
_OPEN = 3
_DEEPEST = 8
# The smallest image, 1 x 1, as PNG in base64.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "email": "someone@example.org",
    "uri": "https://example.org",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
}


class ExampleRequest(msgspec.Struct, frozen=True):
    """A request over HTTP: with a ``body`` of JSON, with a ``file`` to send, or a GET that shows what the model takes.

    ``file`` is a placeholder; ``note`` says what it stands for. ``metadata_path`` is where v2 says what the model takes.
    """

    path: str
    metadata_path: str
    body: str = ""
    file: str = ""
    note: str = ""


def example_request(metadata: ModelMetadata, *, file: str = "", note: str = "") -> ExampleRequest:
    """Return a request that the model can answer. ``file`` is what it reads where that is no JSON, as a handler does.

    >>> example_request(ModelMetadata("m", inputs=[TensorSpec("x", "FP32", [-1, 2])]))
    ExampleRequest(path='/predictions/m', metadata_path='/v2/models/m', body='{"x": [[1.0, 1.0]]}', file='', note='')
    """
    path, described = f"/predictions/{quote(metadata.name)}", f"/v2/models/{quote(metadata.name)}"
    if file:
        return ExampleRequest(path, described, file=file, note=note)
    if metadata.values is not None:
        schema = metadata.values.request
        if str(schema.get("contentMediaType", "")).startswith("image/"):
            return ExampleRequest(path, described, file="IMAGE.png")
        body = json.dumps(example_value(schema), ensure_ascii=False)
        if len(body) <= _MOST_CHARACTERS:
            return ExampleRequest(path, described, body)
    elif (values := _example_tensors(metadata.inputs)) is not None:
        body = json.dumps(values)
        if len(body) <= _MOST_CHARACTERS:
            return ExampleRequest(path, described, body)
    return ExampleRequest(described, described)


def _example_tensors(inputs: Sequence[TensorSpec]) -> dict[str, Any] | None:
    """Return the inputs that a request must have, by name; None where they are not known, or too large to be typed."""
    found: dict[str, Any] = {}
    for each in inputs:
        if each.optional:
            continue
        shape = [size if size >= 0 else 1 if not place else _OPEN for place, size in enumerate(each.shape)]
        element = _example_element(each.datatype)
        count = 1
        for size in shape:
            count *= size
        if each.unknown_rank or element is None or count > _MOST_ELEMENTS:
            return None
        value: Any = element
        for size in reversed(shape):
            value = [value] * size
        found[each.name] = value
    return found or None


def _example_element(datatype: str) -> object:
    """Return an element of a datatype; None for one that is not known."""
    if datatype == "BOOL":
        return True
    if datatype == "BYTES":
        return "text"
    if datatype.startswith(("INT", "UINT")):
        return 1
    return 1.0 if datatype.startswith(("FP", "BF")) else None


def example_value(schema: Mapping[str, Any]) -> Any:
    """Return a value that fits a JSON Schema (2020-12) as type hints make it; what it does not say is left to chance.

    >>> example_value({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]})
    {'n': 3}
    """
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    return _example(schema, definitions, _DEEPEST)


def _example(schema: Any, definitions: Mapping[str, Any], depth: int) -> Any:
    if not isinstance(schema, Mapping) or not depth:
        return None
    if "$ref" in schema:
        return _example(definitions.get(schema["$ref"].rpartition("/")[2], {}), definitions, depth - 1)
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    for key in ("const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            choices = [each for each in schema[key] if each.get("type") != "null"] or schema[key]
            return _example(choices[0], definitions, depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "")
    if isinstance(kind, list):
        kind = next((each for each in kind if each != "null"), "null")
    if kind == "object":
        return _example_object(schema, definitions, depth)
    if kind == "array":
        return _example_array(schema, definitions, depth)
    if kind == "string":
        return _example_text(schema)
    if kind in ("integer", "number"):
        return _example_number(schema, whole=kind == "integer")
    return {"boolean": True, "null": None}.get(kind, 1)


def _example_object(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties: Mapping[str, Any] = schema.get("properties", {})
    names = schema.get("required") or list(properties)[:1]
    return {name: _example(properties.get(name, {}), definitions, depth - 1) for name in names}


def _example_array(schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> list[Any]:
    first = [_example(each, definitions, depth - 1) for each in schema.get("prefixItems", ())]
    if not isinstance(items := schema.get("items", {}), Mapping):
        return first
    most = schema.get("maxItems", _MOST_ELEMENTS)
    count = min(max(schema.get("minItems", 0), 0 if first else 1), most) - len(first)
    return [*first, *(_example(items, definitions, depth - 1) for _ in range(count))]


def _example_text(schema: Mapping[str, Any]) -> str:
    if schema.get("contentEncoding") == "base64":
        return _PNG if str(schema.get("contentMediaType", "")).startswith("image/") else "dGV4dA=="
    text = _FORMATS.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", len(text) + 1000)]


def _example_number(schema: Mapping[str, Any], *, whole: bool) -> float:
    value: float = 1 if whole else 1.0
    step = schema.get("multipleOf", 1 if whole else 0)
    if "minimum" in schema:
        value = max(value, schema["minimum"])
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        value = schema["exclusiveMinimum"] + (step or 1)
    if "maximum" in schema:
        value = min(value, schema["maximum"])
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        value = schema["exclusiveMaximum"] - (step or 1)
    return -(-value // step) * step if step and value % step else value

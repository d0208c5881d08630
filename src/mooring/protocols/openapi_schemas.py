"""JSON Schema (2020-12), in which models describe their values, as the schemas of OpenAPI 3.0.1, which can say less.

3.0 knows no type ``null`` (it has ``nullable``), no list of types, no ``const`` and no ``prefixItems``, and has its
definitions in the document's components. What it cannot say is left out: a converted schema accepts all that the first one
does, and may accept more.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

Schema = dict[str, Any]

_NULL: Schema = {"enum": [None], "nullable": True}
_KEPT = frozenset(
    {
        "title", "description", "default", "multipleOf", "maximum", "minimum", "maxLength", "minLength", "pattern", "maxItems",
        "minItems", "uniqueItems", "maxProperties", "minProperties", "type", "format", "readOnly", "writeOnly", "deprecated",
    }
)  # fmt: skip
# What stands beside a reference or a choice, and is not a part of it.
_NOTES = frozenset({"title", "description", "default", "readOnly", "writeOnly", "deprecated"})
_TYPES: Mapping[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_INVALID = re.compile(r"[^A-Za-z0-9._-]+")


class Components:
    """The schemas of a document's components, but for those whose names are ``taken``."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.schemas: dict[str, Schema] = {}
        self._taken = set(taken)
        self._sources: dict[str, Any] = {}

    def add(self, schema: Mapping[str, Any], prefix: str = "") -> Schema:
        """Return a schema as OpenAPI has it, and add its definitions.

        ``prefix`` begins the names of the definitions. Those that are here already are shared; where one differs from another
        of its name, all get new names.
        """
        definitions: Mapping[str, Any] = schema.get("$defs", {})
        plain = {name: f"{prefix}{_INVALID.sub('_', name)}" for name in definitions}
        names, number = plain, 2
        while any(self._clashes(names[name], definitions[name]) for name in definitions):
            names = {name: f"{wanted}{number}" for name, wanted in plain.items()}
            number += 1
        for name, definition in definitions.items():
            self._sources[names[name]] = definition
            self.schemas[names[name]] = _convert(definition, names)
        return _convert(schema, names)

    def _clashes(self, name: str, definition: Any) -> bool:
        return name in self._taken or self._sources.get(name, definition) != definition


def _convert(schema: Any, names: Mapping[str, str]) -> Schema:
    if not isinstance(schema, Mapping):
        return {"not": {}} if schema is False else {}
    if "$ref" in schema:
        reference = {"$ref": _component(schema["$ref"], names)}
        notes = {key: schema[key] for key in _NOTES & schema.keys()}
        return {"allOf": [reference], **notes} if notes else reference
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            beside = {key: value for key, value in schema.items() if key != choice}
            return _one_of(choice, schema[choice], beside, names)
    kinds = schema.get("type")
    if isinstance(kinds, list):
        limits = {key: value for key, value in schema.items() if key not in _NOTES}
        arms = [{"type": kind} if kind == "null" else {**limits, "type": kind} for kind in kinds]
        return _one_of("anyOf", arms, {key: schema[key] for key in _NOTES & schema.keys()}, names)
    converted = {key: value for key, value in schema.items() if key in _KEPT}
    if kinds == "null":
        del converted["type"]
        return converted | _NULL
    converted |= _convert_values(schema)
    converted |= _convert_numbers(schema)
    converted |= _convert_parts(schema, names)
    if converted.get("default", "") is None and not _takes_null(converted):
        del converted["default"]
    return converted


def _takes_null(converted: Schema) -> bool:
    return (
        converted.get("nullable", False) or not {"type", "allOf", "anyOf", "oneOf", "enum"} & converted.keys()
    )


def _component(reference: str, names: Mapping[str, str]) -> str:
    name = reference.rpartition("/")[2]
    return f"#/components/schemas/{names.get(name, name)}"


def _one_of(choice: str, arms: Collection[Any], beside: Schema, names: Mapping[str, str]) -> Schema:
    """Return a choice between schemas; null is a property of one of them, or where none can have it an arm."""
    others = [each for each in arms if each not in ({"type": "null"}, {"const": None})]
    nothing = len(others) < len(arms)
    found = [_convert(each, names) for each in others]
    rest = _convert(beside, names)
    if nothing:
        typed = next((each for each in found if "type" in each), None)
        if typed is None:
            found.append(dict(_NULL))
        else:
            typed["nullable"] = True
            if "enum" in typed and None not in typed["enum"]:
                typed["enum"] = [*typed["enum"], None]
    if beside.get("default", "") is None and nothing:
        rest["default"] = None
    return found[0] | rest if len(found) == 1 else {choice: found, **rest}


def _convert_values(schema: Mapping[str, Any]) -> Schema:
    """Return what a schema says of its values one by one."""
    converted: Schema = {}
    if "const" in schema:
        return {"enum": [schema["const"]], **({"nullable": True} if schema["const"] is None else {})}
    if "enum" in schema:
        values = list(schema["enum"])
        converted["enum"] = values
        kinds = {type(value) for value in values} - {type(None)}
        if len(kinds) == 1 and (kind := _TYPES.get(next(iter(kinds)))) is not None:
            converted["type"] = kind
        if None in values:
            converted["nullable"] = True
    if examples := schema.get("examples"):
        converted["example"] = examples[0]
    if schema.get("contentEncoding") == "base64":
        converted["format"] = "byte"
    elif "contentMediaType" in schema:
        converted["format"] = "binary"
    return converted


def _convert_numbers(schema: Mapping[str, Any]) -> Schema:
    converted: Schema = {}
    for exclusive, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in schema:
            converted |= {limit: schema[exclusive], exclusive: True}
    return converted


def _convert_parts(schema: Mapping[str, Any], names: Mapping[str, str]) -> Schema:
    """Return the schemas within a schema."""
    converted: Schema = {}
    if required := schema.get("required"):
        converted["required"] = list(required)
    if "properties" in schema:
        converted["properties"] = {name: _convert(each, names) for name, each in schema["properties"].items()}
    if "additionalProperties" in schema:
        more = schema["additionalProperties"]
        converted["additionalProperties"] = more if isinstance(more, bool) else _convert(more, names)
    if "prefixItems" in schema:
        items = [_convert(each, names) for each in schema["prefixItems"]]
        different = [each for position, each in enumerate(items) if each not in items[:position]]
        if isinstance(more := schema.get("items", True), Mapping) or more is True:
            different = []
        converted["items"] = (
            different[0] if len(different) == 1 else {"anyOf": different} if different else {}
        )
    elif schema.get("type") == "array":
        converted["items"] = _convert(schema.get("items", True), names)
    if "allOf" in schema:
        converted["allOf"] = [_convert(each, names) for each in schema["allOf"]]
    if isinstance(kinds := schema.get("discriminator"), Mapping):
        mapping = {key: _component(each, names) for key, each in kinds.get("mapping", {}).items()}
        converted["discriminator"] = {
            "propertyName": kinds["propertyName"],
            **({"mapping": mapping} if mapping else {}),
        }
    return converted

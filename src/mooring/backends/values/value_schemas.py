"""The JSON Schema (2020-12) of a hint, in one document."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from mooring.backends.values.custom_types import Schema, custom_type

_REFERENCE = "#/$defs/"


def schema_of(hint: Any, *, answer: bool = False) -> Schema:
    """Return the self-contained schema of a hint that msgspec and ``custom_type`` can serve.

    With ``answer`` it is that of values as they are written, which differs where pydantic writes more than it reads.
    """
    (schema,), definitions = msgspec.json.schema_components(
        [hint],
        schema_hook=_answer_schema if answer else _custom_schema,
        ref_template=_REFERENCE + "{name}",
    )
    _add_formats(msgspec.inspect.type_info(hint), schema, definitions, set())
    # Defaults that are tuples or dates become what JSON has for them.
    document = json.loads(msgspec.json.encode({"schema": schema, "definitions": definitions}, enc_hook=str))
    return gather_definitions(document["schema"], document["definitions"])


_FORMATS = {msgspec.inspect.DateTimeType: "date-time", msgspec.inspect.TimeType: "time"}


def _add_formats(kind: Any, schema: Schema, definitions: Schema, seen: set[str]) -> None:
    """Say in a schema which strings are times: msgspec leaves that out where they may have no time zone."""
    if isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.CustomType):
        return  # its schema is its own
    if (reference := schema.get("$ref")) is not None:
        name = reference.removeprefix(_REFERENCE)
        if name in seen:
            return
        seen.add(name)
        schema = definitions[name]
    if (text := _FORMATS.get(type(kind))) is not None:
        schema["format"] = text
    for part, within in _parts(kind, schema):
        if isinstance(within, dict):
            _add_formats(part, within, definitions, seen)


def _parts(kind: Any, schema: Schema) -> Iterator[tuple[Any, Any]]:
    """Yield the types within a type, each with its schema within the type's schema."""
    if isinstance(kind, msgspec.inspect.UnionType):
        types = [each for each in kind.types if not isinstance(each, msgspec.inspect.NoneType)]
        arms = [arm for arm in schema.get("anyOf", ()) if arm.get("type") != "null"]
        if len(types) == len(arms) == 1:
            yield types[0], arms[0]
        elif times := [each for each in types if type(each) in _FORMATS]:
            yield from ((times[0], arm) for arm in arms if arm == {"type": "string"})
    elif isinstance(kind, msgspec.inspect.DictType):
        yield kind.value_type, schema.get("additionalProperties")
    elif isinstance(kind, msgspec.inspect.TupleType):
        yield from zip(kind.item_types, schema.get("prefixItems", ()), strict=True)
    elif hasattr(kind, "fields") and "prefixItems" in schema:
        items = schema["prefixItems"]  # of a Struct with a tag before them
        yield from zip(
            [field.type for field in kind.fields], items[len(items) - len(kind.fields) :], strict=True
        )
    elif hasattr(kind, "fields"):
        yield from ((field.type, schema["properties"][field.encode_name]) for field in kind.fields)
    elif hasattr(kind, "item_type"):
        yield kind.item_type, schema.get("items")


def inner_types(kind: msgspec.inspect.Type) -> Iterator[tuple[str, Any]]:
    """Yield the types within a type, those of fields with the field's name."""
    for field in getattr(kind, "fields", ()):
        yield field.name, field.type
    for name in ("item_type", "type", "key_type", "value_type"):
        if (inner := getattr(kind, name, None)) is not None:
            yield "", inner
    for name in ("item_types", "types"):
        for inner in getattr(kind, name, ()):
            yield "", inner


def _custom_schema(kind: Any) -> Schema:
    custom = custom_type(kind)
    return {} if custom is None else custom.schema


def _answer_schema(kind: Any) -> Schema:
    custom = custom_type(kind)
    return {} if custom is None else custom.answer_schema or custom.schema


def gather_definitions(schema: Schema, definitions: Schema) -> Schema:
    """Return a schema with all definitions in its own ``$defs``, those of schemas within it too.

    Where two of them have one name and differ, the later one is renamed.
    """
    known = dict(definitions)
    gathered = _without_definitions(schema, known)
    for name in definitions:
        known[name] = _without_definitions(known[name], known)
    return {**gathered, "$defs": known} if known else gathered


def _without_definitions(schema: Any, known: Schema) -> Any:
    """Return a schema without the ``$defs`` within it, which are added to ``known``."""
    if isinstance(schema, list):
        return [_without_definitions(each, known) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(own := schema.get("$defs"), dict):
        renamed: dict[str, str] = {}
        name: str
        for name, definition in own.items():
            if known.setdefault(name, definition) != definition:
                renamed[name] = _free_name(name, known | own)
        schema = rename_references({key: each for key, each in schema.items() if key != "$defs"}, renamed)
        for name, definition in own.items():
            known[renamed.get(name, name)] = _without_definitions(
                rename_references(definition, renamed), known
            )
    return {key: _without_definitions(each, known) for key, each in schema.items()}


def _free_name(name: str, taken: Schema) -> str:
    return next(free for number in itertools.count(2) if (free := f"{name}{number}") not in taken)


def rename_references(schema: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references to definitions have these new names."""
    if not names:
        return schema
    if isinstance(schema, list):
        return [rename_references(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: rename_references(each, names) for key, each in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.removeprefix(_REFERENCE) in names:
        renamed["$ref"] = _REFERENCE + names[reference.removeprefix(_REFERENCE)]
    return renamed


def takes_object(schema: Schema) -> bool:
    """Whether a JSON object can fit a schema."""
    return _takes_object(schema, schema.get("$defs", {}), frozenset())


def _takes_object(schema: Any, definitions: Schema, seen: frozenset[str]) -> bool:
    if (reference := schema.get("$ref")) is not None:
        name = reference.removeprefix(_REFERENCE)
        return name not in seen and _takes_object(definitions.get(name, {}), definitions, seen | {name})
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(_takes_object(each, definitions, seen) for each in schema[key])
    if "enum" in schema or "const" in schema:
        return False
    kinds = schema.get("type", "object")
    return "object" in kinds if isinstance(kinds, list) else kinds == "object"

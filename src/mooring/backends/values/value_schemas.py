"""The JSON Schema (2020-12) of a hint, in one document."""

import itertools
import json
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
    # Defaults that are tuples or dates become what JSON has for them.
    document = json.loads(msgspec.json.encode({"schema": schema, "definitions": definitions}, enc_hook=str))
    return gather_definitions(document["schema"], document["definitions"])


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

"""Checks a manifest against a CustomResourceDefinition as the API server does: its structural schema, and no unknown key."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Schema = Mapping[str, Any]
_KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


class CustomResource:
    """One kind, as the file of its definition describes it."""

    def __init__(self, file: Path) -> None:
        spec = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        self.kind: str = spec["names"]["kind"]
        self._schemas = {
            f"{spec['group']}/{version['name']}": version["schema"]["openAPIV3Schema"]
            for version in spec["versions"]
        }

    def faults(self, manifest: Mapping[str, Any]) -> list[str]:
        """What the API server would refuse, each with its place."""
        schema = self._schemas.get(manifest["apiVersion"])
        if schema is None:
            return [f"apiVersion: {manifest['apiVersion']} is none of {sorted(self._schemas)}"]
        # Of metadata the API server knows more than the definition says.
        checked = {name: value for name, value in manifest.items() if name != "metadata"}
        return list(_faults(checked, schema, ""))


def _faults(value: Any, schema: Schema, place: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield f"{place}: {value!r} is neither a number nor a text"
        elif isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{place}: {value!r} does not match {schema['pattern']}"
        return
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")
    ):
        yield f"{place}: {value!r} is no {kind}"
        return
    if isinstance(value, dict):
        yield from _faults_of_object(value, schema, place)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _faults(each, schema["items"], f"{place}[{number}]")
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{place}: {value!r} is none of {schema['enum']}"
    elif "minimum" in schema and value < schema["minimum"]:
        yield f"{place}: {value} is below {schema['minimum']}"


def _faults_of_object(value: Mapping[str, Any], schema: Schema, place: str) -> Iterator[str]:
    for name in set(schema.get("required", ())) - value.keys():
        yield f"{place}.{name}: is required".lstrip(".")
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, each in value.items():
        where = f"{place}.{name}".lstrip(".")
        if name in known:
            yield from _faults(each, known[name], where)
        elif others:
            yield from _faults(each, others, where) if isinstance(others, dict) else ()
        else:
            yield f"{where}: unknown key"


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every key of every mapping, at any depth."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield (*at, name)
            yield from places(each, (*at, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from places(each, (*at, number))

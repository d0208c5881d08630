"""Examples for JSON Schemas: what to put into a command that a person can paste, or into a description of an API."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TEXT = "hello"
_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "time": "12:00:00Z",
    "duration": "PT1H30M",
    "uuid": "12345678-1234-5678-1234-567812345678",
    "email": "name@example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.com",
    "decimal": "1.5",
}
# Tried where a string must match a pattern.
_TRIED = (_TEXT, "a", "A", "ab", "Ab", "abc", "ABC", "1", "12", "123", "a1", "a-b", "a_b", "a.b", "a b", "1.0", "1.2.3", "", "hello world")  # fmt: skip
_ENOUGH_ITEMS = 64
# Schemas looked at for one example, and characters of one text. A list of 150,000 numbers, which an image is, is none to
# paste, and the event loop of the server looks for examples.
_MOST_STEPS, _LONGEST_TEXT = 2000, 2000


def example_value(schema: Schema | bool) -> Any:
    """Return a value that a JSON Schema (2020-12) accepts, short and the same every time.

    A default, an example, a constant or the first value of an enumeration comes first, then what type, format and limits
    allow. Objects have what they must have, and all properties where they must have none. References are those to ``$defs``
    of the schema itself. Raises ``ValueError`` where there is no such value, or none that this finds: none is large, of
    patterns it tries common texts, and it knows nothing of ``not``, ``if`` and their like.

    >>> example_value({"type": "object", "properties": {"n": {"type": "integer", "minimum": 5}}, "required": ["n"]})
    {'n': 5}
    """
    definitions = None if isinstance(schema, bool) else schema.get("$defs")
    try:
        return _Examples(definitions if isinstance(definitions, Mapping) else {}).find(schema, frozenset())
    except RecursionError:
        raise ValueError("the schema is nested too deep") from None


class _Examples:
    """Examples for schemas that refer to the same definitions."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions
        self._steps = 0

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ValueError("an example would be too large")

    def find(self, schema: Schema | bool, within: frozenset[str]) -> Any:
        """Return an example; ``within`` are the definitions that it is part of. Raises ``ValueError``."""
        self._count_step()
        if isinstance(schema, bool):
            if schema:
                return 1
            raise ValueError("nothing fits this schema")
        if (reference := schema.get("$ref")) is not None:
            return self._follow(reference, within)
        if "const" in schema:
            return schema["const"]
        if schema.get("default") is not None:
            return schema["default"]
        for name in ("examples", "enum"):
            for value in schema.get(name) or ():
                return value
        if "example" in schema:
            return schema["example"]
        for name in ("anyOf", "oneOf"):
            if name in schema:
                return self._first([{**_beside(schema, name), **arm} for arm in schema[name]], within)
        if "allOf" in schema:
            return self.find(self._merge([_beside(schema, "allOf"), *schema["allOf"]]), within)
        return self._of_type(schema, within)

    def _follow(self, reference: str, within: frozenset[str]) -> Any:
        name = reference.rpartition("/")[2]
        if name in within:
            raise ValueError(f"an example of {name} would contain itself")
        if name not in self._definitions:
            raise ValueError(f"the schema refers to {reference}, which is not in it")
        return self.find(self._definitions[name], within | {name})

    def _first(self, arms: list[Schema], within: frozenset[str]) -> Any:
        """Return an example of the first schema that has one; null comes last."""
        reason = ValueError("nothing fits this schema")
        for arm in sorted(arms, key=lambda each: each.get("type") == "null"):
            try:
                return self.find(arm, within)
            except ValueError as error:
                reason = error
        raise reason

    def _merge(self, parts: list[Schema]) -> Schema:
        merged: dict[str, Any] = {}
        for part in parts:
            found = part
            while "$ref" in found:
                self._count_step()
                found = self._definitions.get(found["$ref"].rpartition("/")[2], {})
            if "allOf" in found:
                found = self._merge([_beside(found, "allOf"), *found["allOf"]])
            for key, value in found.items():
                if key == "properties":
                    merged[key] = {**merged.get(key, {}), **value}
                elif key == "required":
                    merged[key] = [*merged.get(key, []), *value]
                else:
                    merged[key] = value
        return merged

    def _of_type(self, schema: Schema, within: frozenset[str]) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._first([{**schema, "type": each} for each in kind], within)
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, within)
        if kind == "array" or (kind is None and ("items" in schema or "prefixItems" in schema)):
            return self._array(schema, within)
        if kind == "string" or (kind is None and ("pattern" in schema or "format" in schema)):
            return _string(schema)
        if kind == "boolean":
            return True
        return None if kind == "null" else _number(schema, whole=kind != "number")

    def _object(self, schema: Schema, within: frozenset[str]) -> dict[str, Any]:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        required = schema.get("required") or ()
        found = {name: self.find(properties.get(name, True), within) for name in required}
        others = [name for name in properties if name not in found]
        least = schema.get("minProperties", 0)
        for name in others:
            if not required or len(found) < least:
                try:
                    found[name] = self.find(properties[name], within)
                except ValueError:
                    continue
        more = schema.get("additionalProperties", True)
        wanted = max(least, 1 if isinstance(more, Mapping) and not properties else 0)
        for number in itertools.count(1):
            if len(found) >= wanted or more is False:
                break
            try:
                found[f"key{number}"] = self.find(more, within)
            except ValueError:
                break
        if len(found) < least:
            raise ValueError("the schema wants more properties than it allows")
        most = schema.get("maxProperties", len(found))
        return {name: found[name] for name in sorted(found, key=lambda name: name not in required)[:most]}

    def _array(self, schema: Schema, within: frozenset[str]) -> list[Any]:
        first = schema.get("prefixItems") or []
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        found = [self.find(each, within) for each in first[: min(len(first), most)]]
        wanted = min(max(least, 0 if first else 1), most)
        items = schema.get("items", True)
        try:
            while len(found) < wanted:
                found.append(
                    self._next(items, found, within)
                    if schema.get("uniqueItems")
                    else self.find(items, within)
                )
        except ValueError:
            if len(found) < least:
                raise
        return found

    def _next(self, items: Schema | bool, found: list[Any], within: frozenset[str]) -> Any:
        """Return an item that is not in the list yet."""
        for each in self._variants(items, within):
            if each not in found:
                return each
        raise ValueError("too few different items fit this schema")

    def _variants(self, items: Schema | bool, within: frozenset[str]) -> Iterator[Any]:
        value = self.find(items, within)
        yield value
        if isinstance(items, Mapping):
            yield from items.get("enum") or ()
        if isinstance(items, Mapping) and any(
            key in items for key in ("pattern", "format", "enum", "const", "$ref", "anyOf")
        ):
            return
        limits = items if isinstance(items, Mapping) else {}
        if isinstance(value, bool):
            yield not value
        elif isinstance(value, int | float):
            step = limits.get("multipleOf", 1)
            for sign in (1, -1):
                for count in range(1, _ENOUGH_ITEMS):
                    if _within(number := value + sign * count * step, limits):
                        yield number
        elif isinstance(value, str):
            for count in range(_ENOUGH_ITEMS):
                text = f"{value}{count}"
                most = limits.get("maxLength", len(text))
                yield text[max(0, len(text) - most) :]


def _beside(schema: Schema, name: str) -> dict[str, Any]:
    """Return what a schema says beside a keyword, but for its notes."""
    return {
        key: value
        for key, value in schema.items()
        if key not in (name, "title", "description", "default", "$defs")
    }


def _base64(least: int, most: float) -> str:
    """Return base64 text of a length within limits."""
    for text in ("aGVsbG8=", "aGk=", "", "aGVs" * math.ceil(least / 4)):
        if least <= len(text) <= most:
            return text
    raise ValueError("no base64 text is within the limits of the schema")


def _string(schema: Schema) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    if least > _LONGEST_TEXT:
        raise ValueError("an example would be too large")
    if schema.get("contentEncoding") == "base64" or schema.get("format") == "byte":
        return _base64(least, most)
    if pattern := schema.get("pattern"):
        for text in _TRIED:
            for each in (text, text * max(1, least)):
                if least <= len(each) <= most and re.search(pattern, each):
                    return each
        raise ValueError(f"no example is known for the pattern {pattern}")
    text = _FORMATS.get(schema.get("format", ""), _TEXT)
    if len(text) < least:
        text = (text * (least // len(text) + 1))[:least]
    return text[: int(most)] if most < len(text) else text


def _within(number: float, schema: Schema) -> bool:
    lowest: float = schema.get("minimum", -math.inf)
    highest: float = schema.get("maximum", math.inf)
    above: float = schema.get("exclusiveMinimum", -math.inf)
    below: float = schema.get("exclusiveMaximum", math.inf)
    return lowest <= number <= highest and above < number < below


def _number(schema: Schema, *, whole: bool) -> float:
    step = schema.get("multipleOf")
    if step is None:
        step = 1
        low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
        high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
        if not whole and math.isfinite(low) and math.isfinite(high) and not _within(1.0, schema):
            for number in (low, high, low + (high - low) / 2):
                if _within(number, schema):
                    return float(number)
    elif whole and step != int(step):
        step = next(count * step for count in range(1, 1001) if float(count * step).is_integer())
    for number in _candidates(schema, int(step) if whole else step):
        if _within(number, schema):
            return int(number) if whole else float(number)
    raise ValueError("no number is within the limits of the schema")


def _candidates(schema: Schema, step: float) -> Iterator[float]:
    """Yield multiples of a step near 1 and near the limits."""
    yield step
    yield 0
    for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        if (limit := schema.get(name)) is not None:
            nearest = math.floor(limit / step) if not isinstance(limit, int) else limit // step
            for count in (nearest, nearest + 1, nearest - 1):
                yield count * step

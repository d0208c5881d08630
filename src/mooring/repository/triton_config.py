"""Triton's model configuration, read from text or from JSON into one form and checked against the schema.

A message becomes a dict, a repeated field a list, a map a dict with texts as keys, and an enum the name of its value.
An unknown field is an error that names its path, as in ``dynamic_batching.max_delay``.
"""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mooring.repository.textproto import Message
from mooring.repository.triton_schema import ENUMS, MESSAGES, PARAMETERS, Key, Verdict

TritonConfig = dict[str, Any]

_ROOT = "ModelConfig"
_RANGES = {
    "int32": (-(2**31), 2**31),
    "int64": (-(2**63), 2**63),
    "uint32": (0, 2**32),
    "uint64": (0, 2**64),
}
_SWITCHES: Mapping[object, bool] = {"True": True, "t": True, 1: True, "False": False, "f": False, 0: False}


def is_key(name: str) -> bool:
    """Whether Triton's configuration has a key of that name at the top."""
    return name in MESSAGES[_ROOT]


def unknown_key(name: str) -> str:
    """The error text for an unknown key at the top."""
    return f"{name}: {_unknown_name(name, MESSAGES[_ROOT], '')}"


def config_from_text(message: Message) -> TritonConfig:
    """Read a text. Raises ``ValueError``, which names the path of what is unknown, wrong or refused."""
    config = _TextReader().read_message(message, _ROOT, "")
    for kind in ("input", "output"):
        for index, tensor in enumerate(config.get(kind, ())):
            if "dims" not in tensor:
                raise ValueError(
                    f"{kind}[{index}].dims is missing; it is -1 for any size, and [ ] for a scalar"
                )
    return config


def config_from_json(document: Mapping[str, Any]) -> TritonConfig:
    """Read protobuf's JSON, as ``config_from_text``: numbers may be texts, and keys in camel case."""
    return _JsonReader().read_message(document, _ROOT, "")


def tuning_keys(config: TritonConfig) -> Iterator[tuple[str, str]]:
    """Yield the paths of the keys that are set and have no effect here, each with the reason."""
    yield from _walk_tuning_keys(config, _ROOT, "")
    for name in config.get("parameters", {}):
        if name in PARAMETERS:
            yield f"parameters['{name}']", PARAMETERS[name]


def _walk_tuning_keys(values: Mapping[str, Any], message: str, path: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        key = MESSAGES[message][name]
        where = f"{path}{name}"
        if key.verdict is Verdict.TUNES:
            if key.type in MESSAGES or key.many or key.keyed or not _is_default(key, value):
                yield where, key.note
        elif key.type in MESSAGES:
            inner = value.values() if key.keyed else value if key.many else [value]
            seen: dict[str, str] = {}
            for each in inner:
                seen |= dict(_walk_tuning_keys(each, key.type, f"{where}."))
            yield from seen.items()


def _is_default(key: Key, value: Any) -> bool:
    return value == ENUMS[key.type][0] if key.type in ENUMS else not value


class _Reader:
    """Reads a message against the schema, for text and JSON alike.

    How this works: ``read_message`` walks the fields that are set, and the schema says for each which type it has and
    whether it is served. What text and JSON write differently is left to the subclasses: how a field is called, what a
    missing one looks like, how a single value, a list and a map are held, and how numbers and switches are written.
    """

    def read_message(self, values: Any, name: str, path: str) -> dict[str, Any]:
        """Read the fields of the message ``name`` at ``path``. Raises ``ValueError``."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{path}: expected a message in braces, got {values!r}")  # noqa: TRY004 - a fault of the text
        keys, found = MESSAGES[name], {}
        for name_as_written, value in values.items():
            field = self._field_name(name_as_written)
            where = f"{path}.{field}" if path else field
            if field not in keys:
                raise ValueError(f"{where}: {_unknown_name(field, keys, path)}")
            if not self._is_absent(value):
                found[field] = self._read_field(keys[field], value, where)
        _check_choices(found, keys, path)
        return found

    def _read_field(self, key: Key, value: Any, where: str) -> Any:
        if key.verdict is Verdict.REFUSED and key.type in MESSAGES:
            raise ValueError(f"{where} is not served: {key.note}")
        if key.keyed:
            return {
                self._map_key(key, name, where): self._read_value(key, inner, f"{where}['{name}']")
                for name, inner in self._map_entries(value, where)
            }
        if key.many:
            return [
                self._read_value(key, each, f"{where}[{index}]")
                for index, each in enumerate(self._list_elements(value, where))
            ]
        found = self._read_value(key, self._single_value(value, where), where)
        if key.verdict is Verdict.REFUSED and found:
            raise ValueError(f"{where} is not served: {key.note}")
        return found

    def _read_value(self, key: Key, value: Any, where: str) -> Any:
        if key.type in MESSAGES:
            return self.read_message(value, key.type, where)
        if key.type in ENUMS:
            return _parse_enum(ENUMS[key.type], value, where)
        if key.type == "bool":
            return self._parse_bool(value, where)
        if key.type == "string":
            if isinstance(value, str):
                return value
            raise ValueError(f"{where}: expected a text in quotes, got {value!r}")
        if key.type == "float":
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
            raise ValueError(f"{where}: expected a number, got {value!r}")
        return self._parse_integer(value, key.type, where)

    def _map_key(self, key: Key, name: Any, where: str) -> str:
        return (
            name
            if key.keyed == "string" and isinstance(name, str)
            else str(self._parse_integer(name, "uint64", where))
        )

    def _parse_integer(self, value: Any, kind: str, where: str) -> int:
        least, beyond = _RANGES[kind]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < beyond:
            what = "a whole number from 0" if least == 0 else "a whole number"
            raise ValueError(f"{where}: expected {what}, got {value!r}")
        return value

    def _field_name(self, name: str) -> str:
        return name

    def _is_absent(self, value: Any) -> bool:
        raise NotImplementedError

    def _single_value(self, value: Any, where: str) -> Any:
        raise NotImplementedError

    def _list_elements(self, value: Any, where: str) -> list[Any]:
        raise NotImplementedError

    def _map_entries(self, value: Any, where: str) -> Iterator[tuple[Any, Any]]:
        raise NotImplementedError

    def _parse_bool(self, value: Any, where: str) -> bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"{where}: expected true or false, got {value!r}")


class _TextReader(_Reader):
    """Reads text, in which every field is a list of its values."""

    def _is_absent(self, value: Any) -> bool:
        return False

    def _single_value(self, value: Any, where: str) -> Any:
        if len(value) != 1:
            raise ValueError(f"{where}: expected one value, got {len(value) or 'an empty list'}")
        return value[0]

    def _list_elements(self, value: Any, where: str) -> list[Any]:
        found: list[Any] = value
        return found

    def _map_entries(self, value: Any, where: str) -> Iterator[tuple[Any, Any]]:
        for each in value:
            if not isinstance(each, Mapping) or each.keys() - {"key", "value"}:
                raise ValueError(f"{where}: expected entries as in {{ key: ... value: ... }}, got {each!r}")
            yield (
                self._single_value(each.get("key", [""]), where),
                self._single_value(each.get("value", [{}]), where),
            )

    def _parse_bool(self, value: Any, where: str) -> bool:
        known = isinstance(value, str | int) and value in _SWITCHES
        return _SWITCHES[value] if known else super()._parse_bool(value, where)


class _JsonReader(_Reader):
    """Reads JSON as protobuf writes and reads it."""

    def _field_name(self, name: str) -> str:
        return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)

    def _is_absent(self, value: Any) -> bool:
        return value is None

    def _single_value(self, value: Any, where: str) -> Any:
        return value

    def _list_elements(self, value: Any, where: str) -> list[Any]:
        if isinstance(value, list):
            return value
        raise ValueError(f"{where}: expected a list, got {value!r}")

    def _map_entries(self, value: Any, where: str) -> Iterator[tuple[Any, Any]]:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected an object, got {value!r}")  # noqa: TRY004 - a fault of the text
        yield from value.items()

    def _parse_integer(self, value: Any, kind: str, where: str) -> int:
        if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
            value = int(value)  # protobuf's JSON has 64-bit numbers so
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        return super()._parse_integer(value, kind, where)


def _parse_enum(names: tuple[str, ...], value: Any, where: str) -> str:
    if isinstance(value, str) and value in names:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    raise ValueError(f"{where}: unknown value {value!r}; known are {', '.join(names)}")


def _check_choices(found: Mapping[str, Any], keys: Mapping[str, Key], path: str) -> None:
    chosen: dict[str, str] = {}
    for name in found:
        choice = keys[name].choice
        if choice and chosen.setdefault(choice, name) != name:
            where = f"{path}: " if path else ""
            raise ValueError(f"{where}{chosen[choice]} and {name} cannot both be set")


def _unknown_name(name: str, keys: Mapping[str, Key], path: str) -> str:
    close = get_close_matches(name, keys, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(keys) or 'none'}"
    return f"unknown key; {hint}" if path or close else "unknown key"

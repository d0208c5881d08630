"""config.toml or config.pbtxt -> ``Declaration``: our keys in TOML, and text protos in Triton's form, AMD's or ours."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.core.validation import explain_decoding
from mooring.repository.declaration import OWN_KEYS, Declaration, TritonDeclaration
from mooring.repository.declaration_rules import check_declaration
from mooring.repository.textproto import Message, parse_textproto
from mooring.repository.triton import declaration_table, has_keys_of_its_own, is_amd, is_triton
from mooring.repository.triton_config import config_from_text, is_key, unknown_key

_MAX_BYTES = 1 << 20


def read_declaration(file: Path) -> Declaration:
    """Read a configuration file. Raises ``ModelLoadFailed``, which names the file and the key."""
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelLoadFailed(f"{file}: larger than a model's config can be ({_MAX_BYTES} bytes)")
        text = file.read_bytes().decode("utf-8-sig")
        declared = (
            _parse_text_proto(parse_textproto(text))
            if file.suffix == ".pbtxt"
            else msgspec.convert(tomllib.loads(text), Declaration)
        )
        check_declaration(declared, file)
    except OSError as error:
        raise ModelLoadFailed(f"{file}: {error.strerror or error}") from error
    except (ArithmeticError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"{file}: {explain_decoding(error, Declaration, null=False)}") from error
    return declared


def _parse_text_proto(message: Message) -> Declaration:
    """Convert a text proto in Triton's form, or in AMD's and ours."""
    ours = is_amd(message) or bool(OWN_KEYS & message.keys() and not has_keys_of_its_own(message))
    if ours or not is_triton(message):
        kind = Declaration if ours else TritonDeclaration
        return msgspec.convert(_table_of_message(message, {"batching": {"mode": "stack"}}), kind)
    config = config_from_text({key: values for key, values in message.items() if is_key(key)})
    own = {key: values for key, values in message.items() if not is_key(key)}
    for key in own.keys() - set(Declaration.__struct_fields__):
        raise ValueError(unknown_key(key))
    table = _table_of_message(own, declaration_table(config))
    return msgspec.convert({**table, "configuration": config}, TritonDeclaration)


def _table_of_message(message: Message, table: dict[str, Any]) -> dict[str, Any]:
    """Put a text proto into ``table`` in the form of TOML. AMD's ``versions`` is ignored: the folders tell it."""
    for key, values in message.items():
        if key in ("inputs", "outputs"):
            table[key] = [_table_of_tensor(value) for value in values]
        elif key == "parameters":
            table[key] = dict(_parameter_entry(value) for value in values)
        elif key in ("batching", "workers"):
            fields = {
                inner: _last_value(found) for inner, found in _message_fields(_last_value(values)).items()
            }
            table[key] = {**table.get(key, {}), **fields}
        elif key == "placement":
            table[key] = {
                inner: _table_of_map(_last_value(found))
                for inner, found in _message_fields(_last_value(values)).items()
            }
        elif key == "version_policy":
            table[key] = {
                inner: found if inner == "specific" else _last_value(found)
                for inner, found in _message_fields(_last_value(values)).items()
            }
        elif key == "explain":
            table[key] = {
                inner: found if len(found) > 1 else _last_value(found)
                for inner, found in _message_fields(_last_value(values)).items()
            }
        elif key != "versions":
            table[key] = _last_value(values)
    return table


def _table_of_tensor(value: Any) -> dict[str, Any]:
    return {
        key: found if key == "shape" else _last_value(found) for key, found in _message_fields(value).items()
    }


def _table_of_map(value: Any) -> Any:
    """Read ``{ zone: "a" }``, the short form of a map; any other value is as it is."""
    return {key: _last_value(found) for key, found in value.items()} if isinstance(value, dict) else value


def _parameter_entry(value: Any) -> tuple[str, Any]:
    """Read an entry of a map: ``{ key: "size" value { int64_param: 4 } }``."""
    entry = _message_fields(value)
    held = _last_value(entry.get("value", []))
    if isinstance(held, dict):
        held = _last_value([each for found in held.values() for each in found])
    return str(_last_value(entry.get("key", []))), held


def _message_fields(value: Any) -> Message:
    if not isinstance(value, dict):
        raise ValueError(f"expected a message in braces, got {value!r}")  # noqa: TRY004 - a fault of the text, as every other
    return value


def _last_value(values: list[Any]) -> Any:
    """The value of a single field; protobuf takes the last where there are several."""
    if not values:
        raise ValueError("expected a value, got an empty list")
    return values[-1]

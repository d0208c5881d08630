"""The options in the body of a load request, in Triton's form or AMD's."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from mooring.core.errors import InvalidInput
from mooring.core.tensors import Parameter

_FILE = "file:"
_decode = msgspec.json.Decoder().decode


class LoadOptions(msgspec.Struct, frozen=True):
    """The arguments of ``ModelAdministration.load`` beside the model's name; None for those that are not given."""

    config: Mapping[str, Any] | None = None
    files: Mapping[str, bytes] | None = None
    parameters: Mapping[str, Parameter] | None = None


def parse_load_options(body: bytes) -> LoadOptions:
    """Return the options in a body: none for an empty one, ``null`` and ``{}``. Raises ``InvalidInput``.

    Triton's clients send ``{"parameters": {"config": "<json>", "file:1/model.onnx": "<base64>", ...}}``, AMD's the
    parameters alone.
    """
    document = _parse_object(body)
    if not isinstance(document.get("parameters"), dict):
        return LoadOptions(parameters=_check_parameters(document))
    given = document["parameters"]
    files = {
        name.removeprefix(_FILE): _decode_file(name, given[name]) for name in given if name.startswith(_FILE)
    }
    others = {name: given[name] for name in given if name != "config" and not name.startswith(_FILE)}
    config = parse_config(given["config"]) if "config" in given else None
    return LoadOptions(config, files or None, _check_parameters(others))


def parse_parameters(body: bytes) -> Mapping[str, Parameter]:
    """Return the parameters in a body that holds nothing else. Raises ``InvalidInput``."""
    return _check_parameters(_parse_object(body)) or {}


def _parse_object(body: bytes) -> dict[str, Any]:
    try:
        document = _decode(body) if body.strip() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if document is not None and not isinstance(document, dict):
        raise InvalidInput("the body must be a JSON object of parameters")
    return document or {}


def _check_parameters(given: Mapping[str, Any]) -> Mapping[str, Parameter] | None:
    for name, value in given.items():
        if not isinstance(value, (str, bool, int, float)):
            raise InvalidInput(f"parameter '{name}' must be a string, a number or a boolean")
    return given or None


def parse_config(text: Any) -> Mapping[str, Any]:
    """Return the configuration that replaces a model's own, from JSON in a string. Raises ``InvalidInput``."""
    try:
        config = _decode(text)
    except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError) as error:
        raise InvalidInput(f"parameter 'config' must be JSON in a string: {error}") from None
    if not isinstance(config, dict):
        raise InvalidInput("parameter 'config' must be a JSON object in a string")
    return config


def _decode_file(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidInput(f"parameter '{name}' must be base64 in a string") from None

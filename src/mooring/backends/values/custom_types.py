"""Types of hints that msgspec does not know: how such a value is read from JSON, and the schema that describes it.

Arrays and scalars of numpy, images of Pillow, models of pydantic, and unions that JSON alone cannot tell apart. pydantic
and Pillow are used where the model's own code has imported them, and never imported before.
"""

import base64
import binascii
import contextlib
import functools
import json
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from mooring.codecs.images import open_image
from mooring.codecs.tensor_json import to_array
from mooring.core.errors import InvalidInput
from mooring.core.tensors import DATATYPE_BY_NUMPY_TYPE

Schema = dict[str, Any]
Read = Callable[[Any], Any]
# A picture of one pixel: an example that a model can read.
_EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class WrongValue(ValueError):
    """A value that a type cannot be read from. ``reason`` follows the name of the place: "must be a string".

    ``path`` leads from the value to the place, as ``.a[0]``. ``others`` are further places and reasons.
    """

    def __init__(self, reason: str, path: str = "", others: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(f"{path} {reason}".strip())
        self.faults = [(path, reason), *others]


class CustomType(NamedTuple):
    """How a value of one type is read, and its JSON Schema.

    ``read`` takes a parsed JSON value and raises ``WrongValue``, or any ``ValueError``. ``decode``, where it is there, takes
    the JSON text itself, and raises the same. ``answer_schema`` is the schema of such a value in an answer, where it is another.
    """

    read: Read
    schema: Schema
    decode: Callable[[bytes | str], Any] | None = None
    answer_schema: Schema | None = None


class _AnyInstance(type):
    """A class of which every value is an instance: msgspec checks what its hook has read."""

    def __instancecheck__(cls, value: object) -> bool:
        return True


class Marker(metaclass=_AnyInstance):
    """Base of the classes that stand in a hint for what msgspec cannot be given."""

    custom: CustomType


def mark(custom: CustomType) -> type[Marker]:
    """Return a class that stands for ``custom`` in a hint."""
    return cast("type[Marker]", _AnyInstance("Marked", (Marker,), {"custom": custom}))


@functools.cache
def custom_type(kind: Any) -> CustomType | None:
    """Return how values of a type are read that msgspec does not know; None where it cannot be served."""
    if kind is object:
        return CustomType(lambda value: value, {})
    origin = typing.get_origin(kind) or kind
    if not isinstance(origin, type):
        return None
    if issubclass(origin, Marker):
        return origin.custom
    if issubclass(origin, np.ndarray):
        return _array_type(_element_type(kind))
    if issubclass(origin, np.generic):
        return _scalar_type(origin)
    if is_image(origin):
        return CustomType(_read_image, _IMAGE_SCHEMA)
    if is_pydantic(origin):
        return pydantic_type(kind)
    return None


def is_image(kind: Any) -> bool:
    """Whether a type is Pillow's ``Image``."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(kind, type) and issubclass(kind, pillow.Image)


_IMAGE_SCHEMA: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "contentMediaType": "image/png",
    "description": "An image in base64, such as a PNG or a JPEG",
    "examples": [_EXAMPLE_IMAGE],
}


def _read_image(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise WrongValue("must be an image in base64") from None
    elif not isinstance(value, bytes | bytearray | memoryview):
        raise WrongValue("must be an image: a string in base64")
    try:
        return open_image(value)
    except InvalidInput as error:
        raise WrongValue(f"must be an image: {error.message}") from None


# The name by which a text of ``to_array`` is recognized.
_UNNAMED = "\0"


def _to_array(value: Any, datatype: str) -> Any:
    try:
        array = to_array(value, _UNNAMED, datatype)
    except InvalidInput as error:
        raise WrongValue(error.message.removeprefix(f"input '{_UNNAMED}' ")) from None
    if array.dtype.kind == "O":
        flat: list[Any] = array.ravel().tolist()
        texts = np.empty(array.size, object)
        texts[:] = [text.decode() for text in flat]
        return texts.reshape(array.shape)
    return array


def _element_type(kind: Any) -> np.dtype[Any] | None:
    """Return the type of elements that ``NDArray[...]`` names, None where it leaves them open."""
    for part in typing.get_args(kind):
        for scalar in typing.get_args(part) if typing.get_origin(part) is np.dtype else ():
            if isinstance(scalar, type) and issubclass(scalar, np.generic):
                try:
                    return np.dtype(scalar)
                except TypeError:  # np.floating and its like are names for many types
                    return None
    return None


def datatype_of_array(kind: Any) -> str:
    """Return the datatype of the elements that a hint of an array names; empty where it leaves them open."""
    element = _element_type(kind)
    return "" if element is None else DATATYPE_BY_NUMPY_TYPE.get(element, "")


def _array_type(element: np.dtype[Any] | None) -> CustomType:
    if element is None:
        datatype, of = "", "numbers, booleans or strings"
    else:
        datatype = DATATYPE_BY_NUMPY_TYPE.get(element, "")
        of = {"b": "booleans", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}.get(
            element.kind, "values"
        )

    def read_array(value: Any) -> Any:
        if not isinstance(value, list):
            raise WrongValue("must be a list")
        array = _to_array(value, datatype)
        return array if element is None else array.astype(element, copy=False)

    return CustomType(
        read_array,
        {"type": "array", "items": {}, "description": f"An array of {of}, in lists of equal length"},
    )


_SCALARS: Mapping[str, Schema] = {
    "b": {"type": "boolean"},
    "i": {"type": "integer"},
    "u": {"type": "integer"},
    "f": {"type": "number"},
}


def _scalar_type(kind: type[np.generic]) -> CustomType | None:
    try:
        element = np.dtype(kind)
    except TypeError:
        return None
    datatype = DATATYPE_BY_NUMPY_TYPE.get(element)
    if datatype is None:
        return None

    def read_scalar(value: Any) -> Any:
        if isinstance(value, list | dict) or value is None:
            raise WrongValue("must be one value")
        if element.kind == "b" and not isinstance(value, bool):
            raise WrongValue("must be true or false")
        return _to_array(value, datatype)[()]

    return CustomType(read_scalar, _SCALARS[element.kind])


def is_pydantic(kind: Any) -> bool:
    """Whether pydantic reads values of this type: its models, its dataclasses, its types such as ``HttpUrl``."""
    return (
        "pydantic" in sys.modules
        and isinstance(kind, type)
        and (hasattr(kind, "__pydantic_validator__") or hasattr(kind, "__get_pydantic_core_schema__"))
    )


def pydantic_type(hint: Any) -> CustomType:
    """Return how pydantic reads values of a hint, by its own rules and validators."""
    from pydantic import TypeAdapter, ValidationError  # the model's code has imported it

    adapter: Any = TypeAdapter(hint)

    def decode(text: bytes | str) -> Any:
        try:
            return adapter.validate_json(text)
        except ValidationError as error:
            raise _explain_pydantic(error.errors(include_url=False, include_input=False)) from None

    return CustomType(
        # As JSON, not as Python's types: models that are strict take a date from a string in JSON alone.
        lambda value: decode(json.dumps(value)),
        adapter.json_schema(ref_template="#/$defs/{model}"),
        decode,
        adapter.json_schema(ref_template="#/$defs/{model}", mode="serialization"),
    )


def _explain_pydantic(faults: Sequence[Mapping[str, Any]]) -> WrongValue:
    first, *others = ((_pydantic_path(fault["loc"]), _pydantic_reason(fault)) for fault in faults)
    return WrongValue(first[1], first[0], others)


def _pydantic_path(place: Sequence[int | str]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


_PYDANTIC_REASONS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "string_pattern_mismatch": "must match the regular expression {pattern}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "finite_number": "must be a finite number",
    "int_from_float": "must be a whole number",
    "value_error": "is wrong: {error}",
    "assertion_error": "is wrong: {error}",
    "json_invalid": "is not JSON: {error}",
    "union_tag_invalid": "has an unknown {discriminator}; known are {expected_tags}",
}
_PYDANTIC_KINDS: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "string": "a string",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "an object",
    "model": "an object",
    "dataclass": "an object",
    "bytes": "a string",
    "none": "null",
    "datetime": "a date and time, such as 2026-01-31T12:00:00Z",
    "date": "a date, such as 2026-01-31",
    "time": "a time, such as 12:00:00",
    "time_delta": "a duration, such as PT1H30M",
    "uuid": "a UUID",
    "decimal": "a decimal number",
    "url": "a URL",
}


def _pydantic_reason(fault: Mapping[str, Any]) -> str:
    """Return what is wrong in the words that Mooring has for it, and in pydantic's where it has none."""
    name = fault["type"]
    details = fault.get("ctx") or {}
    if (text := _PYDANTIC_REASONS.get(name)) is not None:
        with contextlib.suppress(
            KeyError
        ):  # an error of the user's own that has the name of one of pydantic's
            return text.format_map(details)
    kind, _, rest = name.rpartition("_")
    for ending in ("_from_datetime", "_from_date", "_attributes"):
        kind = kind.removesuffix(ending)
    if rest in ("type", "parsing", "attributes", "inexact") and kind in _PYDANTIC_KINDS:
        return f"must be {_PYDANTIC_KINDS[kind]}"
    text = str(fault["msg"])
    text = text[:1].lower() + text[1:]
    text = text.replace("input should be", "must be").replace("input should", "must")
    return text if text.startswith("must ") else f"is wrong: {text}"


def choice_type(arms: Sequence[tuple[str, Read, Schema]]) -> CustomType:
    """Return the type of values that are read as the first of several types that takes them, each with its name."""

    def read_choice(value: Any) -> Any:
        reasons = []
        for name, read, _ in arms:
            try:
                return read(value)
            except InvalidInput as error:
                reasons.append(f"{name}: {error.message}")
        raise WrongValue(f"fits none of its types ({'; '.join(reasons)})")

    return CustomType(read_choice, {"anyOf": [schema for _, _, schema in arms]})

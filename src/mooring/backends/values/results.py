"""From what a function returns to an answer: a JSON body, a prediction of KServe v1, or tensors.

    returned                                          in JSON                             as a tensor
    str, numbers, bool                                the same                            BYTES, INT64, FP64, BOOL of [1]
    list, tuple, set                                  a list                              of [n], [n, m] where regular, else JSON
    dict, dataclass, Struct, pydantic model           an object                           JSON text
    datetime, date, UUID, Decimal, Enum               a string, or the Enum's value       BYTES
    array or scalar of numpy, tensor of torch         numbers in lists                    itself
    dict of arrays                                    an object                           each array by its name
    bytes                                             base64; alone: octet-stream         BYTES
    (bytes, "image/png")                              base64; alone: of that type         BYTES, with the type as a parameter
    image of Pillow                                   base64; alone: image/png            BYTES, with the type as a parameter

NaN and Infinity are null in JSON, or bare tokens where the setting ``json_nan`` says so.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import decimal
import enum
import inspect
import io
import json
import re
import struct
import sys
import typing
import uuid
from collections import abc, deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
import orjson

from mooring.backends.values.custom_types import Schema, is_image, is_pydantic
from mooring.backends.values.hints import to_served
from mooring.backends.values.tensor_forms import (
    JSON,
    Leaf,
    TensorForm,
    array_datatype,
    plain_hint,
    tensor_form,
)
from mooring.backends.values.value_schemas import schema_of
from mooring.core.errors import InvalidInput, InvalidOutput, ModelLoadFailed
from mooring.core.tensors import NUMPY_TYPES, Array, Tensor, TensorSpec

OCTETS, PNG = "application/octet-stream", "image/png"
OUTPUT = "output"
# What a header can hold: no control characters, and not everything that one could write there.
_CONTENT_TYPE = re.compile(r"[a-z]+/[\w.+*-]+(?: *;[ -~]{0,1000})?", re.IGNORECASE | re.ASCII)
_STREAMS = (abc.Iterator, abc.Generator, abc.AsyncIterator, abc.AsyncGenerator, abc.AsyncIterable)
_AWAITED = (abc.Awaitable, abc.Coroutine)
_CAN_BE_RETURNED = "return what JSON can say, a dataclass, a msgspec.Struct, a pydantic model, a numpy array, bytes or a PIL image"
_INT64 = range(-(2**63), 2**63)
_UNKNOWN = (inspect.Parameter.empty, Any, object)
_LISTS = (list, tuple, set, frozenset, deque)
_NUMBERS = frozenset({bool, int, float})
_CARRIED = "biufSUO"  # kinds of arrays that a datatype holds
_MOST_DIMENSIONS = 32  # numpy 1.26 has no more
# What msgspec writes as a string.
_STRINGS = (dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal)
_BASES: tuple[Any, ...] = (str, int, float, bytes)
_NOT_ENCODED = (TypeError, ValueError, OverflowError, RecursionError)


def _binary_schema(content_type: str) -> Schema:
    # Without a contentEncoding: the body is these bytes, and no JSON.
    return {"type": "string", "contentMediaType": content_type}


_BODIES: Mapping[Leaf, str] = {Leaf.BYTES: OCTETS, Leaf.IMAGE: PNG}


def _pack_text(value: str) -> Tensor:
    return Tensor(OUTPUT, "BYTES", [1], [value.encode()])


def _packer(datatype: str, form: str) -> Callable[[Any], Tensor]:
    pack = struct.Struct(form).pack
    return lambda value: Tensor(OUTPUT, datatype, [1], pack(value))


_FLOAT = _packer("FP64", "<d")
_SCALARS: Mapping[type, Callable[[Any], Tensor]] = {
    str: _pack_text,
    bool: _packer("BOOL", "?"),
    int: _packer("INT64", "<q"),
    float: _FLOAT,
}
# By the datatype that a hint says.
_SCALARS_OF: Mapping[str, Mapping[type, Callable[[Any], Tensor]]] = {
    "BYTES": _SCALARS,
    "BOOL": _SCALARS,
    "INT64": {kind: pack for kind, pack in _SCALARS.items() if kind is not float},  # 3.0 is a 3
    "FP64": {**_SCALARS, int: _FLOAT},
}


class ResultType:
    """How results of one return hint are written; a result that does not fit the hint is written as what it is.

    ``schema`` is the JSON Schema (2020-12) of the answer's body, with all definitions in its own ``$defs``, and ``{}`` where
    nothing is known; a body of bytes has a ``contentMediaType`` and no ``contentEncoding``. ``tensors`` are the outputs that the
    model's metadata declares.

    All methods raise ``InvalidOutput``, which names the place of what cannot be written.
    """

    def __init__(self, hint: Any) -> None:
        hint = result_hint(hint)
        self._form = tensor_form(hint)
        self._array = array_datatype(hint)
        # A lone number or text: 0.2 microseconds, measured, and not the 2.5 of the general way.
        self._scalars = _SCALARS if self._form is None else _SCALARS_OF.get(self._form.datatype, {})
        # Whether every result is JSON text in its tensor, whatever it is.
        self._is_json = False
        self.schema = _describe(hint)
        if self._form is not None and not self._form.dimensions and self._form.leaf in _BODIES:
            self.schema = _binary_schema(_BODIES[self._form.leaf])
        elif plain_hint(hint) == tuple[bytes, str]:
            self.schema = _binary_schema("*/*")
        self.tensors = self._declare(hint)

    def _declare(self, hint: Any) -> list[TensorSpec]:
        if plain_hint(hint) == tuple[bytes, str]:
            return [TensorSpec(OUTPUT, "BYTES", [1])]
        if self._form is not None:
            content_type = PNG if self._form.leaf is Leaf.IMAGE else ""
            return [TensorSpec(OUTPUT, self._form.datatype, self._form.shape, content_type=content_type)]
        if self._array is not None:
            return [TensorSpec(OUTPUT, self._array, [], unknown_rank=True)]
        if not self.schema:
            return [TensorSpec(OUTPUT, "", [], unknown_rank=True)]
        plain = plain_hint(hint)
        if typing.get_origin(plain) is dict and array_datatype(typing.get_args(plain)[1]) is not None:
            return []  # the names are the function's secret
        self._is_json = True
        return [TensorSpec(OUTPUT, "BYTES", [1], content_type=JSON)]

    def encode_body(self, value: Any, *, null: bool = True) -> tuple[bytes, str]:
        """Return the body of an answer and its content type. ``null``: NaN and Infinity are null in JSON."""
        kind = type(value)
        if kind is bytes:
            return value, OCTETS
        if kind is tuple and (content := _content_of(value)) is not None:
            return content
        if kind in (bytearray, memoryview):
            return bytes(value), OCTETS
        if is_image(kind):
            return _to_png(value), PNG
        return self.encode_json(value, null=null), JSON

    def encode_json(self, value: Any, *, null: bool = True) -> bytes:
        """Return a result as JSON, bytes and images as base64 text. ``null``: NaN and Infinity are null, else bare tokens."""
        if type(value) is tuple and (content := _content_of(value)) is not None:
            value = content[0]
        try:
            text = _encode(value)
        except _NOT_ENCODED:
            plain = _to_plain(value, OUTPUT)
            return _encode(plain) if null else json.dumps(plain, separators=(",", ":")).encode()
        if null or b"null" not in text:
            return text
        # Either None, or a number that JSON does not have.
        return json.dumps(_to_plain(value, OUTPUT), separators=(",", ":"), ensure_ascii=False).encode()

    def to_tensors(self, value: Any, *, null: bool = True) -> list[Tensor]:
        """Return a result as output tensors: the one output is called "output"; a dict of arrays has each by its name.

        ``null`` is for what travels as JSON text, as in ``encode_json``.
        """
        if not self._is_json and (pack := self._scalars.get(type(value))) is not None:
            try:
                return [pack(value)]
            except (struct.error, OverflowError, UnicodeEncodeError):
                pass  # an integer of more than 64 bits; half a surrogate pair
        if self._is_json and not _is_tensor(value):
            return [self._json_tensor(value, null=null)]
        if isinstance(value, dict) and value and all(map(_is_array, value.values())):
            return [_to_tensor(str(name), _to_array(each)) for name, each in value.items()]
        if _is_tensor(value):
            array = self._cast(_to_array(value))
            carried = array.dtype.kind in _CARRIED and not _holds_objects(array)
            return [_to_tensor(OUTPUT, array) if carried else self._json_tensor(value, null=null)]
        content = _content_of(value) if type(value) is tuple else None
        if content is not None:
            return [Tensor(OUTPUT, "BYTES", [1], [content[0]], {"content_type": content[1]})]
        if is_image(type(value)):
            return [Tensor(OUTPUT, "BYTES", [1], [_to_png(value)], {"content_type": PNG})]
        regular = _regular_array(list(value) if isinstance(value, _LISTS) else [value], self._form)
        if regular is None:
            return [self._json_tensor(value, null=null)]
        return [Tensor.of(OUTPUT, self._cast(regular))]

    def _cast(self, array: Array) -> Array:
        """Return an array in the datatype of the hint. A result that does not fit it stays what it is."""
        wanted = NUMPY_TYPES.get((self._form.datatype if self._form is not None else self._array) or "")
        if (
            wanted is None
            or array.dtype == wanted
            or array.dtype.kind not in "iuf"
            or wanted.kind not in "iuf"
        ):
            return array
        with np.errstate(invalid="ignore"):  # NaN as an integer, which is not equal below
            cast = array.astype(wanted)
        return cast if wanted.kind == "f" or np.array_equal(cast, array) else array

    def _json_tensor(self, value: Any, *, null: bool) -> Tensor:
        return Tensor(OUTPUT, "BYTES", [1], [self.encode_json(value, null=null)], {"content_type": JSON})


def result_type(hint: Any) -> ResultType:
    """Compile a return hint; ``inspect.Parameter.empty`` means that there is none.

    Of a stream (``Iterator[str]``, an async generator) and of a coroutine the hint of the pieces, or of the result, counts.
    """
    return ResultType(hint)


def result_hint(hint: Any) -> Any:
    """Return the hint of what a stream or a coroutine gives, any other hint as it is."""
    while (origin := typing.get_origin(hint)) in (*_STREAMS, *_AWAITED):
        arguments = typing.get_args(hint)
        hint = arguments[-1 if origin is abc.Coroutine else 0] if arguments else Any
    return Any if hint in _STREAMS or hint in _AWAITED else hint


def _describe(hint: Any) -> Schema:
    """Return the schema of a return hint; an empty one where it says nothing, or nothing that is known here."""
    if hint in _UNKNOWN:
        return {}
    try:
        return schema_of(to_served(hint, OUTPUT), answer=True)
    except (TypeError, NameError, AttributeError, RecursionError, ModelLoadFailed):
        return {}


def _content_of(value: tuple[Any, ...]) -> tuple[bytes, str] | None:
    """Return bytes and the content type that the function gives them; None for any other tuple."""
    if len(value) != 2:
        return None
    data, content_type = value
    if not isinstance(data, bytes | bytearray | memoryview) or not isinstance(content_type, str):
        return None
    return (bytes(data), content_type) if _CONTENT_TYPE.fullmatch(content_type) else None


def _to_png(image: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        image.save(buffer, PNG.rpartition("/")[2])
    except OSError:  # a mode that PNG does not have, such as CMYK
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "png")
    return buffer.getvalue()


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numpy or a tensor of torch."""
    return isinstance(value, np.ndarray) or _is_torch(value)


def _is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic) or _is_torch(value)


def _to_array(value: Any) -> Array:
    if _is_torch(value):
        tensor = value.detach().cpu()
        value = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(value)


def _holds_objects(array: Array) -> bool:
    """Whether an array has elements that are neither text nor bytes: a tensor would have them as they print, "None" say."""
    return array.dtype.kind == "O" and not all(isinstance(each, str | bytes) for each in array.flat)


def _to_tensor(name: str, array: Array) -> Tensor:
    try:
        return Tensor.of(name, array if array.shape else array.reshape(1))
    except InvalidInput:
        raise InvalidOutput(
            f"{name} is a numpy array of {array.dtype}, which no protocol can carry: return numbers, booleans or strings"
        ) from None
    except UnicodeEncodeError:
        raise refuse_text(name) from None


def _regular_array(rows: list[Any], form: TensorForm | None) -> Array | None:
    """Return values in regular lists as an array; None for what has no form as a tensor: ragged or mixed lists, objects, null."""
    shape, flat = [len(rows)], rows
    while flat and len(shape) < _MOST_DIMENSIONS and all(isinstance(each, list | tuple) for each in flat):
        lengths = {len(each) for each in flat}
        if len(lengths) > 1:
            return None
        shape.append(lengths.pop())
        flat = [each for row in flat for each in row]
    if not flat:
        if form is None or not form.dimensions:
            return None
        datatype = NUMPY_TYPES.get(form.datatype, np.dtype(object))
        return np.empty([0] * len(form.dimensions) if len(shape) < len(form.dimensions) else shape, datatype)
    elements, kinds = flat, set(map(type, flat))
    if not kinds <= _NUMBERS:
        elements = [_element(each) for each in flat]
        kinds = set(map(type, elements))
    if kinds == {bool}:
        array: Array = np.array(elements, np.bool_)
    elif kinds == {int}:
        if min(elements) not in _INT64 or max(elements) not in _INT64:
            return None
        array = np.array(elements, np.int64)
    elif kinds in ({float}, {int, float}):
        array = np.array(elements, np.float64)
    elif kinds == {bytes}:
        array = np.empty(len(elements), object)
        array[:] = elements
    else:
        return None
    return array.reshape(shape)


def _element(value: Any) -> Any:
    """Return a value as an element of a tensor: a bool, int, float or bytes; any other value as it is."""
    kind = type(value)
    if kind is str:
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise refuse_text(OUTPUT) from None
    if kind in (bool, int, float, bytes):
        return value
    if isinstance(value, enum.Enum):
        return _element(value.value)
    if isinstance(value, np.generic):
        return _element(value.item())
    if isinstance(value, _STRINGS):
        return _element(msgspec.to_builtins(value))
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return _to_png(value) if is_image(kind) else value


def _encode_custom(value: Any) -> Any:
    """Return what msgspec writes instead of a value that it does not know. Raises ``TypeError`` where nothing is known."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "iufb" and value.flags.c_contiguous and value.dtype.isnative:
            return msgspec.Raw(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
        return value.tolist()
    if is_pydantic(type(value)) and hasattr(value, "model_dump_json"):
        return msgspec.Raw(value.model_dump_json(by_alias=True).encode())
    return _plain_value(value)


def _plain_value(value: Any) -> Any:
    """Return a value that JSON has no word for as one that it has, or nearer to one. Raises ``TypeError``."""
    kind = type(value)
    if isinstance(value, np.generic) and not isinstance(item := value.item(), np.generic):
        return item
    if _is_torch(value):
        return _to_array(value)
    if is_image(kind):
        return base64.b64encode(_to_png(value)).decode()
    if isinstance(value, enum.Enum):
        return value.value
    for base in _BASES:
        if isinstance(value, base) and kind is not base:
            return base(value)
    if isinstance(value, abc.Mapping):
        return dict(value)
    if isinstance(value, abc.Sequence | abc.Set | abc.ValuesView | deque):
        return list(value)
    if is_pydantic(kind):
        return str(value)  # a URL, say
    raise TypeError(kind)


_encode = msgspec.json.Encoder(enc_hook=_encode_custom).encode


def _to_plain(value: Any, place: str) -> Any:
    """Return a value as JSON's own types, NaN included. Raises ``InvalidOutput`` with the place of what JSON cannot say.

    The slow way: where msgspec refuses a value, and where NaN is wanted as it is.
    """
    try:
        return _plain_of(value, place)
    except RecursionError:
        raise InvalidOutput(f"{place} is nested too deep, or contains itself") from None


def _plain_of(value: Any, place: str) -> Any:
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise refuse_text(place) from None
        return value
    if isinstance(value, dict):
        return {_key_of(key, place): _plain_of(each, f"{place}.{key}") for key, each in value.items()}
    if isinstance(value, _LISTS):
        return [_plain_of(each, f"{place}[{index}]") for index, each in enumerate(value)]
    if isinstance(value, bytes | bytearray | memoryview):
        return binascii.b2a_base64(value, newline=False).decode()
    if isinstance(value, _STRINGS):
        return msgspec.to_builtins(value)
    if isinstance(value, np.ndarray):
        return _plain_of(value.tolist(), place)
    if is_pydantic(type(value)) and hasattr(value, "model_dump"):
        try:
            return _plain_of(value.model_dump(mode="json", by_alias=True), place)
        except ValueError as error:
            raise InvalidOutput(f"{place} cannot be written as JSON: {error}") from None
    if isinstance(value, msgspec.Struct):
        return _plain_of_struct(value, place)
    if hasattr(type(value), "__attrs_attrs__"):
        names = [each.name for each in type(value).__attrs_attrs__]
        return {name: _plain_of(getattr(value, name), f"{place}.{name}") for name in names}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain_of(getattr(value, field.name), f"{place}.{field.name}")
            for field in dataclasses.fields(value)
        }
    try:
        plain = _plain_value(value)
    except TypeError:
        raise _refuse(value, place) from None
    return _plain_of(plain, place)


def _plain_of_struct(value: msgspec.Struct, place: str) -> Any:
    config = value.__struct_config__
    tag = {config.tag_field: config.tag} if config.tag_field is not None else {}
    fields = {
        field.encode_name: _plain_of(each, f"{place}.{field.encode_name}")
        for field in msgspec.structs.fields(value)
        if (each := getattr(value, field.name)) is not msgspec.UNSET
        and not (config.omit_defaults and each == field.default)
    }
    return [*tag.values(), *fields.values()] if config.array_like else tag | fields


def _key_of(key: Any, place: str) -> str:
    """Return the key of an object as json.dumps writes it."""
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, np.generic):
        key = key.item()
    if isinstance(key, str):
        return str(_plain_of(str(key), place))
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    if isinstance(key, _STRINGS):
        return str(msgspec.to_builtins(key))
    raise InvalidOutput(
        f"{place} has a key that is a {_class_name(key)}; JSON has strings alone as keys: return str(key)"
    )


def _refuse(value: Any, place: str) -> InvalidOutput:
    name = _class_name(value)
    article = "an" if name[:1].lower() in "aeiou" else "a"
    if isinstance(value, abc.Iterator | abc.AsyncIterator):
        return InvalidOutput(
            f"{place} holds {article} {name}; return list(...), or yield the pieces to stream them"
        )
    if isinstance(value, abc.Awaitable):
        return InvalidOutput(f"{place} holds {article} {name}: await it")
    return InvalidOutput(f"{place} holds {article} {name}; {_CAN_BE_RETURNED}")


def refuse_text(place: str) -> InvalidOutput:
    """Return the error for a text that no protocol can carry."""
    return InvalidOutput(f"{place} holds text with half a surrogate pair, which UTF-8 cannot say")


def _class_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else kind.__name__

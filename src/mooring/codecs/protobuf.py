"""ModelInfer's messages, both directions: bytes to requests and responses, and back, without message objects.

Every other message is small and rare, and is one of ``codecs.proto.inference_pb2``.
"""

import enum
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from mooring.codecs.protobuf_wire import (
    LEN,
    VARINT,
    Malformed,
    fields,
    nested,
    read_varints,
    signed,
    text,
    varint,
    varints,
)
from mooring.codecs.raw import bfloat16, raw_of, raw_size, split_texts
from mooring.codecs.tensor_json import cast
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import DATATYPES, NUMPY_TYPES, Array, Parameter, Tensor, release

Regions = Callable[[str, int, int], Payload]
"""Reads of a region of shared memory, by its name, from an offset in it so many bytes. Raises ``InvalidInput``."""

Part = bytes | memoryview


class Layout(enum.Enum):
    """Where a message has its elements, and so where the answer to it should."""

    RAW = enum.auto()
    TYPED = enum.auto()
    # As TYPED, and FP16 in fp32_contents: AMD's clients send it so, and read nothing else. No contents field is its own.
    WIDENED = enum.auto()


# The number and the name of the contents field of every datatype.
_CONTENTS: Mapping[str, tuple[int, str]] = {
    "BOOL": (1, "bool_contents"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), (2, "int_contents")),
    "INT64": (3, "int64_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), (4, "uint_contents")),
    "UINT64": (5, "uint64_contents"),
    **dict.fromkeys(("FP32", "FP16", "BF16"), (6, "fp32_contents")),
    "FP64": (7, "fp64_contents"),
    "BYTES": (8, "bytes_contents"),
}
_NAMES = dict(_CONTENTS.values())
_HALVES = frozenset({"FP16", "BF16"})
_REGION, _REGION_SIZE, _REGION_OFFSET = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
# numpy 1.26 has no more dimensions than this; no memory has more elements than that.
_MOST_DIMENSIONS = 32
_LARGEST_SIZE = 1 << 40


class _Found(msgspec.Struct, gc=False):
    """A tensor of the message, its elements not looked at yet."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Parameter] | None
    contents: list[tuple[int, int]]


class _Elements:
    """Makes the data of tensors out of one message. Large data is copied to the allocator's memory, or borrowed."""

    __slots__ = ("_allocator", "_message", "_side", "_view")

    def __init__(self, message: bytes, side: str, allocator: Allocator | None) -> None:
        self._message = message
        self._view = memoryview(message)
        self._side = side
        self._allocator = allocator

    def fill(
        self, found: Sequence[_Found], raw: Sequence[tuple[int, int]], regions: Regions | None
    ) -> tuple[list[Tensor], Layout]:
        """The tensors with their data, wherever that is. Raises ``InvalidInput``, and holds no memory then."""
        tensors: list[Tensor] = []
        layout = Layout.RAW
        rest = iter(raw)
        try:
            for each in found:
                self._check(each, tensors)
                if each.parameters and _REGION in each.parameters:
                    tensors.append(self._elsewhere(each, each.parameters, regions))
                elif raw:
                    tensors.append(self._raw(each, self._next(rest, each)))
                else:
                    tensors.append(self._typed(each))
                    wide = each.datatype in _HALVES or layout is Layout.WIDENED
                    layout = Layout.WIDENED if wide else Layout.TYPED
            if next(rest, None) is not None:
                raise InvalidInput(f"raw_{self._side}_contents has more entries than there are {self._side}s")
        except BaseException:
            release(tensors)
            raise
        return tensors, layout

    def _check(self, each: _Found, before: Sequence[Tensor]) -> None:
        if not each.name and self._side == "input":
            raise InvalidInput("an input has no name")
        if before and self._side == "input" and any(tensor.name == each.name for tensor in before):
            raise InvalidInput(f"input '{each.name}' is sent twice")
        if each.datatype not in DATATYPES:
            raise InvalidInput(f"invalid datatype '{each.datatype}' for {self._side} '{each.name}'")
        shape = each.shape
        if shape and (min(shape) < 0 or max(shape) >= _LARGEST_SIZE or len(shape) > _MOST_DIMENSIONS):
            raise InvalidInput(
                f"{self._side} '{each.name}' has a shape that no tensor can have: {shape[:40]}"
            )

    def _next(self, rest: Iterator[tuple[int, int]], each: _Found) -> memoryview:
        place = next(rest, None)
        if place is None:
            raise InvalidInput(f"{self._side} '{each.name}' has no entry in raw_{self._side}_contents")
        return self._view[place[0] : place[1]]

    def _keep(self, part: memoryview) -> Payload:
        if part.nbytes <= LARGE:
            return bytes(part)
        if self._allocator is None:
            return Buffer(part)
        buffer = self._allocator.allocate(part.nbytes)
        buffer.view[:] = part
        return buffer

    def _elsewhere(self, each: _Found, parameters: dict[str, Parameter], regions: Regions | None) -> Tensor:
        """A tensor whose elements are in shared memory."""
        if regions is None:
            raise InvalidInput(
                f"{self._side} '{each.name}' names a region of shared memory, which is not offered here"
            )
        region = str(parameters.pop(_REGION))
        size = _count(parameters.pop(_REGION_SIZE, None), _REGION_SIZE, each.name)
        offset = _count(parameters.pop(_REGION_OFFSET, 0), _REGION_OFFSET, each.name)
        payload = regions(region, offset, size)
        try:
            tensor = self._raw(each, view_of(payload), payload)
        except InvalidInput:
            if isinstance(payload, Buffer):
                payload.release()
            raise
        return tensor

    def _raw(self, each: _Found, part: memoryview, whole: Payload | None = None) -> Tensor:
        """A tensor of raw bytes; ``whole`` is the payload that they are already."""
        if each.contents:
            raise InvalidInput(
                f"contents field must not be specified when using raw_{self._side}_contents for '{each.name}'"
            )
        if each.datatype == "BYTES":
            texts = split_texts(part, each.name, lambda begin, end: self._keep(part[begin:end]))
            if isinstance(whole, Buffer):
                whole.release()
            return self._tensor(each, self._counted(each, texts))
        expected = raw_size(each.datatype, each.shape)
        if part.nbytes != expected:
            raise InvalidInput(
                f"{self._side} byte size mismatch for {self._side} '{each.name}'."
                f" Expected {expected}, got {part.nbytes}"
            )
        if each.datatype == "BOOL" and expected and np.frombuffer(part, np.uint8).max() > 1:
            raise InvalidInput(
                f"{self._side} '{each.name}' holds a byte other than 0 and 1, which is no BOOL"
            )
        return self._tensor(each, self._keep(part) if whole is None else whole)

    def _typed(self, each: _Found) -> Tensor:
        number, field = _CONTENTS[each.datatype]
        parts: list[Part] = []
        for start, end in each.contents:
            for tag, begin, finish in fields(self._message, start, end):
                if tag >> 3 == number:
                    parts.append(self._content(tag & 7, begin, finish))
                elif tag >> 3 in _NAMES:
                    raise InvalidInput(
                        f"{self._side} '{each.name}' is {each.datatype}, which travels in {field};"
                        f" it has {_NAMES[tag >> 3]}"
                    )
        if each.datatype == "BYTES":
            return self._texts(each, parts)
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
        numbers = _numbers(each.datatype, packed, each.name)
        if numbers.size != math.prod(each.shape):
            raise InvalidInput(
                f"{self._side} '{each.name}' has {numbers.size} elements, which do not fill shape {each.shape}"
            )
        return self._tensor(each, self._keep(numbers.data.cast("B")))

    def _content(self, kind: int, begin: int, finish: int) -> Part:
        # A repeated number may come by itself where it should be packed with its neighbors; then it is packed here.
        return varint(begin) if kind == VARINT else self._view[begin:finish]

    def _texts(self, each: _Found, parts: Sequence[Part]) -> Tensor:
        # AMD's clients give the number of bytes as the shape of one string.
        if len(parts) == 1 and math.prod(each.shape) == len(parts[0]) != 1:
            each.shape = [1]
        return self._tensor(each, self._counted(each, [self._keep(memoryview(part)) for part in parts]))

    def _counted(self, each: _Found, texts: list[Payload]) -> list[Payload]:
        tensor = self._tensor(each, texts)
        if len(texts) != math.prod(each.shape):
            release([tensor])
            raise InvalidInput(
                f"{self._side} '{each.name}' has {len(texts)} elements, which do not fill shape {each.shape}"
            )
        return texts

    def _tensor(self, each: _Found, data: Payload | list[Payload]) -> Tensor:
        return Tensor(each.name, each.datatype, each.shape, data, each.parameters or None)


def _count(value: Parameter | None, key: str, name: str) -> int:
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameter '{key}' of '{name}' must be a number of bytes, not {value!r}")
    return value


def _numbers(datatype: str, packed: Part, name: str) -> Array:
    """The elements of a packed contents field, as the datatype has them. Raises ``InvalidInput`` or ``Malformed``."""
    if datatype in ("FP32", "FP64", "FP16", "BF16"):
        kind = NUMPY_TYPES["FP64" if datatype == "FP64" else "FP32"]
        if len(packed) % kind.itemsize:
            raise Malformed(f"the contents of '{name}' end inside an element")
        floats: Array = np.frombuffer(packed, kind)
        if datatype == "BF16":
            return bfloat16(floats)
        return cast(floats, name, datatype)
    values = read_varints(packed)
    if datatype == "BOOL":
        true: Array = values != 0
        return true
    if datatype == "UINT64":
        return values
    if datatype == "INT64":
        return values.view(np.int64)
    # An int32 is sent as the int64 of its value, and read from the lower half of that.
    halves = values.astype(np.uint32)
    return cast(halves if datatype.startswith("U") else halves.view(np.int32), name, datatype)


def decode_request(
    message: bytes, allocator: Allocator | None = None, regions: Regions | None = None
) -> tuple[InferenceRequest, Layout]:
    """A ModelInferRequest and its layout. Large elements are copied once, to the allocator's memory, or borrowed.

    Raises ``InvalidInput``, or what ``regions`` raises; nothing is allocated then.
    """
    request = InferenceRequest("", "", "", [])
    found: list[_Found] = []
    raw: list[tuple[int, int]] = []
    outputs: list[RequestedOutput] = []
    try:
        for tag, start, end in fields(message, 0, len(message)):
            if tag == 0x0A:
                request.model = message[start:end].decode()
            elif tag == 0x12:
                request.version = message[start:end].decode()
            elif tag == 0x1A:
                request.id = message[start:end].decode()
            elif tag == 0x22:
                request.parameters = request.parameters or {}
                _read_parameter(message, start, end, request.parameters)
            elif tag == 0x2A:
                found.append(_read_tensor(message, start, end))
            elif tag == 0x32:
                outputs.append(_read_requested(message, start, end))
            elif tag == 0x3A:
                raw.append((start, end))
        request.inputs, layout = _Elements(message, "input", allocator).fill(found, raw, regions)
    except (Malformed, UnicodeDecodeError) as error:
        raise InvalidInput(f"the message is no ModelInferRequest: {error}") from None
    if outputs:
        request.outputs = outputs
    return request, layout


def decode_response(message: bytes) -> InferenceResponse:
    """A ModelInferResponse; large elements are borrowed from the message. Raises ``InvalidInput``."""
    response = InferenceResponse([])
    found: list[_Found] = []
    raw: list[tuple[int, int]] = []
    try:
        for tag, start, end in fields(message, 0, len(message)):
            if tag == 0x0A:
                response.model = message[start:end].decode()
            elif tag == 0x12:
                response.version = message[start:end].decode()
            elif tag == 0x1A:
                response.id = message[start:end].decode()
            elif tag == 0x22:
                response.parameters = response.parameters or {}
                _read_parameter(message, start, end, response.parameters)
            elif tag == 0x2A:
                found.append(_read_tensor(message, start, end))
            elif tag == 0x32:
                raw.append((start, end))
        response.outputs, _ = _Elements(message, "output", None).fill(found, raw, None)
    except (Malformed, UnicodeDecodeError) as error:
        raise InvalidInput(f"the message is no ModelInferResponse: {error}") from None
    return response


def _read_tensor(message: bytes, at: int, stop: int) -> _Found:
    found = _Found("", "", [], None, [])
    for tag, start, end in fields(message, at, stop):
        if tag == 0x0A:
            found.name = message[start:end].decode()
        elif tag == 0x12:
            found.datatype = message[start:end].decode()
        elif tag == 0x1A:
            sizes = message[start:end]
            found.shape += sizes if sizes.isascii() else map(signed, read_varints(sizes).tolist())
        elif tag == 0x18:  # a number by itself, which a reader of proto3 must take too
            found.shape.append(signed(start))
        elif tag == 0x22:
            found.parameters = found.parameters or {}
            _read_parameter(message, start, end, found.parameters)
        elif tag == 0x2A:
            found.contents.append((start, end))
    return found


def _read_requested(message: bytes, at: int, stop: int) -> RequestedOutput:
    name = ""
    parameters: dict[str, Parameter] = {}
    for tag, start, end in fields(message, at, stop):
        if tag == 0x0A:
            name = message[start:end].decode()
        elif tag == 0x12:
            _read_parameter(message, start, end, parameters)
    return RequestedOutput(name, parameters or None)


def _read_parameter(message: bytes, at: int, stop: int, into: dict[str, Parameter]) -> None:
    """An entry of a map of InferParameter; one that has no value is none."""
    key = ""
    value: Parameter | None = None
    for tag, start, end in fields(message, at, stop):
        if tag == 0x0A:
            key = message[start:end].decode()
        elif tag == 0x12:
            for choice, begin, finish in fields(message, start, end):
                if choice == 0x08:
                    value = begin != 0
                elif choice == 0x10:
                    value = signed(begin)
                elif choice == 0x1A:
                    value = message[begin:finish].decode()
                elif choice == 0x21:
                    value = struct.unpack_from("<d", message, begin)[0]
                elif choice == 0x28:
                    value = begin
    if value is not None:
        into[key] = value


def encode_response(response: InferenceResponse, layout: Layout = Layout.RAW) -> bytes:
    """A ModelInferResponse. An output whose data is None lies in shared memory, and has no elements here."""
    return b"".join(_response(response, layout))


def encode_piece(response: InferenceResponse, layout: Layout = Layout.RAW, error: str = "") -> bytes:
    """A ModelStreamInferResponse, with ``error`` one that says what went wrong."""
    parts = _response(response, layout)
    size = sum(len(part) for part in parts)
    return b"".join([text(b"\x0a", error), b"\x12", varint(size), *parts])


def encode_request(request: InferenceRequest) -> bytes:
    """A ModelInferRequest with raw contents."""
    parts: list[Part] = [
        text(b"\x0a", request.model),
        text(b"\x12", request.version),
        text(b"\x1a", request.id),
        *_entries(b"\x22", request.parameters),
    ]
    parts += [nested(b"\x2a", _head(tensor)) for tensor in request.inputs]
    for output in request.outputs or ():
        named = text(b"\x0a", output.name) + b"".join(_entries(b"\x12", output.parameters))
        parts.append(nested(b"\x32", named))
    return b"".join(parts + _raw_contents(b"\x3a", request.inputs))


def _response(response: InferenceResponse, layout: Layout) -> list[Part]:
    outputs = response.outputs
    if layout is Layout.TYPED and any(tensor.datatype in _HALVES for tensor in outputs):
        layout = Layout.RAW  # all or none: a raw entry belongs to the output at its place
    parts: list[Part] = [
        text(b"\x0a", response.model),
        text(b"\x12", response.version),
        text(b"\x1a", response.id),
        *_entries(b"\x22", response.parameters),
    ]
    if layout is Layout.RAW:
        parts += [nested(b"\x2a", _head(tensor)) for tensor in outputs]
        return parts + _raw_contents(b"\x32", outputs)
    for tensor in outputs:
        head, contents = _head(tensor), _contents(tensor)
        inner = sum(len(part) for part in contents)
        before = head + b"\x2a" + varint(inner)
        parts += [b"\x2a", varint(len(before) + inner), before, *contents]
    return parts


def _head(tensor: Tensor) -> bytes:
    """All of a tensor but its elements."""
    name, datatype, shape = tensor.name.encode(), tensor.datatype.encode(), tensor.shape
    sizes = bytes(shape) if not shape or max(shape) < 0x80 else b"".join(map(varint, shape))
    head = b"%b\x12%c%b" % (nested(b"\x0a", name), len(datatype), datatype)
    if sizes:
        head += nested(b"\x1a", sizes)
    return head + b"".join(_entries(b"\x22", tensor.parameters)) if tensor.parameters else head


def _entries(tag: bytes, parameters: Mapping[str, Parameter] | None) -> list[Part]:
    """A map of InferParameter."""
    if not parameters:
        return []
    return [
        nested(tag, text(b"\x0a", name) + nested(b"\x12", _parameter(value)))
        for name, value in parameters.items()
    ]


def _parameter(value: Parameter) -> bytes:
    if isinstance(value, bool):
        return b"\x08%c" % value
    if isinstance(value, int):
        return b"\x10" + varint(value & 0xFFFF_FFFF_FFFF_FFFF) if value < 1 << 63 else b"\x28" + varint(value)
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    # Not text(): of a oneof the empty string is a value too.
    return nested(b"\x1a", value.encode())


def _raw_contents(tag: bytes, tensors: Iterable[Tensor]) -> list[Part]:
    parts: list[Part] = []
    for tensor in tensors:
        if tensor.data is not None:
            raw = raw_of(tensor)
            parts += [tag, varint(len(raw)), raw if isinstance(raw, bytes) else raw.view]
    return parts


def _contents(tensor: Tensor) -> list[Part]:
    """The elements as an InferTensorContents."""
    if tensor.data is None:
        return []
    number, _ = _CONTENTS[tensor.datatype]
    tag = varint(number << 3 | LEN)
    if tensor.datatype == "BYTES":
        return [nested(tag, each if type(each) is bytes else bytes(each)) for each in tensor.data]
    packed: Part = view_of(tensor.data)
    if tensor.datatype in _HALVES:
        packed = tensor.array().astype("<f4").tobytes()
    elif tensor.datatype not in ("FP32", "FP64", "BOOL"):  # those are packed as they are
        kind = NUMPY_TYPES[tensor.datatype]
        values = np.frombuffer(packed, kind)
        # A negative int32 is sent as the int64 of its value.
        packed = varints(values.astype(np.int64 if kind.kind == "i" else np.uint64).view(np.uint64))
    return [tag, varint(len(packed)), packed] if len(packed) else []

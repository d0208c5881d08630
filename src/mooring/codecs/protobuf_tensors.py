"""The elements of a tensor in ModelInfer's messages: raw, in the contents field of their type, or in shared memory."""

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from mooring.codecs.protobuf_wire import LEN, VARINT, Malformed, fields, nested, read_varints, varint, varints
from mooring.codecs.raw import bfloat16, raw_of, raw_size, split_texts
from mooring.codecs.tensor_json import cast
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput
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
HALVES = frozenset({"FP16", "BF16"})
_REGION, _REGION_SIZE, _REGION_OFFSET = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
# numpy 1.26 has no more dimensions than this; no memory has more elements than that.
_MOST_DIMENSIONS = 32
_LARGEST_SIZE = 1 << 40


class Found(msgspec.Struct, gc=False):
    """A tensor of the message, its elements not looked at yet."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Parameter] | None
    contents: list[tuple[int, int]]


class Elements:
    """Makes the data of tensors out of one message. Large data is copied to the allocator's memory, or borrowed."""

    __slots__ = ("_allocator", "_message", "_share", "_side", "_view")

    def __init__(
        self, message: bytes | memoryview, side: str, allocator: Allocator | None, share: Share | None = None
    ) -> None:
        self._message = message
        self._share = share  # of the buffer that the message is
        self._view = memoryview(message)
        self._side = side
        self._allocator = allocator

    def fill(
        self, found: Sequence[Found], raw: Sequence[tuple[int, int]], regions: Regions | None
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
                    tensors.append(self._raw(each, *self._next(rest, each)))
                else:
                    tensors.append(self._typed(each))
                    wide = each.datatype in HALVES or layout is Layout.WIDENED
                    layout = Layout.WIDENED if wide else Layout.TYPED
            if next(rest, None) is not None:
                raise InvalidInput(f"raw_{self._side}_contents has more entries than there are {self._side}s")
        except BaseException:
            release(tensors)
            raise
        return tensors, layout

    def _check(self, each: Found, before: Sequence[Tensor]) -> None:
        if before and self._side == "input" and any(tensor.name == each.name for tensor in before):
            raise InvalidInput(f"input '{each.name}' is sent twice")
        if each.datatype not in DATATYPES:
            raise InvalidInput(f"invalid datatype '{each.datatype}' for {self._side} '{each.name}'")
        shape = each.shape
        if shape and (min(shape) < 0 or max(shape) >= _LARGEST_SIZE or len(shape) > _MOST_DIMENSIONS):
            raise InvalidInput(
                f"{self._side} '{each.name}' has a shape that no tensor can have: {shape[:40]}"
            )

    def _next(self, rest: Iterator[tuple[int, int]], each: Found) -> tuple[int, int]:
        place = next(rest, None)
        if place is None:
            raise InvalidInput(f"{self._side} '{each.name}' has no entry in raw_{self._side}_contents")
        return place

    def _keep(self, part: memoryview) -> Payload:
        if part.nbytes <= LARGE:
            return bytes(part)
        if self._allocator is None:
            return Buffer(part)
        buffer = self._allocator.allocate(part.nbytes)
        buffer.view[:] = part
        return buffer

    def _elsewhere(self, each: Found, parameters: dict[str, Parameter], regions: Regions | None) -> Tensor:
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
            tensor = self._raw(each, 0, len(payload), payload)
        except InvalidInput:
            if isinstance(payload, Buffer):
                payload.release()
            raise
        return tensor

    def _raw(self, each: Found, start: int, end: int, whole: Payload | None = None) -> Tensor:
        """A tensor of raw bytes, from a place in the message; ``whole`` is the payload that they are instead."""
        part = self._view[start:end] if whole is None else view_of(whole)
        if each.contents:
            raise InvalidInput(
                f"contents field must not be specified when using raw_{self._side}_contents for '{each.name}'"
            )
        if each.datatype == "BYTES":
            texts = self._split(each, part, start if whole is None else None)
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
        return self._tensor(each, self._cut(part, start, 0, expected) if whole is None else whole)

    def _cut(self, part: memoryview, start: int | None, begin: int, end: int) -> Payload:
        """Bytes of a part that starts in the message there, or elsewhere."""
        if self._share is None or start is None:
            return self._keep(part[begin:end])
        return self._share.part(start + begin, start + end)

    def _split(self, each: Found, part: memoryview, start: int | None) -> list[Payload]:
        kept: list[Payload] = []

        def keep(begin: int, end: int) -> Payload:
            kept.append(self._cut(part, start, begin, end))
            return kept[-1]

        try:
            return split_texts(part, each.name, keep)
        except InvalidInput:
            release([self._tensor(each, kept)])
            raise

    def _typed(self, each: Found) -> Tensor:
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

    def _texts(self, each: Found, parts: Sequence[Part]) -> Tensor:
        # AMD's clients give the number of bytes as the shape of one string.
        if len(parts) == 1 and math.prod(each.shape) == len(parts[0]) != 1:
            each.shape = [1]
        return self._tensor(each, self._counted(each, [self._keep(memoryview(part)) for part in parts]))

    def _counted(self, each: Found, texts: list[Payload]) -> list[Payload]:
        tensor = self._tensor(each, texts)
        if len(texts) != math.prod(each.shape):
            release([tensor])
            raise InvalidInput(
                f"{self._side} '{each.name}' has {len(texts)} elements, which do not fill shape {each.shape}"
            )
        return texts

    def _tensor(self, each: Found, data: Payload | list[Payload]) -> Tensor:
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


def raw_contents(tag: bytes, tensors: Iterable[Tensor]) -> list[Part]:
    """The raw entry of every tensor that does not lie in shared memory."""
    parts: list[Part] = []
    for tensor in tensors:
        if tensor.data is not None:
            raw = raw_of(tensor)
            parts += [tag, varint(len(raw)), raw if isinstance(raw, bytes) else raw.view]
    return parts


def typed_contents(tensor: Tensor) -> list[Part]:
    """The elements of one as an InferTensorContents."""
    if tensor.data is None:
        return []
    number, _ = _CONTENTS[tensor.datatype]
    tag = varint(number << 3 | LEN)
    if tensor.datatype == "BYTES":
        return [nested(tag, each if type(each) is bytes else bytes(each)) for each in tensor.data]
    packed: Part = view_of(tensor.data)
    if tensor.datatype in HALVES:
        packed = tensor.array().astype("<f4").tobytes()
    elif tensor.datatype not in ("FP32", "FP64", "BOOL"):  # those are packed as they are
        kind = NUMPY_TYPES[tensor.datatype]
        values = np.frombuffer(packed, kind)
        # A negative int32 is sent as the int64 of its value.
        packed = varints(values.astype(np.int64 if kind.kind == "i" else np.uint64).view(np.uint64))
    return [tag, varint(len(packed)), packed] if len(packed) else []

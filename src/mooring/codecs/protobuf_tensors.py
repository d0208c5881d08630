"""The elements of a tensor in ModelInfer's messages: raw, in the contents field of their type, or in shared memory."""

import enum
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from mooring.codecs.protobuf_wire import (
    LEN,
    VARINT,
    Malformed,
    encode_nested,
    encode_varint,
    encode_varints,
    read_fields,
    read_varints,
)
from mooring.codecs.raw import (
    check_booleans,
    check_room,
    fill_open_dimension,
    raw_of,
    raw_size,
    round_to_bfloat16,
    split_texts,
)
from mooring.codecs.tensor_json import cast_array
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput
from mooring.core.tensors import (
    CONTENTS,
    DATATYPE_SPELLINGS,
    DATATYPES,
    NUMPY_TYPES,
    PLAIN,
    RAW,
    Array,
    Parameter,
    Tensor,
    release,
)

Regions = Callable[[str, int, int], Payload]
"""Reads a region of shared memory, called with its name, an offset and a number of bytes. Raises ``InvalidInput``."""

Part = bytes | memoryview


class ContentsLayout(enum.IntEnum):
    """Where a message has its elements, and so where the answer to it should."""

    RAW = 0
    TYPED = 1
    # As TYPED, and FP16 in fp32_contents: AMD's clients send it so, and read nothing else. No contents field is its own.
    WIDENED = 2
    # No message of gRPC at all: the bytes of the first output are the answer, on AMD's websocket.
    BARE = 3


# Looked up per request (core/requests.py says what a look into the class costs).
RAW_LAYOUT, TYPED_LAYOUT, WIDENED_LAYOUT = ContentsLayout.RAW, ContentsLayout.TYPED, ContentsLayout.WIDENED

# The number and the name of the contents field of every datatype.
_CONTENTS_FIELDS: Mapping[str, tuple[int, str]] = {
    "BOOL": (1, "bool_contents"),
    **dict.fromkeys(("INT8", "INT16", "INT32"), (2, "int_contents")),
    "INT64": (3, "int64_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), (4, "uint_contents")),
    "UINT64": (5, "uint64_contents"),
    **dict.fromkeys(("FP32", "FP16", "BF16"), (6, "fp32_contents")),
    "FP64": (7, "fp64_contents"),
    "BYTES": (8, "bytes_contents"),
}
_FIELD_NAMES = dict(_CONTENTS_FIELDS.values())
HALF_FLOATS = frozenset({"FP16", "BF16"})
_REGION, _REGION_SIZE, _REGION_OFFSET = (
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
)
# numpy 1.26 has no more dimensions than this; no memory has more elements than that.
_MAX_DIMENSIONS = 32
_MAX_DIMENSION_SIZE = 1 << 40
# Texts that are counted for a shape of -1, which TorchServe's example of a call sends. The event loop counts them.
_MAX_COUNTED_TEXTS = 64


class TensorEntry(msgspec.Struct, gc=False):
    """A tensor of the message, its elements not looked at yet."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Parameter] | None
    contents: list[tuple[int, int]]


class ElementReader:
    """Reads the elements of all tensors of one message.

    How this works: the message's fields were found before, so that each tensor is an entry with places in the message.
    Its elements are in shared memory, in the next raw entry, or in its own contents fields. Small data is copied. Large
    data is borrowed where the message is a buffer (``share``), else copied to the allocator's memory. With ``pack``
    elements that would have to be looked at one by one stay packed, for a worker to unpack.
    """

    __slots__ = ("_allocator", "_lenient", "_message", "_pack", "_share", "_side", "_view")

    def __init__(
        self,
        message: bytes | memoryview,
        side: str,
        allocator: Allocator | None,
        share: Share | None = None,
        *,
        pack: bool = False,
        lenient: bool = False,
    ) -> None:
        self._message = message
        self._share = share  # of the buffer that the message is
        self._pack = pack
        self._lenient = lenient  # inputs may have equal names
        self._view = memoryview(message)
        self._side = side
        self._allocator = allocator

    def read_tensors(
        self, entries: Sequence[TensorEntry], raw: Sequence[tuple[int, int]], regions: Regions | None
    ) -> tuple[list[Tensor], ContentsLayout]:
        """Return the tensors with their data, and how their contents came.

        ``raw`` are the places of the raw entries. Raises ``InvalidInput``, and holds no memory then.
        """
        tensors: list[Tensor] = []
        layout = RAW_LAYOUT
        rest = iter(raw)
        seen: set[str] = set()
        try:
            for each in entries:
                self._check_entry(each, seen)
                if each.parameters and _REGION in each.parameters:
                    tensors.append(self._read_shared(each, each.parameters, regions))
                elif raw:
                    tensors.append(self._read_raw(each, *self._take_raw_entry(rest, each)))
                else:
                    tensors.append(self._keep_contents_packed(each) if self._pack else self.read_typed(each))
                    wide = each.datatype in HALF_FLOATS or layout is WIDENED_LAYOUT
                    layout = WIDENED_LAYOUT if wide else TYPED_LAYOUT
            if next(rest, None) is not None:
                raise InvalidInput(f"raw_{self._side}_contents has more entries than there are {self._side}s")
        except BaseException:
            release(tensors)
            raise
        return tensors, layout

    def _check_entry(self, each: TensorEntry, seen: set[str]) -> None:
        if each.name in seen and self._side == "input" and not self._lenient:
            raise InvalidInput(f"input '{each.name}' is sent twice")
        seen.add(each.name)
        if each.datatype not in DATATYPES:
            each.datatype = DATATYPE_SPELLINGS.get(each.datatype, each.datatype)
        if each.datatype not in DATATYPES:
            raise InvalidInput(f"invalid datatype '{each.datatype}' for {self._side} '{each.name}'")
        shape = each.shape
        if each.datatype == "BYTES" and -1 in shape and each.contents:
            shape = each.shape = fill_open_dimension(each.name, shape, self._count_texts(each))
        if shape and (min(shape) < 0 or max(shape) >= _MAX_DIMENSION_SIZE or len(shape) > _MAX_DIMENSIONS):
            raise InvalidInput(
                f"{self._side} '{each.name}' has a shape that no tensor can have: {shape[:40]}"
            )

    def _count_texts(self, each: TensorEntry) -> int:
        """Return how many texts an input of BYTES has in its contents. Raises ``InvalidInput`` for too many to count here."""
        count = 0
        for start, end in each.contents:
            for _ in read_fields(self._message, start, end):
                count += 1
                if count > _MAX_COUNTED_TEXTS:
                    raise InvalidInput(
                        f"{self._side} '{each.name}' has -1 in its shape {each.shape} and more than {_MAX_COUNTED_TEXTS} "
                        "elements; send how many they are"
                    )
        return count

    def _take_raw_entry(self, rest: Iterator[tuple[int, int]], each: TensorEntry) -> tuple[int, int]:
        place = next(rest, None)
        if place is None:
            raise InvalidInput(f"{self._side} '{each.name}' has no entry in raw_{self._side}_contents")
        return place

    def _keep_part(self, part: memoryview) -> Payload:
        if part.nbytes <= LARGE:
            return bytes(part)
        if self._allocator is None:
            return Buffer(part)
        buffer = self._allocator.allocate(part.nbytes)
        buffer.view[:] = part
        return buffer

    def _read_shared(
        self, each: TensorEntry, parameters: dict[str, Parameter], regions: Regions | None
    ) -> Tensor:
        """Return a tensor whose elements are in shared memory."""
        if regions is None:
            raise InvalidInput(
                f"{self._side} '{each.name}' names a region of shared memory, which is not offered here"
            )
        region = str(parameters.pop(_REGION))
        size = _read_byte_count(parameters.pop(_REGION_SIZE, None), _REGION_SIZE, each.name)
        offset = _read_byte_count(parameters.pop(_REGION_OFFSET, 0), _REGION_OFFSET, each.name)
        payload = regions(region, offset, size)
        try:
            tensor = self._read_raw(each, 0, len(payload), payload)
        except InvalidInput:
            if isinstance(payload, Buffer):
                payload.release()
            raise
        return tensor

    def _read_raw(self, each: TensorEntry, start: int, end: int, whole: Payload | None = None) -> Tensor:
        """Return a tensor of raw bytes, from a place in the message; or of ``whole``, a payload from elsewhere."""
        part = self._view[start:end] if whole is None else view_of(whole)
        if each.contents:
            raise InvalidInput(
                f"contents field must not be specified when using raw_{self._side}_contents for '{each.name}'"
            )
        if self._pack and each.datatype in {"BYTES", "BOOL"}:
            return self._keep_raw_packed(each, part, start, whole)
        if each.datatype == "BYTES":
            texts = self._split_texts(each, part, start if whole is None else None)
            if isinstance(whole, Buffer):
                whole.release()
            return self._make_tensor(each, self._check_count(each, texts))
        expected = raw_size(each.datatype, each.shape)
        if part.nbytes != expected:
            raise self._size_error(each, expected, part.nbytes)
        if each.datatype == "BOOL":
            check_booleans(part, f"{self._side} '{each.name}'")
        return self._make_tensor(each, self._take_part(part, start, 0, expected) if whole is None else whole)

    def _take_part(self, part: memoryview, start: int | None, begin: int, end: int) -> Payload:
        """Return bytes of a part; ``start`` is its place in the message, None where it lies elsewhere."""
        if self._share is None or start is None:
            return self._keep_part(part[begin:end])
        return self._share.part(start + begin, start + end)

    def _split_texts(self, each: TensorEntry, part: memoryview, start: int | None) -> list[Payload]:
        kept: list[Payload] = []

        def keep(begin: int, end: int) -> Payload:
            kept.append(self._take_part(part, start, begin, end))
            return kept[-1]

        try:
            return split_texts(part, each.name, keep)
        except InvalidInput:
            release([self._make_tensor(each, kept)])
            raise

    def _keep_raw_packed(
        self, each: TensorEntry, part: memoryview, start: int, whole: Payload | None
    ) -> Tensor:
        if each.datatype == "BYTES":
            check_room(part, each.name, each.shape)
        elif part.nbytes != math.prod(each.shape):
            raise self._size_error(each, math.prod(each.shape), part.nbytes)
        tensor = self._make_tensor(
            each, self._take_part(part, start, 0, part.nbytes) if whole is None else whole
        )
        tensor.packed = RAW
        return tensor

    def _keep_contents_packed(self, each: TensorEntry) -> Tensor:
        """Keep the contents as they came. Parts of them joined are one message again."""
        if len(each.contents) == 1:
            ((start, end),) = each.contents
            begin = self._find_floats(each, start, end)
            if begin:
                return self._make_tensor(each, self._take_part(self._view[begin:end], begin, 0, end - begin))
            data = self._take_part(self._view[start:end], start, 0, end - start)
        else:
            data = b"".join([self._view[start:end] for start, end in each.contents])
        tensor = self._make_tensor(each, data)
        tensor.packed = CONTENTS
        return tensor

    def _find_floats(self, each: TensorEntry, start: int, end: int) -> int:
        """Return where the elements begin, if the place holds nothing but them as they lie in memory; else 0."""
        if each.datatype not in {"FP32", "FP64"} or start == end:
            return 0
        tag, begin, finish = next(read_fields(self._message, start, end))
        whole = tag == _CONTENTS_FIELDS[each.datatype][0] << 3 | LEN and finish == end
        return begin if whole and end - begin == raw_size(each.datatype, each.shape) else 0

    def _size_error(self, each: TensorEntry, expected: int, got: int) -> InvalidInput:
        return InvalidInput(
            f"{self._side} byte size mismatch for {self._side} '{each.name}'. Expected {expected}, got {got}"
        )

    def read_typed(self, each: TensorEntry) -> Tensor:
        """Return a tensor from the contents field of its type. Raises ``InvalidInput`` or ``Malformed``."""
        number, field = _CONTENTS_FIELDS[each.datatype]
        parts: list[Part] = []
        for start, end in each.contents:
            for tag, begin, finish in read_fields(self._message, start, end):
                if tag >> 3 == number:
                    parts.append(self._slice_content(tag & 7, begin, finish))
                elif tag >> 3 in _FIELD_NAMES:
                    raise InvalidInput(
                        f"{self._side} '{each.name}' is {each.datatype}, which travels in {field};"
                        f" it has {_FIELD_NAMES[tag >> 3]}"
                    )
        if each.datatype == "BYTES":
            return self._make_texts(each, parts)
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
        numbers = _decode_numbers(each.datatype, packed, each.name)
        if numbers.size != math.prod(each.shape):
            raise InvalidInput(
                f"{self._side} '{each.name}' has {numbers.size} elements, which do not fill shape {each.shape}"
            )
        return self._make_tensor(each, self._keep_part(numbers.data.cast("B")))

    def _slice_content(self, kind: int, begin: int, finish: int) -> Part:
        # A repeated number may come by itself where it should be packed with its neighbors; then it is packed here.
        return encode_varint(begin) if kind == VARINT else self._view[begin:finish]

    def _make_texts(self, each: TensorEntry, parts: Sequence[Part]) -> Tensor:
        # AMD's clients give the number of bytes as the shape of one string.
        if len(parts) == 1 and math.prod(each.shape) == len(parts[0]) != 1:
            each.shape = [1]
        return self._make_tensor(
            each, self._check_count(each, [self._keep_part(memoryview(part)) for part in parts])
        )

    def _check_count(self, each: TensorEntry, texts: list[Payload]) -> list[Payload]:
        tensor = self._make_tensor(each, texts)
        if len(texts) != math.prod(each.shape):
            release([tensor])
            raise InvalidInput(
                f"{self._side} '{each.name}' has {len(texts)} elements, which do not fill shape {each.shape}"
            )
        return texts

    def _make_tensor(self, each: TensorEntry, data: Payload | list[Payload]) -> Tensor:
        return Tensor(each.name, each.datatype, each.shape, data, each.parameters or None)


def _read_byte_count(value: Parameter | None, key: str, name: str) -> int:
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameter '{key}' of '{name}' must be a number of bytes, not {value!r}")
    return value


def _decode_numbers(datatype: str, packed: Part, name: str) -> Array:
    """Return the elements of a packed contents field, as the datatype has them. Raises ``InvalidInput`` or ``Malformed``."""
    if datatype in ("FP32", "FP64", "FP16", "BF16"):
        kind = NUMPY_TYPES["FP64" if datatype == "FP64" else "FP32"]
        if len(packed) % kind.itemsize:
            raise Malformed(f"the contents of '{name}' end inside an element")
        floats: Array = np.frombuffer(packed, kind)
        if datatype == "BF16":
            return round_to_bfloat16(floats)
        return cast_array(floats, name, datatype)
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
    return cast_array(halves if datatype.startswith("U") else halves.view(np.int32), name, datatype)


def encode_raw_contents(tag: bytes, tensors: Iterable[Tensor]) -> list[Part]:
    """Encode the raw entry of every tensor that does not lie in shared memory."""
    parts: list[Part] = []
    for tensor in tensors:
        if tensor.data is not None:
            raw = raw_of(tensor)
            parts += [tag, encode_varint(len(raw)), raw if isinstance(raw, bytes) else raw.view]
    return parts


def encode_typed_contents(tensor: Tensor) -> list[Part]:
    """Encode the elements of a tensor as an InferTensorContents."""
    if tensor.data is None:
        return []
    if tensor.packed != PLAIN:
        return [view_of(tensor.data)]  # a worker has packed it
    number, _ = _CONTENTS_FIELDS[tensor.datatype]
    tag = encode_varint(number << 3 | LEN)
    if tensor.datatype == "BYTES":
        return [encode_nested(tag, each if type(each) is bytes else bytes(each)) for each in tensor.data]
    packed: Part = view_of(tensor.data)
    if tensor.datatype in HALF_FLOATS:
        packed = tensor.array().astype("<f4").tobytes()
    elif tensor.datatype not in ("FP32", "FP64", "BOOL"):  # those are packed as they are
        kind = NUMPY_TYPES[tensor.datatype]
        values = np.frombuffer(packed, kind)
        # A negative int32 is sent as the int64 of its value.
        packed = encode_varints(values.astype(np.int64 if kind.kind == "i" else np.uint64).view(np.uint64))
    return [tag, encode_varint(len(packed)), packed] if len(packed) else []

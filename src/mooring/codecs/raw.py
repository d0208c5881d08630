"""Elements as raw bytes: what the binary tensor extension and gRPC's raw contents carry.

Numbers are little-endian and row-major, two bytes for BF16; every element of BYTES has its length before it, four bytes.
"""

import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

from mooring.core.buffers import Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.tensors import NUMPY_TYPES, WITHOUT_NUMPY_TYPE, Array, Tensor

_LENGTH = struct.Struct("<I")


def fill_open_dimension(name: str, sizes: list[int], elements: int) -> list[int]:
    """Return the shape with the size that its dimension of -1 has. Raises ``InvalidInput`` where there is no one such size.

    >>> fill_open_dimension("x", [-1, 3], 6)
    [2, 3]
    """
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or known == 0 or elements % known:
        raise InvalidInput(
            f"input '{name}' has {elements} elements, which do not tell the size that -1 in its shape {sizes} stands for"
        )
    return [elements // known if size == -1 else size for size in sizes]


def raw_size(datatype: str, shape: Sequence[int]) -> int:
    """How many bytes a numeric tensor of this shape fills."""
    return math.prod(shape) * NUMPY_TYPES[datatype].itemsize


def split_texts(
    data: memoryview, name: str, cut: Callable[[int, int], Payload] | None = None
) -> list[Payload]:
    """The elements of a BYTES tensor; ``cut`` makes one of where it begins and ends. Raises ``InvalidInput``."""
    elements: list[Payload] = []
    at, size, length_at = 0, len(data), _LENGTH.unpack_from
    while at < size:
        begin = at + 4
        end = begin + length_at(data, at)[0] if begin <= size else size + 1
        if end > size:
            raise InvalidInput(
                f"input '{name}' ends inside an element; every element is four bytes of length and then the bytes"
            )
        elements.append(bytes(data[begin:end]) if cut is None else cut(begin, end))
        at = end
    return elements


def check_booleans(view: memoryview, whose: str) -> None:
    """Every byte of BOOL is 0 or 1. Raises ``InvalidInput``."""
    if len(view) and np.frombuffer(view, np.uint8).max() > 1:
        raise InvalidInput(f"{whose} holds a byte other than 0 and 1, which is not a BOOL")


def check_room(view: memoryview, name: str, shape: Sequence[int]) -> None:
    """Whether raw BYTES of this shape may lie in so many bytes, before anybody splits them. Raises ``InvalidInput``."""
    least = _LENGTH.size * math.prod(shape)
    if len(view) < least:
        raise InvalidInput(
            f"input '{name}' has {len(view)} bytes of data, its shape {[*shape]} of BYTES needs at least {least}"
        )


def join_texts(elements: Sequence[Payload]) -> bytes:
    """Join the elements of a BYTES tensor, each behind its length (4 bytes, little-endian)."""
    return b"".join([piece for each in elements for piece in (_LENGTH.pack(len(each)), view_of(each))])


def raw_of(tensor: Tensor) -> Payload:
    """Return the data of a tensor as it travels in binary: plain data, or data that is packed RAW."""
    if isinstance(tensor.data, list):
        return join_texts(tensor.data)
    payload: Payload = tensor.data
    return payload


def round_to_bfloat16(array: Array) -> Array:
    """Round float32 to BF16, to the nearest and ties to even; its two bytes per element come as uint16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), np.uint32(0x7FC0), rounded).astype("<u2")


def make_tensor(name: str, array: Array, datatype: str = "") -> Tensor:
    """Make a tensor of an array. Its type decides the datatype, unless ``datatype`` has no numpy type of its own (BF16)."""
    if datatype not in WITHOUT_NUMPY_TYPE:
        return Tensor.of(name, array)
    tensor = Tensor.of(name, round_to_bfloat16(array) if datatype == "BF16" else array)
    tensor.datatype = datatype
    return tensor

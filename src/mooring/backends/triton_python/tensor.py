"""``pb_utils.Tensor``, and the functions of ``pb_utils`` that know data types."""

import struct
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from mooring.backends.triton_python.errors import TritonModelException
from mooring.core.tensors import Array

TRITON_STRING_TO_NUMPY: Mapping[str, Any] = {
    "TYPE_BOOL": bool,
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_INT8": np.int8,
    "TYPE_INT16": np.int16,
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_FP64": np.float64,
    "TYPE_STRING": np.object_,
}
_NUMBERS: Mapping[int, Any] = {
    number: np.bool_ if numpy_type is bool else numpy_type
    for number, numpy_type in enumerate(TRITON_STRING_TO_NUMPY.values(), 1)
}
_STRING = 13
_CPU = (1, 0)  # DLPack's number for it, and the device's own
_LENGTH = struct.Struct("<I")


class Tensor:
    """A named array. Strings are arrays of objects, each of them bytes."""

    def __init__(self, name: str, numpy_array: Array) -> None:
        if not isinstance(numpy_array, np.ndarray):
            raise TritonModelException(
                f"tensor '{name}': expected a numpy array, got {type(numpy_array).__name__}"
            )
        self._name = name
        self._array = numpy_array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Array:
        """The elements; an input's array is the model's own to change."""
        return self._array

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def triton_dtype(self) -> int | None:
        """Triton's number of the data type, as ``numpy_to_triton_type`` has it."""
        return numpy_to_triton_type(self._array.dtype)

    def is_cpu(self) -> bool:
        """Always true: requests and answers travel through the memory of the machine."""
        return True

    def to_dlpack(self) -> Any:
        """Return the elements as a DLPack capsule. Raises ``TritonModelException`` for strings, which DLPack does not have."""
        return self.__dlpack__()

    def __dlpack__(self, *, stream: Any = None, **more: Any) -> Any:
        if self._array.dtype == np.object_:
            raise TritonModelException(
                f"tensor '{self._name}' holds strings, which DLPack does not have: use as_numpy"
            )
        array: Any = self._array if self._array.flags.writeable else self._array.copy()
        return array.__dlpack__(**{name: value for name, value in more.items() if value is not None})

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> "Tensor":
        """Make a tensor of a DLPack capsule, or of an object that gives one, such as a tensor of torch's.

        What lies on an accelerator is copied from there. Raises ``TritonModelException``.
        """
        try:
            return Tensor(name, _array_of(tensor))
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TritonModelException(f"tensor '{name}' cannot be read by DLPack: {error}") from error


class _Capsule:
    """Gives a capsule to numpy, which asks for an object that has one."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU


def _array_of(tensor: Any) -> Array:
    torch = sys.modules.get("torch")
    if not hasattr(tensor, "__dlpack__"):
        if torch is None:
            return np.from_dlpack(_Capsule(tensor))
        tensor = torch.utils.dlpack.from_dlpack(tensor)  # of any device
    if torch is not None and isinstance(tensor, torch.Tensor):
        plain = tensor.detach().cpu()
        array: Array = (plain.float() if plain.dtype == torch.bfloat16 else plain).contiguous().numpy()
        return array
    return np.from_dlpack(tensor)


def triton_to_numpy_type(data_type: int) -> Any:
    """Return numpy's type for Triton's number of a data type; None for one that has none."""
    return _NUMBERS.get(int(data_type))


def numpy_to_triton_type(data_type: Any) -> int | None:
    """Return Triton's number for a numpy type; None for one that Triton does not have."""
    dtype = np.dtype(data_type)
    if dtype.kind in "SU":
        return _STRING
    return next((number for number, each in _NUMBERS.items() if dtype == each), None)


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Return numpy's type for a name such as TYPE_FP32. Raises ``KeyError`` for one that has none."""
    return TRITON_STRING_TO_NUMPY[triton_type_string]


def to_strings(array: Array) -> Array:
    """Return an array of objects as one of texts and bytes: any other element becomes its ``str``, as in Triton."""
    if array.dtype != np.object_ or all(isinstance(element, str | bytes) for element in array.flat):
        return array
    texts = np.empty(array.size, object)
    texts[:] = [element if isinstance(element, bytes) else str(element) for element in array.flat]
    return texts.reshape(array.shape)


def serialize_byte_tensor(input_tensor: Array) -> bytes | None:
    """Return the elements of an array of strings, each behind its length (4 bytes, little-endian); None without any."""
    if input_tensor.dtype.kind not in "OS" or not input_tensor.size:
        return None
    elements = [
        element if isinstance(element, bytes) else str(element).encode() for element in input_tensor.flat
    ]
    return b"".join(piece for element in elements for piece in (_LENGTH.pack(len(element)), element))


def deserialize_bytes_tensor(encoded_tensor: bytes) -> Array:
    """Return the elements that ``serialize_byte_tensor`` wrote, as an array of bytes of one dimension."""
    elements, at = [], 0
    while at < len(encoded_tensor):
        (size,) = _LENGTH.unpack_from(encoded_tensor, at)
        elements.append(bytes(encoded_tensor[at + 4 : at + 4 + size]))
        at += 4 + size
    array = np.empty(len(elements), object)
    array[:] = elements
    return array

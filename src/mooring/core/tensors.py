"""A named, shaped buffer that nobody copies, and the data types of the Open Inference Protocol."""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, final

import msgspec
import numpy as np
import numpy.typing as npt

from mooring.core.buffers import LARGE, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput

Parameter = bool | int | float | str
RequestValue = Parameter | list[Any] | dict[str, Any]
"""A parameter of a request: beyond the protocol's types, lists and objects, which only JSON can say."""
Array = npt.NDArray[np.generic]

# Open Inference Protocol, Tensor Data Types. BF16 has no numpy type: its two bytes per element travel as uint16.
NUMPY_TYPES: Mapping[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES = frozenset(NUMPY_TYPES) | {"BYTES"}
DATATYPE_SPELLINGS: Mapping[str, str] = {
    **{datatype.capitalize(): datatype for datatype in DATATYPES},
    "STRING": "BYTES",
    "String": "BYTES",
}
"""Other names of datatypes, in configurations and requests: those of the AMD Inference Server's ``data_types.hpp``."""

# Datatypes without a numpy type of their own: an array does not tell them, so outputs of them must be declared.
WITHOUT_NUMPY_TYPE = frozenset({"BF16"})
DATATYPE_BY_NUMPY_TYPE: Mapping[np.dtype[np.generic], str] = {
    dtype: name for name, dtype in NUMPY_TYPES.items() if name not in WITHOUT_NUMPY_TYPE
}


BY_POSITION = "\0"
"""The name of inputs that a client told apart by their positions alone: AMD's clients do."""


class Packing(enum.IntEnum):
    """In which form one payload holds all elements of a tensor, where nobody has looked at each of them yet.

    The event loop passes packed data on as it is, its content unchecked; ``codecs.packed`` unpacks it in a worker.

    PLAIN       not packed
    RAW         as elements travel in binary: of BYTES every element behind its length, of BOOL a byte each
    CONTENTS    an InferTensorContents of gRPC
    ROWS        one JSON list: instances or predictions of KServe v1
    ESCAPED     the only element, still percent-encoded, of a form's field
    """

    PLAIN = 0
    RAW = 1
    CONTENTS = 2
    ROWS = 3
    ESCAPED = 4


PLAIN, RAW, CONTENTS, ROWS, ESCAPED = Packing


def datatype_of(array: Array) -> str:
    """The protocol's name for an array's type.

    Text and object arrays are BYTES. Raises ``InvalidInput`` for what no datatype holds (complex, dates).
    """
    name = DATATYPE_BY_NUMPY_TYPE.get(array.dtype) or DATATYPE_BY_NUMPY_TYPE.get(
        array.dtype.newbyteorder("<")
    )
    if name is not None:
        return name
    if array.dtype.kind in "SUO":
        return "BYTES"
    raise InvalidInput(f"no datatype for a numpy array of {array.dtype}")


@final
class Tensor(msgspec.Struct, array_like=True, gc=False, tag=0):
    """A named, shaped buffer that nobody copies.

    ``data`` of a numeric tensor is its elements, little-endian, row-major; of a BYTES tensor, a list with one
    payload per element. It stays valid until the request it belongs to has been answered.

    Where ``packed`` is not PLAIN, one payload holds all elements in the form that it names.
    """

    name: str
    datatype: str
    shape: list[int]
    data: Any  # Payload | list[Payload]; msgspec has no union of a custom type with others
    parameters: Mapping[str, Parameter] | None = None
    packed: Packing = Packing.PLAIN

    def __repr__(self) -> str:
        packed = f", {self.packed.name}" if self.packed else ""
        parameters = f", {dict(self.parameters)}" if self.parameters else ""
        return f"Tensor({self.name!r}, {self.datatype} {self.shape}{parameters}{packed})"

    def array(self) -> Array:
        """The elements as an array of ``shape``; a view where the data is numeric, ``object`` of bytes for BYTES.

        BF16 comes as float32. Raises ``InvalidInput`` when the bytes do not fill the shape.
        """
        if isinstance(self.data, list):
            flat = np.empty(len(self.data), dtype=object)
            flat[:] = [bytes(element) if not isinstance(element, bytes) else element for element in self.data]
        else:
            flat = np.frombuffer(view_of(self.data), dtype=NUMPY_TYPES[self.datatype])
            if self.datatype == "BF16":
                flat = (flat.astype(np.uint32) << 16).view(np.float32)
        try:
            return flat.reshape(self.shape)
        except ValueError:
            raise InvalidInput(
                f"tensor '{self.name}' has {flat.size} elements, which do not fill shape {self.shape}"
            ) from None

    @classmethod
    def of(cls, name: str, array: Array) -> "Tensor":
        """A tensor of the array's own type. Large contiguous data is borrowed: leave the array alone until it is sent."""
        datatype = datatype_of(array)
        data: Payload | list[Payload]
        if datatype == "BYTES":
            data = [
                element if isinstance(element, bytes) else str(element).encode() for element in array.ravel()
            ]
        else:
            plain = np.ascontiguousarray(array, dtype=NUMPY_TYPES[datatype])
            data = plain.tobytes() if plain.nbytes <= LARGE else Buffer(plain.reshape(-1).data.cast("B"))
        return cls(name, datatype, list(array.shape), data)


@final
class JsonOutput(msgspec.Struct, array_like=True, gc=False, tag=1):
    """An output whose elements are JSON text, which the server only puts in its place in the answer.

    ``data`` is one payload, a flat list of all elements.
    """

    name: str
    datatype: str
    shape: list[int]
    data: Any  # Payload
    parameters: Mapping[str, Parameter] | None = None


Output = Tensor | JsonOutput
_O = TypeVar("_O", Tensor, JsonOutput, Output)


class TensorSpec(msgspec.Struct, frozen=True):
    """What a model says of one input or output. ``shape`` has -1 where any size goes, batch dimension included.

    ``optional``: an input that a request may leave out. ``unknown_rank``: the shape is empty because any number of
    dimensions will do, and not because there are none. ``datatype`` is empty where nobody knows it. ``labels`` are the
    names of an output's columns, where the model's own file has some. ``reshape`` is the shape in which the model itself
    takes or gives it, where that is not the one that clients see: of as many elements, with the same open sizes in order.
    ``content_type`` is what the elements of a BYTES tensor hold, where it is not plain text or bytes: "application/json".
    """

    name: str
    datatype: str
    shape: list[int]
    optional: bool = False
    unknown_rank: bool = False
    labels: list[str] = []
    reshape: list[int] | None = None
    content_type: str = ""

    @property
    def model_shape(self) -> list[int]:
        """The shape in which the model itself takes or gives it."""
        return self.shape if self.reshape is None else self.reshape


def share_tensors(tensors: list[_O], count: int) -> list[list[_O]]:
    """The same tensors for so many readers, each of whom releases its own; takes ``tensors`` over."""
    if count == 1:
        return [tensors]
    copies: list[list[_O]] = [[] for _ in range(count)]
    for tensor in tensors:
        elements = tensor.data if isinstance(tensor.data, list) else [tensor.data]
        parts = [share_payload(element, count) for element in elements]
        for index, copy in enumerate(copies):
            own = [part[index] for part in parts]
            data = own if isinstance(tensor.data, list) else own[0]
            copy.append(msgspec.structs.replace(tensor, data=data))
    return copies


def share_payload(payload: Payload, count: int) -> list[Payload]:
    """The same payload for so many holders, each of whom releases its own; takes ``payload`` over."""
    if not isinstance(payload, Buffer):
        return [payload] * count
    share = Share(payload)
    parts = [share.part(0, payload.view.nbytes) for _ in range(count)]
    share.release()
    return parts


def clear_names(inputs: Sequence[Tensor]) -> None:
    """Call all inputs ``BY_POSITION`` where one has no name, or two have the same."""
    names = {tensor.name for tensor in inputs}
    if len(names) < len(inputs) or "" in names:
        for tensor in inputs:
            tensor.name = BY_POSITION


def restore_names(inputs: Sequence[Tensor], declared: Sequence[str] = ()) -> None:
    """Give inputs that are called ``BY_POSITION`` the names that a model declares, in order, or else input0, input1 and so on."""
    for position, tensor in enumerate(inputs):
        if tensor.name == BY_POSITION:
            tensor.name = declared[position] if position < len(declared) else f"input{position}"


def release(tensors: Iterable[Output]) -> None:
    """Give back the memory of tensors that nobody will read any more."""
    for tensor in tensors:
        data = tensor.data
        if type(data) is list:
            for element in data:
                if type(element) is not bytes and isinstance(element, Buffer):
                    element.release()
        elif type(data) is not bytes and isinstance(data, Buffer):
            data.release()

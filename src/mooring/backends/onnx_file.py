"""Read what an ONNX file declares: inputs and outputs without loading it, and what ONNX Runtime does not tell (the classes
of a map, which ranks are unknown).

The file is read by the field numbers of onnx.proto, so that the package ``onnx`` need not be installed.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import structs

from mooring.codecs.protobuf_wire import LEN, VARINT, Malformed, read_fields, read_varint, to_signed
from mooring.core.tensors import TensorSpec


def _field_tag(number: int, kind: int = LEN) -> int:
    """Return the tag of a protobuf field."""
    return number << 3 | kind


_GRAPH = _field_tag(7)
_NODE, _INPUT, _OUTPUT = _field_tag(1), _field_tag(11), _field_tag(12)
_NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = _field_tag(2), _field_tag(4), _field_tag(5)
_ATTRIBUTE_NAME, _INTEGERS, _STRINGS = _field_tag(1), _field_tag(8), _field_tag(9)
_TYPE, _TENSOR_TYPE, _SHAPE = _field_tag(2), _field_tag(1), _field_tag(2)
_NAME = _field_tag(1)
_IR_VERSION, _INITIALIZER, _INITIALIZER_NAME = _field_tag(1, VARINT), _field_tag(5), _field_tag(8)
_ELEMENTS, _DIMENSION, _SIZE = _field_tag(1, VARINT), _field_tag(1), _field_tag(1, VARINT)
# From this version of the format on an initializer that is among the inputs may be overridden; before, it is none.
_OVERRIDABLE = 4
_DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
_T = TypeVar("_T")
_CLASSES = ("classlabels_int64s", "classlabels_strings")


# What is looked for in a graph that lies between two places of the file: pairs of a name and its classes.
_GraphReader = Callable[[memoryview, int, int], Iterator[tuple[str, list[str]]]]


class OnnxFile:
    """One file. Parts of it that cannot be read count as absent."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read_classes(self) -> dict[str, list[str]]:
        """Return the class names of every map among the outputs, in order, by output."""
        return dict(self._read_graphs(_find_classes))

    def read_unranked_names(self) -> set[str]:
        """Return the inputs and outputs whose number of dimensions the file leaves open."""
        return {name for name, _ in self._read_graphs(_find_unranked)}

    def read_interface(self) -> "Interface | None":
        """Return the model's inputs and outputs; None where the file holds no model that can be read."""
        return self._parse_file(_parse_interface)

    def _read_graphs(self, look: _GraphReader) -> list[tuple[str, list[str]]]:
        def read_graphs(message: memoryview) -> list[tuple[str, list[str]]]:
            return [
                pair
                for tag, start, end in read_fields(message, 0, len(message))
                if tag == _GRAPH
                for pair in look(message, start, end)
            ]

        return self._parse_file(read_graphs) or []

    def _parse_file(self, look: Callable[[memoryview], _T]) -> _T | None:
        try:
            with (
                self._file.open("rb") as source,
                mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as message,
            ):
                return look(message)
        except (OSError, ValueError, IndexError, Malformed):
            return None


class Interface(msgspec.Struct):
    """The inputs and outputs of a graph, as the file declares them.

    One that is no tensor of ours has the datatype "".
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


def _parse_interface(message: memoryview) -> Interface | None:
    version, graph = 0, None
    for tag, start, end in read_fields(message, 0, len(message)):
        if tag == _IR_VERSION:
            version = start
        elif tag == _GRAPH:
            graph = start, end
    if graph is None:
        return None
    inputs, outputs, constants = list[TensorSpec](), list[TensorSpec](), set[str]()
    for tag, start, end in read_fields(message, *graph):
        if tag == _INPUT:
            inputs.append(_tensor_spec(message, start, end))
        elif tag == _OUTPUT:
            outputs.append(_tensor_spec(message, start, end))
        elif tag == _INITIALIZER:
            parts = read_fields(message, start, end)
            constants |= {
                _decode_text(message, at, to) for part, at, to in parts if part == _INITIALIZER_NAME
            }
    inputs_of_model = [
        structs.replace(each, optional=each.name in constants)
        for each in inputs
        if each.name not in constants or version >= _OVERRIDABLE
    ]
    return Interface(inputs_of_model, outputs)


def _tensor_spec(message: memoryview, start: int, end: int) -> TensorSpec:
    parts = list(read_fields(message, start, end))
    (name,) = (_decode_text(message, at, to) for part, at, to in parts if part == _NAME)
    for path in (_TYPE, _TENSOR_TYPE):
        parts = [inner for part, at, to in parts if part == path for inner in read_fields(message, at, to)]
    datatype = next((_DATATYPES.get(at, "") for part, at, _ in parts if part == _ELEMENTS), "")
    shapes = [(at, to) for part, at, to in parts if part == _SHAPE]
    shape = [
        next((to_signed(size) for inner, size, _ in read_fields(message, at, to) if inner == _SIZE), -1)
        for begin, stop in shapes
        for part, at, to in read_fields(message, begin, stop)
        if part == _DIMENSION
    ]
    return TensorSpec(name, datatype, shape, unknown_rank=not shapes)


def _find_classes(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in read_fields(message, start, end):
        if tag != _NODE:
            continue
        parts = list(read_fields(message, begin, stop))
        kinds = [_decode_text(message, at, to) for part, at, to in parts if part == _OPERATOR]
        if kinds == ["ZipMap"]:
            (output,) = (_decode_text(message, at, to) for part, at, to in parts if part == _NODE_OUTPUT)
            attributes = [_read_attribute(message, at, to) for part, at, to in parts if part == _ATTRIBUTE]
            yield output, [label for name, labels in attributes if name in _CLASSES for label in labels]


def _read_attribute(message: memoryview, start: int, end: int) -> tuple[str, list[str]]:
    name, labels = "", list[str]()
    for tag, begin, stop in read_fields(message, start, end):
        if tag == _ATTRIBUTE_NAME:
            name = _decode_text(message, begin, stop)
        elif tag == _STRINGS:
            labels.append(_decode_text(message, begin, stop))
        elif tag == _field_tag(8, VARINT):
            labels.append(str(to_signed(begin)))
        elif tag == _INTEGERS:  # packed
            at = begin
            while at < stop:
                value, at = read_varint(message, at)
                labels.append(str(to_signed(value)))
    return name, labels


def _find_unranked(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in read_fields(message, start, end):
        if tag not in (_INPUT, _OUTPUT):
            continue
        parts = list(read_fields(message, begin, stop))
        (name,) = (_decode_text(message, at, to) for part, at, to in parts if part == _NAME)
        for path in (_TYPE, _TENSOR_TYPE):
            parts = [
                inner for part, at, to in parts if part == path for inner in read_fields(message, at, to)
            ]
        if parts and not any(part == _SHAPE for part, _, _ in parts):
            yield name, []


def _decode_text(message: memoryview, start: int, end: int) -> str:
    return str(message[start:end], "utf-8")

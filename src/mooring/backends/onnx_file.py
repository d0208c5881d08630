"""What an ONNX file says of itself: what ONNX Runtime does not tell (the classes of a map, which ranks are unknown), and
what it takes and gives, for who does not load it.

Read by hand, by the numbers of onnx.proto: the package ``onnx`` need not be installed.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import structs

from mooring.codecs.protobuf_wire import LEN, VARINT, Malformed, read_fields, read_varint, to_signed
from mooring.core.tensors import TensorSpec


def _of(number: int, kind: int = LEN) -> int:
    """The tag of a field."""
    return number << 3 | kind


_GRAPH = _of(7)
_NODE, _INPUT, _OUTPUT = _of(1), _of(11), _of(12)
_NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = _of(2), _of(4), _of(5)
_ATTRIBUTE_NAME, _INTEGERS, _STRINGS = _of(1), _of(8), _of(9)
_TYPE, _TENSOR_TYPE, _SHAPE = _of(2), _of(1), _of(2)
_NAME = _of(1)
_IR_VERSION, _INITIALIZER, _INITIALIZER_NAME = _of(1, VARINT), _of(5), _of(8)
_ELEMENTS, _DIMENSION, _SIZE = _of(1, VARINT), _of(1), _of(1, VARINT)
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
_Look = Callable[[memoryview, int, int], Iterator[tuple[str, list[str]]]]


class OnnxFile:
    """One file. What of it cannot be read says nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def classes(self) -> dict[str, list[str]]:
        """The names of the classes in every map that the model gives, in the order in which they come, by output."""
        return dict(self._read(_classes_of))

    def unranked(self) -> set[str]:
        """The inputs and outputs for which any number of dimensions will do."""
        return {name for name, _ in self._read(_unranked_of)}

    def interface(self) -> "Interface | None":
        """What the model takes and gives; None where the file has no model in it that can be read."""
        return self._look(_interface_of)

    def _read(self, look: _Look) -> list[tuple[str, list[str]]]:
        def graphs(message: memoryview) -> list[tuple[str, list[str]]]:
            return [
                found
                for tag, start, end in read_fields(message, 0, len(message))
                if tag == _GRAPH
                for found in look(message, start, end)
            ]

        return self._look(graphs) or []

    def _look(self, look: Callable[[memoryview], _T]) -> _T | None:
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
    """The inputs and outputs of a graph, as the file has them. What is no tensor that can be sent has the datatype ""."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]


def _interface_of(message: memoryview) -> Interface | None:
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
            inputs.append(_tensor(message, start, end))
        elif tag == _OUTPUT:
            outputs.append(_tensor(message, start, end))
        elif tag == _INITIALIZER:
            parts = read_fields(message, start, end)
            constants |= {_text(message, at, to) for part, at, to in parts if part == _INITIALIZER_NAME}
    taken = [
        structs.replace(each, optional=each.name in constants)
        for each in inputs
        if each.name not in constants or version >= _OVERRIDABLE
    ]
    return Interface(taken, outputs)


def _tensor(message: memoryview, start: int, end: int) -> TensorSpec:
    parts = list(read_fields(message, start, end))
    (name,) = (_text(message, at, to) for part, at, to in parts if part == _NAME)
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


def _classes_of(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in read_fields(message, start, end):
        if tag != _NODE:
            continue
        parts = list(read_fields(message, begin, stop))
        kinds = [_text(message, at, to) for part, at, to in parts if part == _OPERATOR]
        if kinds == ["ZipMap"]:
            (output,) = (_text(message, at, to) for part, at, to in parts if part == _NODE_OUTPUT)
            attributes = [_attribute(message, at, to) for part, at, to in parts if part == _ATTRIBUTE]
            yield output, [label for name, labels in attributes if name in _CLASSES for label in labels]


def _attribute(message: memoryview, start: int, end: int) -> tuple[str, list[str]]:
    name, labels = "", list[str]()
    for tag, begin, stop in read_fields(message, start, end):
        if tag == _ATTRIBUTE_NAME:
            name = _text(message, begin, stop)
        elif tag == _STRINGS:
            labels.append(_text(message, begin, stop))
        elif tag == _of(8, VARINT):
            labels.append(str(to_signed(begin)))
        elif tag == _INTEGERS:  # packed
            at = begin
            while at < stop:
                value, at = read_varint(message, at)
                labels.append(str(to_signed(value)))
    return name, labels


def _unranked_of(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in read_fields(message, start, end):
        if tag not in (_INPUT, _OUTPUT):
            continue
        parts = list(read_fields(message, begin, stop))
        (name,) = (_text(message, at, to) for part, at, to in parts if part == _NAME)
        for path in (_TYPE, _TENSOR_TYPE):
            parts = [
                inner for part, at, to in parts if part == path for inner in read_fields(message, at, to)
            ]
        if parts and not any(part == _SHAPE for part, _, _ in parts):
            yield name, []


def _text(message: memoryview, start: int, end: int) -> str:
    return str(message[start:end], "utf-8")

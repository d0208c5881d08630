"""What an ONNX file says of itself that ONNX Runtime does not tell: the classes of a map, and which ranks are unknown.

Read by hand, by the numbers of onnx.proto: the package ``onnx`` need not be installed.
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path

from mooring.codecs.protobuf_wire import LEN, VARINT, Malformed, fields, read_varint, signed


def _of(number: int, kind: int = LEN) -> int:
    """The tag of a field."""
    return number << 3 | kind


_GRAPH = _of(7)
_NODE, _INPUT, _OUTPUT = _of(1), _of(11), _of(12)
_NODE_OUTPUT, _OPERATOR, _ATTRIBUTE = _of(2), _of(4), _of(5)
_ATTRIBUTE_NAME, _INTEGERS, _STRINGS = _of(1), _of(8), _of(9)
_TYPE, _TENSOR_TYPE, _SHAPE = _of(2), _of(1), _of(2)
_NAME = _of(1)
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

    def _read(self, look: _Look) -> list[tuple[str, list[str]]]:
        try:
            with (
                self._file.open("rb") as source,
                mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as message,
            ):
                return [
                    found
                    for tag, start, end in fields(message, 0, len(message))
                    if tag == _GRAPH
                    for found in look(message, start, end)
                ]
        except (OSError, ValueError, IndexError, Malformed):
            return []


def _classes_of(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in fields(message, start, end):
        if tag != _NODE:
            continue
        parts = list(fields(message, begin, stop))
        kinds = [_text(message, at, to) for part, at, to in parts if part == _OPERATOR]
        if kinds == ["ZipMap"]:
            (output,) = (_text(message, at, to) for part, at, to in parts if part == _NODE_OUTPUT)
            attributes = [_attribute(message, at, to) for part, at, to in parts if part == _ATTRIBUTE]
            yield output, [label for name, labels in attributes if name in _CLASSES for label in labels]


def _attribute(message: memoryview, start: int, end: int) -> tuple[str, list[str]]:
    name, labels = "", list[str]()
    for tag, begin, stop in fields(message, start, end):
        if tag == _ATTRIBUTE_NAME:
            name = _text(message, begin, stop)
        elif tag == _STRINGS:
            labels.append(_text(message, begin, stop))
        elif tag == _of(8, VARINT):
            labels.append(str(signed(begin)))
        elif tag == _INTEGERS:  # packed
            at = begin
            while at < stop:
                value, at = read_varint(message, at)
                labels.append(str(signed(value)))
    return name, labels


def _unranked_of(message: memoryview, start: int, end: int) -> Iterator[tuple[str, list[str]]]:
    for tag, begin, stop in fields(message, start, end):
        if tag not in (_INPUT, _OUTPUT):
            continue
        parts = list(fields(message, begin, stop))
        (name,) = (_text(message, at, to) for part, at, to in parts if part == _NAME)
        for path in (_TYPE, _TENSOR_TYPE):
            parts = [inner for part, at, to in parts if part == path for inner in fields(message, at, to)]
        if parts and not any(part == _SHAPE for part, _, _ in parts):
            yield name, []


def _text(message: memoryview, start: int, end: int) -> str:
    return str(message[start:end], "utf-8")

"""Objects of dataclasses are written with the defaults that they were read with."""

import dataclasses

import msgspec
import pytest

from mooring.backends.values.hints import value_type
from mooring.backends.values.results import result_type


@dataclasses.dataclass
class Point:
    x: int
    y: int = 2


@dataclasses.dataclass(frozen=True)
class Line:
    points: list[Point]
    names: dict[str, Point] = dataclasses.field(default_factory=dict)
    width: float = 1.5


class Drawing(msgspec.Struct):
    lines: list[Line]


@dataclasses.dataclass(slots=True)
class Slots:
    x: int
    y: int = 2


@pytest.mark.parametrize(
    ("hint", "given", "written"),
    [
        (Point, b'{"x": 1}', {"x": 1, "y": 2}),
        (Slots, b'{"x": 1}', {"x": 1, "y": 2}),
        (list[Point], b'[{"x": 1}, {"x": 1, "y": 3}]', [{"x": 1, "y": 2}, {"x": 1, "y": 3}]),
        (
            Drawing,
            b'{"lines": [{"points": [{"x": 1}], "names": {"a": {"x": 4}}}]}',
            {"lines": [{"points": [{"x": 1, "y": 2}], "names": {"a": {"x": 4, "y": 2}}, "width": 1.5}]},
        ),
    ],
)
def test_what_is_read_is_written_whole(hint, given, written):
    kind = value_type(hint, where="p")
    for value in (kind.decode_json(given), kind.convert(msgspec.json.decode(given))):
        assert msgspec.json.decode(result_type(hint).encode_json(value)) == written
        assert msgspec.json.decode(msgspec.json.encode(value)) == written

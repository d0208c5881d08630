"""Draw the pictures of the documentation: each docs/pictures/NAME.toml becomes NAME.svg.

A description has boxes in a grid of columns and rows, frames around some of them, and arrows between them. Titles of boxes
in the form of paths name files and folders of src/mooring. tests/docs/test_pictures.py fails when a picture is not what its
description gives, or names what is not there.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

import msgspec

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

MARGIN = 28
FRAME_PADDING = 16
FRAME_TITLE = 28
LINE = 17  # pixels from one line of a text to the next
LETTER = 6.9  # pixels that a letter of a text takes on average, and a little more

Side = Literal["top", "right", "bottom", "left"]
Point = tuple[float, float]

# A background of its own: the picture is legible on any page, whatever that page takes for light and dark.
STYLE = """
.ground { fill: #ffffff; stroke: #d8dee4; }
.frame { fill: #f2f6f9; stroke: #9fb3c1; }
.frame.worker { fill: #f8f4ec; stroke: #c9b68e; }
.frame.outside { fill: none; stroke-dasharray: 5 4; }
.box { fill: #ffffff; stroke: #4a7d95; stroke-width: 1.4; }
.worker.box { stroke: #a2833c; }
.plain.box { stroke: #8a949c; }
.number { fill: #0b5d7a; }
.worker.number { fill: #84651d; }
.digit { fill: #ffffff; font-size: 12px; font-weight: 700; text-anchor: middle; }
.arrow { stroke: #4f5b64; stroke-width: 1.5; fill: none; }
.dashed { stroke-dasharray: 5 4; }
.head { fill: #4f5b64; }
.label-ground { fill: #ffffff; opacity: 0.88; }
text { fill: #1d262c; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 13px; }
.frame-title { font-weight: 700; font-size: 14px; }
.middle { text-anchor: middle; }
.box-title { font-weight: 700; }
.path { font-family: ui-monospace, "SFMono-Regular", Menlo, "DejaVu Sans Mono", monospace; font-size: 12.5px; }
.label { fill: #3d4952; font-size: 12px; text-anchor: middle; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #14191d; stroke: #313b43; }
  .frame { fill: #1b242b; stroke: #48606f; }
  .frame.worker { fill: #26221a; stroke: #6d5d38; }
  .frame.outside { fill: none; }
  .box { fill: #14191d; stroke: #6fa9c4; }
  .worker.box { stroke: #cba85a; }
  .plain.box { stroke: #7f8b94; }
  .number { fill: #7cc4e0; }
  .worker.number { fill: #e0bd6c; }
  .digit { fill: #14191d; }
  .arrow { stroke: #a9b5be; }
  .head { fill: #a9b5be; }
  .label-ground { fill: #14191d; }
  text { fill: #e4e9ed; }
  .label { fill: #b9c4cc; }
}
"""


class Box(msgspec.Struct, forbid_unknown_fields=True):
    """A part, at a column and a row of the grid; ``span`` is how many of each it takes."""

    id: str
    title: str
    at: tuple[float, float]
    text: str = ""
    span: tuple[float, float] = (1, 1)
    number: int = 0
    plain: bool = False  # no part of ours


class Frame(msgspec.Struct, forbid_unknown_fields=True):
    """What boxes have in common: mostly the process that they run in."""

    title: str
    around: list[str]
    kind: Literal["server", "worker", "outside"] = "server"
    title_in: Literal["left", "middle"] = "left"


class Arrow(msgspec.Struct, forbid_unknown_fields=True):
    """From a box to a box, between the sides that face each other where none are named.

    ``shift`` moves it sideways, in pixels. ``bend`` and ``along`` say where it turns between opposite sides, and where its
    label stands: 0 is its start, 1 its end.
    """

    start: str
    end: str
    label: str = ""
    sides: tuple[Side, Side] | None = None
    both: bool = False
    dashed: bool = False
    shift: float = 0
    bend: float = 0.5
    along: float = 0.5


class Picture(msgspec.Struct, forbid_unknown_fields=True):
    """A description: sizes are in pixels."""

    title: str
    description: str
    column: float
    row: float
    gap: tuple[float, float]
    boxes: list[Box]
    frames: list[Frame] = []
    arrows: list[Arrow] = []


class Area(msgspec.Struct, frozen=True):
    """A rectangle."""

    x: float
    y: float
    width: float
    height: float

    def middle_of(self, side: Side) -> Point:
        """The point in the middle of a side."""
        across, down = self.x + self.width / 2, self.y + self.height / 2
        points: Mapping[Side, Point] = {
            "top": (across, self.y),
            "bottom": (across, self.y + self.height),
            "left": (self.x, down),
            "right": (self.x + self.width, down),
        }
        return points[side]


def read_picture(file: Path) -> Picture:
    """Read a description; an error names the file."""
    try:
        picture = msgspec.toml.decode(file.read_bytes(), type=Picture)
    except msgspec.DecodeError as error:
        raise SystemExit(f"{file.name}: {error}") from None
    known = {box.id for box in picture.boxes}
    named = {each for frame in picture.frames for each in frame.around}
    named |= {each for arrow in picture.arrows for each in (arrow.start, arrow.end)}
    if named - known:
        raise SystemExit(f"{file.name}: there is no box {', '.join(sorted(named - known))}")
    return picture


def is_path(title: str) -> bool:
    """Whether a title names a file or a folder of src/mooring."""
    return title.endswith((".py", "/"))


def draw(picture: Picture) -> str:
    """The picture as SVG."""
    places = {box.id: _place(picture, box) for box in picture.boxes}
    frames = [(_surround([places[each] for each in frame.around]), frame) for frame in picture.frames]
    kinds = {each: frame.kind for frame in picture.frames for each in frame.around}
    areas = [*places.values(), *(area for area, _ in frames)]
    left, top = min(area.x for area in areas) - MARGIN, min(area.y for area in areas) - MARGIN
    width = max(area.x + area.width for area in areas) + MARGIN - left
    height = max(area.y + area.height for area in areas) + MARGIN - top
    lines = [
        _opening_tag(Area(left, top, width, height)),
        f'<title id="title">{escape(picture.title)}</title>',
        f'<desc id="description">{escape(" ".join(picture.description.split()))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="ground" x="{_n(left + 0.5)}" y="{_n(top + 0.5)}" width="{_n(width - 1)}" height="{_n(height - 1)}" rx="10"/>',
    ]
    for area, frame in frames:
        lines += _frame(area, frame)
    labels: list[str] = []
    for arrow in picture.arrows:
        drawn, label = _arrow(arrow, places)
        lines += drawn
        labels += label
    for box in picture.boxes:
        lines += _box(places[box.id], box, kinds.get(box.id, "server"))
    return "\n".join([*lines, *labels, "</svg>"]) + "\n"


def _opening_tag(area: Area) -> str:
    box = f"{_n(area.x)} {_n(area.y)} {_n(area.width)} {_n(area.height)}"
    size = f'width="{_n(area.width)}" height="{_n(area.height)}"'
    named = 'role="img" aria-labelledby="title description"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {size} {named}>'


def _place(picture: Picture, box: Box) -> Area:
    (column, row), (columns, rows) = box.at, box.span
    across, down = picture.gap
    return Area(
        column * (picture.column + across),
        row * (picture.row + down),
        columns * picture.column + (columns - 1) * across,
        rows * picture.row + (rows - 1) * down,
    )


def _surround(areas: Sequence[Area]) -> Area:
    left, top = min(area.x for area in areas), min(area.y for area in areas)
    right = max(area.x + area.width for area in areas)
    bottom = max(area.y + area.height for area in areas)
    return Area(
        left - FRAME_PADDING,
        top - FRAME_PADDING - FRAME_TITLE + 8,
        right - left + 2 * FRAME_PADDING,
        bottom - top + 2 * FRAME_PADDING + FRAME_TITLE - 8,
    )


def _frame(area: Area, frame: Frame) -> Iterator[str]:
    yield _rect(area, f"frame {frame.kind}", 9)
    if frame.title_in == "left":
        yield _text(area.x + 14, area.y + 22, frame.title, "frame-title")
    else:
        yield _text(area.x + area.width / 2, area.y + 22, frame.title, "frame-title middle")


def _box(area: Area, box: Box, kind: str) -> Iterator[str]:
    kind = "plain" if box.plain else kind
    yield _rect(area, f"{kind} box", 6)
    wrapped = textwrap.wrap(box.text, max(8, int((area.width - 22) / LETTER)))
    indent = 12.0
    first = area.y + (area.height - LINE * (1 + len(wrapped))) / 2 + 13
    if box.number:
        indent = 40.0
        wrapped = textwrap.wrap(box.text, max(8, int((area.width - 50) / LETTER)))
        first = area.y + (area.height - LINE * (1 + len(wrapped))) / 2 + 13
        down = area.y + area.height / 2
        yield f'<circle class="{kind} number" cx="{_n(area.x + 21)}" cy="{_n(down)}" r="11"/>'
        yield _text(area.x + 21, down + 4.3, str(box.number), "digit")
    yield _text(area.x + indent, first, box.title, "box-title path" if is_path(box.title) else "box-title")
    for line, text in enumerate(wrapped, 1):
        yield _text(area.x + indent, first + line * LINE, text, "")


def _arrow(arrow: Arrow, places: Mapping[str, Area]) -> tuple[list[str], list[str]]:
    start, end = places[arrow.start], places[arrow.end]
    leaving, arriving = arrow.sides or _facing(start, end)
    points = _route(*_ends(start, leaving, end, arriving, arrow.shift), leaving, arriving, arrow.bend)
    heads = [_head(points[-1], arriving)] + ([_head(points[0], leaving)] if arrow.both else [])
    path = "M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points)
    line = f'<path class="arrow{" dashed" if arrow.dashed else ""}" d="{path}"/>'
    return [line, *heads], list(_label(points, arrow)) if arrow.label else []


def _ends(start: Area, leaving: Side, end: Area, arriving: Side, shift: float) -> tuple[Point, Point]:
    """Where an arrow begins and ends: before the middle of the smaller box, where that makes it straight."""
    (x1, y1), (x2, y2) = start.middle_of(leaving), end.middle_of(arriving)
    if {leaving, arriving} == {"top", "bottom"}:
        smaller, larger = sorted((start, end), key=lambda area: area.width)
        middle = smaller.x + smaller.width / 2
        if larger.x < middle < larger.x + larger.width:
            x1 = x2 = middle
    if {leaving, arriving} == {"left", "right"}:
        smaller, larger = sorted((start, end), key=lambda area: area.height)
        middle = smaller.y + smaller.height / 2
        if larger.y < middle < larger.y + larger.height:
            y1 = y2 = middle
    return _shift(x1, y1, leaving, shift), _shift(x2, y2, arriving, shift)


def _shift(x: float, y: float, side: Side, shift: float) -> Point:
    return (x + shift, y) if side in {"top", "bottom"} else (x, y + shift)


def _facing(start: Area, end: Area) -> tuple[Side, Side]:
    """The sides between which a straight arrow goes, or an arrow with one corner."""
    if start.y + start.height <= end.y:
        return "bottom", "top"
    if end.y + end.height <= start.y:
        return "top", "bottom"
    return ("right", "left") if start.x < end.x else ("left", "right")


def _route(start: Point, end: Point, leaving: Side, arriving: Side, bend: float) -> list[Point]:
    """The corners of a line of horizontal and vertical pieces."""
    (x1, y1), (x2, y2) = start, end
    upright = {"top", "bottom"}
    if leaving in upright and arriving in upright:
        middle = y1 + (y2 - y1) * bend
        return [start, end] if x1 == x2 else [start, (x1, middle), (x2, middle), end]
    if leaving not in upright and arriving not in upright:
        middle = x1 + (x2 - x1) * bend
        return [start, end] if y1 == y2 else [start, (middle, y1), (middle, y2), end]
    return [start, (x1, y2), end] if leaving in upright else [start, (x2, y1), end]


def _head(tip: Point, side: Side) -> str:
    x, y = tip
    corners: Mapping[Side, str] = {
        "top": f"{_n(x)},{_n(y)} {_n(x - 5)},{_n(y - 9)} {_n(x + 5)},{_n(y - 9)}",
        "bottom": f"{_n(x)},{_n(y)} {_n(x - 5)},{_n(y + 9)} {_n(x + 5)},{_n(y + 9)}",
        "left": f"{_n(x)},{_n(y)} {_n(x - 9)},{_n(y - 5)} {_n(x - 9)},{_n(y + 5)}",
        "right": f"{_n(x)},{_n(y)} {_n(x + 9)},{_n(y - 5)} {_n(x + 9)},{_n(y + 5)}",
    }
    return f'<polygon class="head" points="{corners[side]}"/>'


def _label(points: Sequence[Point], arrow: Arrow) -> Iterator[str]:
    """The label on the longest piece of an arrow."""
    pieces = list(pairwise(points))
    (x1, y1), (x2, y2) = max(
        pieces, key=lambda piece: abs(piece[0][0] - piece[1][0]) + abs(piece[0][1] - piece[1][1])
    )
    across, down = x1 + (x2 - x1) * arrow.along, y1 + (y2 - y1) * arrow.along
    lines = arrow.label.split("\n")
    width = max(map(len, lines)) * 6.3 + 8
    top = down - len(lines) * 15 / 2
    yield _rect(Area(across - width / 2, top, width, len(lines) * 15 + 2), "label-ground", 3)
    for number, line in enumerate(lines):
        yield _text(across, top + 12.5 + number * 15, line, "label")


def _rect(area: Area, kind: str, radius: int) -> str:
    return (
        f'<rect class={quoteattr(kind)} x="{_n(area.x)}" y="{_n(area.y)}" width="{_n(area.width)}"'
        f' height="{_n(area.height)}" rx="{radius}"/>'
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    named = f" class={quoteattr(kind)}" if kind else ""
    return f'<text{named} x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _n(value: float) -> str:
    """A number of pixels, short."""
    return f"{value:.1f}".removesuffix(".0")


def main() -> None:
    """Draw them all."""
    for file in sorted(PICTURES.glob("*.toml")):
        file.with_suffix(".svg").write_text(draw(read_picture(file)), encoding="utf-8")


if __name__ == "__main__":
    main()

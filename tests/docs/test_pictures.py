"""The drawn pictures are what their descriptions give, name what is there, and can be read by everybody."""

import runpy
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PICTURES = ROOT / "docs" / "pictures"
draw_pictures = runpy.run_path(str(ROOT / "scripts" / "draw_pictures.py"))
DESCRIPTIONS = sorted(PICTURES.glob("*.toml"))
SVG = "{http://www.w3.org/2000/svg}"

pytestmark = pytest.mark.parametrize("file", DESCRIPTIONS, ids=lambda file: file.stem)


def test_a_picture_is_what_its_description_gives(file):
    drawn = draw_pictures["draw"](draw_pictures["read_picture"](file))
    assert file.with_suffix(".svg").read_text() == drawn, "run scripts/draw_pictures.py"


def test_each_file_and_folder_that_a_picture_names_is_there(file):
    picture = draw_pictures["read_picture"](file)
    paths = [box.title for box in picture.boxes if draw_pictures["is_path"](box.title)]
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / "src" / "mooring" / path).exists()] == []


def test_a_picture_has_a_title_and_a_description(file):
    picture = ET.parse(file.with_suffix(".svg")).getroot()
    named = {
        element.get("id"): element.text for element in picture if element.tag in (SVG + "title", SVG + "desc")
    }
    assert [named[name] for name in picture.get("aria-labelledby").split()] == list(named.values())
    assert all(named.values())


def test_no_text_leaves_its_box_and_no_boxes_overlap(file):
    picture = draw_pictures["read_picture"](file)
    places = {box.id: draw_pictures["_place"](picture, box) for box in picture.boxes}
    for box in picture.boxes:
        area = places[box.id]
        text = "".join(draw_pictures["_box"](area, box, "server"))
        texts = list(ET.fromstring(f"<g>{text}</g>").iter("text"))
        lines = [float(line.get("y")) for line in texts]
        for line in texts:  # a letter of a path is 7.6 pixels wide
            letter = 7.6 if "path" in line.get("class", "") else 6.6
            assert float(line.get("x")) + len(line.text) * letter <= area.x + area.width, line.text
        assert area.y + 10 <= min(lines), box.title
        assert max(lines) <= area.y + area.height - 4, box.title
    for one, other in combinations(places.values(), 2):
        apart = (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
        assert apart


def test_a_picture_loads_nothing_and_is_legible_in_the_dark(file):
    text = file.with_suffix(".svg").read_text()
    assert "prefers-color-scheme: dark" in text
    assert [word for word in ("href", "url(", "@import", "<script", "<image") if word in text] == []

"""The dashboards are what the script writes, and what Grafana can show: types, units, places, variables."""

import itertools
import json
import re

import pytest
from board_kit import BOARDS, load, panels, queries, variables
from generate_dashboards import BOARDS as GENERATED
from generate_dashboards import text_of
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

each_board = pytest.mark.parametrize("file", BOARDS, ids=lambda file: file.stem)
UNITS = {value for name, value in vars(units).items() if name[0].isupper()}
BUILT_IN = {"__rate_interval", "__url_time_range", "__value"}


def test_there_is_a_file_for_each_board_and_no_other():
    assert {file.stem for file in BOARDS} == set(GENERATED)


@each_board
def test_a_board_is_what_the_script_writes(file):
    assert file.read_text() == text_of(GENERATED[file.stem]()), "run scripts/generate_dashboards.py"


@each_board
def test_a_board_is_read_by_the_types_of_grafana_without_loss(file):
    board = load(file)
    again = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
    assert again == board


@each_board
def test_panels_do_not_overlap_and_stay_on_the_grid(file):
    taken = {}
    for panel in panels(load(file)):
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        rows = range(place["y"], place["y"] + place["h"])
        for cell in itertools.product(range(place["x"], place["x"] + place["w"]), rows):
            assert cell not in taken, f"{panel['title']} overlaps {taken.get(cell)}"
            taken[cell] = panel["title"]


@each_board
def test_a_panel_has_an_id_a_title_and_a_description_of_its_own(file):
    shown = list(panels(load(file)))
    assert len({panel["id"] for panel in shown}) == len(shown)
    titles = [panel["title"] for panel in shown]
    assert len(set(titles)) == len(titles)
    for panel in shown:
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith("."), panel["title"]


@each_board
def test_a_panel_says_its_unit_and_what_each_line_is(file):
    for panel in panels(load(file)):
        if panel["type"] in ("row", "table", "heatmap"):
            continue
        defaults = panel["fieldConfig"]["defaults"]
        if not defaults.get("mappings"):  # values that stand for names have no unit
            assert defaults["unit"] in UNITS, panel["title"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]
        for target, legend in zip(panel["targets"], legends, strict=True):
            grouped = re.search(r"by \(([\w, ]+)\)", target["expr"])
            labels = (
                set(re.findall(r"\w+", grouped[1])) - {"le"} if grouped and panel["type"] != "stat" else set()
            )
            assert set(re.findall(r"{{(\w+)}}", legend)) == labels, f"{panel['title']}: {legend}"


@each_board
def test_a_query_has_the_data_source_and_the_variables_of_its_board(file):
    board = load(file)
    known = {variable["name"] for variable in variables(board)}
    for panel in panels(board):
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for asked in queries(board):
        used = set(re.findall(r"\$\{?(\w+)", asked.expr))
        assert used <= known | BUILT_IN, asked
        assert used >= {"job", "instance"}, f"{asked.panel} shows servers that are not chosen: {asked.expr}"


@each_board
def test_a_link_leads_to_another_of_these_boards_with_variables_that_it_has(file):
    boards = {load(other)["uid"]: load(other) for other in BOARDS}
    links = re.findall(r'"url": "/d/([\w-]+)(?:\?([^"]*))?"', file.read_text())
    assert links
    for uid, given in links:
        names = {variable["name"] for variable in variables(boards[uid])}
        assert set(re.findall(r"var-(\w+)", given)) <= names

"""The dashboards as they are imported into Grafana, and their queries as Grafana sends them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "deploy/grafana").glob("*.json"))

Board = Mapping[str, Any]


class Asked(NamedTuple):
    """One query of a panel. ``at_once`` is true of a query that asks for the value of now alone."""

    panel: str
    section: str
    expr: str
    at_once: bool


def load(file: Path) -> Board:
    return json.loads(file.read_text())


def panels(board: Board) -> Iterator[Mapping[str, Any]]:
    """Every panel, rows and what is folded into them included."""
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def queries(board: Board) -> Iterator[Asked]:
    section = ""
    for panel in panels(board):
        if panel["type"] == "row":
            section = panel["title"]
        for target in panel.get("targets", []):
            yield Asked(panel["title"], section, target["expr"], target.get("instant", False))


def variables(board: Board) -> list[Mapping[str, Any]]:
    return board["templating"]["list"]


def fill_in(expr: str, values: Mapping[str, str]) -> str:
    """A query with each ``$name`` replaced. Fails for a variable that has no value."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], expr)

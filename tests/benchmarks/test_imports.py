"""The benchmarks import names of the server that exist, those inside functions too: few of them run in the tests."""

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def imports(file: Path) -> Iterator[tuple[str, str]]:
    """The modules of mooring that a file imports from, each with the name that it takes."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mooring"):
            yield from ((node.module or "", each.name) for each in node.names)


CASES = [(file.name, *each) for file in sorted(FOLDER.rglob("*.py")) for each in imports(file)]


@pytest.mark.parametrize(("file", "module", "name"), CASES)
def test_imported_name_exists(file, module, name):
    found = importlib.import_module(module)
    assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}")


def test_names_are_found_inside_functions():
    assert ("limits.py", "mooring.backends.onednn_layout", "optimize_for_onednn") in CASES


def test_comparison_can_be_imported():
    importlib.import_module("compare")

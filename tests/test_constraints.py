"""constraints.txt names one version of everything that pyproject.toml asks for, and one that it allows."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(text) for each in lists for text in each]
    return [each for each in found if each.name != "mooring"]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def test_constraints_pin_every_requirement_to_a_version_that_it_allows():
    pins = constraints()
    wrong = [
        f"{each} has {pins.get(canonicalize_name(each.name), 'no pin')}"
        for each in requirements()
        if not each.specifier.contains(pins.get(canonicalize_name(each.name), "0"))
    ]
    assert wrong == []


def test_extras_name_only_extras_that_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = set(project["optional-dependencies"])
    named = {
        extra
        for texts in project["optional-dependencies"].values()
        for each in map(Requirement, texts)
        if each.name == "mooring"
        for extra in each.extras
    }
    assert named <= offered

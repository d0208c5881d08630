"""Python objects as files for workers: what a notebook defines comes back whole in another interpreter."""

import json
import subprocess
import sys
import threading

import pytest

from mooring.backends.pickled_object import MODEL_FILE, describe, load_object, write_object
from mooring.core.errors import ModelLoadFailed

# What a notebook's cells are: code without a file, in __main__.
CELLS = """
from __future__ import annotations
import dataclasses, enum
from typing import Annotated
import msgspec

class Color(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Point:
    x: int
    tags: list[str] = dataclasses.field(default_factory=list)
    color: Color = Color.RED

class Order(msgspec.Struct, frozen=True, rename="camel"):
    item_count: Annotated[int, msgspec.Meta(ge=1)]
    note: str = "none"
    lines: list[Point] = []

    def doubled(self) -> int:
        return self.item_count * factor

factor = 2

def order(order: Order, point: Point | None = None) -> list[Point]:
    return [order, point]
"""
WRITE = """
import sys, __main__
from pathlib import Path
exec({cells!r}, __main__.__dict__)
from mooring.backends.pickled_object import write_object
print(write_object(__main__.__dict__["order"], Path({folder!r})))
"""
READ = """
import dataclasses, json, typing
import msgspec
from mooring.backends.pickled_object import load_object
order = load_object({file!r})
hints = typing.get_type_hints(order)
Order, Point = hints["order"], typing.get_args(hints["point"])[0]
made = msgspec.convert({{"itemCount": 3, "lines": [{{"x": 1}}]}}, Order)
try:
    msgspec.convert({{"itemCount": 0}}, Order)
except msgspec.ValidationError as error:
    refused = str(error)
print(json.dumps([made.doubled(), made.note, refused, [each.name for each in dataclasses.fields(Point)],
    repr(Point(1)), repr(made.lines), isinstance(made.lines[0], Point)]))
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.processes
def test_functions_of_a_notebook_keep_their_hints_in_another_interpreter(tmp_path):
    file = run(WRITE.format(cells=CELLS, folder=str(tmp_path / "order")))
    point = "Point(x=1, tags=[], color=<Color.RED: 'red'>)"
    assert json.loads(run(READ.format(file=file))) == [
        6,
        "none",
        "Expected `int` >= 1 - at `$.itemCount`",
        ["x", "tags", "color"],
        point,
        f"[{point}]",
        True,
    ]


@pytest.mark.processes
def test_classes_go_that_msgspec_has_read_already(tmp_path):
    cells = CELLS + '\nmsgspec.json.decode(b\'{"x": 1, "color": "red"}\', type=Point)\n'
    file = run(WRITE.format(cells=cells, folder=str(tmp_path / "order")))
    assert json.loads(run(READ.format(file=file)))[0] == 6


@pytest.mark.processes
def test_a_function_with_a_cache_goes_with_an_empty_one(tmp_path):
    cells = CELLS + "\nimport functools\n@functools.lru_cache(7)\ndef order(x): return x * factor\n"
    file = run(WRITE.format(cells=cells, folder=str(tmp_path / "order")))
    code = f"from mooring.backends.pickled_object import load_object\norder = load_object({file!r})\n"
    assert run(f"{code}print(order(3), order.cache_info().maxsize)") == "6 7"


def test_a_function_comes_back_with_what_it_closes_over(tmp_path):
    factor = 3

    def scale(x: int) -> int:
        return x * factor

    file = write_object(scale, tmp_path)
    assert file.name == MODEL_FILE
    assert load_object(str(file))(2) == 6


def test_what_cannot_be_pickled_is_named_with_the_way_out(tmp_path):
    lock = threading.Lock()

    def predict(x):
        with lock:
            return x

    with pytest.raises(
        TypeError,
        match=r"function 'predict' cannot be sent .*'lock', which it uses, is a lock.* load of a class",
    ):
        write_object(predict, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_class_names_its_attribute_that_cannot_be_pickled(tmp_path):
    class Model:
        gate = threading.Lock()

        def infer(self, x):
            return x

    with pytest.raises(TypeError, match=r"class 'Model' .*'gate', which it uses, is a lock"):
        write_object(Model, tmp_path)


def test_a_pickle_that_others_could_have_written_is_not_read(tmp_path):
    file = write_object(lambda x: x, tmp_path / "made")
    file.parent.chmod(0o777)
    with pytest.raises(ModelLoadFailed, match="other users can write here"):
        load_object(str(file))


def test_objects_are_called_what_they_are():
    assert describe(describe) == "function 'describe'"
    assert describe(ModelLoadFailed) == "class 'ModelLoadFailed'"
    assert describe(3) == "object 'int'"

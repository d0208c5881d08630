"""What mooring.serve is given becomes targets: pure rules, and files of what must be pickled."""

import functools
import sys
import types
from pathlib import Path

import pytest

from mooring.backends.pickled_object import MODEL_FILE, load_object
from mooring.python_api.targets import file_target, name_of, to_targets
from mooring.testing import Client


def double(x):
    return x * 2


class Model:
    def infer(self, x):
        return x


class Caller:
    def __call__(self, x):
        return x + 1


def no_folder():
    raise AssertionError("nothing is to be pickled")


@pytest.fixture
def folder(tmp_path):
    return lambda: tmp_path


def test_paths_are_targets_as_they_are():
    assert to_targets("app:Model", no_folder) == ["app:Model"]
    assert to_targets(Path("digits.onnx"), no_folder) == ["digits.onnx"]
    assert to_targets({"a": "x.onnx", "b": Path("y.pt2")}, no_folder) == ["a=x.onnx", "b=y.pt2"]
    assert to_targets(None, no_folder) == []


def test_what_a_file_defines_is_served_from_there():
    assert to_targets(double, no_folder) == [f"{__file__}:double"]
    assert to_targets({"mine": Model}, no_folder) == [f"mine={__file__}:Model"]


def test_what_no_file_defines_by_name_is_pickled_under_its_own_name(folder, tmp_path):
    def local(x):
        return x

    assert to_targets(local, folder) == [f"local={tmp_path}/local/{MODEL_FILE}:served"]
    assert to_targets(lambda x: x, folder) == [f"lambda={tmp_path}/lambda/{MODEL_FILE}:served"]
    assert to_targets({"f": Caller()}, folder) == [f"f={tmp_path}/f/{MODEL_FILE}:served"]
    assert load_object(f"{tmp_path}/f/{MODEL_FILE}")(1) == 2


def test_a_name_that_means_something_else_by_now_is_not_taken_from_the_file(monkeypatch):
    old = double
    monkeypatch.setattr(sys.modules[__name__], "double", lambda x: x)
    assert file_target(old) == ""


def test_modules_of_packages_are_not_imported_as_files(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "__package__", "pkg")
    assert file_target(double) == ""


def test_later_cells_are_not_of_the_file_that_ran_before_them(monkeypatch):
    main = types.ModuleType("__main__")
    main.__file__ = __file__
    exec(compile("def cell(x):\n    return x", "<cell>", "exec"), main.__dict__)
    main.double = double
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(double, "__module__", "__main__")
    assert file_target(main.cell) == ""
    assert file_target(double) == f"{__file__}:double"


def test_what_a_script_defines_under_its_guard_is_not_there_when_it_is_imported(tmp_path, monkeypatch):
    file = tmp_path / "script.py"
    file.write_text(
        "def plain(x):\n    return x\n\nif __name__ == '__main__':\n    def guarded(x):\n        return x\n"
    )
    main = types.ModuleType("__main__")
    main.__file__ = str(file)
    exec(compile(file.read_text(), str(file), "exec"), main.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert file_target(main.plain) == f"{file}:plain"
    assert file_target(main.guarded) == ""


def test_names_of_models_are_those_of_functions():
    assert name_of(double) == "double"
    assert name_of(functools.partial(double, x=1)) == "double"
    assert name_of(Caller()) == "Caller"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Model(), r"takes the class Model, not an object of it: every worker makes its own"),
        (3, "a dict of those by name, not int"),
        (["a.onnx"], r"not a list; several are given as \{'name': target"),
        ({}, "an empty dict"),
        ({1: double}, "names of models are strings, not int"),
    ],
)
def test_what_cannot_be_served_is_a_type_error(target, said):
    with pytest.raises(TypeError, match=said):
        to_targets(target, no_folder)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a=b", "a\n", "\ud800", "x" * 201])
def test_a_name_that_no_model_can_have_is_refused(name, folder, tmp_path):
    with pytest.raises(ValueError, match="cannot be the name of a model: a name has 1 to 200 bytes"):
        to_targets({name: Caller()}, folder)
    with pytest.raises(ValueError, match="cannot be the name of a model"):
        Client({name: Caller()})
    assert not list(tmp_path.iterdir())


def test_other_names_may_have_any_letters(folder, tmp_path):
    (target,) = to_targets({"a b:\u00fc": Caller()}, folder)
    assert target == f"a b:\u00fc={tmp_path}/a b:\u00fc/{MODEL_FILE}:served"

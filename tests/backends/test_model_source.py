"""A model's code is what its files say now, whatever bytecode lies beside them."""

import importlib.util
import os
import py_compile
import sys

import pytest

from mooring.backends.model_source import bypass_bytecode_cache, import_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "path_hooks", list(sys.path_hooks))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path


def write_stale(file):
    """Write a module whose cached bytecode has another value, with the size and time that Python checks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("VALUE = 1\n")
    os.utime(file, (1, 1))
    py_compile.compile(str(file))
    file.write_text("VALUE = 2\n")
    os.utime(file, (1, 1))


def test_python_itself_runs_the_stale_bytecode(folder):
    write_stale(folder / "stale_helper.py")
    assert importlib.import_module("stale_helper").VALUE == 1


def test_a_model_file_is_compiled_from_its_source_and_leaves_no_bytecode(folder):
    write_stale(folder / "model.py")
    assert import_source("some_model", folder / "model.py").VALUE == 2
    (folder / "other.py").write_text("VALUE = 3\n")
    assert import_source("some_other", folder / "other.py").VALUE == 3
    assert [each.name.partition(".")[0] for each in (folder / "__pycache__").iterdir()] == ["model"]


def test_modules_and_packages_beside_it_are_compiled_too(folder):
    write_stale(folder / "stale_helper.py")
    write_stale(folder / "stale_package/__init__.py")
    write_stale(folder / "stale_package/inner.py")
    # Python keeps a finder for the folder once it has looked for a module.
    assert importlib.util.find_spec("no_module_of_this_name") is None
    bypass_bytecode_cache(str(folder))
    for name in ("stale_helper", "stale_package", "stale_package.inner"):
        assert importlib.import_module(name).VALUE == 2


def test_installed_packages_in_the_folder_and_folders_beside_it_keep_their_bytecode(folder):
    packages, beside = folder / ".packages", folder.parent / f"{folder.name}-beside"
    for number, place in enumerate((packages, beside)):
        write_stale(place / f"stale_library_{number}.py")
        sys.path.insert(0, str(place))
    bypass_bytecode_cache(str(folder), str(packages))
    assert importlib.import_module("stale_library_0").VALUE == 1
    assert importlib.import_module("stale_library_1").VALUE == 1


def test_a_module_that_is_shipped_without_its_source_is_imported(folder):
    source = folder / "only_bytecode.py"
    source.write_text("VALUE = 4\n")
    py_compile.compile(str(source), cfile=str(folder / "only_bytecode.pyc"))
    source.unlink()
    bypass_bytecode_cache(str(folder))
    assert importlib.import_module("only_bytecode").VALUE == 4


def test_a_module_that_fails_is_not_left_behind_and_another_file_is_refused(folder):
    (folder / "broken.py").write_text("import sys\nassert __name__ in sys.modules\nraise ValueError('own')\n")
    with pytest.raises(ValueError, match="own"):
        import_source("broken_model", folder / "broken.py")
    assert "broken_model" not in sys.modules
    with pytest.raises(ImportError, match="is not a Python file"):
        import_source("text", folder / "notes.txt")

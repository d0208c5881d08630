"""Which files belong to a model, and when they have changed."""

import os

import pytest
from model_kit import model_options

from mooring.repository.source_files import SourceFiles, is_source, source_files
from mooring.repository.spec import ModelSpec


def names(look):
    return {path.name for path in look.files}


@pytest.fixture
def folder(tmp_path):
    for name in ("app.py", "helper.py", "data.csv", ".hidden.py", "app.pyc", "helper.py~"):
        (tmp_path / name).write_text("x")
    for name in ("package", "package/inner", "plain", "__pycache__", ".venv", "venv"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text("x")
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "words.txt").write_text("")
    return tmp_path


def test_a_python_file_has_its_neighbours_and_the_packages_beside_it(folder):
    look = SourceFiles(folder / "app.py", root=folder).look()
    assert {str(path.relative_to(folder)) for path in look.files} == {
        "app.py",
        "helper.py",
        "package/__init__.py",
        "package/module.py",
        "package/inner/module.py",
    }
    assert look.folders == {folder, folder / "package", folder / "package" / "inner"}


def test_a_folder_of_a_model_has_everything_that_is_not_hidden_or_a_cache(folder):
    look = SourceFiles(folder, whole=True).look()
    assert {"app.py", "data.csv", "words.txt", "module.py"} == names(look) - {"helper.py", "__init__.py"}
    assert folder / "plain" in look.folders
    assert not look.folders & {folder / "__pycache__", folder / ".venv", folder / "venv"}


def test_an_archive_is_itself_alone(folder):
    assert names(SourceFiles(folder / "data.csv").look()) == {"data.csv"}


def test_a_file_that_is_written_replaced_added_or_removed_is_a_change_and_nothing_else(folder):
    source = SourceFiles(folder / "app.py", root=folder)
    before = source.look()
    assert source.look().changed_since(before) == []
    (folder / "data.csv").write_text("another")
    (folder / "__pycache__" / "app.pyc").write_text("another")
    assert source.look().changed_since(before) == []
    (folder / "app.py").write_text("xy")
    (folder / "helper.py").unlink()
    (folder / "new.py").write_text("")
    assert [path.name for path in source.look().changed_since(before)] == ["app.py", "helper.py", "new.py"]


def test_a_file_of_equal_size_and_time_that_took_the_place_of_another_is_a_change(folder):
    source = SourceFiles(folder / "app.py")
    before, state = source.look(), (folder / "app.py").stat()
    (folder / "other").write_text("y")
    os.utime(folder / "other", ns=(state.st_atime_ns, state.st_mtime_ns))
    (folder / "other").rename(folder / "app.py")
    assert source.look().changed_since(before) == [folder / "app.py"]


def test_a_file_that_is_gone_for_a_moment_is_no_error(folder):
    source = SourceFiles(folder / "app.py", root=folder)
    (folder / "app.py").unlink()
    assert names(source.look()) == {"helper.py", "__init__.py", "module.py"}


def test_a_link_is_followed_and_its_own_folder_is_watched_too(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "app.onnx").write_text("x")
    link = tmp_path / "app.onnx"
    link.symlink_to("real/app.onnx")
    assert SourceFiles(link).look().folders == {tmp_path, tmp_path / "real"}


def spec_of(location, url, backend="function", entry=""):
    return ModelSpec(
        name="m",
        version="1",
        backend=backend,
        location=str(location),
        entry=entry,
        url=url,
        options=model_options(),
    )


def test_the_files_of_a_target_are_those_that_the_user_has(folder):
    python = spec_of(folder, f"{folder}/app.py:fn", entry="app.py:fn")
    assert source_files(python) == SourceFiles(folder / "app.py", root=folder)
    assert source_files(spec_of("/unpacked/0", f"{folder}/data.csv", "handler")) == SourceFiles(
        folder / "data.csv"
    )
    assert source_files(spec_of(folder, str(folder), "handler")) == SourceFiles(folder, whole=True)
    assert source_files(spec_of("/unpacked/0", "https://models.example/m.mar", "handler")) is None


@pytest.mark.parametrize("name", ["app.py", "model.onnx", "Makefile", "weights.pt"])
def test_what_a_model_may_be_made_of(name):
    assert is_source(name)


@pytest.mark.parametrize(
    "name", [".app.py.swp", "app.py~", "#app.py#", "__pycache__", ".git", "app.pyc", "x.tmp"]
)
def test_what_no_model_is_made_of(name):
    assert not is_source(name)

"""What is imported for workers before anybody has read the models: a glance at files, and what becomes of a wrong one."""

import os

import pytest

from mooring.backends.preloads import libraries, likely
from mooring.config import Config
from mooring.workers.libraries import Libraries

ONE, OTHER = ("json",), ("json", "csv")


@pytest.fixture
def begun():
    libraries = Libraries(os.environ)
    yield libraries
    libraries.close()


def running(process):
    return process._process.poll() is None


def test_files_of_native_models_tell_what_they_need(tmp_path):
    for file in ("a/1/model.pt", "b/1/model.onnx", "c/2/model.pt2", "d/1/model.py", "d/1/notes.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert likely(Config(model_repository=tmp_path)) == {
        libraries("pytorch", "model.pt"),
        libraries("pytorch", "model.pt2"),
        libraries("onnx", "model.onnx"),
    }
    assert likely(Config(model_repository=tmp_path, repository_load_existing=False)) == set()


def test_targets_tell_what_they_need():
    assert likely(Config(targets=("net=models/net.pt",))) == {libraries("pytorch", "net.pt")}
    assert likely(Config(targets=("models/code.py:f", "digits.mar", "folder"))) == set()


def test_a_repository_that_is_not_there_is_no_fault_of_a_glance(tmp_path):
    assert likely(Config(model_repository=tmp_path / "nowhere")) == set()


def test_a_wrong_glance_is_ended_and_a_right_one_is_taken(begun):
    begun.begin(ONE)
    begun.begin(OTHER)
    wrong, right = begun._begun[ONE], begun._begun[OTHER]
    begun.begin_only({OTHER})
    assert not running(wrong)
    taken = begun.take(OTHER)
    assert taken is right
    assert running(taken)
    begun.close()  # it is no longer its own
    assert running(taken)
    taken.end()


def test_what_nobody_takes_is_ended(begun):
    begun.begin(ONE)
    process = begun._begun[ONE]
    begun.close()
    assert not running(process)


def test_what_was_not_begun_is_begun_when_it_is_taken(begun):
    process = begun.take(ONE)
    assert running(process)
    process.end()

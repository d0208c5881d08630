"""What is imported for workers before anybody has read the models: a glance at files, and what becomes of a wrong one."""

import os
import zipfile
from pathlib import Path

import pytest

from mooring.config.settings import Config
from mooring.ipc.log_records import decode_record
from mooring.ipc.template_protocol import READY, RECORD
from mooring.repository.preloads import guess_modules, libraries
from mooring.workers.libraries import Libraries
from mooring.workers.libraries import start_libraries as begun_for
from mooring.workers.library_process import LibraryProcess

pytestmark = pytest.mark.processes

ONE, OTHER = ("json",), ("json", "csv")


@pytest.fixture
def begun():
    libraries = Libraries(os.environ)
    yield libraries
    libraries.close()


@pytest.fixture
def first():
    process = LibraryProcess(os.environ)
    yield process
    process.end()


def running(process):
    return process._process.poll() is None


def test_files_of_native_models_tell_what_they_need(tmp_path):
    for file in ("a/1/model.pt", "b/1/model.onnx", "c/2/model.pt2", "d/1/model.py", "d/1/notes.txt"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert guess_modules(Config(model_repository=(tmp_path,))) == {
        libraries("pytorch", "model.pt"),
        libraries("pytorch", "model.pt2"),
        libraries("onnx", "model.onnx"),
    }
    assert guess_modules(Config(model_repository=(tmp_path,), repository_load_existing=False)) == set()


def test_targets_tell_what_they_need(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert guess_modules(Config(targets=("net=models/net.pt",))) == {libraries("pytorch", "net.pt")}
    assert guess_modules(Config(targets=("models/code.py:f", "digits.mar", "folder"))) == set()


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as members:
        for name in names:
            members.writestr(name, "x")


def test_archives_with_weights_tell_that_their_handlers_need_torch(tmp_path):
    archive(tmp_path / "net.mar", "MAR-INF/MANIFEST.json", "handler.py", "net.pt")
    archive(tmp_path / "text.mar", "MAR-INF/MANIFEST.json", "handler.py", "words.txt")
    (tmp_path / "broken.mar").write_bytes(b"PK")
    torch = {("torch", *libraries("handler", "handler.py"))}
    assert guess_modules(Config(targets=(f"n={tmp_path / 'net.mar'}",))) == torch
    assert guess_modules(Config(targets=(str(tmp_path / "text.mar"), str(tmp_path / "broken.mar")))) == set()
    assert guess_modules(Config(model_store=tmp_path, models=("all",))) == torch
    assert guess_modules(Config(model_store=tmp_path, models=("n=net.mar",))) == torch
    assert guess_modules(Config(model_store=tmp_path, models=("text.mar", "no-such.mar"))) == set()
    assert guess_modules(Config(model_store=tmp_path)) == set()


def test_a_repository_that_is_not_there_is_no_fault_of_a_glance(tmp_path):
    assert guess_modules(Config(model_repository=(tmp_path / "nowhere",))) == set()


def test_a_wrong_glance_is_ended_and_a_right_one_is_taken(begun):
    begun.start_import(ONE)
    begun.start_import(OTHER)
    wrong, right = begun._begun[ONE], begun._begun[OTHER]
    begun.start_only({OTHER})
    assert not running(wrong)
    taken = begun.take_process(OTHER)
    assert taken is right
    assert running(taken)
    begun.close()  # it is no longer its own
    assert running(taken)
    taken.end()


def test_what_nobody_takes_is_ended(begun):
    begun.start_import(ONE)
    process = begun._begun[ONE]
    begun.close()
    assert not running(process)


def test_what_was_not_begun_is_begun_when_it_is_taken(begun):
    process = begun.take_process(ONE)
    assert running(process)
    process.end()


def test_the_first_process_goes_to_those_that_need_the_library_that_takes_longest(first):
    libraries = Libraries(first.environment, first)
    libraries.start_only({ONE, ("torch", "json")})
    assert libraries._begun["torch", "json"] is first
    assert libraries._begun[ONE] is not first
    libraries.close()
    assert not running(first)


def test_the_first_process_is_taken_by_who_was_not_foreseen(first):
    libraries = Libraries(first.environment, first)
    assert libraries.take_process(ONE) is first
    libraries.close()
    assert running(first)


def test_the_first_process_is_ended_where_no_model_is_found(first):
    Libraries(first.environment, first).start_only(set())
    assert not running(first)


@pytest.mark.parametrize(
    "settings", [{"blacklist_env_vars": "FOR_THE_SERVER_.*"}, {"number_of_gpu": 1}], ids=["hidden", "devices"]
)
def test_the_first_process_is_of_no_use_where_workers_see_other_variables(settings, monkeypatch):
    monkeypatch.setenv("FOR_THE_SERVER_ALONE", "x")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with_it = LibraryProcess(os.environ)
    libraries = begun_for(Config(**settings), with_it)
    assert not running(with_it)
    process = libraries.take_process(ONE)
    assert process.environment.get("FOR_THE_SERVER_ALONE") == (
        None if "blacklist_env_vars" in settings else "x"
    )
    process.end()


def test_a_process_that_is_told_nothing_ends_with_who_began_it(first):
    first.control.close()
    assert first._process.wait(20) == 0


def test_what_a_library_prints_and_logs_while_it_is_imported_is_for_the_log(tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import logging\nprint('printed', flush=True)\nlogging.getLogger('noisy').info('logged')\n"
    )
    process = LibraryProcess({**os.environ, "PYTHONPATH": str(tmp_path)})
    process.load(("noisy",))
    assert process.control.recv(RECORD.size)[:8] == RECORD.pack(READY, 0, 0)[:8]
    with os.fdopen(process.take_output(), "rb") as output:
        process.end()
        printed, logged = output.read().splitlines()
    assert printed == b"printed"
    assert decode_record(logged).text == "logged"


def test_onnx_runtime_tells_nobody_of_the_models():
    """It has a thread for that, which would break a template's promise to have one thread."""
    own = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    process = LibraryProcess(own)
    try:
        process.load(["onnxruntime"])
        process.control.settimeout(60)
        kind, pid, _ = RECORD.unpack(process.control.recv(RECORD.size))
        assert (kind, pid) == (READY, process.pid)
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1
    finally:
        process.end()

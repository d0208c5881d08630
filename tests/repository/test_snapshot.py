"""Snapshots are what TorchServe writes and reads: names, keys and all; whole, and not without number."""

import json
import os
import stat
from datetime import datetime, timedelta

import pytest
from model_kit import model_spec

from mooring.config.properties import parse_properties
from mooring.config.settings import ModelSettings
from mooring.config.sources.loading import load_config
from mooring.repository.snapshot import (
    MAX_SNAPSHOTS,
    newest_snapshot,
    restore_settings,
    save_snapshot,
    snapshot_settings,
)

NOW = datetime(2026, 11, 21, 9, 41, 5, 123_000).astimezone()
SPEC = model_spec(
    name="m", version="1.0", backend="handler", location="/m", entry="handler.py", url="m.mar",
    min_workers=2, max_workers=4, max_batch_size=8, max_delay=0.05, response_timeout=0.5, startup_timeout=60,
    manifest={"runtime": "python3", "model": {"handler": "handler.py"}},
)  # fmt: skip


def saved(folder, kind="snapshot", now=NOW, **models):
    return save_snapshot(folder, kind, now, {"model_store": "/store: a"}, models)


def test_a_snapshot_is_a_configuration_with_the_models_in_it(tmp_path):
    settings = snapshot_settings(SPEC, "m.mar", is_default=True)
    file = saved(tmp_path / "logs/config", m={"1.0": settings})
    assert file.name == "20261121094105123-snapshot.cfg"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = parse_properties(file.read_text())
    assert found["model_store"] == "/store: a"
    assert json.loads(found["model_snapshot"]) == {
        "name": file.name, "modelCount": 1, "created": round(NOW.timestamp() * 1000),
        "models": {"m": {"1.0": {
            "defaultVersion": True, "marName": "m.mar", "minWorkers": 2, "maxWorkers": 4, "batchSize": 8,
            "maxBatchDelay": 50, "responseTimeout": 0.5, "startupTimeout": 60, "runtimeType": "python3",
        }}},
    }  # fmt: skip
    assert load_config({}, {}, file).model_snapshot.models == {"m": {"1.0": settings}}


def test_what_was_served_is_served_again_whatever_the_archive_says(tmp_path):
    changed = snapshot_settings(SPEC, "m.mar", is_default=True)
    other = model_spec(name="m", version="1.0", backend="handler", location="/m", entry="handler.py")
    again = restore_settings(other, changed)
    assert (again.options, again.entry) == (SPEC.options, SPEC.entry)


def test_a_handler_that_an_operator_named_comes_back_too():
    settings = ModelSettings(mar_name="m.mar", handler="other.py:fn")
    again = restore_settings(SPEC, settings)
    assert (again.entry, again.manifest["model"]["handler"]) == ("other.py:fn", "other.py:fn")
    assert snapshot_settings(again, "m.mar", is_default=False).handler == "other.py:fn"
    assert snapshot_settings(restore_settings(SPEC, ModelSettings()), "m.mar", is_default=False).handler == ""


def test_two_in_one_millisecond_have_two_names_and_the_later_one_is_newest(tmp_path):
    first, second = saved(tmp_path), saved(tmp_path, "shutdown")
    assert (first.name, second.name) == ("20261121094105123-snapshot.cfg", "20261121094105124-shutdown.cfg")
    os.utime(first, ns=(1, 1))
    assert newest_snapshot(tmp_path) == second


def test_only_the_newest_hundred_stay_and_nothing_else_goes(tmp_path):
    (tmp_path / "mine.cfg").write_text("")
    for number in range(MAX_SNAPSHOTS + 3):
        os.utime(saved(tmp_path, now=NOW + timedelta(seconds=number)), ns=(number + 1, number + 1))
    left = {file.name for file in tmp_path.iterdir()}
    assert "mine.cfg" in left
    assert len(left) == MAX_SNAPSHOTS + 1
    assert "20261121094105123-snapshot.cfg" not in left


def test_where_there_is_nothing_there_is_no_newest(tmp_path):
    assert newest_snapshot(tmp_path / "nowhere") is None
    (tmp_path / "notes-snapshot.cfg").write_text("")
    assert newest_snapshot(tmp_path) is None


def test_a_snapshot_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        saved(tmp_path)
    assert list(tmp_path.iterdir()) == []

"""The example that serves from Python: as a program, and by its own tests."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/from_python"


@pytest.mark.processes
def test_the_script_serves_asks_and_stops(tmp_path):
    script = [sys.executable, FOLDER / "serve.py"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "models: distance greet",
        "greeting: [b'Hello, Ada' b'Hello, Ada']",
        "distance: [0. 5.]",
        "running: False",
    ]


def test_its_own_tests_pass(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    tests = runpy.run_path(str(FOLDER / "test_serve.py"))
    names = [name for name in tests if name.startswith("test_")]
    assert len(names) == 4
    for name in names:
        tests[name]()
    del sys.modules["serve"]

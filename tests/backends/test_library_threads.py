"""The libraries of a model have the threads of its worker, whether they are imported before or by the model."""

import os
import subprocess
import sys

import pytest
import torch

from mooring.backends.library_threads import limit_library_threads

TELL = "import torch; print(torch.get_num_threads())"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    os.environ.pop("OMP_NUM_THREADS", None)


def test_torch_that_is_there_is_told():
    limit_library_threads(3)
    assert torch.get_num_threads() == 3


@pytest.mark.processes
def test_torch_that_is_imported_later_reads_it():
    limit_library_threads(1)
    told = subprocess.run(
        [sys.executable, "-c", TELL], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "1\n"


def test_a_number_that_the_user_has_set_in_the_environment_stays():
    os.environ["OMP_NUM_THREADS"] = "7"
    limit_library_threads(2)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_without_a_number_nothing_is_limited():
    before = torch.get_num_threads()
    limit_library_threads(0)
    assert torch.get_num_threads() == before
    assert "OMP_NUM_THREADS" not in os.environ

"""The harness as a fixture: an engine that is closed when the test is over."""

import os
from pathlib import Path

import pytest
from worker_kit import Harness


@pytest.fixture
async def harness(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    harness = Harness()
    yield harness
    await harness.engine.close()

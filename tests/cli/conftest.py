import sys
import tempfile
import types

import pytest
from click.testing import CliRunner
from logging_kit import logging_restored

from mooring.cli.commands import commands
from mooring.server.reservation import Reservation
from mooring.server.startup import Startup


@pytest.fixture
def server(monkeypatch):
    """Stands in for mooring.server.server: keeps the Config it was run with, and is given no models."""
    fake = types.ModuleType("mooring.server.server")
    fake.config = None
    fake.models = []
    fake.fails = None
    fake.example = None

    def run(config, startup, *, started, view):
        fake.config = config
        if fake.fails is not None:
            raise fake.fails
        started(config, fake.models, fake.example)
        return 3

    fake.run = run
    monkeypatch.setitem(sys.modules, "mooring.server.server", fake)
    monkeypatch.setattr(Startup, "find", lambda startup: [])
    monkeypatch.setattr(Reservation, "reserve", lambda reservation: None)  # the ports may be another test's
    return fake


@pytest.fixture
def mooring(server, monkeypatch, tmp_path):
    """Runs a command line in an empty folder and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("TS_CONFIG_FILE", "LOG_LOCATION", "METRICS_LOCATION", "TEMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the pid file is

    def run(*args, **environ):
        return CliRunner().invoke(commands, args, env=environ, prog_name="mooring")

    with logging_restored():
        yield run

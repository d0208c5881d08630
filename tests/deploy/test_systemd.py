"""The unit of systemd: its own tools read it, and find little that it may do beyond what it needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from board_kit import ROOT

from mooring.config.settings import DEFAULTS

UNIT = ROOT / "deploy/systemd/mooring.service"
ANALYZE = shutil.which("systemd-analyze")
# Of 10: "OK" begins at 2.0 in its words, and a unit without hardening has 9.6.
MOST_EXPOSED = 2.0


def needs_analyze(test):
    return pytest.mark.processes(
        pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")(test)
    )


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with a program that is there."""
    text = UNIT.read_text()
    assert text.count("/opt/mooring/bin/mooring") == 1
    file = tmp_path / UNIT.name
    file.write_text(text.replace("/opt/mooring/bin/mooring", str(Path(sys.executable).with_name("mooring"))))
    return file


def value_of(key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return value


@needs_analyze
def test_systemd_knows_every_key_and_value(unit):
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
def test_a_misspelt_key_is_found(unit):
    unit.write_text(unit.read_text().replace("OOMPolicy=", "OOMPolice="))
    assert "OOMPolice" in analyze("verify", unit).stderr


@needs_analyze
def test_it_may_do_little_that_it_does_not_need(unit):
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", unit)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_analyze
def test_the_threshold_finds_a_unit_that_may_do_more(unit):
    unit.write_text(
        unit.read_text().replace("CapabilityBoundingSet=\n", "").replace("SystemCallFilter=", "#")
    )
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED * 10:.0f}", unit)
    assert done.returncode != 0


def test_requests_are_answered_before_it_is_killed():
    """And the death of one worker does not end it."""
    assert value_of("KillMode") == "mixed"
    assert float(value_of("TimeoutStopSec")) > DEFAULTS.drain_timeout + DEFAULTS.pre_stop_delay
    assert value_of("OOMPolicy") == "continue"
    assert value_of("Type") == "notify"

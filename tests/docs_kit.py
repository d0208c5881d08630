"""The documentation site, built as ``make docs`` builds it: once in a run of the tests, whichever process needs it first."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "scripts" / "build_docs.py"


def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site. Skips the test where Sphinx is not installed; fails it at a warning or a dead link."""
    pytest.importorskip("furo", reason="the documentation's tools are not installed: pip install '.[docs]'")
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes of this run
    site, report = folder / "site", folder / "site.txt"
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            built = subprocess.run(
                [sys.executable, str(BUILD), "--output", str(site)],
                check=False, capture_output=True, text=True, timeout=280,
            )  # fmt: skip
            report.write_text(built.stderr or ("" if built.returncode == 0 else f"status {built.returncode}"))
    assert report.read_text() == ""
    return site

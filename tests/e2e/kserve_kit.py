"""A Python that has the kserve package, for its clients, its ModelServer and its types.

kserve pins packages that Mooring needs newer, and its protobuf messages have the names of tritonclient's. Where pip
cannot get it, the tests are skipped: they say so.
"""

import subprocess
import sys
import venv

import pytest

KSERVE = "kserve==0.21.0"

one_after_another = pytest.mark.xdist_group("kserve")
"""Of every file that asks for the environment: it is made once."""


@pytest.fixture(scope="session")
def kserve(pytestconfig):
    """A Python that has kserve; made once, and kept where pytest keeps what may be lost."""
    folder = pytestconfig.cache.mkdir("kserve-" + KSERVE.partition("==")[2])
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        venv.create(folder, clear=True)  # the pip here fills it: one of its own takes seconds to put there
        pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--quiet"]
        pip += ["install", "--no-compile", KSERVE]
        made = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=500)
        if made.returncode:
            pytest.skip(f"pip cannot get {KSERVE}: {made.stderr[-300:]}")
        done.touch()
    return python

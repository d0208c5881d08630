"""KServe's InferenceRESTClient and InferenceGRPCClient, in a process and an environment of their own.

kserve pins packages that Mooring needs newer, and its protobuf messages have the names of tritonclient's. Where pip
cannot get it, the tests are skipped: they say so.
"""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

KSERVE = "kserve==0.21.0"
ASKS = Path(__file__).parent / "kserve_asks.py"
OUTPUTS = {"total": [12.0, 3.0], "peak": [3.0, 0.5]}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def found(kserve, tensors):
    """Everything that the clients found."""
    asked = subprocess.run(
        [kserve, ASKS, tensors.url, tensors.grpc_authority],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("way", ["rest", "rpc"])
def test_the_server_and_its_models_are_ready(found, way):
    said = found[way]
    assert [said[what] for what in ("live", "ready", "model ready", "model not there")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("way", ["rest", "rpc"])
@pytest.mark.parametrize("binary", [True, False])
def test_inference_with_its_defaults(found, way, binary):
    assert found[way][f"infer, binary {binary}"] == [OUTPUTS, "mine", "sums"]


def test_a_refusal_reaches_it_with_its_reason(found):
    status, text = found["rest"]["refused"]
    assert status == 400
    assert "factor" in text
    code, text = found["rpc"]["refused"]
    assert code == "INVALID_ARGUMENT"
    assert "factor" in text


def test_a_message_of_16_megabytes_passes(found):
    assert found["rpc"]["16 MB"]


def test_v1(found):
    assert found["rest"]["v1 live"] is True
    assert found["rest"]["v1 ready"] is True
    assert found["rest"]["v1 infer"] == {
        "predictions": [{"total": 12.0, "peak": 3.0}, {"total": 3.0, "peak": 0.5}]
    }

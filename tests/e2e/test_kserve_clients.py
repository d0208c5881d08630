"""KServe's InferenceRESTClient and InferenceGRPCClient, in a process and an environment of their own."""

import json
import subprocess
from pathlib import Path

import pytest
from kserve_kit import kserve, one_after_another

__all__ = ["kserve"]

ASKS = Path(__file__).parent / "kserve_asks.py"
OUTPUTS = {"total": [12.0, 3.0], "peak": [3.0, 0.5]}


@pytest.fixture(scope="module")
def found(kserve, tensors):
    """Everything that the clients found."""
    asked = subprocess.run(
        [kserve, ASKS, tensors.url, tensors.grpc_authority],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


pytestmark = [pytest.mark.timeout(600), one_after_another]


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

"""TorchServe's ts package, as handlers that are served use it and as a notebook or a test of a user's does."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
from e2e_kit import PATIENCE, assert_gone, pack, serving
from port_kit import free_ports

from mooring.backends.handler.entry import COMPAT

# Arguments are read at import, as many scripts do that became handlers.
OWN_ENVELOPE = """
import argparse

from ts.torch_handler.request_envelope.base import BaseEnvelope

options = argparse.ArgumentParser()
options.add_argument("--mark", default="!")
MARK = options.parse_args().mark


class Lines(BaseEnvelope):
    def parse_input(self, data):
        self.counts = [len(row["body"].split()) for row in data]
        return [word.decode() for row in data for word in row["body"].split()]

    def format_output(self, data):
        words = iter(data)
        return [" ".join(next(words) for _ in range(count)) for count in self.counts]


def shout(words, context):
    return [word.upper() + MARK for word in words]


envelope = Lines(shout)


def handle(data, context):
    return envelope.handle(data, context) if data else None
"""

NOTEBOOK = """
import mooring.launcher
from ts.launcher import register_model, start, stop

mooring.launcher._MODELS = "http://127.0.0.1:{port}/models"
lines = start(model_store="store", snapshot_file="config.properties", no_config_snapshots=True, disable_token=True)
answer = register_model("rows", "rows.mar")
print("ANSWER", answer.status_code, answer.json()["status"])
stop()
while (line := lines.get(timeout=30)) is not None:
    pass
print("ENDED")
"""


def test_an_envelope_of_ones_own_is_served_and_arguments_are_read_in_a_worker(tmp_path):
    (tmp_path / "lines.py").write_text(OWN_ENVELOPE)
    (tmp_path / "store").mkdir()
    pack(tmp_path / "store", "lines", str(tmp_path / "lines.py"))
    with serving(tmp_path, "--model-store=store", "--models=all") as server:
        assert server.predict("lines", "one two").body == b"ONE! TWO!"


def test_a_notebook_starts_a_server_registers_a_model_and_stops_it(tmp_path):
    (tmp_path / "store").mkdir()
    pack(tmp_path / "store", "rows", "rows_handler.py")
    inference, management, metrics, grpc, grpc_management = free_ports(5)
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\n"
        f"management_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\n"
        f"grpc_inference_port={grpc}\ngrpc_management_port={grpc_management}\nenable_model_api=true\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MOORING_", "TS_"))}
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK.format(port=management)],
        cwd=tmp_path,
        env=environ | {"PYTHONPATH": str(COMPAT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Model server started." in done.stdout
    assert 'ANSWER 200 Model "rows" Version: 1.0 registered with 1 initial workers' in done.stdout
    assert "ENDED" in done.stdout
    assert_gone(
        process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(Path(tmp_path))
    )

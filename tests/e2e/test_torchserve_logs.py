"""The log files of TorchServe's command, and the output that a start in the background keeps."""

import os
import re
import subprocess
import urllib.request
from pathlib import Path

import psutil
import pytest
from e2e_kit import PATIENCE, SCRIPTS, assert_gone, free_ports, pack, run_to_end, until

HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
SAID = ("INIT-INFO weights from ", "A-PRINT", "AN-INFO batch of 1", "A-WARNING", "ROOT-INFO", "A-FAILURE")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A server with a handler that logs, started in the background with its output in a pipe; the lines until it was up."""
    folder = tmp_path_factory.mktemp("torchserve")
    pack(folder, "m", "logging_handler.py")
    (folder / "store").mkdir()
    (folder / "m.mar").rename(folder / "store/m.mar")
    inference, management, metrics, grpc, managing = free_ports(5)
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\ngrpc_management_port={managing}\n"
        "model_store=store\nload_models=m.mar\ndefault_workers_per_model=1\n"
    )
    environ = os.environ | {"TMPDIR": str(folder), "LOG_LOCATION": "elsewhere", "METRICS_LOCATION": "figures"}
    command = [SCRIPTS / "mooring", "torchserve", "--start", "--ncs", "--disable-token-auth"]
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "Model server started" in line:
                break
        assert process.wait(PATIENCE) == 0, lines
        yield folder, f"http://127.0.0.1:{inference}", process, lines
    finally:
        server = psutil.Process(int((folder / ".model_server.pid").read_text()))
        family = [server, *server.children(recursive=True)]
        run_to_end([SCRIPTS / "mooring", "torchserve", "--stop"], folder, environ)
        assert_gone(family)
        process.stdout.close()


def test_what_a_handler_logs_is_in_model_log_and_ts_log_with_its_level(started):
    folder, url, _, _ = started
    assert urllib.request.urlopen(f"{url}/predictions/m", b"x", timeout=PATIENCE).read() == b"ok"
    log = folder / "elsewhere/model_log.log"
    until(lambda: "A-FAILURE" in log.read_text())
    for file in (log, folder / "elsewhere/ts_log.log"):
        text = file.read_text()
        assert "A-DEBUG" not in text
        for said in SAID:
            level = "WARN " if "WARN" in said else "ERROR" if "FAIL" in said else "INFO "
            found = re.findall(
                rf"^{HEAD} \[{level}\] W-9000-m_1\.0-stdout MODEL_LOG - {said}.*$", text, re.MULTILINE
            )
            assert len(found) == 1, (said, text)
        assert re.search(r"A-FAILURE\n    Traceback .*\n(    .*\n)+    ValueError: on purpose\n", text)
    assert "model ready" not in log.read_text()
    assert re.search(rf"^{HEAD} \[INFO \] main mooring[.\w]+ - model ready", text, re.MULTILINE)


def test_all_of_torchserves_files_are_there(started):
    folder = started[0]
    for name in ("elsewhere/access_log", "figures/ts_metrics", "figures/model_metrics"):
        assert Path(folder, f"{name}.log").is_file()


def test_the_output_of_the_start_goes_on_with_the_log(started):
    _, url, process, lines = started
    assert any("model ready" in line for line in lines)
    assert urllib.request.urlopen(f"{url}/predictions/m", b"x", timeout=PATIENCE).read() == b"ok"
    assert any("MODEL_LOG - AN-INFO batch of 1" in line for line in process.stdout)


def test_a_folder_that_cannot_be_made_leaves_standard_output(tmp_path):
    (tmp_path / "logs").write_text("no folder")
    (tmp_path / "store").mkdir()
    inference, management, metrics, grpc, managing = free_ports(5)
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\ngrpc_management_port={managing}\n"
    )
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    command = [SCRIPTS / "mooring", "torchserve", "--model-store", "store"]
    done = run_to_end([*command, "--start", "--ncs"], tmp_path, environ)
    try:
        assert done.returncode == 0, done.stderr
        (warning,) = [line for line in done.stdout.splitlines() if "log files left out" in line]
        assert "[WARN ]" in warning
        assert "logs/ts_log.log" in warning
        assert "Model server started." in done.stdout
    finally:
        run_to_end([SCRIPTS / "mooring", "torchserve", "--stop"], tmp_path, environ)

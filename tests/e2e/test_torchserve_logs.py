"""The log files of TorchServe's command, and the output that a start in the background keeps."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from e2e_kit import PATIENCE, SCRIPTS, assert_gone, free_ports, pack, run_to_end, until

HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
SAID = ("INIT-INFO weights from ", "A-PRINT", "AN-INFO batch of 1", "A-WARNING", "ROOT-INFO", "A-FAILURE")


LOG4J2 = """<Configuration>
<Properties><Property name="where">${env:LOG_LOCATION:-logs}</Property></Properties>
<Appenders>
  <File name="models" fileName="${where}/models.json"><JsonLayout compact="true" eventEol="true" properties="true"/></File>
  <File name="requests" fileName="${where}/requests.log" append="false"><PatternLayout pattern="%m%n"/></File>
  <Console name="out"><PatternLayout pattern="%level %X{model} %m%n"/></Console>
</Appenders>
<Loggers>
  <Logger name="MODEL_LOG" level="warn" additivity="false"><AppenderRef ref="models"/></Logger>
  <Logger name="ACCESS_LOG" level="info" additivity="false"><AppenderRef ref="requests"/></Logger>
  <Root level="info"><AppenderRef ref="out"/></Root>
</Loggers></Configuration>"""


def install(folder: Path, *lines: str) -> str:
    """Make a folder with a store and a configuration; return the URL of the inference address."""
    (folder / "store").mkdir()
    inference, management, metrics, grpc, managing = free_ports(5)
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\ngrpc_management_port={managing}\n"
        + "".join(f"{line}\n" for line in ("model_store=store", *lines))
    )
    return f"http://127.0.0.1:{inference}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    pack(folder, "m", "logging_handler.py")
    return folder / "m.mar"


@pytest.fixture(scope="module")
def started(tmp_path_factory, archive):
    """A server with a handler that logs, started in the background with its output in a pipe; the lines until it was up."""
    folder = tmp_path_factory.mktemp("torchserve")
    url = install(folder, "load_models=m.mar", "default_workers_per_model=1")
    shutil.copy(archive, folder / "store")
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
        yield folder, url, process, lines
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


def test_the_traceback_of_a_failed_prediction_is_in_model_log(started):
    folder, url, _, _ = started
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"{url}/predictions/m", b"break=1", timeout=PATIENCE)
    for file in ("model_log.log", "ts_log.log"):
        log = folder / "elsewhere" / file
        until(lambda log=log: "ValueError: cannot be predicted\n" in log.read_text())
        text = log.read_text()
        assert re.search(r"MODEL_LOG - prediction failed model=m .*\n    Traceback .*\n", text)
        assert "left_out" not in text


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
    install(tmp_path)
    environ = os.environ | {"TMPDIR": str(tmp_path), "MOORING_LOG_FORMAT": "json"}
    command = [SCRIPTS / "mooring", "torchserve"]
    done = run_to_end([*command, "--start", "--ncs"], tmp_path, environ)
    try:
        assert done.returncode == 0, done.stderr
        said = {each["message"]: each["level"] for each in map(json.loads, done.stdout.splitlines())}
        assert said["Model server started."] == "info"
        (warning,) = [message for message in said if "log files left out" in message]
        assert "logs/ts_log.log" in warning
    finally:
        run_to_end([*command, "--stop"], tmp_path, environ)


def test_a_configuration_of_log4j_is_obeyed_by_every_process(tmp_path, archive):
    url = install(
        tmp_path, "load_models=m.mar", "default_workers_per_model=2",
        f"vmargs=-Xmx1g -Dlog4j.configurationFile=file://{tmp_path}/log4j2.xml",
    )  # fmt: skip
    shutil.copy(archive, tmp_path / "store")
    (tmp_path / "log4j2.xml").write_text(LOG4J2)
    environ = os.environ | {
        "TMPDIR": str(tmp_path),
        "MOORING_FRONTENDS": "2",
        "LOG_LOCATION": str(tmp_path / "l"),
    }
    command = [SCRIPTS / "mooring", "torchserve"]
    done = run_to_end([*command, "--start", "--ncs"], tmp_path, environ)
    try:
        assert done.returncode == 0, done.stderr
        assert any(line.startswith("INFO m model ready") for line in done.stdout.splitlines()), done.stdout
        for number in range(20):
            asked = urllib.request.Request(f"{url}/predictions/m", b"x", {"x-request-id": f"r-{number}"})
            assert urllib.request.urlopen(asked, timeout=PATIENCE).read() == b"ok"
    finally:
        run_to_end([*command, "--stop"], tmp_path, environ)
    requests = (tmp_path / "l/requests.log").read_text().splitlines()
    assert sum('"POST /predictions/m HTTP/1.1" 200' in line for line in requests) == 20
    models = [json.loads(line) for line in (tmp_path / "l/models.json").read_text().splitlines()]
    assert {each["level"] for each in models} == {"WARN", "ERROR"}
    warned = [each["contextMap"]["request_id"] for each in models if each["message"] == "A-WARNING"]
    assert sorted(warned) == sorted(f"r-{number}" for number in range(20))
    assert not (tmp_path / "l/ts_log.log").exists()


@pytest.mark.parametrize(
    "output", [">/dev/full 2>/dev/full", ">&- 2>&- <&-"], ids=["full disk", "closed streams"]
)
def test_a_start_serves_wherever_its_output_goes(tmp_path, archive, output):
    url = install(tmp_path, "load_models=m.mar", "default_workers_per_model=1")
    shutil.copy(archive, tmp_path / "store")
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    command = ["sh", "-c", f"exec '{SCRIPTS / 'mooring'}' torchserve --start --ncs {output}"]
    done = run_to_end(command, tmp_path, environ)
    try:
        assert done.returncode == 0
        assert urllib.request.urlopen(f"{url}/predictions/m", b"x", timeout=PATIENCE).read() == b"ok"
    finally:
        run_to_end([SCRIPTS / "mooring", "torchserve", "--stop"], tmp_path, environ)


def test_a_server_whose_output_nobody_reads_from_the_beginning_serves(tmp_path, archive):
    url = install(tmp_path, "load_models=m.mar", "default_workers_per_model=1")
    shutil.copy(archive, tmp_path / "store")
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while os.write(write, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(write, True)
    server = subprocess.Popen(
        [SCRIPTS / "mooring", "torchserve", "--foreground", "--ncs"],
        cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=write, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(write)
    try:
        log = tmp_path / "logs/ts_log.log"
        until(lambda: log.exists() and "greeting not printed" in log.read_text())
        assert urllib.request.urlopen(f"{url}/predictions/m", b"x", timeout=PATIENCE).read() == b"ok"
    finally:
        server.terminate()
        try:
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()
            os.close(read)

"""Settings that change what clients see, each on a running server."""

import json
import os
import shutil
import socket
import subprocess

import pytest
from e2e_kit import DIGITS, JSON, PATIENCE, Server, Wire, answered, free_ports, pack, refused, request, until


@pytest.fixture
def start(tmp_path):
    """Starts a server with a store of its own, as its flags say."""
    servers = []

    def start(*arguments, **settings):
        servers.append(Server(tmp_path, *arguments, **settings))
        return servers[-1].started()

    yield start
    for server in servers:
        try:
            assert server.stop() == 0
            assert not server.faults(), server.log[-9000:]
        finally:
            server.kill()


@pytest.fixture
def rows(tmp_path):
    pack(tmp_path, "rows", "rows_handler.py")
    return tmp_path / "rows.mar"


def test_bodies_stay_as_they_came_when_they_are_not_to_be_decoded(start, rows):
    server = start(rows, "--no-decode-input-request")
    for kind in (JSON, "text/plain"):
        assert server.predict("rows", "[1]", f"Content-Type: {kind}") == answered(
            "{'body': bytearray(b'[1]')}"
        )


def test_limits_are_what_they_are_set_to(start, rows):
    server = start(rows, "--max-request-size", "1000", "--max-response-size", "1000")
    assert server.predict("rows", "x" * 1000).code == 500  # its text is longer
    assert server.predict("rows", "x" * 900) == answered(repr({"body": bytearray(b"x" * 900)}))
    assert server.predict("rows", "x" * 1001).status == "413 Request Entity Too Large"


def test_the_kserve_envelope_opens_bodies_of_predictions_too(start, rows):
    server = start(rows, "--service-envelope", "kserve")
    body = json.dumps({"instances": [{"a": 1}, 2]})
    answer = server.predict("rows", body, f"Content-Type: {JSON}")
    assert answer.json() == {"predictions": ["{'a': 1}", "2"]}
    assert server.ask("POST", "/v1/models/rows:predict", body.encode()).json() == answer.json()


def test_one_port_serves_everything(start, rows):
    (port,) = free_ports(1)
    flags = [f"--{name}-address=http://127.0.0.1:{port}" for name in ("inference", "management", "metrics")]
    server = start(rows, *flags, ports=[port, port, port])
    assert server.predict("rows", "x") == answered("{'body': bytearray(b'x')}")
    assert server.ask("GET", "/models").json()["models"][0]["modelName"] == "rows"
    assert server.ask("GET", "/v1/models/rows").code == 200
    assert b"ts_inference_requests_total" in server.ask("GET", "/metrics").body
    paths = server.ask("OPTIONS", "/").json()["paths"]
    assert {"/predictions/{model_name}", "/models", "/metrics"} <= set(paths)


@pytest.mark.parametrize(
    "name",
    ["inference_address", "management_address", "metrics_address", "grpc_address", "grpc_management_address"],
)
def test_an_address_that_is_taken_ends_the_start_before_any_model_is_loaded(tmp_path, name):
    (tmp_path / "slow.py").write_text(
        "import pathlib\npathlib.Path('imported').touch()\ndef f(x):\n    return x\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flag = f"--{name.replace('_', '-')}"
        server = Server(
            tmp_path, "slow.py:f", *addresses(free_ports(3)), f"{flag}=127.0.0.1:{port}", ports=[0]
        )
        try:
            assert server.process.wait(PATIENCE) == 1
        finally:
            server.kill()
    owner = f"by process {os.getpid()} ("
    (line,) = server.log.splitlines()
    assert line.startswith(f"Error: {name}: 127.0.0.1:{port} is in use, {owner}")
    assert line.endswith(
        f"; stop it or choose another with {'--port or ' * (name == 'inference_address')}{flag}"
    )
    assert {each.name for each in tmp_path.iterdir()} == {"server.log", "slow.py"}


def addresses(ports):
    names = zip(("inference", "management", "metrics"), ports, strict=True)
    return [f"--{name}-address=http://127.0.0.1:{port}" for name, port in names]


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_named(tmp_path, rows):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    server = Server(tmp_path, rows, "--frontends", "2", "--temporary-folder", folder)
    try:
        assert server.process.wait(PATIENCE) == 1
    finally:
        server.kill()
    said = f"Error: AF_UNIX path too long (temporary_folder, of which {folder}/"
    assert said in server.log, server.log


def test_a_long_temporary_folder_is_enough_for_a_server_whose_models_call_no_other(tmp_path, rows):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    server = Server(tmp_path, rows, "--temporary-folder", folder, "--frontends", "1")
    try:
        server.started()
        assert "WARN  models cannot call each other" in server.log
        assert server.stop() == 0
    finally:
        server.kill()


def test_one_model_has_as_many_versions_as_archives_and_one_default(start, tmp_path):
    for version in ("1.0", "2.0"):
        pack(tmp_path, "rows", "rows_handler.py", "-v", version, "--force")
        (tmp_path / "rows.mar").rename(tmp_path / f"rows{version}.mar")
    server = start(tmp_path / "rows1.0.mar", tmp_path / "rows2.0.mar")
    for version in ("1.0", "2.0"):
        assert server.predict(f"rows/{version}", "x") == answered("{'body': bytearray(b'x')}")
    said = "Model version: 3.0 does not exist for model: rows"
    missing = refused("404 Not Found", "ModelVersionNotFoundException", said)
    assert server.predict("rows/3.0", "x") == missing


def test_the_only_model_needs_no_name(start, rows):
    server = start(rows)
    assert server.ask("POST", "/invocations", b"x") == answered("{'body': bytearray(b'x')}")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_server_listens_on_a_path_too(start, tmp_path):
    path = tmp_path / "s"
    ports = free_ports(3)
    flags = [
        f"--{name}-address=http://127.0.0.1:{port}"
        for name, port in zip(("management", "metrics"), ports[1:], strict=True)
    ]
    server = Server(tmp_path, DIGITS, *flags, f"--inference-address=unix:{path}", ports=ports)
    try:
        until(lambda: "Mooring is up." in server.log)
        done = subprocess.run(
            ["curl", "-sS", "--unix-socket", path, "http://here/predictions/digits", "-T", DIGITS / "samples/4.png"],
            capture_output=True, check=True, timeout=30,
        )  # fmt: skip
        assert json.loads(done.stdout)["class"] == "4"
        assert server.stop() == 0
        assert not path.exists()
    finally:
        server.kill()


def test_a_stream_waits_for_a_client_that_reads_slowly_and_others_are_served_meanwhile(start, tmp_path):
    code = "def flow(count: 'ndarray'):\n    for number in range(int(count)):\n        yield 'x' * 50000\n"
    (tmp_path / "flow.py").write_text(code)
    (tmp_path / "plain.py").write_text("def double(x: 'ndarray'):\n    return x * 2\n")
    server = start(f"{tmp_path / 'flow.py'}:flow", f"{tmp_path / 'plain.py'}:double")
    with Wire(server.port) as wire:
        wire.send(request("POST", "/predictions/flow", b'{"count": 400}', f"Content-Type: {JSON}"))
        for _ in range(20):
            answer = server.predict("double", '{"x": [2]}', f"Content-Type: {JSON}")
            assert answer == answered('{"output":[4]}', JSON)
        body = wire.answer().body
    assert body.count(b"x") >= 400 * 50_000

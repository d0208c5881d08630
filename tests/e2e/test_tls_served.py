"""A server over TLS, as its clients meet it: every address, every protocol, with and without certificates of theirs."""

import json
import ssl
import subprocess

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from e2e_kit import PATIENCE, SCRIPTS, Server, Wire, free_ports, request, until
from tls_kit import Authority
from websockets.sync.client import connect

import mooring
from mooring.codecs.proto import inference_pb2 as pb

MODEL = "def echo(x: 'ndarray'):\n    return x\n"
ADDRESSES = ("inference-address", "management-address", "metrics-address")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority") / "ca")


class Secured:
    """A server that speaks TLS on all of its five addresses."""

    def __init__(self, folder, *flags):
        (folder / "model.py").write_text(MODEL)
        self.ports = free_ports(5)
        self.folder = folder
        named = [
            f"--{name}=https://127.0.0.1:{port}" for name, port in zip(ADDRESSES, self.ports, strict=False)
        ]
        named += [f"--grpc-address=127.0.0.1:{self.ports[3]}", "--enable-grpc-ssl"]
        named += [f"--grpc-management-address=127.0.0.1:{self.ports[4]}"]
        self.server = Server(folder, "model.py:echo", *named, *flags, ports=self.ports)

    def __enter__(self):
        until(
            lambda: "Mooring is up." in self.server.log or self.server.process.poll() is not None,
            within=2 * PATIENCE,
        )
        assert self.server.process.poll() is None, self.server.log
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.server.kill()
            return
        assert self.server.stop() == 0
        assert self.server.faults() == []

    def url(self, index=0):
        return f"https://127.0.0.1:{self.ports[index]}"

    @property
    def grpc(self):
        return f"127.0.0.1:{self.ports[3]}"


@pytest.fixture(scope="module")
def served(authority, tmp_path_factory):
    with Secured(tmp_path_factory.mktemp("served"), *authority.issue().flags) as secured:
        yield secured


def test_every_http_address_speaks_tls_to_who_trusts_it(served, authority):
    with requests.Session() as session:
        session.verify, session.trust_env = str(authority.ca), False
        assert session.get(f"{served.url(0)}/ping", timeout=PATIENCE).json()["status"] == "Healthy"
        assert session.get(f"{served.url(1)}/models", timeout=PATIENCE).status_code == 200
        assert "Requests2XX" in session.get(f"{served.url(2)}/metrics", timeout=PATIENCE).text
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{served.url(0)}/ping", timeout=PATIENCE)


def test_large_tensors_pass_tls_both_ways_through_tritons_clients(served, authority):
    rows = np.arange(1_500_000, dtype=np.float32)
    options = {
        "ssl": True,
        "ssl_context_factory": lambda: ssl.create_default_context(cafile=str(authority.ca)),
    }
    http = triton_http.InferenceServerClient(f"localhost:{served.ports[0]}", **options)
    tensor = triton_http.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    assert np.array_equal(http.infer("echo", [tensor]).as_numpy("output"), rows)
    http.close()
    with triton_grpc.InferenceServerClient(
        f"localhost:{served.ports[3]}", ssl=True, root_certificates=str(authority.ca)
    ) as client:
        tensor = triton_grpc.InferInput("x", rows.shape, "FP32")
        tensor.set_data_from_numpy(rows)
        assert np.array_equal(client.infer("echo", [tensor]).as_numpy("output"), rows)


def test_our_own_client_and_commands_do_as_well(served, authority):
    for url in (f"https://localhost:{served.ports[0]}", f"grpcs://localhost:{served.ports[3]}"):
        with mooring.Client(url, ca=str(authority.ca)) as client:
            assert client.infer("echo", {"x": np.ones(3, np.float32)})["output"].tolist() == [1, 1, 1]
        told = subprocess.run(
            [SCRIPTS / "mooring", "models", "list", "--url", url, "--cacert", authority.ca],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
        assert "READY" in told.stdout


def test_a_websocket_runs_over_tls(served, authority):
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    with connect(f"wss://localhost:{served.ports[0]}/models/infer", ssl=trusting) as socket:
        tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
        socket.send(json.dumps({"model": "echo", "id": "a", "inputs": [tensor]}))
        assert socket.recv(timeout=PATIENCE) == np.array([1, 2], np.float32).tobytes()


def test_plain_http_is_answered_403_in_torchserves_words(served):
    with Wire(served.ports[0]) as wire:
        wire.send(request("GET", "/ping"))
        answer = wire.answer()
        assert answer.status == "403 Forbidden"
        assert answer.json() == {"status": "This TorchServe instance only accepts HTTPS requests"}
        assert answer.headers["connection"] == "close"
        assert wire.ended()


def test_only_tls_1_2_and_1_3_are_spoken(served, authority):
    def asked(*flags):
        return subprocess.run(
            ["curl", "-s", "--cacert", authority.ca, *flags, f"{served.url()}/ping"],
            capture_output=True, check=False, timeout=PATIENCE,
        ).returncode  # fmt: skip

    assert asked("--tlsv1.2", "--tls-max", "1.2") == 0
    assert asked("--tlsv1.3") == 0
    assert asked("--tlsv1.0", "--tls-max", "1.1") == 35


def test_broken_handshakes_leave_no_line_in_the_log(served, authority):
    before = served.server.log
    for opening in (b"\x16\x03\x01\x00\x02zz", b"", b"\x16"):
        with Wire(served.ports[0]) as wire:
            wire.send(opening)
    for _ in range(3):
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{served.url(0)}/ping", timeout=PATIENCE)
    assert requests.get(f"{served.url(0)}/ping", verify=str(authority.ca), timeout=PATIENCE).ok
    assert served.server.log == before


def test_the_greeting_names_the_addresses_as_clients_write_them(served):
    assert f"inference   https://127.0.0.1:{served.ports[0]}" in served.server.log
    assert f"gRPC        grpcs://127.0.0.1:{served.ports[3]}" in served.server.log
    assert f"curl https://127.0.0.1:{served.ports[0]}/ping" in served.server.log


def test_clients_must_show_a_certificate_where_they_are_asked_for_one(authority, tmp_path):
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other", "stranger").issue("client")
    known = authority.issue("client")
    # Elsewhere than on this machine: the certificates are what makes that acceptable.
    flags = [f"--client-ca-file={authority.ca}", *authority.issue().flags, "--enable-model-api"]
    with Secured(tmp_path, *flags, "--management-address=https://0.0.0.0:0") as secured:
        url = f"{secured.url()}/ping"
        assert requests.get(url, verify=str(authority.ca), cert=tuple(map(str, known)), timeout=PATIENCE).ok
        for cert in (None, tuple(map(str, stranger))):
            with pytest.raises((requests.exceptions.SSLError, requests.exceptions.ConnectionError)):
                requests.get(url, verify=str(authority.ca), cert=cert, timeout=PATIENCE)
        for scheme, port in (("https", secured.ports[0]), ("grpcs", secured.ports[3])):
            where, ca = f"{scheme}://localhost:{port}", str(authority.ca)
            with mooring.Client(where, ca=ca, certificate=str(known.cert), key=str(known.key)) as client:
                assert client.live()
            for more in ({}, {"certificate": str(stranger.cert), "key": str(stranger.key)}):
                with (
                    mooring.Client(where, ca=ca, timeout=10, **more) as client,
                    pytest.raises(mooring.MooringError),
                ):
                    client.live()
        assert "--cert CERTIFICATE --key KEY" in secured.server.log


def test_grpcio_sees_a_renewed_certificate_and_so_does_http_without_a_restart(tmp_path):
    authority = Authority(tmp_path / "ca")
    pair = authority.issue()

    def shown():
        return ssl.get_server_certificate(("127.0.0.1", secured.ports[0]), timeout=PATIENCE)

    def live():
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        with grpc.secure_channel(f"localhost:{secured.ports[3]}", credentials) as channel:
            ask = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            return pb.ServerLiveResponse.FromString(ask(b"", timeout=PATIENCE)).live

    with Secured(tmp_path, *pair.flags) as secured:
        before = shown()
        assert live()
        authority.issue()
        until(lambda: shown() != before)
        assert shown() == pair.cert.read_text()
        assert ssl.get_server_certificate(("127.0.0.1", secured.ports[3]), timeout=PATIENCE) == shown()
        assert live()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("inference_address=https://127.0.0.1:0\n", "needs a certificate: set certificate_file and private_key_file"),
        ("inference_address=https://127.0.0.1:0\nkeystore=gone.p12\n", "keystore gone.p12: No such file"),
        ("enable_grpc_ssl=true\n", "grpc_address https://127.0.0.1:0 needs a certificate"),
    ],
)  # fmt: skip
def test_a_start_without_a_usable_certificate_says_what_to_do(tmp_path, settings, said):
    (tmp_path / "config.properties").write_text(
        "management_address=http://127.0.0.1:0\nmetrics_address=http://127.0.0.1:0\n"
        "grpc_inference_port=0\ngrpc_management_port=0\n" + settings
    )
    started = subprocess.run(
        [SCRIPTS / "mooring", "serve", "--config", "config.properties"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert started.returncode == 1
    assert said in started.stderr
    assert "Traceback" not in started.stderr


def test_torchserves_own_keystore_settings_start_as_they_are(authority, tmp_path):
    ports = free_ports(5)
    addresses = zip(("inference", "management", "metrics"), ports, strict=False)
    lines = [f"{name}_address=https://127.0.0.1:{port}" for name, port in addresses]
    lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}", "enable_grpc_ssl=true"]
    lines += [f"keystore={authority.keystore()}", "keystore_pass=changeit", "keystore_type=PKCS12"]
    (tmp_path / "config.properties").write_text("\n".join(lines))
    flags = ["--start", "--foreground", "--model-store", tmp_path, "--ts-config", "config.properties"]
    server = Server(tmp_path, *flags, command="torchserve", ports=ports)
    try:
        until(
            lambda: "Model server started." in server.log or server.process.poll() is not None,
            within=2 * PATIENCE,
        )
        assert server.process.poll() is None, server.log
        assert requests.get(
            f"https://127.0.0.1:{ports[0]}/ping", verify=str(authority.ca), timeout=PATIENCE
        ).ok
        with mooring.Client(f"grpcs://localhost:{ports[3]}", ca=str(authority.ca)) as client:
            assert client.live()
        assert "without effect" not in server.log
        assert server.stop() == 0
    finally:
        if server.process.is_running():
            server.kill()


def test_a_keystores_password_is_in_no_snapshot_and_a_restart_finds_it_where_it_was(authority, tmp_path):
    ports, secret = free_ports(5), "kEys-t0re-pAss"
    addresses = zip(("inference", "management", "metrics"), ports, strict=False)
    lines = [f"{name}_address=https://127.0.0.1:{port}" for name, port in addresses]
    lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}"]
    lines += [f"keystore={authority.keystore(secret)}", f"keystore_pass={secret}", "keystore_type=PKCS12"]
    (tmp_path / "own.properties").write_text("\n".join(lines))
    start = ["--start", "--foreground", "--model-store", tmp_path]
    for flags in (["--ts-config", "own.properties"], []):
        server = Server(tmp_path, *start, *flags, command="torchserve", ports=ports)
        try:
            until(lambda server=server: "Model server started." in server.log, within=2 * PATIENCE)
            url = f"https://127.0.0.1:{ports[0]}/ping"
            assert requests.get(url, verify=str(authority.ca), timeout=PATIENCE).ok
            assert server.stop() == 0
        finally:
            if server.process.is_running():
                server.kill()
        written = [each.read_text() for each in (tmp_path / "logs").rglob("*") if each.is_file()]
        assert any("model_snapshot" in text for text in written)
        assert not any(secret in text for text in [*written, server.log])
    (tmp_path / "own.properties").unlink()
    server = Server(tmp_path, *start, command="torchserve", ports=ports)
    assert server.process.wait(2 * PATIENCE) == 1
    assert "give MOORING_KEYSTORE_PASS" in server.log

"""Every kind of secret, driven through every kind of failure: none of them is in anything that the server wrote or said."""

import http.server
import json
import socket
import ssl
import threading

import grpc
import pytest
import requests
from e2e_kit import PATIENCE, Server, Wire, free_ports, pack, request, until
from tls_kit import Authority

KEYSTORE, MANAGEMENT, INFERENCE = "kEystore-pAssw0rd-1", "mAnagement-tOken-2", "iNference-tOken-3"
OTHER = "tOken-of-nobody-here-4"
PASSWORD, SIGNATURE, MOVED = "uRl-pAssword-5", "uRl-sIgnature-6", "rEdirect-sIgnature-7"
BASIC, COOKIE = "bAsic-cRedentials-8", "cOokie-value-9"
SECRETS = [KEYSTORE, MANAGEMENT, INFERENCE, OTHER, PASSWORD, SIGNATURE, MOVED, BASIC, COOKIE]

HANDLER = """
def handle(data, context):
    if data and (data[0].get("body") or b"") == b"fail":
        raise ValueError("as asked")
    return ["ok" for _ in data or ()]
"""


class Archives(http.server.BaseHTTPRequestHandler):
    """Sends to another place, or has nothing."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path.startswith("/moved") else 404)
        self.send_header("location", f"http://elsewhere.example/x.mar?signature={MOVED}")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Archives)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def guarded(tmp_path, elsewhere):
    """A server under TorchServe's command, with TLS, tokens, metrics in files, snapshots and a log that says all it can."""
    authority = Authority(tmp_path / "authority")
    (tmp_path / "store").mkdir()
    (tmp_path / "handler.py").write_text(HANDLER)
    pack(tmp_path / "store", "rows", str(tmp_path / "handler.py"))
    (tmp_path / "inference").write_text(INFERENCE)
    ports = free_ports(5)
    named = zip(("inference", "management", "metrics"), ports, strict=False)
    lines = [f"{name}_address=https://127.0.0.1:{port}" for name, port in named]
    lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}", "load_models=rows.mar"]
    lines += [f"keystore={authority.keystore(KEYSTORE)}", f"keystore_pass={KEYSTORE}", "metrics_mode=log"]
    lines += [f"allowed_urls={elsewhere}/.*", "enable_model_api=true"]
    (tmp_path / "ts.properties").write_text("\n".join(lines))
    environ = {
        "MOORING_MANAGEMENT_TOKEN": MANAGEMENT,
        "MOORING_INFERENCE_TOKEN_FILE": str(tmp_path / "inference"),
        "MOORING_LOG_LEVEL": "debug",
    }
    flags = ["--start", "--foreground", "--model-store", "store", "--ts-config", "ts.properties"]
    server = Server(tmp_path, *flags, command="torchserve", ports=ports, environ=environ)
    server.ca = str(authority.ca)
    try:
        until(lambda: "Model server started." in server.log, within=2 * PATIENCE)
        yield server
    finally:
        server.kill()


def asked(server: Server, method: str, target: str, port: int = 0, body: bytes = b"", **headers: str) -> str:
    answer = requests.request(
        method,
        f"https://127.0.0.1:{server.ports[port]}{target}",
        data=body,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
        verify=server.ca,
        timeout=PATIENCE,
    )
    return f"{answer.status_code} {answer.headers} {answer.text}"


def failures(server: Server, elsewhere: str) -> list[str]:
    """What was answered to each of them."""
    manager, client = {"Authorization": f"Bearer {MANAGEMENT}"}, {"Authorization": f"Bearer {INFERENCE}"}
    told = [
        asked(server, "POST", "/predictions/rows", Authorization=header, Cookie=f"session={COOKIE}")
        for header in (
            f"Bearer {OTHER}",
            f"Basic {BASIC}",
            OTHER,
            f"Bearer {INFERENCE} {OTHER}",
            f"bearer  {INFERENCE}",
        )
    ]
    for target in (
        "/predictions/rows",
        "/predictions/nobody",
        "/v2/models/nobody/infer",
        "/v1/models/rows:predict",
        "/nowhere",
    ):
        told.append(asked(server, "POST", target, body=b"fail", **client, Cookie=COOKIE))
        told.append(asked(server, "POST", f"{target}?token={OTHER}", body=b"fail", **client))
    urls = [
        f"{elsewhere}/gone.mar?X-Amz-Signature={SIGNATURE}",
        f"{elsewhere}/moved.mar?sig={SIGNATURE}",
        f"https://me:{PASSWORD}@models.example/x.mar?sig={SIGNATURE}",
        f"https://me:{PASSWORD}/@[models.example/x.mar?sig={SIGNATURE}",
        f"ftp://me:{PASSWORD}@models.example/x.mar",
        f"https://models.example/x.mar?sig={SIGNATURE}#{SIGNATURE}",
        f"file://me:{PASSWORD}@localhost/etc/passwd?{SIGNATURE}",
    ]
    for url in urls:
        where = requests.utils.quote(url, safe="")
        told.append(
            asked(server, "POST", f"/models?url={where}&initial_workers=1&synchronous=true", 1, **manager)
        )
        told.append(asked(server, "POST", f"/models?url={where}&model_name=given", 1, **manager))
        told.append(asked(server, "POST", f"/workflows?url={where}", 1, **manager))
        body = json.dumps({"parameters": {"model": url}}).encode()
        told.append(asked(server, "POST", "/v2/workers/onnx/load", body=body, **manager))
    told.append(asked(server, "PUT", "/models/rows?min_worker=2&synchronous=true", 1, **manager))
    told += [
        asked(server, "GET", path, 1, **manager) for path in ("/models", "/models/rows", "/models?limit=x")
    ]
    told += [
        asked(server, "GET", path, **client)
        for path in ("/v2", "/openapi.json", "/v2/models/rows/config", "/v2/logging")
    ]
    told.append(asked(server, "GET", "/metrics", 2, **manager))
    for broken in (
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\nX: y\r\n\r\n",
        b"Authorization: %b\r\n\r\n",
    ):
        with Wire(server.port) as wire:  # plain HTTP where TLS is spoken
            wire.send(broken % OTHER.encode())
            told.append(wire.rest().decode("latin-1"))
        told.append(over_tls(server, broken % OTHER.encode()))
    told.append(
        over_tls(
            server,
            request("POST", f"/x?{OTHER}", b"", f"Authorization: Bearer {OTHER}", "Content-Length: -1"),
        )
    )
    for header in (f"Bearer {OTHER}", f"Bearer {INFERENCE}", f"Basic {BASIC}"):
        told.append(over_grpc(server, header))
    return told


def over_tls(server: Server, message: bytes) -> str:
    context = ssl.create_default_context(cafile=server.ca)
    said = b""
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        connection.sendall(message)
        while data := connection.recv(65_536):
            said += data
    assert b" 400 " in said
    return said.decode("latin-1")


def over_grpc(server: Server, header: str) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{server.ports[3]}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\x0a\x06nobody", metadata=(("authorization", header),), timeout=PATIENCE)
    return str(caught.value)


def test_no_secret_is_in_anything_that_was_written_or_said(guarded, elsewhere):
    told = failures(guarded, elsewhere)
    # As TorchServe answers a wrong token.
    assert len([text for text in told[:5] if text.startswith("400") and "Token Authorization" in text]) == 4
    assert any("as asked" in text for text in [*told, guarded.log])  # the failures did fail
    shown = [" ".join(each.cmdline()) for each in guarded.family()]
    workers = [each for each in guarded.family() if each.pid != guarded.process.pid]
    shown += [str(each.environ()) for each in workers]
    assert guarded.stop() == 0
    own = {"ts.properties", "inference"}  # where the secrets were given
    files = [each for each in guarded.folder.rglob("*") if each.is_file() and each.name not in own]
    assert any(each.suffix == ".cfg" for each in files), "no snapshot was written"
    written = {str(each): each.read_bytes().decode("latin-1") for each in files}
    for place, text in [
        *written.items(),
        *((f"answer {text[:80]}", text) for text in told),
        *(("ps", text) for text in shown),
    ]:
        found = [secret for secret in SECRETS if secret in text]
        assert not found, (
            place,
            [text[max(0, text.index(each) - 200) : text.index(each) + 50] for each in found],
        )

"""The client over TLS: whom it trusts, and the headers that go with every call."""

import json
import shutil
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

import mooring
from mooring.codecs.proto import inference_pb2 as pb

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
TOKEN = {"Authorization": "Bearer mine"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of this machine, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    return folder / "cert.pem", folder / "key.pem"


class Guarded(BaseHTTPRequestHandler):
    """Live for those who have the token."""

    def do_GET(self):
        known = self.headers["authorization"] == TOKEN["Authorization"]
        body = json.dumps({"live": True} if known else {"error": "who are you"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def https(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield f"https://localhost:{server.server_port}"
        server.shutdown()
        serving.join()


class GuardedService(grpc.GenericRpcHandler):
    """The same over gRPC."""

    def service(self, details):
        def live(request, context):
            if dict(details.invocation_metadata).get("authorization") != TOKEN["Authorization"]:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you")
            return pb.ServerLiveResponse(live=True).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(live)


@pytest.fixture(scope="module")
def grpcs(certificate):
    cert, key = (path.read_bytes() for path in certificate)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((GuardedService(),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    server.start()
    yield f"grpcs://localhost:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_server_is_trusted_by_the_file_that_names_it(scheme, certificate, request):
    url = request.getfixturevalue(scheme)
    with mooring.Client(url, ca=str(certificate[0]), headers=TOKEN, timeout=20) as client:
        assert client.live()
    with mooring.Client(url, headers=TOKEN, timeout=20) as client, pytest.raises(mooring.ServerUnreachable):
        client.live()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_who_has_no_token_is_told_so(scheme, certificate, request):
    url = request.getfixturevalue(scheme)
    with (
        mooring.Client(url, ca=str(certificate[0]), timeout=20) as client,
        pytest.raises(mooring.InvalidInput, match="who are you"),
    ):
        client.live()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
async def test_the_asynchronous_client_does_the_same(scheme, certificate, request):
    url = request.getfixturevalue(scheme)
    async with mooring.AsyncClient(url, ca=str(certificate[0]), headers=TOKEN, timeout=20) as client:
        assert await client.live()


@pytest.mark.parametrize("scheme", ["https", "grpcs"])
def test_a_file_of_certificates_that_is_not_there_is_the_callers_mistake(scheme):
    with pytest.raises(mooring.InvalidInput, match="gone"):
        mooring.Client(f"{scheme}://localhost", ca="gone.pem")


def test_a_file_that_holds_no_certificates_is_the_callers_mistake(tmp_path):
    (tmp_path / "odd.pem").write_text("no certificate")
    with pytest.raises(mooring.InvalidInput, match="holds no certificates"):
        mooring.Client("https://localhost", ca=str(tmp_path / "odd.pem"))

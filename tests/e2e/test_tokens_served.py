"""Who may call what: every route and RPC that is mounted, with every token and without, at real servers."""

import json
import os
import re
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from unittest.mock import Mock

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from e2e_kit import PATIENCE, SCRIPTS, Server, Wire, free_ports, pack, request, run_to_end, until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mooring import Client, MooringError
from mooring.codecs.proto import inference_pb2
from mooring.config.settings import Config
from mooring.core.options import TORCHSERVE_HEADERS
from mooring.mount.grpc import inference_services, management_service
from mooring.protocols.grpc_reflection import Reflection
from mooring.protocols.kserve.settings import TraceSettings
from mooring.server.server import Server as Composition

DENIED = re.compile(
    "Token Auth(oriz|entic)ation failed. Token either incorrect"
)  # the second at /token alone
MODEL = "/v2/models/{model_name}"
VERSION = f"{MODEL}/versions/{{model_version}}"

# Written by hand, from the guide: what is asked of a route is not to follow from what the code says of it.
OPEN = {
    "/", "/api-description", "/openapi.json", "/v2/docs/dataplane.json", "/ping", "/ping/{rest*}", "/v2/health/live",
    "/v2/health/ready", "/v1/models/{model_name}", f"{MODEL}/ready", f"{VERSION}/ready", "/metrics",
    "/metrics/{rest*}", "/console", "/console/static/{name*}",
}  # fmt: skip
MANAGED = {
    "/workflows", "/workflows/{workflow_name}", "/models", "/models/{model_name}", "/models/{model_name}/{model_version}",
    "/models/{model_name}/{model_version}/set-default", f"{MODEL}/load", f"{VERSION}/load", f"{MODEL}/unload",
    f"{VERSION}/unload", "/v2/workers/{worker_name}/load", "/v2/workers/{worker_name}/unload",
    *(
        f"/v2/repository{named}/models/{{model_name}}{version}/{verb}"
        for named in ("", "/{repository_name}")
        for version in ("", "/versions/{model_version}")
        for verb in ("load", "unload")
    ),
    *(f"/console/api/{each}" for each in ("state", "events", "logs", "errors", "settings", "models")),
    "/console/api/models/{model_name}/versions/{model_version}",
    *(f"/console/api/models/{{model_name}}/{verb}" for verb in ("load", "unload", "scale", "default")),
}  # fmt: skip
SET_BY_POST = {"/v2/logging", "/v2/trace/setting", f"{MODEL}/trace/setting"}
OPEN_RPCS = {"Ping", "ServerLive", "ServerReady", "ModelReady", "Check", "Watch"}
MANAGED_RPCS = {
    "ListModels", "DescribeModel", "RegisterModel", "ScaleWorker", "SetDefault", "UnregisterModel", "RepositoryModelLoad",
    "RepositoryModelUnload", "ModelLoad", "ModelUnload", "WorkerLoad", "WorkerUnload",
}  # fmt: skip

MAY = {
    "open": {"none", "wrong", "malformed", "inference", "management", "API", "expired"},
    "inference": {"inference", "management"},
    "management": {"management"},
    "renewal": {"API"},
}


def need_of(method: str, pattern: str) -> str:
    if pattern in OPEN:
        return "open"
    if pattern == "/token":
        return "renewal"
    return (
        "management" if pattern in MANAGED or (pattern in SET_BY_POST and method == "POST") else "inference"
    )


def need_of_rpc(name: str) -> str:
    if name in OPEN_RPCS:
        return "open"
    return "management" if name in MANAGED_RPCS else "inference"


async def routes(**settings) -> list[tuple[int, str, str]]:
    """Everything that a server with tokens mounts: which address, a method, a pattern."""
    config = Config(token_authorization="on", arena_size=65_536, **settings)
    async with AsyncExitStack() as stack:
        sites = Composition(config, stack).addresses.mounts()
        return [
            (number, method, endpoint.pattern)
            for number, site in enumerate(sites)
            for endpoint in site.endpoints
            for method in sorted((endpoint.methods or {"POST"}) - {"HEAD"})
        ]


async def rpcs() -> list[tuple[str, str, str]]:
    """Every RPC: its service, its name, and unary or streaming."""
    services = inference_services(
        Mock(), Mock(trace_settings=TraceSettings()), Mock(), extensions=[], dialect=Mock(server=""), memory=None,
        sequence_headers=TORCHSERVE_HEADERS, further=[management_service(Mock(), Mock(), model_api=True)],
    )  # fmt: skip
    return [
        (service.name, name, kind)
        for service in [*services, *Reflection(services).services()]
        for kind in ("unary", "streaming")
        for name in getattr(service, kind)
    ]


class Guarded(Server):
    """A server with generated keys, asked over ``host``, whatever it is bound to."""

    unauthorized = 401

    def __init__(self, folder: Path, *arguments: str | Path, **how) -> None:
        self.rpc, self.managing = free_ports(2)
        bound = how.pop("bound", "127.0.0.1")
        super().__init__(
            folder, *arguments, f"--grpc-address={bound}:{self.rpc}",
            f"--grpc-management-address=127.0.0.1:{self.managing}", **how,
        )  # fmt: skip

    def keys(self) -> dict[str, str]:
        return {
            kind: each["key"]
            for kind, each in json.loads((self.folder / "key_file.json").read_text()).items()
        }

    def credentials(self) -> dict[str, str | None]:
        """Every header that the matrix has, by what it is."""
        keys = self.keys()
        bearers = {kind: f"Bearer {key}" for kind, key in keys.items()}
        return {"none": None, "wrong": "Bearer AAAAAAAAAAAA", "malformed": keys["management"], **bearers}

    def code(
        self, port: int, method: str, path: str, header: str | None, session=requests
    ) -> tuple[int, str]:
        headers = {} if header is None else {"Authorization": header}
        with session.request(
            method, f"http://127.0.0.1:{port}{path}", headers=headers, data=b"", timeout=30, stream=True
        ) as answer:
            endless = answer.headers.get("content-type") == "text/event-stream"
            return answer.status_code, "" if endless else answer.text

    def rpc_code(self, port: int, service: str, name: str, kind: str, header: str | None, message=b""):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            metadata = () if header is None else (("authorization", header),)
            path = f"/{service}/{name}"
            try:
                if kind == "unary":
                    channel.unary_unary(path)(message, metadata=metadata, timeout=30)
                else:
                    stream = channel.stream_stream(path)(iter([message]), metadata=metadata, timeout=30)
                    next(stream, None)
                    stream.cancel()
            except grpc.RpcError as error:
                return error.code().name, error.details()
            return "OK", ""

    def closed(self) -> None:
        assert self.stop() == 0, self.log
        assert not self.faults(), self.log


def filled(pattern: str) -> str:
    """A path of a pattern, of models that are not there: what is allowed changes nothing."""
    return re.sub(r"\{[^}]*\}", "nobody", pattern)


@pytest.fixture(scope="module")
def function(tmp_path_factory):
    file = tmp_path_factory.mktemp("function") / "scaling.py"
    file.write_text(
        "import os\n\n\ndef scale(x: 'ndarray'):\n    return x * 2.0\n\n\ndef tell(x):\n"
        '    return [[name for name in os.environ if "TOKEN" in name]]\n'
    )
    return file


@pytest.fixture(scope="module")
def here(tmp_path_factory, function):
    """On loopback, an address for each API."""
    server = Guarded(tmp_path_factory.mktemp("here"), f"{function}:scale", "--token-authorization=on")
    try:
        yield server.started()
        server.closed()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, function):
    """Where other machines reach it, all HTTP on one port and all gRPC on another, as `mooring torchserve` has it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    port, rpc = free_ports(2)
    addresses = "".join(
        f"{name}_address=http://0.0.0.0:{port}\n" for name in ("inference", "management", "metrics")
    )
    for name in ("inference", "management"):
        addresses += f"grpc_{name}_address=0.0.0.0\ngrpc_{name}_port={rpc}\n"
    (folder / "config.properties").write_text(f"{addresses}enable_model_api=true\n")
    (folder / "store").mkdir()
    server = Server(
        folder, "--start", "--foreground", "--model-store", folder / "store", command="torchserve",
        ports=[port, port, port], environ={"TMPDIR": str(folder)},
    )  # fmt: skip
    server.__class__, server.rpc, server.managing, server.unauthorized = Guarded, rpc, rpc, 400
    try:
        yield server.started("Model server started.")
        server.closed()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def late(tmp_path_factory, function):
    """Where every token has expired before anybody has read it."""
    server = Guarded(
        tmp_path_factory.mktemp("late"), f"{function}:scale", "--token-authorization=on",
        "--token-expiration-min=0.00001",
    )  # fmt: skip
    try:
        yield server.started()
        server.closed()
    finally:
        server.kill()


async def of_routes(server: Guarded, mounted, credentials: dict[str, str | None]) -> None:
    wrong = []
    with requests.Session() as session:
        for number, method, pattern in mounted:
            may = MAY[need_of(method, pattern)]
            for name, header in credentials.items():
                code, text = server.code(server.ports[number], method, filled(pattern), header, session)
                # The console's page asks for a token at 401, whatever TorchServe answers.
                status = 401 if pattern.startswith("/console/") else server.unauthorized
                denied = code == status and DENIED.search(text)
                if bool(denied) == (name in may) or code == 401 != status:
                    wrong.append((method, pattern, name, code, text))
    assert wrong == []


async def of_rpcs(server: Guarded, credentials: dict[str, str | None]) -> None:
    wrong = []
    for service, name, kind in await rpcs():
        may = MAY[need_of_rpc(name)]
        managing = service.endswith("ManagementAPIsService")
        for who, header in credentials.items():
            port = server.managing if managing else server.rpc
            code, text = server.rpc_code(port, service, name, kind, header)
            denied = "PERMISSION_DENIED" if service.startswith("org.pytorch") else "UNAUTHENTICATED"
            if (who not in may) != (code == denied and bool(DENIED.match(text))):
                wrong.append((service, name, who, code, text))
    assert wrong == []


def only_expired(server: Guarded) -> dict[str, str | None]:
    return {"expired": f"Bearer {server.keys()['management']}"}


async def test_every_route_asks_for_the_token_that_it_needs(here):
    mounted = await routes()
    assert len(mounted) > 70
    await of_routes(here, mounted, here.credentials())


async def test_every_route_asks_for_the_same_where_all_share_a_port_that_others_reach(elsewhere):
    addresses = {f"{name}_address": Config().inference_address for name in ("management", "metrics")}
    await of_routes(elsewhere, await routes(**addresses), elsewhere.credentials())


async def test_no_route_takes_a_token_that_has_expired(late):
    await of_routes(late, await routes(), only_expired(late))
    code, text = late.code(late.port, "GET", "/v2", only_expired(late)["expired"])
    assert code == 401
    assert "the token has expired" in text


async def test_what_needs_what_is_known_of_every_route_and_rpc():
    mounted = {pattern for _, _, pattern in await routes()}
    assert mounted >= OPEN | MANAGED | SET_BY_POST | {"/token"}
    assert {name for _, name, _ in await rpcs()} >= OPEN_RPCS | MANAGED_RPCS


async def test_every_rpc_asks_for_the_token_that_it_needs(here):
    await of_rpcs(here, here.credentials())


async def test_every_rpc_asks_for_the_same_where_all_share_a_port_that_others_reach(elsewhere):
    await of_rpcs(elsewhere, elsewhere.credentials())


async def test_no_rpc_takes_a_token_that_has_expired(late):
    await of_rpcs(late, only_expired(late))


def test_an_rpc_that_reads_and_changes_needs_the_management_token_to_change(here):
    message = inference_pb2.LogSettingsRequest()
    message.settings["log_warning"].bool_param = True
    said, service = message.SerializeToString(), "inference.GRPCInferenceService"
    bearers = here.credentials()
    for who, expected in (
        ("none", "UNAUTHENTICATED"),
        ("inference", "UNAUTHENTICATED"),
        ("management", "OK"),
    ):
        assert here.rpc_code(here.rpc, service, "LogSettings", "unary", bearers[who], said)[0] == expected


@pytest.mark.parametrize(
    "target", ["/predictions/scale", "/v1/models/scale:predict", "/v2/models/scale/infer"]
)
def test_a_refusal_has_the_form_of_its_protocol_and_says_what_to_do(here, target):
    answer = requests.post(f"{here.url}{target}", data=b"{}", timeout=30)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mooring"'
    said = answer.json()
    text = said["error" if target.startswith("/v2") else "message"]
    for part in (
        "there is no Authorization header", "the inference token", "key_file.json", "GET /token?type=inference",
    ):  # fmt: skip
        assert part in text
    if not target.startswith("/v2"):
        assert (said["code"], said["type"]) == (401, "InvalidKeyException")
    assert ("error" in said) == (not target.startswith("/predictions"))


COMING = {
    "a large body": "Content-Length: 100000000",
    "a body in chunks": "Transfer-Encoding: chunked",
    "a small body that waits for leave": "Content-Length: 2\r\nExpect: 100-continue",
}


@pytest.mark.parametrize("what", COMING)
@pytest.mark.parametrize("path", ["/predictions/scale", "/v1/models/scale:predict", "/v2/models/scale/infer"])
def test_without_a_token_a_request_is_refused_before_its_body_is_sent(here, path, what):
    if path.startswith("/v2") or "100000000" not in COMING[what]:
        line = COMING[what]
    else:
        line = "Content-Length: 6000000"
    with Wire(here.port) as wire:
        wire.send(request("POST", path, b"", line))
        answer = wire.answer()
        assert (answer.code, answer.headers["connection"]) == (401, "close")
        assert answer.headers["www-authenticate"] == 'Bearer realm="mooring"'
        assert DENIED.search(answer.body.decode())
        assert wire.ended()


def test_with_the_token_the_body_is_waited_for(here):
    bearer = f"Authorization: Bearer {here.keys()['inference']}"
    body = json.dumps({"x": [[0.5] * 40_000]}).encode()
    for _ in range(3):  # the third time the head is known, and the parser not asked
        with Wire(here.port) as wire:
            head = request(
                "POST",
                "/predictions/scale",
                b"",
                bearer,
                f"Content-Length: {len(body)}",
                "Expect: 100-continue",
            )
            wire.send(head)
            assert wire.line() == b"HTTP/1.1 100 Continue\r\n"
            assert wire.line() == b"\r\n"
            wire.send(body)
            assert wire.answer().code == 200
    with Wire(here.port) as wire:
        for _ in range(4):
            wire.send(request("POST", "/predictions/scale", body, bearer))
            assert wire.answer().code == 200


def test_a_large_body_without_a_token_is_refused_in_its_turn_and_nothing_behind_it_is_heard(here):
    bearer = f"Authorization: Bearer {here.keys()['inference']}"
    first = request("POST", "/predictions/scale", b'{"x": [[1.0]]}', bearer)
    with Wire(here.port) as wire:
        wire.send(first + request("POST", "/predictions/scale", b"x" * 100_000) + first)
        assert [wire.answer().code, wire.answer().code] == [200, 401]
        assert wire.ended()


def test_a_call_that_needs_no_token_may_send_what_it_likes(here):
    with Wire(here.port) as wire:
        wire.send(request("POST", "/ping", b"x" * 100_000))
        assert wire.answer().code in (200, 405)


def test_a_refusal_over_grpc_names_torchserves_class(here):
    service = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
    code, text = here.rpc_code(here.rpc, service, "Predictions", "unary", None)
    assert code == "PERMISSION_DENIED"
    assert text.endswith("\norg.pytorch.serve.http.InvalidKeyException")


def test_the_key_file_is_torchserves_and_for_the_servers_user_alone(here):
    file = here.folder / "key_file.json"
    assert file.stat().st_mode & 0o777 == 0o600
    document = json.loads(file.read_text())
    assert list(document) == ["management", "inference", "API"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", document["inference"]["expiration time"])
    assert list(document["API"]) == ["key"]
    assert f"tokens      {file}" in here.log
    assert "tokens are on" in here.log


def test_a_renewed_token_takes_the_place_of_the_one_before(here):
    old, url = here.keys(), f"http://127.0.0.1:{here.ports[1]}/token"
    api = {"Authorization": f"Bearer {old['API']}"}
    answer = requests.get(url, params={"type": "inference"}, headers=api, timeout=30)
    assert (answer.status_code, answer.text) == (200, "\n")
    new = here.keys()
    assert new["inference"] != old["inference"]
    assert (new["management"], new["API"]) == (old["management"], old["API"])
    assert here.code(here.port, "GET", "/v2", f"Bearer {old['inference']}")[0] == 401
    assert here.code(here.port, "GET", "/v2", f"Bearer {new['inference']}")[0] == 200
    for kind in ("API", "", "nonsense"):
        answer = requests.get(url, params={"type": kind}, headers=api, timeout=30)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")


def test_clients_of_every_kind_send_the_token(here):
    token = here.keys()["inference"]
    headers = {"Authorization": f"Bearer {token}"}
    x = np.array([[1.0, 2.0]], np.float32)
    for url in (here.url, f"grpc://127.0.0.1:{here.rpc}"):
        with Client(url, token=token) as client:
            np.testing.assert_array_equal(client.infer("scale", {"x": x})["output"], 2 * x)
            with pytest.raises(MooringError, match="management token"):
                client.load("scale")
        with Client(url) as nobody:
            assert nobody.ready("scale")
            with pytest.raises(MooringError, match="Token Authorization failed"):
                nobody.metadata("scale")
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{here.port}") as client:
        assert client.is_model_ready("scale")
        assert client.get_model_metadata("scale", headers=headers)["name"] == "scale"
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{here.rpc}") as client:
        assert (
            client.get_model_metadata("scale", headers={"authorization": f"Bearer {token}"}).name == "scale"
        )
    answer = requests.post(f"{here.url}/predictions/scale", json={"x": [[1.0]]}, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text


def test_the_commands_take_a_token_from_the_environment_or_from_a_file(here):
    def listed(*more: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [SCRIPTS / "mooring", "models", "list", "--url", here.url, *more],
            env=os.environ | environ,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    assert "scale" in listed(MOORING_TOKEN=here.keys()["inference"]).stdout
    assert "scale" in listed("--token-file", str(here.folder / "key_file.json")).stdout
    nobody = listed()
    assert nobody.returncode == 1
    assert DENIED.search(nobody.stderr)


def test_a_websocket_needs_the_token_to_open(here):
    url = f"ws://127.0.0.1:{here.port}/models/infer"
    with pytest.raises(InvalidStatus) as refused:
        connect(url)
    assert refused.value.response.status_code == 401
    with connect(url, additional_headers={"Authorization": f"Bearer {here.keys()['inference']}"}) as socket:
        socket.send(
            json.dumps(
                {
                    "model": "scale",
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}],
                }
            )
        )
        assert np.frombuffer(socket.recv(timeout=30), np.float32).tolist() == [6.0]


def test_the_document_says_which_token_a_call_needs(here):
    document = requests.get(f"{here.url}/openapi.json", timeout=30).json()
    infer = document["paths"]["/v2/models/{model_name}/infer"]["post"]
    assert infer["security"] == [{"inference": []}, {"management": []}]
    assert "401" in infer["responses"]
    load = document["paths"]["/v2/repository/models/{model_name}/load"]["post"]
    assert load["security"] == [{"management": []}]
    assert "security" not in document["paths"]["/v2/health/live"]["get"]
    assert document["components"]["securitySchemes"]["inference"]["scheme"] == "bearer"


async def test_where_others_reach_it_without_a_token_models_are_asked_and_not_managed(tmp_path, function):
    ports = free_ports(3)
    server = Guarded(
        tmp_path, f"{function}:scale", f"--inference-address=0.0.0.0:{ports[0]}",
        f"--management-address=127.0.0.1:{ports[1]}", f"--metrics-address=127.0.0.1:{ports[2]}",
        bound="0.0.0.0", ports=ports,
    )  # fmt: skip
    try:
        server.started()
        for pattern in sorted(MANAGED):
            if pattern.startswith("/v2"):
                code, text = server.code(server.port, "POST", filled(pattern), None)
                assert (code, "MOORING_MANAGEMENT_TOKEN" in text) == (403, True), pattern
        assert server.code(server.port, "GET", "/v2/models", None)[0] == 200
        assert server.code(server.ports[1], "GET", "/models", None)[0] == 200
        for service, name, kind in await rpcs():
            if name in MANAGED_RPCS and not service.startswith("org.pytorch"):
                code, text = server.rpc_code(server.rpc, service, name, kind, None)
                assert (code, "MOORING_MANAGEMENT_TOKEN" in text) == ("PERMISSION_DENIED", True), name
        assert "models are not managed over this address" in server.log
        server.closed()
    finally:
        server.kill()


def test_shared_memory_goes_by_the_address_of_each_listener(tmp_path, function):
    rpc = free_ports(1)[0]
    server = Server(tmp_path, f"{function}:scale", f"--grpc-address=0.0.0.0:{rpc}")
    try:
        server.started()
        assert server.ask("GET", "/v2/systemsharedmemory/status").code == 200
        off = pytest.raises(tritonclient.grpc.InferenceServerException, match="shared memory is off")
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{rpc}") as client, off:
            client.register_system_shared_memory("mine", "/mine", 8)
        assert server.stop() == 0
    finally:
        server.kill()


def test_fixed_tokens_come_from_the_environment_and_from_files_that_may_change(tmp_path, function):
    secret, inference = "a-management-secret", tmp_path / "inference"
    inference.write_text("an-inference-secret\n")
    server = Guarded(
        tmp_path, f"{function}:tell", "--inference-token-file", inference, "--log-level=debug",
        environ={"MOORING_MANAGEMENT_TOKEN": secret},
    )  # fmt: skip
    try:
        server.started()
        assert not (tmp_path / "key_file.json").exists()
        assert server.code(server.ports[1], "GET", "/token?type=inference", f"Bearer {secret}")[0] == 404
        assert server.code(server.ports[1], "GET", "/models", "Bearer an-inference-secret")[0] == 401
        assert server.code(server.ports[1], "GET", "/models", f"Bearer {secret}")[0] == 200
        assert server.code(server.port, "GET", "/v2", "Bearer an-inference-secret")[0] == 200

        told = requests.post(
            f"{server.url}/predictions/tell", json={"x": [1.0]}, headers={"Authorization": f"Bearer {secret}"},
            timeout=30,
        )  # fmt: skip
        assert "MOORING" not in told.text

        inference.write_text("another-inference-secret")
        until(lambda: server.code(server.port, "GET", "/v2", "Bearer another-inference-secret")[0] == 200)
        assert server.code(server.port, "GET", "/v2", "Bearer an-inference-secret")[0] == 401

        seen = [server.log, *(" ".join(each.cmdline()) for each in server.family())]
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {secret}"
            for port, path in (
                (0, "/v2"),
                (0, "/openapi.json"),
                (1, "/models/tell"),
                (2, "/metrics"),
                (0, "/v2/nobody"),
            ):
                seen.append(session.get(f"http://127.0.0.1:{server.ports[port]}{path}", timeout=30).text)
        seen.append(server.code(server.port, "GET", "/v2", f"Bearer {secret}x")[1])
        assert not any(word in text for word in (secret, "inference-secret") for text in seen)
        server.closed()
    finally:
        server.kill()


def test_with_the_management_token_alone_inference_needs_none(tmp_path, function):
    server = Guarded(
        tmp_path, f"{function}:scale", "--protect-metrics", environ={"MOORING_MANAGEMENT_TOKEN": "the-secret"}
    )
    try:
        server.started()
        load = "/v2/repository/models/scale/load"
        assert server.code(server.port, "GET", "/v2", None)[0] == 200
        assert server.code(server.port, "POST", load, None)[0] == 401
        assert server.code(server.port, "POST", load, "Bearer the-secret")[0] != 401
        assert server.code(server.ports[2], "GET", "/metrics", None)[0] == 401
        assert server.code(server.ports[2], "GET", "/metrics", "Bearer the-secret")[0] == 200
        assert "inference needs none" in server.log
        server.closed()
    finally:
        server.kill()


def test_torchserves_start_writes_the_key_file_and_its_end_deletes_it(tmp_path):
    port, managing, metrics, rpc, rpc_managing = free_ports(5)
    (tmp_path / "store").mkdir()
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://0.0.0.0:{managing}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={rpc}\n"
        f"grpc_management_port={rpc_managing}\nmodel_store=store\n"
    )

    def torchserve(*arguments: str) -> str:
        done = run_to_end(
            [SCRIPTS / "mooring", "torchserve", *arguments], tmp_path, os.environ | {"TMPDIR": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def code(key: str = "") -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return requests.get(f"http://127.0.0.1:{managing}/models", headers=headers, timeout=30).status_code

    file = tmp_path / "key_file.json"
    try:
        assert str(file) in torchserve("--start")
        first = json.loads(file.read_text())["management"]["key"]
        assert (code(first), code()) == (200, 400)
        server = psutil.Process(int((tmp_path / ".model_server.pid").read_text()))
        server.terminate()
        psutil.wait_procs([server], timeout=PATIENCE)
        assert not file.exists()
        torchserve("--start")
        second = json.loads(file.read_text())["management"]["key"]
        assert (code(second), code(first)) == (200, 400)
        written = [each.read_text() for each in (tmp_path / "logs").rglob("*") if each.is_file()]
        assert written
        assert not any(key in text for key in (first, second) for text in written)
    finally:
        torchserve("--stop")
    assert not file.exists()


class DropIn(Guarded):
    """What ``mooring torchserve`` starts, all of it on loopback."""

    unauthorized = 400

    def __init__(self, folder: Path, *lines: str) -> None:
        (folder / "store").mkdir(exist_ok=True)
        if not (folder / "store/rows.mar").exists():
            pack(folder / "store", "rows", "rows_handler.py")
        ports = free_ports(5)
        self.rpc, self.managing = ports[3:]
        (folder / "config.properties").write_text(
            "\n".join(
                [
                    *(
                        f"{name}_address=http://127.0.0.1:{port}"
                        for name, port in zip(("inference", "management", "metrics"), ports, strict=False)
                    ),
                    f"grpc_inference_port={self.rpc}\ngrpc_management_port={self.managing}",
                    "model_store=store\nload_models=rows.mar\ndefault_workers_per_model=1",
                    *lines,
                ]
            )
        )
        Server.__init__(
            self, folder, "--start", "--foreground", "--ncs", command="torchserve", ports=ports,
            environ={"TMPDIR": str(folder)},
        )  # fmt: skip


REFUSED = {
    "code": 400,
    "type": "InvalidKeyException",
    "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
}


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    server = DropIn(tmp_path_factory.mktemp("dropped"))
    try:
        yield server.started("Model server started.")
        server.closed()
        assert not (server.folder / "key_file.json").exists()
    finally:
        server.kill()


def test_a_drop_in_start_on_loopback_needs_no_token_and_takes_those_of_the_key_file(dropped):
    keys = dropped.keys()
    url, managing = dropped.url, f"http://127.0.0.1:{dropped.ports[1]}"
    assert "needed at no address" in dropped.log
    for kind, method, place in (
        ("inference", "POST", f"{url}/predictions/rows"), ("management", "GET", f"{managing}/models/rows"),
        ("management", "PUT", f"{managing}/models/rows?min_worker=1"),
    ):  # fmt: skip
        for headers in ({}, {"Authorization": f"Bearer {keys[kind]}"}):
            assert requests.request(method, place, headers=headers, timeout=30).status_code in (200, 202)
    for service, name, port in (
        ("inference.InferenceAPIsService", "Ping", dropped.rpc),
        ("management.ManagementAPIsService", "ListModels", dropped.managing),
    ):
        for header in (None, f"Bearer {keys['management']}"):
            assert (
                dropped.rpc_code(port, f"org.pytorch.serve.grpc.{service}", name, "unary", header)[0] == "OK"
            )


@pytest.mark.parametrize(
    "wrong", ["Bearer AAAAAAAA", "AAAAAAAA", "Basic AAAAAAAA", "Bearer API", "Bearer inference"]
)
def test_a_wrong_token_gets_torchserves_answer_in_a_drop_in_start(dropped, wrong):
    keys = dropped.keys()
    header = {"Authorization": wrong.replace("API", keys["API"]).replace("inference", keys["inference"])}
    places = [f"http://127.0.0.1:{dropped.ports[1]}/models/rows"]
    if wrong != "Bearer inference":
        places.append(f"{dropped.url}/predictions/rows")
    for place in places:
        answer = requests.get(place, headers=header, timeout=30)
        assert (answer.status_code, answer.json()) == (
            400,
            REFUSED | {"requestId": answer.headers["x-request-id"]},
        )
        assert "error_description=" in answer.headers["WWW-Authenticate"]
    for service, name, port in (
        ("org.pytorch.serve.grpc.management.ManagementAPIsService", "ListModels", dropped.managing),
        ("org.pytorch.serve.grpc.inference.InferenceAPIsService", "Predictions", dropped.rpc),
    )[: len(places)]:
        code, text = dropped.rpc_code(port, service, name, "unary", header["Authorization"])
        assert (code, bool(DENIED.match(text))) == ("PERMISSION_DENIED", True)


def test_a_request_with_a_head_that_is_known_is_still_checked(dropped):
    wrong, right = "Authorization: Bearer AAAAAAAA", f"Authorization: Bearer {dropped.keys()['inference']}"
    with Wire(dropped.port) as wire:
        for line, code in [("X-Own: 1", 200), (right, 200), (wrong, 400)] * 3:
            wire.send(request("POST", "/predictions/rows", b"x", line))
            assert wire.answer().code == code


def test_a_renewal_asks_for_its_key_and_for_a_type_also_on_loopback(dropped):
    url, old = f"http://127.0.0.1:{dropped.ports[1]}/token", dropped.keys()
    unrenewed = REFUSED | {"message": REFUSED["message"].replace("Authorization", "Authentication")}
    api = {"Authorization": f"Bearer {old['API']}"}
    for headers, query in (
        ({}, "?type=inference"),
        ({"Authorization": f"Bearer {old['management']}"}, "?type=inference"),
    ):
        answer = requests.get(url + query, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()) == (
            400,
            unrenewed | {"requestId": answer.headers["x-request-id"]},
        )
    for query in ("", "?type=", "?type=token"):
        answer = requests.get(url + query, headers=api, timeout=30)
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException")
        assert "inference or management" in answer.json()["message"]
    assert dropped.keys() == old
    assert requests.get(f"{url}?type=inference", headers=api, timeout=30).text == "\n"
    stale = requests.post(
        f"{dropped.url}/predictions/rows", headers={"Authorization": f"Bearer {old['inference']}"}, timeout=30
    )
    assert (stale.status_code, stale.json()) == (400, REFUSED | {"requestId": stale.headers["x-request-id"]})


@pytest.mark.parametrize(("switch", "plain", "wrong"), [("false", 400, 400), ("true", 200, 200)])
def test_the_switch_demands_tokens_or_writes_none(tmp_path, switch, plain, wrong):
    server = DropIn(tmp_path, f"disable_token_authorization={switch}")
    try:
        server.started("Model server started.")
        assert (tmp_path / "key_file.json").exists() is (switch == "false")
        for path in ("/predictions/rows", "/v2/models/rows/infer"):
            assert DENIED.search(server.code(server.port, "POST", path, None)[1]) or plain == 200
        assert server.code(server.port, "POST", "/predictions/rows", None)[0] == plain
        assert server.code(server.port, "POST", "/predictions/rows", "Bearer AAAAAAAA")[0] == wrong
        server.closed()
    finally:
        server.kill()


def test_a_key_file_that_cannot_be_written_is_one_warning_on_loopback_and_no_start_where_tokens_are_needed(
    tmp_path,
):
    (tmp_path / "key_file.json").mkdir()
    (tmp_path / "key_file.json/own").touch()  # nothing takes the place of a folder with something in it
    server = DropIn(tmp_path)
    try:
        server.started("Model server started.")
        (line,) = [line for line in server.log.splitlines() if "key_file.json" in line and "WARN" in line]
        assert "no token is checked" in line
        assert server.code(server.port, "POST", "/predictions/rows", "Bearer an-old-one")[0] == 200
        server.closed()
    finally:
        server.kill()
    server = DropIn(tmp_path, "disable_token_authorization=false")
    try:
        assert server.process.wait(PATIENCE) == 1
        assert "key_file.json cannot be written (Is a directory)" in server.log.splitlines()[-1]
    finally:
        server.kill()


def test_a_start_in_vain_leaves_the_keys_of_a_running_server_alone(here):
    before = here.keys()
    second = subprocess.run(
        [SCRIPTS / "mooring", "serve", "--token-authorization=on", f"--inference-address=127.0.0.1:{here.port}",
         "--management-address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0",
         "--grpc-management-address=127.0.0.1:0"],
        cwd=here.folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1, second.stderr
    assert here.keys() == before

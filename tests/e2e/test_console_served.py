"""The console of real servers: what a page reads and changes, who may, and that nobody who watches holds anything up."""

import json
import socket
import time
from contextlib import ExitStack

import numpy as np
import pytest
import requests
from console_kit import API, entry, post, read, watching
from drop_in_kit import drop_in
from e2e_kit import JSON, PATIENCE, Server, Wire, free_ports, frontends, pack, request, until
from onnx_kit import node, write_model
from stream_kit import folder

VALUES = """
def infer(x: float) -> float:
    '''Doubles a number.'''
    if x < 0:
        raise ValueError("no value below zero")
    return 2 * x
"""
TENSORS = """
import numpy as np

def infer(x: np.ndarray):
    if (x < 0).any():
        raise ValueError("no tensor below zero")
    return {"x": x + 1}
"""
HANDLER = """
import logging, os

def handle(data, context):
    if data is None:
        return None
    text = bytes(data[0].get("body") or b"").decode()
    if text == "die":
        os._exit(3)
    if text == "fail":
        raise ValueError("no text as this")
    logging.getLogger("own").warning("heard %s", text)
    return [text.upper()]
"""
BROKEN = "def infer(x: float) -> float:\n    return x\n\nraise RuntimeError('broken from the first')\n"
CHAIN = 'name = "both"\n[[models]]\nname = "plus"\nentry = "plus.py:infer"\n[[models]]\nname = "more"\nentry = "plus.py:infer"\n'
SHAPE = '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1]\n[[outputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1]\n'
V2 = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [-1.0]}]}
ODD = "a <b>/ü"  # what a name may have in it


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    declare(place, "values", VALUES)
    declare(place, "tensors", TENSORS, SHAPE)
    declare(place, "broken", BROKEN)
    declare(place, "both", TENSORS, CHAIN.removeprefix('name = "both"\n'), file="plus.py")
    (place / "net" / "1").mkdir(parents=True)
    reshaped = [node("Reshape", "x s", "y")]
    write_model(place / "net" / "1" / "model.onnx", nodes=reshaped, constants=[("s", np.array([7, 3]))])
    return place


def declare(place, name, source, text="", file="model.py"):
    (place / name / "1").mkdir(parents=True)
    (place / name / "config.toml").write_text(f'name = "{name}"\n{text}[workers]\nmin = 1\nmax = 1\n')
    (place / name / "1" / file).write_text(source)


@pytest.fixture(
    scope="module", params=[(), ("--frontends=2", "--deal-connections=evenly")], ids=["alone", "frontends"]
)
def server(request, models, tmp_path_factory):
    place = tmp_path_factory.mktemp("server")
    handler = folder(place, "speaking", HANDLER)
    started = Server(
        place, f"{ODD.replace('/', '-')}={models / 'values' / '1' / 'model.py'}:infer", handler,
        "--model-repository", models, "--keep-going", *request.param,
    )  # fmt: skip
    try:
        yield started.started(ping=500)  # one cannot be loaded
        assert started.stop() == 0
    finally:
        started.kill()


def ask(server, model, value):
    return server.ask("POST", f"/predictions/{model}", json.dumps(value).encode(), f"Content-Type: {JSON}")


def errors_of(server, model):
    return [each for each in read(server, "errors")["errors"] if each["model"] == model]


def test_a_browser_is_sent_to_the_page_and_machines_get_what_they_always_got(server):
    for accept, code in (("text/html,application/xhtml+xml,*/*;q=0.8", 302), ("*/*", 200), (JSON, 200)):
        answer = server.ask("GET", "/", b"", f"Accept: {accept}")
        assert answer.code == code
        assert answer.headers.get("location", "/console") == "/console"
    assert server.ask("GET", "/").json() == {"status": "alive"}
    page = server.ask("GET", "/console")
    assert page.code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert server.ask("GET", "/console", b"", f"If-None-Match: {page.headers['etag']}").code == 304
    assert server.ask("HEAD", "/console", head=True).headers["content-length"] == str(len(page.body))


def test_the_state_says_what_the_server_and_each_model_do(server):
    state = read(server, "state")
    about = state["server"]
    assert about["addresses"]["inference"] == server.url
    assert about["addresses"]["grpc"] == server.grpc
    assert about["pid"] == server.process.pid
    kinds = {each["name"]: each["kind"] for each in state["models"]}
    assert {name: kinds[name] for name in ("values", "tensors", "both", "net", "speaking")} == {
        "values": "values", "tensors": "tensors", "both": "chain", "net": "tensors", "speaking": "handler",
    }  # fmt: skip
    assert entry(state, "values")["workers"] == {"ready": 1, "wanted": 1, "starting": 0}
    broken = entry(state, "broken")
    assert broken["state"] in ("FAILED", "UNAVAILABLE")
    assert "broken from the first" in broken["reason"]


def test_a_stream_has_the_state_each_second_with_rates_and_percentiles_of_the_last_ones(server):
    with watching(server) as events:
        assert events.next()[0] == "state"
        for _ in range(20):
            assert ask(server, "values", {"x": 1.0}).code == 200
        found = events.until("state", lambda state: entry(state, "values")["latency_ms"])
        values = entry(found, "values")
        assert values["rate"] >= 0
        assert 0 < values["latency_ms"]["p50"] <= values["latency_ms"]["p95"] <= values["latency_ms"]["p99"]
        assert values["queue_ms"]["p50"] >= 0
        assert values["batch_rows"] == 1.0
        assert values["answered"] >= 20


@pytest.mark.parametrize(
    ("model", "target", "body", "text", "line"),
    [
        ("values", "/predictions/values", {"x": -1}, "no value below zero", 'raise ValueError("no value'),
        ("tensors", "/v2/models/tensors/infer", V2, "no tensor below zero", 'raise ValueError("no tensor'),
        ("plus", "/v2/models/both/infer", V2, "no tensor below zero", 'raise ValueError("no tensor'),
        ("net", "/v2/models/net/infer", {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}, "Reshape", "onnxruntime"),
        ("speaking", "/predictions/speaking", "fail", "no text as this", 'raise ValueError("no text'),
    ],
)  # fmt: skip
def test_an_error_has_the_traceback_of_the_worker_and_equal_ones_are_counted(
    server, model, target, body, text, line
):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    before = sum(each["count"] for each in errors_of(server, model))
    ids = [
        server.ask("POST", target, data, f"Content-Type: {JSON}").headers["x-request-id"] for _ in range(2)
    ]
    assert len(ids) == 2
    until(lambda: sum(each["count"] for each in errors_of(server, model)) == before + 2)
    error = errors_of(server, model)[0]
    assert text in error["message"]
    assert "\n" not in error["message"]
    assert line in error["traceback"]
    assert error["version"]
    assert error["count"] == 2


def test_an_error_is_told_on_the_stream_as_it_happens(server):
    with watching(server) as events:
        server.predict("speaking", "fail")
        error = events.until("error", lambda error: error["model"] == "speaking")
        assert "no text as this" in error["traceback"]


def test_what_a_model_logs_is_in_the_log_with_its_name_and_its_request(server):
    with watching(server) as events:
        server.predict("speaking", "hello", "x-request-id: the-one")
        lines = events.until("log", lambda log: "heard hello" in str(log))["lines"]
    (line,) = [line for line in lines if "heard hello" in line["message"]]
    assert (line["level"], line["logger"], line["model"], line["request_id"]) == (
        "WARNING", "own", "speaking", "the-one",
    )  # fmt: skip
    kept = read(server, "logs")["lines"]
    assert line["id"] in [each["id"] for each in kept]
    assert [each["id"] for each in kept] == sorted(each["id"] for each in kept)


def test_a_load_that_failed_and_a_worker_that_died_are_errors(server):
    (broken, *_) = errors_of(server, "broken")
    assert "broken from the first" in broken["message"] + broken["traceback"]
    server.predict("speaking", "die")
    until(lambda: any("worker" in each["message"] for each in errors_of(server, "speaking")))
    until(lambda: entry(read(server, "state"), "speaking")["state"] == "READY")


def test_a_version_is_described_with_requests_that_it_answers(server):
    detail = read(server, "models/values/versions/1")
    assert detail["values"]["text"] == "Doubles a number."
    assert detail["description"]["workers"][0]["memory"] > 0
    examples = detail["examples"]
    assert ask(server, "values", json.loads(examples["predictions"]["body"])).json() == 2.0
    assert server.ask("POST", "/v2/models/values/infer", json.dumps(examples["v2"]).encode()).code == 200
    assert server.ask("POST", "/v1/models/values:predict", json.dumps(examples["v1"]).encode()).code == 200
    tensors = read(server, "models/tensors/versions/1")
    assert tensors["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1]}]
    assert (
        server.ask("POST", "/v2/models/tensors/infer", json.dumps(tensors["examples"]["v2"]).encode()).code
        == 200
    )
    assert read(server, "models/speaking/versions/1.0")["examples"]["predictions"] is None
    for path in ("models/nobody/versions/1", "models/values/versions/9", "models/values/versions/all"):
        answer = server.ask("GET", f"{API}/{path}")
        assert (answer.code, list(answer.json())) == (404, ["error"])


def test_names_with_any_character_are_found(server):
    name = ODD.replace("/", "-")
    state = read(server, "state")
    assert entry(state, name)["state"] == "READY"
    quoted = requests.utils.quote(name, safe="")
    version = entry(state, name)["version"]
    assert read(server, f"models/{quoted}/versions/{version}")["description"]["name"] == name


def test_a_page_scales_unloads_and_loads(server):
    assert post(
        server, "models/tensors/scale", {"version": "1", "min_workers": 2, "max_workers": 2}
    ).json() == {"done": True}
    assert entry(read(server, "state"), "tensors")["workers"]["ready"] == 2
    assert post(server, "models/tensors/default", {"version": "1"}).code == 200
    assert post(server, "models/tensors/unload", {}).json() == {"done": True}
    until(lambda: entry(read(server, "state"), "tensors")["state"] == "UNAVAILABLE")
    assert server.ask("POST", "/v2/models/tensors/infer", json.dumps(V2).encode()).code == 404
    assert post(server, "models/tensors/load", {}).json() == {"done": True}
    assert entry(read(server, "state"), "tensors")["state"] == "READY"
    assert (
        post(server, "models/tensors/scale", {"version": "1", "min_workers": 1, "max_workers": 1}).code == 200
    )


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("models/nobody/load", {}, 404, "nobody"),
        ("models/nobody/unload", {}, 404, "nobody"),
        ("models/values/scale", {"version": "1", "min_workers": 3, "max_workers": 1}, 400, "min_workers"),
        ("models/values/scale", {"version": "1"}, 400, "min_workers"),
        ("models/values/default", {}, 400, "version"),
        ("models/values/default", {"version": "9"}, 404, "9"),
        ("models/values/load", {"file:model.py": "x"}, 400, "file:model.py"),
        ("models/values/load", [1], 400, "body"),
        ("models", {"url": "nobody.mar"}, 404, "nobody.mar"),
        ("models/broken/load", {}, 400, "broken from the first"),
    ],
)
def test_what_is_not_done_says_why(server, path, body, code, text):
    answer = post(server, path, body)
    assert (answer.code, list(answer.json())) == (code, ["error"])
    assert text in answer.json()["error"]


def test_only_json_changes_something(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = server.ask("POST", f"{API}/models/values/unload", b"{}", f"Content-Type: {kind}")
        assert answer.code == 415
    assert server.ask("POST", f"{API}/models/values/unload", b"{}").code == 415
    assert entry(read(server, "state"), "values")["state"] == "READY"


def test_settings_say_where_they_were_set(server):
    settings = {each["name"]: each for each in read(server, "settings")["settings"]}
    assert settings["inference_address"]["value"] == server.url
    assert settings["inference_address"]["source"] == "--inference-address"
    assert settings["log_level"]["source"] == "default"
    assert settings["targets"]["source"] == "the command line"


def test_the_openapi_document_has_nothing_of_the_console(server):
    assert "/console" not in str(list(server.ask("GET", "/openapi.json").json()["paths"]))


FOREIGN = {
    "a rebound name": ("GET", ["Host: rebound.test"]),
    "a rebound name with our port": ("GET", ["Host: rebound.test:{port}"]),
    "another site's page": ("GET", ["Origin: http://evil.example"]),
    "a page of another port": ("GET", ["Origin: http://localhost:3000", "Sec-Fetch-Site: same-site"]),
    "an image of another port": ("GET", ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"]),
    "an image of another site": ("GET", ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"]),
    "a page in a sandbox": ("GET", ["Origin: null"]),
    "a change by another site": ("POST", ["Origin: http://evil.example", "Sec-Fetch-Site: cross-site"]),
    "a change by a rebound page": ("POST", ["Host: rebound.test", "Origin: http://rebound.test", "Sec-Fetch-Site: same-origin"]),
}  # fmt: skip


@pytest.mark.parametrize("who", FOREIGN)
def test_pages_of_others_learn_nothing_and_change_nothing(server, who):
    method, lines = FOREIGN[who]
    lines = [line.format(port=server.port) for line in lines]
    paths = ["state", "events", "logs", "errors", "settings", "models/values/versions/1"]
    if method == "POST":
        paths = ["models/values/unload", "models/values/load", "models"]
    for path in paths:
        answer = foreign(server, server.port, method, f"{API}/{path}", lines)
        assert (answer.code, list(answer.json())) == (403, ["error"]), path
        assert "access-control-allow-origin" not in answer.headers
    assert entry(read(server, "state"), "values")["state"] == "READY"


def test_management_is_refused_to_a_rebound_name_too(server):
    for port, method, target in (
        (server.ports[1], "GET", "/models"),
        (server.ports[1], "DELETE", "/models/values"),
        (server.port, "POST", "/v2/repository/models/values/unload"),
        (server.port, "POST", "/v2/models/values/unload"),
    ):
        answer = foreign(server, port, method, target, ["Host: rebound.test"])
        assert answer.code == 403
        assert "trusted_hosts" in str(answer.json())
    assert foreign(server, server.ports[1], "GET", "/models", ["Origin: http://evil.example"]).code == 403
    # What is asked for a model is nobody's secret here.
    assert foreign(server, server.port, "GET", "/ping", ["Host: rebound.test"]).code in (200, 500)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "models.localhost", "[::1]", "LOCALHOST."])
def test_names_of_this_machine_are_its_own(server, host):
    lines = [f"Host: {host}:{server.port}", "Sec-Fetch-Site: same-origin"]
    assert foreign(server, server.port, "GET", f"{API}/state", lines).code == 200


def test_a_link_to_the_page_works_from_anywhere(server):
    lines = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"]
    assert server.ask("GET", "/console", b"", *lines).code == 200


def foreign(server, port, method, target, lines):
    """A request with these headers, and with a Host of its own only where they have none."""
    named = any(line.startswith("Host:") for line in lines)
    data = request(
        method, target, b"{}" if method == "POST" else b"", "Content-Type: application/json", *lines
    )
    if named:
        data = data.replace(b"Host: localhost\r\n", b"", 1)
    with Wire(port) as wire:
        wire.send(data)
        return wire.answer()


def test_whoever_watches_and_reads_nothing_holds_nobody_up(server):
    with ExitStack() as stack:
        for _ in range(3):
            stalled = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(request("GET", f"{API}/events"))
        with watching(server) as events:
            for _ in range(3):
                assert events.until("state")
            assert ask(server, "values", {"x": 1.0}).code == 200


def test_nobody_who_watches_is_read_for_when_they_have_gone(server):
    with watching(server):
        pass
    assert read(server, "state")  # and nothing was logged of it
    assert not [line for line in server.log.splitlines() if "callback failed" in line]


@pytest.mark.parametrize(
    "more", [(), ("--frontends=2", "--deal-connections=evenly")], ids=["alone", "frontends"]
)
def test_a_server_that_stops_waits_for_nobody_who_watches(tmp_path, models, more):
    server = Server(tmp_path, models / "values", *more)
    try:
        server.started()
        with ExitStack() as stack:
            streams = [stack.enter_context(watching(server)) for _ in range(6)]
            begun = time.monotonic()
            server.process.terminate()
            for stream in streams:
                while stream.next() is not None:
                    pass
            assert server.process.wait(PATIENCE) == 0
            assert time.monotonic() - begun < PATIENCE / 2  # drain_timeout is three times that
        assert not server.faults()
    finally:
        server.kill()


TOKEN = "a-token-for-managing"


def test_with_a_token_the_page_is_open_and_its_data_is_not(tmp_path, models):
    config = tmp_path / "mooring.toml"
    config.write_text(f'log_level = "info"\nmanagement_token = "{TOKEN}"\ntrusted_hosts = "models.example"\n')
    show = f"print('the token is {TOKEN}')\n"
    (tmp_path / "telling.py").write_text(f"{show}def infer(x: float) -> float:\n    {show}    return x\n")
    server = Server(
        tmp_path, "--config", config, "telling.py:infer", "--frontends=2", "--deal-connections=evenly"
    )
    bearer = f"Authorization: Bearer {TOKEN}"
    try:
        server.started()
        for _ in range(4):  # whichever process answers
            assert server.ask("GET", "/console").code == 200
            for path in ("state", "events", "logs", "errors", "settings", "models/infer/versions/1"):
                answer = server.ask("GET", f"{API}/{path}")
                assert (answer.code, list(answer.json())) == (401, ["error"])
                assert (
                    server.ask("GET", f"{API}/{path}", b"", "Authorization: Bearer wrong-token").code == 401
                )
            assert post(server, "models/infer/unload", {}).code == 401
        assert read(server, "state", bearer)["models"]
        with watching(server, bearer) as events:
            assert events.until("state")
        settings = {each["name"]: each for each in read(server, "settings", bearer)["settings"]}
        assert settings["management_token"]["value"] == "set, hidden"
        assert settings["management_token"]["source"] == f"{config}: line 2"
        assert settings["trusted_hosts"]["source"] == f"{config}: line 3"
        ask(server, "infer", {"x": 1.0})
        logs = str(read(server, "logs", bearer))
        assert "the token is ***" in logs
        assert TOKEN not in logs + str(settings)
        named = foreign(server, server.port, "GET", f"{API}/state", [bearer, "Host: models.example"])
        assert named.code == 200
        # Whoever has the token may use any name: a page whose name was pointed at this machine has none.
        assert foreign(server, server.port, "GET", f"{API}/state", [bearer, "Host: rebound.test"]).code == 200
        assert foreign(server, server.port, "GET", f"{API}/state", ["Host: rebound.test"]).code == 401
        lines = [bearer, "Host: rebound.test", "Origin: http://evil.example"]
        assert foreign(server, server.port, "GET", f"{API}/state", lines).code == 403
        assert server.stop() == 0
    finally:
        server.kill()


def test_where_others_reach_it_the_console_needs_a_token_or_the_users_own_word(tmp_path, models):
    with ExitStack() as stack:
        for more, code in (((), 403), (("--insecure",), 200)):
            place = tmp_path / f"of{code}"
            place.mkdir()
            (port,) = free_ports(1)
            server = Server(place, models / "values", f"--inference-address=http://0.0.0.0:{port}", *more)
            server.ports = [port, *server.ports[1:]]
            stack.callback(server.kill)
            server.started()
            answer = server.ask("GET", f"{API}/state")
            assert answer.code == code
            if code == 403:
                assert "management_token_file" in answer.json()["error"]
                assert post(server, "models/values/unload", {}).code == 403
            assert server.ask("GET", "/console").code == 200


def test_a_console_that_is_off_is_not_there(tmp_path, models):
    server = Server(tmp_path, models / "values", "--no-console")
    try:
        server.started()
        for path in ("/console", "/console/static/index.html", f"{API}/state", f"{API}/events"):
            assert server.ask("GET", path).code == 404
        assert server.ask("GET", "/", b"", "Accept: text/html").json() == {"status": "alive"}
    finally:
        server.kill()


def test_starts_in_torchserves_place_have_a_console_within_their_own_rules(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    pack(store, "measured", "measured_handler.py")
    server = drop_in(tmp_path, store, "enable_model_api=false")
    try:
        state = read(server, "state")
        assert entry(state, "measured")["kind"] == "handler"
        settings = {each["name"]: each for each in read(server, "settings")["settings"]}
        assert settings["enable_model_api"]["source"].endswith("config.properties: line 7")
        assert settings["require_models"]["source"] == "default of mooring torchserve"
        for path, body in (("models", {"url": "measured.mar"}), ("models/measured/unload", {})):
            answer = post(server, path, body)
            assert answer.code == 403
            assert "enable_model_api" in answer.json()["error"]
        assert (
            post(server, "models/measured/scale", {"version": "1.0", "min_workers": 1, "max_workers": 1}).code
            == 200
        )
    finally:
        server.kill()


def test_starts_in_tritons_place_without_model_control_let_no_page_change_models(tmp_path, models):
    ports = free_ports(3)
    server = Server(
        tmp_path, "--model-repository", models, "--http-address=127.0.0.1", f"--http-port={ports[0]}",
        f"--grpc-port={ports[1]}", f"--metrics-port={ports[2]}", "--exit-on-error=false",
        "--strict-readiness=false", command="tritonserver", ports=ports,
    )  # fmt: skip
    try:
        until(lambda: "Started HTTPService" in server.log, within=3 * PATIENCE)
        assert entry(read(server, "state"), "values")["state"] == "READY"
        for path in ("models/values/unload", "models/values/load", "models", "models/values/scale"):
            body = {"url": "x"} if path == "models" else {}
            answer = post(server, path, body)
            assert answer.code == 403
            assert "enable_repository_api" in answer.json()["error"]
    finally:
        server.kill()


def test_frontend_processes_answer_as_the_first_one_does(server):
    if not frontends(server):
        pytest.skip("this server has one process")
    seen = {read(server, "state")["server"]["pid"] for _ in range(8)}
    assert seen == {server.process.pid}

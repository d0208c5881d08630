"""Clients that stop waiting: after a time they name, by going away, by withdrawing. Nobody works on for them.

The models write a line to a file for every request that reaches them, and another when they learn that nobody waits.
"""

import json
import time

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from e2e_kit import JSON, PATIENCE, Server, Wire, request, until
from websockets.sync.client import connect

from mooring.codecs.proto import torchserve_inference_pb2 as inference

FUNCTION = """
import pathlib, time

def infer(seconds: 'ndarray', name, cancelled):
    told = pathlib.Path(__file__).with_name("told")
    who = name.item() if hasattr(name, "item") else name
    who = who.decode() if isinstance(who, bytes) else str(who)
    with told.open("a") as file:
        print("begin", who, file=file)
    end = time.monotonic() + float(seconds.item() if hasattr(seconds, "item") else seconds)
    while time.monotonic() < end:
        if cancelled():
            with told.open("a") as file:
                print("cancelled", who, file=file)
            break
        time.sleep(0.005)
    return {"name": [who]}
"""
HANDLER = """
import json, pathlib, threading, time

def handle(data, context):
    if data is None:
        return None
    told = pathlib.Path(context.system_properties["model_dir"]) / "told"
    asked = []
    for row in data:
        body = row.get("body") or row.get("data")
        asked.append(json.loads(body) if isinstance(body, (str, bytes, bytearray)) else body or row)
    names = [each["name"] for each in asked]
    with told.open("a") as file:
        print("begin", *names, file=file)
    end = time.monotonic() + max(float(each["seconds"]) for each in asked)
    gone = set()
    while time.monotonic() < end and not context.cancelled():
        for row, name in enumerate(names):
            if row not in gone and context.cancelled(row):
                gone.add(row)
                with told.open("a") as file:
                    print("row", name, file=file)
        time.sleep(0.005)
    if context.cancelled():
        with told.open("a") as file:
            print("cancelled", *names, file=file)
    return names
"""
ASYNCHRONOUS = """
import asyncio, json, pathlib

async def handle(data, context):
    if data is None:
        return None
    told = pathlib.Path(context.system_properties["model_dir"]) / "told"
    asked = json.loads(bytes(data[0]["body"]))
    with told.open("a") as file:
        print("begin", asked["name"], file=file)
    try:
        await asyncio.sleep(asked["seconds"])
    except asyncio.CancelledError:
        with told.open("a") as file:
            print("cancelled", asked["name"], context.cancelled(), file=file)
        raise
    return [asked["name"]]
"""


class Told:
    """What a model has written."""

    def __init__(self, file):
        self._file = file

    def __contains__(self, line):
        return self._file.exists() and line in self._file.read_text().splitlines()

    def clear(self):
        self._file.unlink(missing_ok=True)


class Deadlines:
    def __init__(self, server, places):
        self.server = server
        self.told = {name: Told(place) for name, place in places.items()}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    place = tmp_path_factory.mktemp("deadlines")
    (place / "models/slow/1").mkdir(parents=True)
    (place / "models/slow/config.toml").write_text('name = "slow"\nqueue_size = 20\n')
    (place / "models/slow/1/model.py").write_text(FUNCTION)
    handlers = []
    for name, source, settings in (
        ("handler", HANDLER, {"batchSize": 4, "maxBatchDelay": 200, "exactBatchDelay": True}),
        ("short", HANDLER, {"responseTimeout": 1, "batchSize": 2, "minWorkers": 2, "maxWorkers": 2}),
        ("asynchronous", ASYNCHRONOUS, {}),
    ):
        (place / name).mkdir()
        (place / name / "handler.py").write_text(source)
        (place / name / "model-config.yaml").write_text(json.dumps(settings))
        handlers.append(place / name)
    server = Server(place, "--model-repository", place / "models", *handlers)
    try:
        server.started()
        places = {"slow": place / "models/slow/1/told"} | {each.name: each / "told" for each in handlers}
        yield Deadlines(server, places)
        assert server.stop() == 0
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def document(seconds, name):
    return json.dumps({"seconds": seconds, "name": name}).encode()


def tensors(seconds, name, **parameters):
    inputs = [
        {"name": "seconds", "datatype": "FP64", "shape": [1], "data": [seconds]},
        {"name": "name", "datatype": "BYTES", "shape": [1], "data": [name]},
    ]
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode()


ROUTES = {
    "torchserve": ("/predictions/slow", document),
    "legacy": ("/slow/predict", document),
    "invocations": ("/models/slow/invoke", document),
    "v1": ("/v1/models/slow:predict", lambda *args: b'{"instances": [%s]}' % document(*args)),
    "v2": ("/v2/models/slow/infer", tensors),
    "generate": ("/v2/models/slow/generate", tensors),
    "stream": ("/v2/models/slow/generate_stream", tensors),
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_names_a_time_is_told_when_it_is_over_and_the_model_is_told_as_well(served, route):
    path, body = ROUTES[route]
    begin = time.monotonic()
    answer = served.server.ask(
        "POST", path, body(PATIENCE, route), f"Content-Type: {JSON}", "X-Request-Timeout-Ms: 150"
    )
    assert answer.code == 504
    assert time.monotonic() - begin < PATIENCE / 2
    said = answer.json().get("error") or answer.json()["message"]
    assert said.startswith("model 'slow' did not answer in time")
    until(lambda: f"cancelled {route}" in served.told["slow"])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("value", ["soon", "-1", "0", "1.5", "", "9" * 20])
def test_a_time_that_makes_no_sense_is_named(served, route, value):
    path, body = ROUTES[route]
    answer = served.server.ask(
        "POST", path, body(0, "senseless"), f"Content-Type: {JSON}", f"x-request-timeout-ms: {value}"
    )
    assert answer.code == 400
    said = answer.json().get("error") or answer.json()["message"]
    assert said.startswith("header x-request-timeout-ms must be a whole number of milliseconds from 1")
    assert "begin senseless" not in served.told["slow"]


@pytest.mark.parametrize("route", ROUTES)
def test_a_time_that_is_long_enough_changes_nothing(served, route):
    path, body = ROUTES[route]
    line = f"x-request-timeout-ms: {PATIENCE * 1000:.0f}"
    answer = served.server.ask("POST", path, body(0, "patient"), f"Content-Type: {JSON}", line)
    assert answer.code == 200
    assert b"patient" in answer.body


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_whose_time_runs_out_in_the_queue_never_reaches_the_model(served, route):
    path, body = ROUTES[route]
    with Wire(served.server.port) as wire:
        wire.send(request("POST", "/predictions/slow", document(0.6, f"before {route}")))
        until(lambda: f"begin before {route}" in served.told["slow"])
        line = "x-request-timeout-ms: 100"
        late = served.server.ask("POST", path, body(0, f"late {route}"), f"Content-Type: {JSON}", line)
        assert late.code == 504
        assert wire.answer().code == 200
    assert served.server.predict("slow", document(0, f"after {route}")).code == 200
    assert f"begin late {route}" not in served.told["slow"]


@pytest.mark.parametrize("route", ROUTES)
def test_what_waits_is_dropped_and_what_runs_is_told_when_clients_go_away(served, route):
    path, body = ROUTES[route]
    server, told = served.server, served.told["slow"]
    with Wire(server.port) as running, Wire(server.port) as waiting:
        running.send(request("POST", path, body(PATIENCE, f"left {route}"), f"Content-Type: {JSON}"))
        until(lambda: f"begin left {route}" in told)
        waiting.send(request("POST", path, body(0, f"queued {route}"), f"Content-Type: {JSON}"))
        until(lambda: pending(server, "slow") == 1)
        waiting.socket.close()
        waiting._file.close()
        until(lambda: pending(server, "slow") == 0)
        assert f"cancelled left {route}" not in told
    until(lambda: f"cancelled left {route}" in told)
    assert server.predict("slow", document(0, "after")).code == 200
    assert f"begin queued {route}" not in told


def pending(server, model):
    """How many requests wait for a worker."""
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", f"/models/{model}"))
        (described,) = wire.answer().json()
    return described["jobQueueStatus"]["pendingRequests"]


def test_a_time_in_the_parameters_of_v2_holds_and_the_sooner_of_two_counts(served):
    told = served.told["slow"]
    for parameters, line in (({"timeout": 150_000}, "3600000"), ({"timeout": 3_600_000_000}, "150")):
        name = f"sooner {line}"
        answer = served.server.ask(
            "POST", "/v2/models/slow/infer", tensors(PATIENCE, name, **parameters), f"x-request-timeout-ms: {line}"
        )  # fmt: skip
        assert answer.code == 504
        until(lambda name=name: f"cancelled {name}" in told)


def test_a_time_on_amds_websocket_holds_and_so_does_the_clients_going_away(served):
    url, told = f"ws://127.0.0.1:{served.server.port}/models/infer", served.told["slow"]
    asked = json.loads(tensors(PATIENCE, "socket late", timeout=150_000)) | {"model": "slow"}
    with connect(url) as socket:
        socket.send(json.dumps(asked))
        reply = socket.recv(PATIENCE)
        assert "did not answer in time" in (reply if isinstance(reply, str) else reply.decode())
        until(lambda: "cancelled socket late" in told)
        socket.send(json.dumps(json.loads(tensors(PATIENCE, "socket gone")) | {"model": "slow"}))
        until(lambda: "begin socket gone" in told)
    until(lambda: "cancelled socket gone" in told)


def test_a_large_body_that_only_the_worker_decodes_has_the_headers_time(served):
    inputs = json.loads(tensors(PATIENCE, "large"))
    inputs["id"] = "x" * 70_000
    answer = served.server.ask(
        "POST", "/v2/models/slow/infer", json.dumps(inputs).encode(), "x-request-timeout-ms: 150"
    )
    assert answer.code == 504
    until(lambda: "cancelled large" in served.told["slow"])


def triton_inputs(kind, seconds, name):
    given = [kind.InferInput("seconds", [1], "FP64"), kind.InferInput("name", [1], "BYTES")]
    given[0].set_data_from_numpy(np.array([seconds], np.float64))
    given[1].set_data_from_numpy(np.array([name.encode()], object))
    return given


def test_tritons_http_client_names_a_time_in_its_own_words(served):
    url = f"127.0.0.1:{served.server.port}"
    late = pytest.raises(triton_http.InferenceServerException, match="did not answer in time")
    with triton_http.InferenceServerClient(url) as client, late:
        client.infer("slow", triton_inputs(triton_http, PATIENCE, "triton http"), timeout=150_000)
    until(lambda: "cancelled triton http" in served.told["slow"])


def test_tritons_grpc_client_names_a_time_in_its_own_words(served):
    with triton.InferenceServerClient(served.server.grpc) as client:
        with pytest.raises(triton.InferenceServerException, match="DEADLINE_EXCEEDED"):
            client.infer("slow", triton_inputs(triton, PATIENCE, "triton timeout"), timeout=150_000)
        until(lambda: "cancelled triton timeout" in served.told["slow"])
        with pytest.raises(triton.InferenceServerException, match="Deadline Exceeded"):
            client.infer("slow", triton_inputs(triton, PATIENCE, "triton deadline"), client_timeout=0.15)
        until(lambda: "cancelled triton deadline" in served.told["slow"])


def test_a_cancelled_call_of_tritons_stops_the_model(served):
    with triton.InferenceServerClient(served.server.grpc) as client:
        given = triton_inputs(triton, PATIENCE, "triton cancel")
        call = client.async_infer("slow", given, callback=lambda **_: None)
        until(lambda: "begin triton cancel" in served.told["slow"])
        call.cancel()
        until(lambda: "cancelled triton cancel" in served.told["slow"])


def test_a_cancelled_stream_of_tritons_drops_what_waits_and_stops_the_model(served):
    with triton.InferenceServerClient(served.server.grpc) as client:
        client.start_stream(lambda **_: None)
        client.async_stream_infer("slow", triton_inputs(triton, PATIENCE, "streamed"))
        client.async_stream_infer("slow", triton_inputs(triton, 0, "behind"))
        until(lambda: "begin streamed" in served.told["slow"] and pending(served.server, "slow") == 1)
        client.stop_stream(cancel_requests=True)
        until(lambda: "cancelled streamed" in served.told["slow"])
    assert pending(served.server, "slow") == 0
    assert served.server.predict("slow", document(0, "next")).code == 200
    assert "begin behind" not in served.told["slow"]


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_torchserves_rpcs_stop_the_model_when_nobody_waits(served, method, how):
    name = f"{method} {how}"
    asked = inference.PredictionsRequest(model_name="slow", input={"data": document(PATIENCE, name)})
    path = f"/org.pytorch.serve.grpc.inference.InferenceAPIsService/{method}"
    with grpc.insecure_channel(served.server.grpc) as channel:
        streamed = method.startswith("Stream")
        called = channel.unary_stream(path) if streamed else channel.unary_unary(path).future
        call = called(asked.SerializeToString(), timeout=0.5 if how == "deadline" else PATIENCE)
        until(lambda: f"begin {name}" in served.told["slow"])
        if how == "cancel":
            call.cancel()
        else:
            with pytest.raises(grpc.RpcError) as refused:
                next(call) if streamed else call.result()
            assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: f"cancelled {name}" in served.told["slow"])


def test_a_handler_is_told_row_by_row_and_the_rows_that_are_wanted_are_answered(served):
    server, told = served.server, served.told["handler"]
    with Wire(server.port) as one, Wire(server.port) as two:
        one.send(
            request("POST", "/predictions/handler", document(1.0, "impatient"), "x-request-timeout-ms: 400")
        )
        two.send(request("POST", "/predictions/handler", document(1.0, "patient")))
        assert one.answer().code == 504
        answer = two.answer()
    assert (answer.code, answer.body) == (200, b"patient")
    assert "begin impatient patient" in told or "begin patient impatient" in told
    assert "row impatient" in told
    assert "row patient" not in told


def test_a_handler_is_told_when_nobody_of_its_batch_waits(served):
    with Wire(served.server.port) as wire:
        wire.send(request("POST", "/predictions/handler", document(PATIENCE, "alone")))
        until(lambda: "begin alone" in served.told["handler"])
    until(lambda: "cancelled alone" in served.told["handler"])


def test_an_asynchronous_handler_is_cancelled(served):
    answer = served.server.predict("asynchronous", document(PATIENCE, "late"), "x-request-timeout-ms: 150")
    assert answer.code == 504
    until(lambda: "cancelled late True" in served.told["asynchronous"])
    with Wire(served.server.port) as wire:
        wire.send(request("POST", "/predictions/asynchronous", document(PATIENCE, "gone")))
        until(lambda: "begin gone" in served.told["asynchronous"])
    until(lambda: "cancelled gone True" in served.told["asynchronous"])


def test_the_response_timeout_takes_those_of_its_call_along_and_nobody_else(served):
    """Two share the call that never ends; the others wait behind it or on the other worker, and are answered."""
    server = served.server
    asked = [("stuck", PATIENCE), ("mate", 0)] + [(f"other {number}", 0.05) for number in range(10)]
    wires = [Wire(server.port) for _ in asked]
    before = set(server.workers("short"))
    for wire, (name, seconds) in zip(wires, asked, strict=True):
        wire.send(request("POST", "/predictions/short", document(seconds, name)))
    answers = {name: wire.answer() for wire, (name, _) in zip(wires, asked, strict=True)}
    for wire in wires:
        wire.__exit__()
    assert (answers["stuck"].code, answers["stuck"].json()["message"]) == (500, "Worker died.")
    together = next(
        line for line in (server.folder / "short/told").read_text().splitlines() if "stuck" in line
    ).removeprefix("begin ")
    for name, answer in answers.items():
        if name not in together:
            assert (answer.code, answer.body.decode()) == (200, name)
    until(lambda: len(server.workers("short")) == 2)
    assert len(before & set(server.workers("short"))) == 1
    assert server.predict("short", document(0, "next")).body == b"next"

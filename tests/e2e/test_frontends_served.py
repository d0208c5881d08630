"""Several processes behind one address: whichever a client reaches, it finds the same server."""

import gzip
import json
import os
import signal
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from e2e_kit import PATIENCE, Server, Wire, assert_gone, frontends, request, until
from tritonclient.utils import shared_memory

COUNTER = """
import os, time

def infer(inputs, parameters):
    time.sleep(float(inputs.get("seconds", 0)))
    if inputs.get("die"):
        os._exit(3)
    return {"pid": [os.getpid()], "sum": [float(sum(inputs.get("values", [])))]}
"""
ADDER = """
import numpy as np

def infer(x: np.ndarray):
    return {"y": x + 1}
"""
STEPS = """
TOTALS = {}

def infer(x, sequence_id, sequence_start, sequence_end):
    (name,) = sequence_id
    total = TOTALS[name] = x + (0 if sequence_start[0] else TOTALS[name])
    return {"y": total}
"""
FRONTENDS = 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    declare(folder, "counter", COUNTER, "response_timeout = 2.0\n[workers]\nmin = 2\nmax = 2\n")
    tensors = '[[{}]]\nname = "{}"\ndatatype = "FP32"\nshape = [-1]\n'
    declared = tensors.format("inputs", "x") + tensors.format("outputs", "y")
    declare(folder, "adder", ADDER, declared)
    declare(folder, "steps", STEPS, "[sequences]\n" + declared)
    return folder


def declare(folder, name, source, text):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.toml").write_text(f'name = "{name}"\n{text}')
    (folder / name / "1" / "model.py").write_text(source)


@pytest.fixture
def start(tmp_path, repository):
    servers = []

    def begin(*arguments, environ=None):
        flags = [
            "--model-repository",
            repository,
            "--frontends",
            str(FRONTENDS),
            "--deal-connections",
            "evenly",
            *arguments,
        ]
        servers.append(Server(tmp_path, *flags, environ=environ))
        return servers[-1].started()

    yield begin
    for server in servers:
        server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory, repository):
    server = Server(
        tmp_path_factory.mktemp("server"),
        "--model-repository",
        repository,
        f"--frontends={FRONTENDS}",
        "--deal-connections=evenly",
    )
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-5000:]
    finally:
        server.kill()


def asked(server, model="counter", document=None, times=40):
    """So many requests, each on a connection of its own, at the same time."""
    body = json.dumps(document or {"seconds": 0})
    with ThreadPoolExecutor(16) as clients:
        return list(clients.map(lambda _: server.predict(model, body), range(times)))


def metrics(server):
    """The lines of the metrics."""
    with Wire(server.ports[2]) as wire:
        wire.send(request("GET", "/metrics"))
        return wire.answer().body.decode().splitlines()


def count_of(server, model="counter"):
    """How many requests the metrics say were answered."""
    lines = metrics(server)
    wanted = f'mooring_requests_total{{model_name="{model}",model_version="1",outcome="answered"}}'
    return next((float(line.split()[-1]) for line in lines if line.startswith(wanted)), 0.0)


def test_every_frontend_is_asked_and_the_counts_are_of_all_of_them(server):
    assert len(frontends(server)) == FRONTENDS - 1
    before = count_of(server)
    turns = {each.pid: each.num_ctx_switches().voluntary for each in frontends(server)}
    answers = asked(server, times=300)
    assert {answer.code for answer in answers} == {200}
    until(lambda: count_of(server) == before + 300)
    assert all(each.num_ctx_switches().voluntary > turns[each.pid] + 20 for each in frontends(server))


def test_both_workers_are_used_by_all_frontends(server):
    pids = Counter(answer.json()["pid"][0] for answer in asked(server, document={"seconds": 0.05}))
    assert len(pids) == 2
    assert min(pids.values()) >= 8


def test_every_protocol_is_the_same_on_every_connection(server):
    v2 = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]})
    asking = [
        ("POST", "/predictions/adder", '{"x": [1, 2]}', lambda body: body["y"] == [2.0, 3.0]),
        ("POST", "/v1/models/adder:predict", '{"instances": [1, 2]}', lambda body: body["predictions"] == [2.0, 3.0]),
        ("POST", "/v2/models/adder/infer", v2, lambda body: body["outputs"][0]["data"] == [2.0, 3.0]),
        ("GET", "/v2", "", lambda body: "sequence" in body["extensions"]),
        ("GET", "/v2/models/adder", "", lambda body: body["inputs"][0]["name"] == "x"),
        ("GET", "/v2/models/stats", "", lambda body: len(body["model_stats"]) >= 3),
        ("GET", "/v2/health/ready", "", None),
        ("POST", "/v2/repository/index", "", lambda body: {each["name"] for each in body} >= {"adder", "counter"}),
        ("OPTIONS", "/", "", lambda body: "/predictions/{model_name}" in body["paths"]),
        ("OPTIONS", "/predictions/adder", "", lambda body: body["openapi"] == "3.0.1"),
        ("GET", "/ping", "", lambda body: body["status"] == "Healthy"),
    ]  # fmt: skip
    for method, path, body, right in asking:
        for _ in range(12):
            answer = server.ask(method, path, body.encode(), "Content-Type: application/json")
            assert answer.code == 200, (path, answer)
            assert right is None or right(answer.json()), (path, answer)


@pytest.mark.parametrize(
    ("path", "code"),
    [("/predictions/nobody", 404), ("/v2/models/nobody/generate", 404), ("/nowhere", 404), ("/predictions/adder/7", 404)],
)  # fmt: skip
def test_every_frontend_refuses_alike(server, path, code):
    answers = {
        (answer.code, answer.body)
        for answer in (server.ask("POST", path, b'{"seconds": 0}') for _ in range(12))
    }
    assert len(answers) == 1
    assert answers.pop()[0] == code


def test_head_and_large_bodies_pass_both_ways(server):
    assert {server.ask("HEAD", "/v2", head=True).code for _ in range(9)} == {200}
    values = np.arange(200_000, dtype=np.float32)
    for _ in range(9):
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        tensor = triton.InferInput("x", values.shape, "FP32").set_data_from_numpy(values)
        answer = client.infer("adder", [tensor])
        np.testing.assert_array_equal(answer.as_numpy("y"), values + 1)
        client.close()


def test_a_sequence_may_go_over_any_front(server):
    for name in range(20):
        total = 0.0
        for step in range(5):
            total += step
            client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")  # a connection of its own
            tensor = triton.InferInput("x", [1], "FP32").set_data_from_numpy(np.float32([step]))
            asked = {"sequence_id": name + 1, "sequence_start": step == 0, "sequence_end": step == 4}
            assert client.infer("steps", [tensor], **asked).as_numpy("y").tolist() == [total]
            client.close()


def test_shared_memory_is_known_to_every_front(server):
    values = np.float32([1, 2, 3])
    region = shared_memory.create_shared_memory_region("given", "/mooring-frontends", values.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [values])
        for turn in range(9):
            client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
            if not turn:
                client.register_system_shared_memory("given", "/mooring-frontends", values.nbytes)
            tensor = triton.InferInput("x", values.shape, "FP32")
            tensor.set_shared_memory("given", values.nbytes)
            assert client.infer("adder", [tensor]).as_numpy("y").tolist() == [2.0, 3.0, 4.0]
            client.close()
        triton.InferenceServerClient(f"127.0.0.1:{server.port}").unregister_system_shared_memory("given")
    finally:
        shared_memory.destroy_shared_memory_region(region)


INPUT = {"name": "x", "datatype": "FP32", "shape": [3]}
GIVEN = {"shared_memory_region": "given", "shared_memory_byte_size": 12}
IN = json.dumps({"inputs": [INPUT | {"parameters": GIVEN}]}).encode()
PLAIN = [INPUT | {"data": [1, 2, 3]}]
OUT = json.dumps({"inputs": PLAIN, "outputs": [{"name": "y", "parameters": GIVEN}]}).encode()
PADDED = OUT.replace(b'"outputs"', b" " * 70_000 + b'"outputs"')


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (IN, {}),
        (gzip.compress(IN), {"Content-Encoding": "gzip"}),
        (zlib.compress(IN), {"Content-Encoding": "deflate"}),
        (IN.replace(b"shared_memory_region", b"shared_memory\\u005fregion"), {}),
        (OUT, {}),
        (zlib.compress(OUT), {"Content-Encoding": "deflate"}),
        (OUT.replace(b"shared_memory_region", b"shared_memory\\u005fregion"), {}),
        (PADDED, {}),
        (PADDED, {"Inference-Header-Content-Length": str(len(PADDED))}),
        (gzip.compress(PADDED), {"Content-Encoding": "gzip"}),
        (zlib.compress(PADDED), {"Content-Encoding": "deflate"}),
    ],
    ids=[
        "input",
        "gzip",
        "deflate",
        "escaped",
        "output",
        "deflated output",
        "escaped output",
        "large",
        "large head",
        "large gzip",
        "large deflate",
    ],
)
def test_every_frontend_has_the_same_answer_wherever_a_body_names_a_region(server, body, headers):
    region = shared_memory.create_shared_memory_region("given", "/mooring-frontends-too", 12)
    answers = Counter()
    try:
        shared_memory.set_shared_memory_region(region, [np.float32([1, 2, 3])])
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        client.register_system_shared_memory("given", "/mooring-frontends-too", 12)
        for _ in range(4 * FRONTENDS):
            url = f"http://127.0.0.1:{server.port}/v2/models/adder/infer"
            answer = requests.post(url, body, headers=headers, timeout=PATIENCE)
            answers[answer.status_code, json.dumps(answer.json().get("outputs", answer.text))] += 1
        client.unregister_system_shared_memory("given")
        left = shared_memory.get_contents_as_numpy(region, np.float32, [3]).tolist()
    finally:
        shared_memory.destroy_shared_memory_region(region)
    ((status, outputs), count), *others = answers.items()
    assert (status, count, others) == (200, 4 * FRONTENDS, [])
    (output,) = json.loads(outputs)
    assert output.get("data", left) == [2.0, 3.0, 4.0]


def test_what_is_loaded_and_unloaded_is_so_for_all_at_once(server):
    for _ in range(3):
        assert server.ask("POST", "/v2/repository/models/adder/unload").code == 200
        assert {answer.code for answer in asked(server, "adder", {"x": [1]}, times=16)} == {404}
        assert server.ask("POST", "/v2/repository/models/adder/load").code == 200
        assert {answer.code for answer in asked(server, "adder", {"x": [1]}, times=16)} == {200}


def test_a_model_that_is_loaded_anew_is_missed_by_nobody(server):
    codes, stop = Counter(), threading.Event()

    def ask():
        while not stop.is_set():
            codes[server.predict("adder", '{"x": [1]}').code] += 1

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for _ in range(4):
        assert server.ask("POST", "/v2/repository/models/adder/load").code == 200
    stop.set()
    for asker in askers:
        asker.join()
    assert set(codes) == {200}


def test_scaling_down_and_up_loses_nothing(server):
    codes, stop = Counter(), threading.Event()

    def ask():
        while not stop.is_set():
            codes[server.predict("counter", '{"seconds": 0.002}').code] += 1

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for count in (1, 3, 1, 2):
        asked = f"http://127.0.0.1:{server.ports[1]}/models/counter?min_worker={count}&synchronous=true"
        assert requests.put(asked, timeout=PATIENCE).status_code == 200
        until(lambda count=count: len(server.workers("counter")) == count)
    stop.set()
    for asker in askers:
        asker.join()
    assert set(codes) == {200}


def test_a_worker_that_is_too_slow_for_one_frontend_is_ended_for_all_and_replaced(server):
    before = set(server.workers("counter"))
    answers = asked(server, document={"seconds": 20}, times=2)
    assert {answer.code for answer in answers} <= {500, 504}
    until(lambda: len(server.workers("counter")) == 2 and not before >= set(server.workers("counter")))
    assert {answer.code for answer in asked(server)} == {200}


def test_a_worker_that_dies_is_answered_for_with_the_reason(server):
    answer = server.predict("counter", '{"die": true}')  # twice: it is tried once more
    assert (answer.code, answer.json()["message"]) == (500, "Worker died.")
    until(lambda: len(server.workers("counter")) == 2)
    assert {answer.code for answer in asked(server)} == {200}


def recycled(server):
    """How many workers of the counter made way, over all time."""
    lines = metrics(server)
    wanted = 'mooring_workers_recycled_total{model_name="counter"'
    return next((float(line.split()[-1]) for line in lines if line.startswith(wanted)), 0.0)


def test_what_every_frontend_sent_to_a_worker_counts_for_its_recycling(start):
    server = start("--max-requests-per-worker", "100")
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(12)]
        for _ in range(
            21
        ):  # 126 a worker or more: what came over one process alone would hardly reach a hundred
            for wire in wires:
                wire.send(request("POST", "/predictions/counter", b'{"seconds": 0}'))
            assert {wire.answer().code for wire in wires} == {200}
        until(lambda: recycled(server))
    until(lambda: count_of(server) == 252)


def test_a_frontend_that_is_killed_is_replaced_and_nobody_else_notices(start, contexts):
    server = start()
    victim = frontends(server)[0]
    kept = [contexts.enter_context(Wire(server.port)) for _ in range(12)]
    victim.kill()
    until(
        lambda: (
            len(frontends(server)) == FRONTENDS - 1
            and victim.pid not in {each.pid for each in frontends(server)}
        )
    )
    until(lambda: server.log.count("frontend listening") == FRONTENDS)
    lost = 0
    for wire in kept:
        try:
            wire.send(request("POST", "/predictions/counter", b'{"seconds": 0}'))
            assert wire.answer().code == 200
        except (AssertionError, OSError):
            lost += 1
    assert lost < len(kept)  # those of the others are as they were
    assert {answer.code for answer in asked(server)} == {200}
    assert server.stop() == 0


def test_what_was_accepted_is_answered_when_the_server_is_told_to_end(start):
    server = start()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(12)]
        for wire in wires:
            wire.send(request("POST", "/predictions/counter", b'{"seconds": 0.2}'))
        until(lambda: count_of(server) >= 1)
        server.process.send_signal(signal.SIGTERM)
        assert [wire.answer().code for wire in wires] == [200] * len(wires)
    assert server.process.wait(PATIENCE) == 0


def test_no_frontend_outlives_a_server_that_is_killed(start):
    server = start()
    family = server.family()
    assert len(frontends(server)) == FRONTENDS - 1
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait(PATIENCE)
    assert_gone(family)


def test_fixed_tokens_are_asked_for_by_every_front(start):
    server = start(environ={"MOORING_INFERENCE_TOKEN": "token-of-a-client", "MOORING_MANAGEMENT_TOKEN": "token-of-an-operator"})  # fmt: skip
    assert {server.predict("counter", '{"seconds": 0}').code for _ in range(12)} == {401}
    with_token = {
        server.predict("counter", '{"seconds": 0}', "Authorization: Bearer token-of-a-client").code
        for _ in range(12)
    }
    assert with_token == {200}
    unload = "/v2/repository/models/adder/unload"
    asked = {
        server.ask("POST", unload, b"", "Authorization: Bearer token-of-a-client").code for _ in range(9)
    }
    assert asked == {401}


def test_requests_in_amd_s_dialect_are_counted_once_whichever_process_gets_them(start):
    server = start("--dialect=amd")

    def ingress():
        found = [line for line in metrics(server) if line.startswith("amdinfer_requests_ingress_total")]
        return {line.split('method="')[1].split('"')[0]: float(line.split()[-1]) for line in found}

    region = shared_memory.create_shared_memory_region("given", "/mooring-frontends-amd", 12)
    try:
        shared_memory.set_shared_memory_region(region, [np.float32([1, 2, 3])])
        client = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
        client.register_system_shared_memory("given", "/mooring-frontends-amd", 12)
        before = ingress()
        for _ in range(20):
            assert server.ask("GET", "/v2").code == 200
            assert server.ask("GET", "/v2/health/live").code == 200
            assert server.ask("GET", "/v2/models/adder").code == 200
            assert server.ask("POST", "/v2/models/adder/infer", IN).code == 200  # relayed: it names a region
            assert server.ask("POST", "/v2/models/counter/infer", b"{}").code == 400
            assert server.ask("GET", "/ping").code == 200
    finally:
        shared_memory.destroy_shared_memory_region(region)
    wanted = {"GET": before["GET"] + 60, "POST": before["POST"] + 40, "native": 0}
    until(lambda: ingress() == wanted)


def test_requests_that_wait_in_any_process_are_shown_as_pending(server):
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(12)]
        for wire in wires:
            wire.send(request("POST", "/predictions/counter", b'{"seconds": 0.5}'))

        def pending():
            with Wire(server.ports[1]) as wire:
                wire.send(request("GET", "/models/counter"))
                (described,) = wire.answer().json()
            return described["jobQueueStatus"]["pendingRequests"]

        # Two workers have one of each of the three processes at most; all others wait.
        until(lambda: pending() >= len(wires) - 2 * FRONTENDS)
        assert {wire.answer().code for wire in wires} == {200}
        until(lambda: pending() == 0)

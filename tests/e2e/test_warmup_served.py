"""Models that are asked something before they are ready, and new versions that take over without a failed request."""

import json
import os
import signal
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_kit import PATIENCE, Server, Wire, request, until

COUNTING = """
import pathlib, time

VERSION = {version!r}
asked = []

def infer(inputs):
    first = next(iter(inputs.values()))
    asked.append([str(first.dtype), list(first.shape), first.ravel()[:3].tolist()])
    if not asked[1:]:
        time.sleep({slow})  # what the first call of a library takes
    {fails}
    rows = len(first)
    return {{"asked": [len(asked)] * rows, "version": [VERSION] * rows}}
"""
DECLARED = """
name = "{name}"
max_batch_size = 4
[[inputs]]
name = "x"
datatype = "FP32"
shape = [-1, 3]
"""
HANDLER = """
import pathlib
asked = []

{asynchronous}def handle(data, context):
    if data is None:
        return None
    body = data[0].get("body")
    asked.append(body if isinstance(body, dict) else bytes(body).decode())
    return [repr(asked)] * len(data)
"""


def model(place, name, warmup, *, declared=DECLARED, slow=0, version="1", fails="pass", file="config.toml"):
    (place / name / version).mkdir(parents=True)
    (place / name / file).write_text(declared.format(name=name) + warmup)
    source = COUNTING.format(slow=slow, version=version, fails=fails)
    (place / name / version / "model.py").write_text(source)
    return place / name


def handler(place, name, source, **settings):
    (place / name).mkdir()
    (place / name / "handler.py").write_text(source)
    (place / name / "first.json").write_text('{"first": 1}')
    (place / name / "model-config.yaml").write_text(json.dumps(settings))
    return place / name


@pytest.fixture
def start(tmp_path):
    servers = []

    def start(*arguments, ping=200):
        servers.append(Server(tmp_path, *arguments))
        return servers[-1].started(ping=ping)

    yield start
    for server in servers:
        server.kill()


ROW = b'{"x": [[1, 2, 3]]}'


def asked(server, name):
    """How often the model was asked, this time included."""
    answer = server.predict(name, ROW)
    assert answer.code == 200, answer
    return answer.json()["asked"][0]


def test_what_is_configured_is_asked_before_the_model_is_ready(start, tmp_path):
    models = tmp_path / "models"
    model(models, "declared", "[[warmup]]\ncount = 3\nrows = 2\n")
    model(models, "random", '[[warmup]]\ndata = "random"\n')
    given = '[[warmup]]\n[[warmup.inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1, 3]\ndata = "x.raw"\n'
    model(models, "recorded", given)
    (models / "recorded/1/x.raw").write_bytes(np.array([7, 8, 9], np.float32).tobytes())
    body = model(models, "body", '[[warmup]]\nbody = "row.json"\ncontent_type = "application/json"\n')
    (body / "row.json").write_bytes(ROW)
    pbtxt = (
        'name: "triton"\nbackend: "python"\nmax_batch_size: 4\n'
        'input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 3 ] }} ]\n'
        'model_warmup [ {{ name: "zero" batch_size: 2 count: 2\n'
        'inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ 3 ] zero_data: true }} }} }},\n'
        '{{ name: "file" batch_size: 1\n'
        'inputs {{ key: "x" value {{ data_type: TYPE_FP32 dims: [ 3 ] input_data_file: "raw" }} }} }} ]\n'
    )
    tritons = model(models, "triton", "", declared=pbtxt, file="config.pbtxt")
    (tritons / "warmup").mkdir()
    (tritons / "warmup/raw").write_bytes(bytes(12))
    server = start("--model-repository", models)
    expected = {"declared": 4, "random": 2, "recorded": 2, "body": 2, "triton": 4}
    assert {name: asked(server, name) for name in expected} == expected
    assert server.stop() == 0
    assert not server.faults(), server.log[-9000:]


def test_handlers_of_every_kind_are_asked_what_a_client_would_send(start, tmp_path):
    settings = {"warmupRequests": [{"body": "first.json", "contentType": "application/json", "count": 2}]}
    plain = handler(tmp_path, "plain", HANDLER.format(asynchronous=""), **settings)
    waits = handler(tmp_path, "waits", HANDLER.format(asynchronous="async "), **settings)
    steps = handler(tmp_path, "steps", HANDLER.format(asynchronous=""), continuousBatching=True, **settings)
    server = start(plain, waits, steps)
    for name in ("plain", "waits", "steps"):
        assert server.predict(name, "own").body.decode() == repr([{"first": 1}, {"first": 1}, "own"])
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("warmup", "reason"),
    [
        ('[[warmup]]\nname = "big"\nrows = 2\n', "warm-up request 'big' failed: ValueError: not this one"),
        ('[[warmup]]\nname = "gone"\nbody = "nowhere.json"\n', "names a file 'nowhere.json' that is not in it"),
        ('[[warmup]]\nbody = "../../../etc/passwd"\n', "that is not in it"),
        ("[[warmup]]\nrows = 0\n", "rows"),
        (
            '[[warmup]]\nname = "short"\n[[warmup.inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1, 3]\ndata = "raw"\n',
            "warm-up request 'short' failed: input 'x' needs 12 elements or bytes",
        ),
        (
            '[[warmup]]\nname = "odd"\n[[warmup.inputs]]\nname = "y"\ndatatype = "FP32"\nshape = [1, 3]\n',
            "warm-up request 'odd' failed: ",
        ),
    ],
)  # fmt: skip
def test_a_warm_up_that_fails_is_a_load_that_fails_and_is_named(start, tmp_path, warmup, reason):
    models = tmp_path / "models"
    model(models, "good", "")
    server = start("--model-repository", models)
    model(models, "bad", warmup, fails="if first.shape[0] == 2: raise ValueError('not this one')")
    (models / "bad/1/raw").write_bytes(b"1234")
    answer = server.ask("POST", "/v2/repository/models/bad/load")
    assert answer.code == 400
    assert reason in answer.json()["error"]
    assert server.predict("bad", ROW).code == 404
    assert server.predict("good", ROW).code == 200
    assert server.stop() == 0


class Asking:
    """Clients of every kind who ask one after another, and what each was told."""

    def __init__(self, server, name, kinds=("_http", "_http", "_grpc", "_stream")):
        self.answers = []
        self.wrong = []
        self._server, self._name = server, name
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=getattr(self, kind)) for kind in kinds]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: len(self.answers) > 20)
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _http(self):
        with Wire(self._server.port) as wire:
            while not self._stop.is_set():
                wire.send(request("POST", f"/predictions/{self._name}", ROW))
                answer = wire.answer()
                (self.answers if answer.code == 200 else self.wrong).append(answer.body)

    def _infer(self, client, ask):
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(np.ones((1, 3), np.float32))
        while not self._stop.is_set():
            try:
                self.answers.append(ask(self._name, [given]))
            except (grpc.RpcError, triton.InferenceServerException) as error:
                self.wrong.append(error)

    def _grpc(self):
        with triton.InferenceServerClient(self._server.grpc) as client:
            self._infer(client, client.infer)

    def _stream(self):
        with triton.InferenceServerClient(self._server.grpc) as client:
            told = []
            client.start_stream(lambda result, error: told.append(error or result))

            def ask(name, given):
                before = len(told)
                client.async_stream_infer(name, given)
                until(lambda: len(told) > before)
                if isinstance(told[-1], Exception):
                    raise told[-1]
                return told[-1]

            self._infer(client, ask)
            client.stop_stream()


def test_a_version_that_is_loaded_anew_warms_up_and_takes_over_under_load(start, tmp_path):
    models = tmp_path / "models"
    place = model(models, "fresh", "[[warmup]]\n", slow=0.3)
    server = start("--model-repository", models)
    with Asking(server, "fresh") as asking:
        source = (place / "1/model.py").read_text()
        for number in range(3):
            changed = source.replace("VERSION = '1'", f"VERSION = 'new {number}'")
            (place / "1/model.py").write_text(changed)
            assert server.ask("POST", "/v2/repository/models/fresh/load").code == 200
            assert server.predict("fresh", ROW).json()["version"] == [f"new {number}"]
        for fault in (
            "raise RuntimeError('no such weights')",
            source.replace("    pass", "    raise ValueError('cold')"),
        ):
            (place / "1/model.py").write_text(fault)
            refused = server.ask("POST", "/v2/repository/models/fresh/load")
            assert refused.code == 400
            assert (
                "no such weights" in refused.json()["error"]
                or "warm-up request '1' failed" in refused.json()["error"]
            )
            assert server.predict("fresh", ROW).json()["version"] == ["new 2"]
            assert server.ask("GET", "/v2/health/ready").code == 200
        before = len(asking.answers)
        until(lambda: len(asking.answers) > before + 50)
    assert not asking.wrong
    assert server.stop() == 0
    assert not [line for line in server.faults() if "ERROR worker failed" not in line], server.log[-9000:]


def test_a_worker_that_is_replaced_warms_up_before_it_is_asked(start, tmp_path):
    models = tmp_path / "models"
    model(models, "fresh", "[[warmup]]\n", slow=0.3)
    server = start("--model-repository", models)
    (pid,) = server.workers("fresh")
    assert asked(server, "fresh") == 2
    os.kill(pid, signal.SIGKILL)
    until(lambda: server.workers("fresh") not in ([], [pid]))
    assert asked(server, "fresh") == 2
    assert server.stop() == 0


VERSIONED = """
import time

def handle(data, context):
    if data is None:
        return None
    if not getattr(context, "warm", False):
        time.sleep(0.3)
        context.warm = True
    {fails}
    return [context.manifest["model"]["modelVersion"]] * len(data)
"""


def versioned(place, version, fails="pass"):
    """A version as an unpacked archive, with a warm-up request."""
    folder = handler(
        place, f"versioned-{version}", VERSIONED.format(fails=fails), warmupRequests=[{"body": "first.json"}]
    )
    (folder / "MAR-INF").mkdir()
    said = {
        "modelName": "versioned",
        "modelVersion": version,
        "handler": "handler.py",
        "configFile": "model-config.yaml",
    }
    (folder / "MAR-INF/MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": said}))
    return folder


def manage(server, method, target):
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        return wire.answer()


def test_versions_that_come_and_go_through_the_management_api_fail_nobody(start, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    versioned(store, "1.0")
    server = start("--model-store", store, store / "versioned-1.0")
    assert server.predict("versioned", ROW).body == b"1.0"
    with Asking(server, "versioned", kinds=("_http", "_http")) as asking:
        versioned(store, "2.0")
        added = manage(server, "POST", "/models?url=versioned-2.0&initial_workers=1&synchronous=true")
        assert added.code == 200, added
        assert server.predict("versioned", ROW).body == b"1.0"
        assert manage(server, "PUT", "/models/versioned/2.0/set-default").code == 200
        assert server.predict("versioned", ROW).body == b"2.0"
        assert manage(server, "DELETE", "/models/versioned/1.0").code == 200
        versioned(store, "3.0", fails="raise ValueError('cold')")
        refused = manage(server, "POST", "/models?url=versioned-3.0&initial_workers=1&synchronous=true")
        assert refused.code == 500
        assert "warm-up request '1' failed" in refused.json()["error"]
        before = len(asking.answers)
        until(lambda: len(asking.answers) > before + 50)
    assert not asking.wrong
    assert set(asking.answers) == {b"1.0", b"2.0"}
    assert asking.answers[-1] == b"2.0"
    assert server.stop() == 0

"""Large JSON that waits for a busy worker is read and written in other processes: with the same answers, losing nothing."""

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial

import psutil
import pytest
from e2e_kit import PATIENCE, Server, Wire, request, until

# Waits, where it is told to, until a file is there: the only worker is busy for as long as the test wants.
MIRROR = """
import os, time

def infer(inputs, parameters):
    gate = parameters.get("gate")
    if gate:
        open(gate + ".reached", "w").close()
    while gate and not os.path.exists(gate):
        time.sleep(0.005)
    return dict(inputs)
"""
DOUBLE = """
def infer(inputs, parameters):
    x = inputs["x"]
    x *= 2  # in the memory of the request
    return {"x": x}
"""
MANY = 60_000
# Few enough digits that FP32 holds and writes them as they are.
FLOATS = [((at * 7919) % 4001) / 8 - 31.5 for at in range(MANY)]


class CodecServer(Server):
    """A server with a model of one worker that can be kept busy."""

    def __init__(self, folder, *arguments):
        for name, source in (("mirror", MIRROR), ("double", DOUBLE)):
            (folder / f"models/{name}/1").mkdir(parents=True)
            (folder / f"models/{name}/1/model.py").write_text(source)
            (folder / f"models/{name}/config.toml").write_text(f'name = "{name}"\nqueue_size = 4\n')
        self.gate = folder / "gate"
        # A frontend process has no codec processes, and another queue.
        frontends = () if any("frontends" in each for each in arguments) else ("--frontends=1",)
        super().__init__(folder, "--model-repository", folder / "models", *frontends, *arguments)

    def codecs(self):
        """The codec processes: what is forked from a template, and has no model."""
        workers = {pid for model in ("mirror", "double") for pid in self.workers(model)}
        found = []
        for process in self.family():
            with suppress(psutil.Error):  # it may just have ended
                if process.ppid() not in {self.process.pid, os.getpid()} and process.pid not in workers:
                    found.append(process)
        return found

    def infer(self, body, *lines, model="mirror"):
        return self.ask("POST", f"/v2/models/{model}/infer", body, *lines)

    def busy(self):
        return Busy(self)

    def waiting(self):
        """How many requests wait for the worker."""
        with Wire(self.ports[1]) as wire:
            wire.send(request("GET", "/models/mirror"))
            (described,) = wire.answer().json()
        return described["jobQueueStatus"]["pendingRequests"]

    def warm(self):
        """Have a codec process started."""
        with self.busy() as busy:
            busy.ask(plain([1.5] * MANY))
            until(self.codecs)
            # A bad body is refused by a process that is ready, and waits where there is none.
            until(lambda: self.infer(b"[" * 300_000, "X-Request-Timeout-Ms: 200").code == 400)


class Busy:
    """The worker of the model is in a call, until the end of it. Requests may be made meanwhile."""

    def __init__(self, server):
        self.server = server
        self.threads = []
        self.answers = {}

    def __enter__(self):
        reached = self.server.gate.with_suffix(".reached")
        for file in (self.server.gate, reached):
            file.unlink(missing_ok=True)
        gate = {"gate": str(self.server.gate)}
        self.ask(document([tensor("g", "INT32", [1], [1])], parameters=gate))
        until(reached.exists)
        return self

    def ask(self, body):
        """Make a request whose answer will be known at the end, under the number that is returned."""
        number = len(self.threads)

        def run():
            self.answers[number] = self.server.infer(body)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        return number

    def running(self):
        return len(self.threads) - len(self.answers)

    def __exit__(self, *exc):
        self.server.gate.touch()
        for thread in self.threads:
            thread.join(PATIENCE)


def tensor(name, datatype, shape, data, **parameters):
    entry = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return entry | ({"parameters": parameters} if parameters else {})


def document(inputs, **more):
    return json.dumps({"inputs": inputs, **more}).encode()


def plain(values, **more):
    return document([tensor("x", "FP32", [len(values)], values)], **more)


BODIES = {
    "flat": plain(FLOATS),
    "nested": document([tensor("x", "FP64", [300, 200], [FLOATS[at : at + 200] for at in range(0, MANY, 200)])]),
    "with an id": plain(FLOATS, id="mine"),
    "integers above 2^53": document([tensor("x", "INT64", [MANY], [2**62 + at for at in range(MANY)])]),
    "unsigned": document([tensor("x", "UINT64", [MANY], [2**64 - 1 - at for at in range(MANY)])]),
    "half": document([tensor("x", "FP16", [MANY], FLOATS)]),
    "brain floats": document([tensor("x", "BF16", [MANY], [float(at % 128) for at in range(MANY)])]),
    "booleans": document([tensor("x", "BOOL", [MANY], [at % 3 == 0 for at in range(MANY)])]),
    "texts": document([tensor("x", "BYTES", [9000], [f'text {at} \u00e9 [ " ' * 3 for at in range(9000)])]),
    "several": document(
        [tensor("x", "FP32", [MANY], FLOATS), tensor("y", "INT64", [MANY], list(range(MANY))), tensor("z", "INT8", [2], [1, 2])]
    ),
    "not a number": plain(FLOATS).replace(b"-31.5,", b"NaN,", 1).replace(b"-31.5,", b"-Infinity,", 1),
    "all in binary": plain(FLOATS, parameters={"binary_data_output": True}),
    "one in binary": document(
        [tensor("x", "FP32", [MANY], FLOATS), tensor("y", "FP32", [MANY], FLOATS)],
        outputs=[{"name": "x", "parameters": {"binary_data": True}}, {"name": "y"}],
    ),
    "one of two": document(
        [tensor("x", "FP32", [MANY], FLOATS), tensor("y", "FP32", [MANY], FLOATS)], outputs=[{"name": "y"}]
    ),
    "classes": plain(FLOATS, outputs=[{"name": "x", "parameters": {"classification": 3}}]),
}  # fmt: skip
LARGE = b" " * 300_000
BAD = {
    "no JSON": b"{" + LARGE,
    "no object": b"[1" + LARGE + b"]",
    "inputs that are no list": b'{"inputs": 7}' + LARGE,
    "ragged": document([tensor("x", "FP32", [3], [[1, 2], [3]])]) + LARGE,
    "one list too many": document([tensor("x", "FP32", [MANY], [*FLOATS[1:], [1.0]])]),
    "no such integer": document([tensor("x", "INT8", [MANY], [300] * MANY)]),
    "a fraction": document([tensor("x", "INT64", [MANY], [*range(1, MANY), 0.5])]) + LARGE,
    "too many": document([tensor("x", "FP32", [7], FLOATS)]),
    "twice": document([tensor("x", "FP32", [MANY], FLOATS), tensor("x", "FP32", [1], [1.0])]),
    "no flag": plain(FLOATS, parameters={"binary_data_output": 1}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = CodecServer(tmp_path_factory.mktemp("codec"), "--codec-processes=2")
    try:
        yield server.started()
        assert server.faults() == []
        server.stop()
    finally:
        server.kill()


def test_there_is_no_codec_process_before_a_large_body_has_waited(tmp_path):
    server = CodecServer(tmp_path, "--codec-processes=1").started()
    try:
        for body in BODIES.values():
            assert server.infer(body).code == 200
        with server.busy() as busy:
            busy.ask(plain(FLOATS[:50]))
            busy.ask(plain(FLOATS[:8000]))  # large, but not worth it
        assert all(answer.code == 200 for answer in busy.answers.values())
        assert server.codecs() == []
        server.warm()
        (codec,) = server.codecs()
        assert "".join(codec.cmdline()) == "mooring: codec" or sys.platform != "linux"
        assert server.stop() == 0
        assert not codec.is_running()
    finally:
        server.kill()


def test_an_answer_is_the_same_whoever_has_read_the_body(server):
    server.warm()
    for name, body in BODIES.items():
        alone = server.infer(body)
        assert alone.code == 200, name
        with server.busy() as busy:
            number = busy.ask(body)
            # Refused by the process that has read the other one before, so that one is done, too.
            until(lambda: server.infer(BAD["inputs that are no list"]).code == 400)
        assert busy.answers[number] == alone, name


def test_a_bad_body_is_refused_with_the_same_words_and_before_a_worker_is_free(server):
    server.warm()
    for name, body in BAD.items():
        alone = server.infer(body)
        assert alone.code == 400, name
        with server.busy() as busy:
            meanwhile = server.infer(body)
            assert busy.running() == 1
        assert meanwhile == alone, name


def test_a_model_may_write_to_its_inputs_whoever_has_read_them(server):
    body = document([tensor("x", "FP32", [MANY], FLOATS)])
    expected = [2 * number for number in FLOATS]
    with Load(server, [body], model="double") as load:
        until(lambda: load.count > 40)
    assert load.statuses == Counter({200: load.count})
    assert all(answer["outputs"][0]["data"] == expected for answer in load.answers)


def test_requests_past_their_time_are_answered_in_time_while_their_bodies_are_read(server):
    server.warm()
    with server.busy() as busy:
        late = server.infer(plain(FLOATS), "X-Request-Timeout-Ms: 300")
        assert late.code == 504
        assert busy.running() == 1
    assert server.infer(plain(FLOATS)).code == 200


def test_a_queue_holds_as_many_whether_or_not_their_bodies_were_read(server):
    server.warm()
    with server.busy() as busy:
        for _ in range(4):
            busy.ask(plain(FLOATS))
        until(lambda: server.waiting() == 4)
        assert server.infer(plain([1.0])).code == 503
        assert server.infer(plain(FLOATS)).code == 503
        assert busy.running() == 5
    assert Counter(answer.code for answer in busy.answers.values()) == {200: 5}


def test_a_client_that_leaves_takes_its_request_out_of_the_queue(server):
    server.warm()
    with server.busy() as busy:
        for _ in range(12):
            with Wire(server.port) as wire:
                wire.send(request("POST", "/v2/models/mirror/infer", plain(FLOATS)))
        until(lambda: server.waiting() == 0)
        number = busy.ask(plain(FLOATS))
    assert busy.answers[number].code == 200


def test_requests_are_counted_once_each(server):
    def counted():
        found = server.ask("GET", "/v2/models/double/stats").json()["model_stats"][0]
        return found["inference_count"], found["inference_stats"]["success"]["count"]

    until(lambda: counted() == counted())
    before = counted()
    row = document([tensor("x", "FP32", [1, MANY], FLOATS)])
    with Load(server, [row], model="double") as load:
        until(lambda: load.count > 20)
    assert counted() == tuple(number + load.count for number in before)
    names = [model["name"] for model in server.ask("POST", "/v2/repository/index").json()]
    assert sorted(names) == ["double", "mirror"]


class Load:
    """Clients that ask one after another until they are told to stop, and what they were told."""

    def __init__(self, server, bodies, *, model="mirror", clients=4):
        self.statuses = Counter()
        self.answers = []
        self._server, self._bodies, self._model = server, bodies, model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,)) for at in range(clients)]

    @property
    def count(self):
        return sum(self.statuses.values())

    def _ask(self, number):
        body = self._bodies[number % len(self._bodies)]
        while not self._stop.is_set():
            answer = self._server.infer(body, model=self._model)
            self.statuses[answer.code] += 1
            self.answers.append(answer.json())

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def test_nothing_is_lost_when_codec_processes_are_killed(server):
    others = [plain([number + step for number in FLOATS]) for step in range(4)]
    right = [json.loads(body)["inputs"][0]["data"] for body in others]
    killed = set()
    with Load(server, others) as load:
        end = time.monotonic() + PATIENCE
        while len(killed) < 4 and time.monotonic() < end:
            until(server.codecs)
            for codec in server.codecs():
                killed.add(codec.pid)
                os.kill(codec.pid, signal.SIGKILL)
            seen = load.count
            until(lambda seen=seen: load.count > seen + 8)
    assert len(killed) >= 4
    assert load.statuses == Counter({200: load.count})
    assert all(answer["outputs"][0]["data"] in right for answer in load.answers)


def test_a_chain_says_that_its_reader_is_being_replaced_and_reads_on_with_the_next_one(tmp_path):
    place = tmp_path / "models/chain"
    (place / "1").mkdir(parents=True)
    stages = "".join(
        f'[[models]]\nname = "{name}"\nentry = "model.py:infer"\n' for name in ("first", "second")
    )
    (place / "config.toml").write_text(f'name = "chain"\n{stages}')
    (place / "1/model.py").write_text("def infer(inputs, parameters):\n    return inputs\n")
    server = CodecServer(tmp_path).started()
    try:
        ask = partial(server.ask, "POST", "/v2/models/chain/infer", plain(FLOATS))
        assert ask().code == 200
        stages = {pid for name in ("first", "second") for pid in server.workers(name)}
        (codec,) = [process for process in server.codecs() if process.pid not in stages]
        codec.kill()
        answers = []
        until(lambda: answers.append(ask()) or (len(answers) > 1 and answers[-1].code == 200))
        assert {answer.code for answer in answers[:-1]} <= {503}
        assert all(b"being replaced; try again" in answer.body for answer in answers[:-1])
    finally:
        server.kill()


def test_with_none_the_workers_read_everything(tmp_path):
    server = CodecServer(tmp_path, "--codec-processes=0").started()
    try:
        with server.busy() as busy:
            numbers = [busy.ask(BODIES["flat"]), busy.ask(BAD["inputs that are no list"])]
            assert busy.running() == 3
        assert [busy.answers[number].code for number in numbers] == [200, 400]
        assert server.codecs() == []
        assert server.stop() == 0
    finally:
        server.kill()


def test_several_frontends_answer_the_same(tmp_path):
    server = CodecServer(tmp_path, "--codec-processes=1", "--frontends=2").started()
    try:
        with Load(server, [BODIES["flat"]], clients=3) as load:
            until(lambda: load.count > 40)
        assert load.statuses == Counter({200: load.count})
        expected = server.infer(BODIES["flat"]).json()["outputs"]
        assert all(answer["outputs"] == expected for answer in load.answers)
        assert server.stop() == 0
    finally:
        server.kill()

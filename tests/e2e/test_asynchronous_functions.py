"""Python functions that wait, served: any number of calls at once over every protocol, none at the others' mercy."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from textwrap import dedent

import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_kit import JSON, Server, Wire, request, until

# What x says is what a call waits for: n others above 0, for ever at 0, nobody below.
MEETING = """
    import asyncio
    from pathlib import Path

    class Model:
        async def load(self, context):
            self.here = self.waiting = self.cancelled = 0
            self.together = asyncio.Event()
            self.at_home = asyncio.create_task(asyncio.sleep(3600))  # libraries do so: there is a loop already
            self.note = Path(context.directory, "closed")

        async def infer(self, x: 'ndarray'):
            number = int(x.flat[0])
            if number < 0:
                raise ValueError(f"bad {number}") if number == -1 else LookupError
            try:
                await (self.meet(number) if number else self.wait())
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return {"y": x * 2, "waiting": [[self.waiting]] * len(x), "cancelled": [[self.cancelled]] * len(x)}

        async def wait(self):
            self.waiting += 1
            await asyncio.sleep(600)

        async def meet(self, number):
            self.here += 1
            if self.here == number:
                self.here = 0
                self.together.set()
                self.together = asyncio.Event()
            else:
                await self.together.wait()

        async def explain(self, x):
            await asyncio.sleep(0)
            return {"x": x * 0 + 1}

        async def close(self):
            await asyncio.sleep(0)
            self.note.write_text("yes")
"""
COUNTING = """
    import asyncio

    async def infer(text: 'ndarray'):
        for number in range(int(text.flat[0])):
            await asyncio.sleep(0)
            yield {"text": [f"{number}"]}
        if text.flat[0] == b"0":
            raise ValueError("nothing to count")
"""
ASKING = """
    import asyncio

    began, seen = [], []

    async def infer(x: 'ndarray', parameters, cancelled):
        began.append(bool(x.flat[0]))
        try:
            while x.flat[0] and not cancelled():
                await asyncio.sleep(0.01)
        finally:
            seen.append(cancelled())
        return {"began": [any(began)], "seen": [any(seen)], "factor": [parameters["factor"]]}
"""
MODELS = {
    "meeting": ("", MEETING),
    "batched": ("max_batch_size = 4\n[batching]\nmax_delay_ms = 10000\nexact_delay = true", MEETING),
    "hasty": ("response_timeout = 1", MEETING),
    "few": ("concurrency = 3\nqueue_size = 5", MEETING),
    "counting": ("", COUNTING),
    "asking": ("[parameters]\nfactor = 3", ASKING),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for name, (config, source) in MODELS.items():
        (place / name / "1").mkdir(parents=True)
        (place / name / "config.toml").write_text(config)
        (place / name / "1" / "model.py").write_text(dedent(source))
    server = Server(tmp_path_factory.mktemp("server"), "--model-repository", place)
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
        assert (place / "meeting/1/closed").read_text() == "yes"
    finally:
        server.kill()


def body(number):
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [number]}
    return json.dumps({"inputs": [tensor]}).encode()


def ask(server, model, number):
    return server.ask("POST", f"/v2/models/{model}/infer", body(number))


def output(answer, name="y"):
    assert answer.code == 200, answer
    (data,) = [each["data"] for each in answer.json()["outputs"] if each["name"] == name]
    return data


def queued(server, model):
    with Wire(server.ports[1]) as wire:
        wire.send(request("GET", f"/models/{model}"))
        return wire.answer().json()[0]["jobQueueStatus"]["pendingRequests"]


def test_fifty_requests_are_in_the_functions_hands_at_once_whatever_their_protocol(server):
    def tensor(number):
        return output(ask(server, "meeting", number))

    def plain(number):
        answer = server.predict("meeting", json.dumps({"x": [number]}), f"Content-Type: {JSON}")
        return answer.json()["y"]

    def instances(number):
        answer = server.ask(
            "POST", "/v1/models/meeting:predict", json.dumps({"instances": [[number]]}).encode()
        )
        return answer.json()["predictions"][0]["y"]

    def called(number):
        given = triton.InferInput("x", [1, 1], "FP64")
        given.set_data_from_numpy(np.array([[number]], np.float64))
        with triton.InferenceServerClient(server.grpc) as client:
            return client.infer("meeting", [given]).as_numpy("y").ravel().tolist()

    ways = [tensor, plain, instances, called]
    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(lambda n: ways[n % 4](50), range(50)))
    assert answers == [[100]] * 50


def test_batches_of_four_overlap_too(server):
    # A call is of four rows: three calls have to meet.
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: output(ask(server, "batched", 3)), range(12)))
    assert answers == [[6.0]] * 12


def test_one_that_raises_fails_alone_with_its_own_reason(server):
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda n: ask(server, "meeting", -1 if n % 2 else 4), range(8)))
    assert [answer.code for answer in answers] == [200, 500] * 4
    assert "ValueError: bad -1" in server.log


def test_an_explanation_may_wait_as_well(server):
    answer = server.ask("POST", "/v1/models/meeting:explain", b'{"instances": [[5]]}')
    assert answer.json() == {"explanations": [{"x": [1]}]} or answer.json() == {"explanations": [[1]]}, answer


def test_a_client_that_goes_away_takes_its_call_with_it(server):
    before = output(ask(server, "meeting", 1), "cancelled")[0]
    with Wire(server.port) as wire:
        wire.send(request("POST", "/v2/models/meeting/infer", body(0)))
        until(lambda: output(ask(server, "meeting", 1), "waiting") == [1])
    until(lambda: output(ask(server, "meeting", 1), "cancelled") == [before + 1])


def test_a_function_that_waits_may_ask_whether_anybody_does(server):
    with Wire(server.port) as wire:
        wire.send(request("POST", "/v2/models/asking/infer", body(1)))
        until(lambda: output(ask(server, "asking", 0), "began") == [True])
    until(lambda: output(ask(server, "asking", 0), "seen") == [True])
    assert output(ask(server, "asking", 0), "factor") == [3]


def test_a_request_that_takes_too_long_is_refused_and_its_neighbours_go_on(server):
    with ThreadPoolExecutor(2) as clients:
        slow = clients.submit(ask, server, "hasty", 0)
        assert output(ask(server, "hasty", 1)) == [2.0]
        answer = slow.result()
    assert (answer.code, answer.json()["error"]) == (504, "model 'hasty' did not answer within 1 s")
    assert output(ask(server, "hasty", 1), "cancelled") == [1]
    assert "worker too slow" not in server.log


def test_more_than_concurrency_wait_in_the_queue_and_more_than_that_are_refused(server):
    with ExitStack() as stack:
        for _ in range(3 + 5):
            stack.enter_context(Wire(server.port)).send(request("POST", "/v2/models/few/infer", body(0)))
        until(lambda: queued(server, "few") == 5)
        assert ask(server, "few", 0).code == 503
    # All of them have gone, and with them what ran.
    until(lambda: queued(server, "few") == 0)
    until(lambda: output(ask(server, "few", 1), "cancelled") == [3])


def test_an_asynchronous_generator_streams(server):
    answer = server.ask(
        "POST", "/v2/models/counting/generate_stream", b'{"text": "3"}', f"Content-Type: {JSON}"
    )
    events = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
    assert [json.loads(event)["text"] for event in events] == ["0", "1", "2"]
    failed = server.ask("POST", "/v2/models/counting/infer", json.dumps({
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["0"]}]
    }).encode())  # fmt: skip
    assert (failed.code, "nothing to count" in server.log) == (500, True)

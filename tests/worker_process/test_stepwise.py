"""A worker whose model works step by step: who is in a step, who joins and leaves between two, in this process."""

import socket

import pytest
from model_kit import model_spec

from mooring.backends.backend import Backend, Stepwise
from mooring.core.requests import InferenceRequest, InferenceResponse, Operation
from mooring.core.service import ModelMetadata
from mooring.core.tensors import Tensor
from mooring.ipc.framing import Frames
from mooring.ipc.messages import Batch, Cancel, Codec, Loaded, Results
from mooring.observability.records import Recorder
from mooring.worker_process.channel import Channel, ResponseBuffer
from mooring.worker_process.model_logging import running
from mooring.worker_process.stepwise import StepServing

_codec = Codec()


class CountingModel(Stepwise):
    """Each request is at work for as many steps as its id says. ``steps`` has who was in each, and how many of old."""

    def __init__(self):
        self.steps = []
        self.left = {}
        self.before = lambda: None
        self.error = None

    def run_step(self, requests, started, reply):
        self.steps.append(([request.id for request in requests], started))
        assert running.requests == requests, "what the model logs names them"
        self.before()
        if self.error is not None:
            raise self.error
        outcomes = []
        for request in requests:
            left = self.left[request.id] = self.left.get(request.id, int(request.id[-1])) - 1
            outcomes.append(
                InferenceResponse([Tensor("x", "BYTES", [1], [request.id.encode()])], final=not left)
            )
        return outcomes


class OtherBackend(Backend):
    def load(self, spec, context):
        return ModelMetadata("m", ["1"], "fake")

    def infer(self, requests, reply):
        return [InferenceResponse([Tensor("why", "BYTES", [1], [b"so"])])]


class Bench:
    def __init__(self):
        self.server, theirs = socket.socketpair()
        self.channel = Channel(theirs, None)
        self.model = CountingModel()

    def say(self, message):
        self.server.sendall(_codec.frame(message))

    def run(self, *messages, **spec):
        """What became of each request, piece by piece: the kinds of its outcomes, by its key."""
        serving = StepServing(
            [ResponseBuffer(self.channel, Recorder())],
            OtherBackend(),
            self.model,
            model_spec(backend="x", **spec),
            Loaded(ModelMetadata("m", ["1"], "fake")),
        )
        for message in messages:
            self.say(message)
        ends = self.model.before

        def before():
            ends()
            # The server ends with the last step that a test is about.
            if len(self.model.steps) == self.last_step:
                self.server.shutdown(socket.SHUT_WR)

        self.model.before = before
        serving.serve_forever()
        return self.answers()

    last_step = 0

    def answers(self):
        self.server.setblocking(False)
        frames, found = Frames(), {}
        try:
            while frames.receive(self.server):
                for frame in frames:
                    message = _codec.to_server(frame, frames.attached)
                    if isinstance(message, Results):
                        for key, outcome in zip(message.keys, message.outcomes, strict=True):
                            found.setdefault(key, []).append(outcome)
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.server.close()
    bench.channel.sock.close()


def request(name, **more):
    return InferenceRequest("m", "1", name, [], **more)


def batch(**names):
    """Requests by their ids: ``a3`` is at work for three steps; the values are their keys."""
    return Batch(list(names.values()), [request(name) for name in names])


def test_a_request_that_ends_makes_room_for_one_that_waits(bench):
    bench.last_step = 3
    bench.run(batch(a1=1, b3=2, c2=3), max_batch_size=2)
    assert bench.model.steps == [(["a1", "b3"], 0), (["b3", "c2"], 1), (["b3", "c2"], 2)]


def test_a_request_gets_a_piece_of_each_step_and_the_last_one_is_final(bench):
    bench.last_step = 3
    answers = bench.run(batch(a2=1, b3=2), max_batch_size=2)
    assert [outcome.final for outcome in answers[1]] == [False, True]


def test_those_that_come_meanwhile_join_the_next_step(bench):
    def before():
        if len(bench.model.steps) == 1:
            bench.say(batch(b2=2))

    bench.model.before = before
    bench.last_step = 3
    bench.run(batch(a3=1), max_batch_size=2)
    assert bench.model.steps == [(["a3"], 0), (["a3", "b2"], 1), (["a3", "b2"], 2)]


def test_a_request_that_nobody_waits_for_leaves_before_the_next_step(bench):
    def before():
        if len(bench.model.steps) == 1:
            bench.say(Cancel([1]))

    bench.model.before = before
    bench.last_step = 2
    answers = bench.run(batch(a9=1, b2=2), max_batch_size=2)
    assert bench.model.steps == [(["a9", "b2"], 0), (["b2"], 1)]
    assert answers[1][-1].kind == "RequestCancelled"


def test_a_step_that_fails_fails_all_that_were_in_it_and_no_other(bench):
    def before():
        bench.model.error = ValueError("odd") if len(bench.model.steps) == 1 else None

    bench.model.before = before
    bench.last_step = 2
    answers = bench.run(batch(a9=1, b9=2, c1=3), max_batch_size=2)
    assert [answers[key][0].message for key in (1, 2)] == ["ValueError: odd"] * 2
    assert bench.model.steps[1] == (["c1"], 0)


def test_what_is_no_prediction_is_asked_between_two_steps(bench):
    bench.last_step = 2
    message = Batch([1, 2], [request("a2"), request("b9", operation=Operation.EXPLAIN)])
    answers = bench.run(message, max_batch_size=2)
    assert bench.model.steps == [(["a2"], 0), (["a2"], 1)]
    assert answers[2][0].outputs[0].name == "why"

"""What a worker does with the messages of its server, in this process: no model, no fork, no second thread."""

import os
import socket
import types

import pytest
from model_kit import model_spec

from mooring.backends.backend import Backend
from mooring.core.errors import ErrorRecord, InvalidInput, ModelLoadFailed
from mooring.core.requests import InferenceRequest, InferenceResponse, Operation
from mooring.core.service import Joining, JoiningState, LoadContext, MetricValue, ModelMetadata
from mooring.core.tensors import Tensor
from mooring.ipc.arena import anonymous_file
from mooring.ipc.framing import Frames
from mooring.ipc.messages import (
    Batch,
    Cancel,
    Codec,
    EnableJoining,
    JoiningMissed,
    Load,
    Loaded,
    LoadFailed,
    MetricRecords,
    Piece,
    Results,
    Unstarted,
)
from mooring.ipc.progress import Progress
from mooring.repository.spec import Warmup, WarmupInput
from mooring.worker_process import worker as worker_module
from mooring.worker_process.channel import Channel
from mooring.worker_process.model_logging import running
from mooring.worker_process.worker import BatchInProgress, Worker, visible_gpus

_codec = Codec()
UNTRIED = Joining(JoiningState.UNTRIED, "nobody knows", "file-1")


class FakeBackend(Backend):
    """A model that is a function: by default it answers each request with an empty response."""

    def __init__(self):
        self.calls = []
        self.loads = 0
        self.closed = False
        self.failure = None
        self.rows_joined = False
        self.answer = lambda requests, reply: [InferenceResponse([]) for _ in requests]

    def load(self, spec, context):
        self.loads += 1
        if self.failure is not None:
            raise self.failure
        return ModelMetadata(spec.name, [spec.version], "fake")

    def infer(self, requests, reply):
        self.calls.append([request.id for request in requests])
        return self.answer(requests, reply)

    def join_requests(self):
        self.rows_joined = True

    def close(self):
        self.closed = True


class FakeFlushThread:
    """Nobody watches: the tests call ``flush_if_late`` themselves."""

    def start(self):
        pass

    def watch_batch(self, batch):
        pass


class Bench:
    """A worker between its model and its server, who is the test."""

    def __init__(self, monkeypatch):
        self.backend = FakeBackend()
        self.now = 1000.0
        monkeypatch.setattr(worker_module, "create_backend", lambda _name: self.backend)
        monkeypatch.setattr(worker_module, "FlushThread", FakeFlushThread)
        monkeypatch.setattr(worker_module, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        self.server, theirs = socket.socketpair()
        fd = anonymous_file(Progress.size(1))
        self.progress = Progress(fd, 1)
        os.close(fd)
        self.channel = Channel(theirs, None)
        self.worker = Worker([self.channel], self.progress, None)
        self.spec = None

    def load(self, **spec):
        self.spec = model_spec(backend="x", **spec)
        return Load(self.spec, LoadContext())

    def say(self, message):
        self.server.sendall(_codec.frame(message))

    def run(self, *messages):
        """What the worker answers to these, until the server ends."""
        for message in messages:
            self.say(message)
        self.server.shutdown(socket.SHUT_WR)
        self.worker.serve_forever()
        self.channel.sock.close()
        return self.answers()

    def answers(self):
        self.server.setblocking(False)
        frames, found = Frames(), []
        try:
            while frames.receive(self.server):
                found += [_codec.to_server(frame, frames.attached) for frame in frames]
        except BlockingIOError:
            pass
        return found


@pytest.fixture
def bench(monkeypatch):
    bench = Bench(monkeypatch)
    yield bench
    bench.server.close()
    bench.channel.sock.close()


def batch(*keys, **more):
    return Batch(list(keys), [request(key, **more) for key in keys])


def request(key, **more):
    return InferenceRequest("m", "1", str(key), [Tensor("x", "FP32", [1], b"1234")], **more)


def results(answers):
    """The outcomes by key."""
    return {
        key: outcome
        for message in answers
        if isinstance(message, Results)
        for key, outcome in zip(message.keys, message.outcomes, strict=True)
    }


def failed(outcome):
    return isinstance(outcome, ErrorRecord)


# Loading.


def test_a_worker_loads_says_so_and_closes_its_model_when_the_server_ends(bench):
    (loaded,) = bench.run(bench.load())
    assert isinstance(loaded, Loaded)
    assert (loaded.metadata.platform, loaded.capacity, bench.backend.closed) == ("fake", 0, True)


@pytest.mark.parametrize(
    ("error", "kind", "text", "lasting"),
    [
        (ModelLoadFailed("no weights"), "ModelLoadFailed", "no weights", True),
        (ImportError("no torch"), "ModelLoadFailed", "ImportError: no torch", True),
        (RuntimeError("odd"), "ModelLoadFailed", "RuntimeError: odd", False),
        (MemoryError("much"), "ModelLoadFailed", "MemoryError: much", False),
    ],
)
def test_a_model_that_does_not_load_is_told_with_whether_it_ever_will(bench, error, kind, text, lasting):
    bench.backend.failure = error
    (failure,) = bench.run(bench.load(), batch(1))
    assert isinstance(failure, LoadFailed)
    assert (failure.error.kind, failure.error.message, failure.lasting) == (kind, text, lasting)
    assert bench.backend.calls == []


def test_a_model_sees_the_gpus_that_are_reserved_for_it_before_it_is_loaded(bench, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    bench.run(bench.load(gpus=[2, 0]))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-c,GPU-a"
    assert visible_gpus([1, 2], None) == "1,2"
    assert visible_gpus([5], "4,5") == "5"


def test_a_model_is_loaded_once_whoever_asks_again(bench):
    answers = bench.run(bench.load(), bench.load())
    assert [type(answer) for answer in answers] == [Loaded, Loaded]
    assert bench.backend.loads == 1


def test_a_model_is_warm_before_it_is_said_to_be_loaded(bench):
    warmup = Warmup(
        name="first", inputs=[WarmupInput(name="x", datatype="FP32", shape=[1], data="zero")], count=2
    )
    (loaded,) = bench.run(bench.load(warmup=[warmup]))
    assert isinstance(loaded, Loaded)
    assert bench.backend.calls == [["warmup-first"]] * 2


def test_a_model_that_fails_when_it_is_warmed_up_is_not_loaded(bench):
    bench.backend.answer = lambda requests, reply: [InvalidInput("odd shape")]
    warmup = Warmup(name="first", inputs=[WarmupInput(name="x", datatype="FP32", shape=[1], data="zero")])
    (failure,) = bench.run(bench.load(warmup=[warmup]))
    assert failure.error.message == "warm-up request 'first' failed: odd shape"


# Calls of the model.


def test_the_model_is_called_with_at_most_as_many_rows_as_it_takes(bench):
    _, message = bench.run(bench.load(max_batch_size=2), batch(1, 2, 3, 4, 5))
    assert bench.backend.calls == [["1", "2"], ["3", "4"], ["5"]]
    assert (message.keys, [(rows, count) for rows, _, count in message.batches]) == (
        [1, 2, 3, 4, 5],
        [(2, 2), (2, 2), (1, 1)],
    )


def test_what_a_model_logs_names_the_requests_of_its_call_and_none_between_two(bench):
    named = []

    def answer(requests, reply):
        named.append([request.id for request in running.requests])
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    bench.run(bench.load(max_batch_size=2), batch(1, 2, 3))
    assert named == [["1", "2"], ["3"]]
    assert running.requests == ()


def test_the_time_of_each_call_is_told(bench):
    def answer(requests, reply):
        bench.now += 0.25
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    _, message = bench.run(bench.load(max_batch_size=1), batch(1, 2))
    assert message.batches == [(1, 0.25, 1), (1, 0.25, 1)]


def test_how_far_a_worker_is_stands_in_memory_before_each_call(bench):
    seen = []

    def answer(requests, reply):
        seen.append((bench.progress.done(0), bench.progress.started(0)))
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    bench.run(bench.load(max_batch_size=2), batch(1, 2, 3))
    assert seen == [(0, 2), (2, 3)]


def refusing(bad):
    """A model that cannot take a batch with this request in it."""

    def answer(requests, reply):
        if bad in [request.id for request in requests]:
            raise ValueError("bad row")
        return [InferenceResponse([]) for _ in requests]

    return answer


def test_a_batch_that_fails_is_run_again_one_by_one_and_only_the_bad_request_fails(bench):
    bench.backend.answer = refusing("2")
    answers = bench.run(bench.load(max_batch_size=4), batch(1, 2, 3))
    assert bench.backend.calls == [["1", "2", "3"], ["1"], ["2"], ["3"]]
    assert [key for key, outcome in results(answers).items() if failed(outcome)] == [2]
    assert results(answers)[2].message == "ValueError: bad row"


def test_a_model_that_must_not_run_a_request_twice_fails_its_whole_batch(bench):
    bench.backend.answer = refusing("2")
    answers = bench.run(bench.load(max_batch_size=4, retry=False), batch(1, 2, 3))
    assert bench.backend.calls == [["1", "2", "3"]]
    assert all(failed(outcome) for outcome in results(answers).values())


def test_a_request_of_which_a_part_was_sent_is_not_run_again(bench):
    def answer(requests, reply):
        if len(requests) > 1:
            reply.emit(1, InferenceResponse([], final=False))
            raise ValueError("late")
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    answers = bench.run(bench.load(max_batch_size=4), batch(1, 2, 3))
    assert [message.key for message in answers if isinstance(message, Piece)] == [2]
    assert bench.backend.calls == [["1", "2", "3"], ["1"], ["3"]]
    assert "after a part of the answer was sent" in results(answers)[2].message


def test_a_model_that_gives_too_few_answers_gives_none(bench):
    bench.backend.answer = lambda requests, reply: [InferenceResponse([])]
    answers = bench.run(bench.load(max_batch_size=2), batch(1, 2))
    assert {outcome.message for outcome in results(answers).values()} == {
        "the backend gave 1 outcomes for 2 requests"
    }


def test_of_the_first_call_nobody_is_left_out_since_the_server_has_just_looked(bench):
    bench.now = 1010.0
    answers = bench.run(bench.load(max_batch_size=2), batch(1, 2, deadline=1005.0))
    assert bench.backend.calls == [["1", "2"]]
    assert not any(failed(outcome) for outcome in results(answers).values())


def test_of_a_later_call_only_those_are_left_out_whose_time_is_over(bench):
    def answer(requests, reply):
        bench.now += 10.0
        return [InferenceResponse([Tensor(request.id, "FP32", [0], b"")]) for request in requests]

    bench.backend.answer = answer
    message = Batch([1, 2, 3], [request(1), request(2, deadline=1005.0), request(3, deadline=2000.0)])
    message.requests[0].operation = Operation.EXPLAIN  # a call of its own
    answers = results(bench.run(bench.load(max_batch_size=2), message))
    assert bench.backend.calls == [["1"], ["3"]]
    assert answers[2].kind == "DeadlineExceeded"
    assert [answers[key].outputs[0].name for key in (1, 3)] == ["1", "3"]


def test_the_model_can_see_that_nobody_waits_for_a_request_any_more(bench):
    seen = []

    def answer(requests, reply):
        seen.append([reply.cancelled(row) for row in range(len(requests))])
        bench.say(Cancel([2]))
        seen.append([reply.cancelled(row) for row in range(len(requests))])
        bench.server.shutdown(socket.SHUT_WR)
        seen.append([reply.cancelled(row) for row in range(len(requests))])
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    bench.say(bench.load(max_batch_size=2))
    bench.say(batch(1, 2))
    bench.worker.serve_forever()
    assert seen == [[False, False], [False, True], [True, True]]


def test_metrics_of_the_model_travel_with_its_answers(bench):
    def answer(requests, reply):
        reply.record_metric(MetricValue("a", 1.0, "ms", "counter", {}))
        return [InferenceResponse([]) for _ in requests]

    bench.backend.answer = answer
    _, message = bench.run(bench.load(), batch(1))
    assert [record.name for record in message.records] == ["a"]
    assert not isinstance(message, MetricRecords)


# Joining.


def test_until_it_is_known_that_requests_may_share_calls_each_has_its_own(bench):
    bench.backend.joining = UNTRIED
    answers = bench.run(bench.load(max_batch_size=4), batch(1, 2), batch(3, 4), EnableJoining(), batch(5, 6))
    assert bench.backend.calls == [["1"], ["2"], ["3"], ["4"], ["5", "6"]]
    assert [type(answer) for answer in answers].count(JoiningMissed) == 1
    assert bench.backend.rows_joined


# A slow call.


@pytest.fixture
def in_progress(bench):
    bench.channel.number = 0
    made = BatchInProgress(bench.channel, batch(1, 2, 3), bench.progress, bench.worker.recorder)
    made.take_requests(1)
    made.add_outcomes([InferenceResponse([])], 1)
    made.take_requests(2)
    return made


def test_answers_do_not_wait_for_a_slow_call_behind_them_and_what_is_not_started_is_handed_back(
    bench, in_progress
):
    in_progress.flush_if_late(bench.now + 0.004)
    done, back = bench.answers()
    assert (done.keys, back.keys, type(back)) == ([1], [3], Unstarted)
    assert not in_progress.take_requests(3)
    in_progress.add_outcomes([InferenceResponse([])], 1)
    in_progress.send_rest()
    (rest,) = bench.answers()
    assert rest.keys == [2]


def test_a_call_that_has_just_begun_is_not_slow(bench, in_progress):
    in_progress.flush_if_late(bench.now + 0.002)
    assert bench.answers() == []
    assert in_progress.take_requests(3)

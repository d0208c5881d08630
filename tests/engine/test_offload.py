"""Requests whose large JSON is opened while they wait: their place, their memory, and what happens when it fails."""

import asyncio
import json
import time

import pytest

from mooring.backends.codec_backend import decode_json, encode_json
from mooring.core.buffers import Buffer, Slot, heap
from mooring.core.errors import DeadlineExceeded, InvalidInput, ModelNotReady, QueueFull, WorkerDied
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor, release
from mooring.engine.offload import Openings
from mooring.engine.scheduler import Scheduler
from mooring.observability.statistics import ModelStatistics
from mooring.repository.spec import ModelSpec

MANY = 40_000


class FakeWorker:
    def __init__(self, pool):
        self.pool = pool
        self.capacity = 0
        self.sent = []

    def send(self, batch):
        self.sent.append(batch)

    def cancel(self, work):
        pass

    def names(self):
        return [[work.request.id for work in batch] for batch in self.sent]

    def answer(self, *outputs):
        """As the real one does: free first, then the answers."""
        batch = self.sent[-1]
        self.pool.idle.append(self)
        self.pool.owner.worker_free()
        for work in batch:
            work.answer(InferenceResponse(list(outputs)))


class FakePool:
    overlapping = False
    ready = 1

    def __init__(self, owner):
        self.owner = owner
        self.idle = [FakeWorker(self)]

    def next(self):
        return self.idle[-1]

    def check(self, now):
        pass


class FakeCodecs:
    """One process that does what it was given when the test says so."""

    def __init__(self):
        self.jobs = []
        self.asking = []
        self.cancelled = 0

    def idle(self, again):
        if self.jobs:
            self.asking.append(again)
        return not self.jobs

    def submit(self, request, done):
        self.jobs.append((request, done))
        return self

    def cancel(self):
        self.cancelled += 1

    def work(self, outcome=None):
        request, done = self.jobs.pop(0)
        asking, self.asking = self.asking, []
        for again in asking:
            again()
        if outcome is not None:
            release(request.inputs)
        done(outcome or (encode_json(request) if request.json_outputs else decode_json(request)))


class Memory:
    """Slots that are counted."""

    def __init__(self):
        self.out = 0
        self.full = False

    def allocate(self, size):
        if self.full:
            return None
        self.out += 1
        return Buffer(heap(size), Slot(0, 0, size), self._back)

    def _back(self, slot):
        self.out -= 1


class Stage:
    """A scheduler with one worker and one codec process, both of which do what they are told."""

    def __init__(self, **spec):
        self.memory = Memory()
        self.codecs = FakeCodecs()
        spec = ModelSpec(name="m", version="1", backend="x", location="", **spec)
        self.scheduler = Scheduler(spec, ModelStatistics("m", "1"), self.memory.allocate, lambda _news: None)
        self.scheduler.openings = Openings(self.codecs, self.scheduler, self.memory.allocate)
        self.scheduler.pool = FakePool(self.scheduler)
        (self.worker,) = self.scheduler.pool.idle
        self.outcomes = {}

    async def ask(self, name, *, body=None, deadline=None, null=False, **more):
        """A request with a large body, of which ``name`` is the id."""
        data = body if body is not None else body_of(**more)
        place = self.memory.allocate(len(data))
        place.view[:] = data
        tensor = Tensor("request", "BYTES", [1], [place], json=True)
        request = InferenceRequest(
            "m", "", name, [tensor], Form.TENSORS, deadline=deadline, json_outputs=True, null_for_nan=null
        )
        return await self.submit(request)

    async def ask_small(self, name, *, priority=0):
        request = InferenceRequest("m", "", name, [Tensor("x", "FP32", [1], b"1234")], priority=priority)
        return await self.submit(request)

    async def submit(self, request):
        outcomes = self.outcomes[request.id] = []
        ticket = self.scheduler.submit(request, outcomes.append, 1)
        await turn()
        return ticket

    def finish(self):
        """Let the worker do all that it is given."""
        while self.worker not in self.scheduler.pool.idle:
            self.worker.answer()


def body_of(**more):
    data = [at / 4 for at in range(MANY)]
    return json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [MANY], "data": data}], **more}
    ).encode()


async def turn():
    for _ in range(4):
        await asyncio.sleep(0)


@pytest.fixture
async def stage():
    return Stage()


async def test_an_idle_worker_gets_the_body_as_it_came(stage):
    await stage.ask("a")
    assert stage.worker.names() == [["a"]]
    assert stage.worker.sent[0][0].request.inputs[0].json
    assert not stage.codecs.jobs


async def test_a_body_that_waits_reaches_the_worker_as_tensors_in_shared_memory(stage):
    await stage.ask("a")
    await stage.ask("b", parameters={"k": 3})
    stage.codecs.work()
    stage.worker.answer()
    request = stage.worker.sent[1][0].request
    assert (request.id, request.parameters) == ("b", {"k": 3})
    assert [(tensor.name, tensor.shape) for tensor in request.inputs] == [("x", [MANY])]
    assert request.inputs[0].array()[9] == 9 / 4
    assert stage.worker.sent[1][0].rows == MANY
    stage.finish()
    assert stage.scheduler.idle
    assert stage.memory.out == 0


async def test_who_was_opened_goes_before_those_that_came_later_and_after_those_with_a_priority(stage):
    for name in "abcd":
        await stage.ask(name)
    await stage.ask_small("late")
    await stage.ask_small("first", priority=1)
    stage.codecs.work()  # b
    stage.codecs.work()  # c, while d is begun
    for _ in range(5):
        stage.worker.answer()
    assert [names[0] for names in stage.worker.names()] == ["a", "first", "b", "c", "late"]
    stage.codecs.work()
    assert stage.worker.names()[-1] == ["d"]


async def test_a_worker_takes_the_next_one_while_the_oldest_is_being_opened(stage):
    for name in "abc":
        await stage.ask(name)
    stage.worker.answer()
    assert stage.worker.names() == [["a"], ["c"]]
    stage.codecs.work()
    stage.worker.answer()
    assert stage.worker.names()[-1] == ["b"]


async def test_what_a_client_calls_undecoded_is_no_body(stage):
    await stage.ask("a")
    for name, data in (("b", bytes(4 * MANY)), ("c", [])):
        tensor = Tensor("x", "FP32", [MANY], data, {"undecoded": True, "json": True})
        await stage.submit(InferenceRequest("m", "", name, [tensor]))
    assert not stage.codecs.jobs
    assert stage.scheduler.waiting == 2


async def test_a_body_that_says_much_beside_its_tensors_gives_all_memory_back(stage):
    await stage.ask("a")
    await stage.ask("b", parameters={f"k{at}": "v" * 100 for at in range(1000)})
    (request, _) = stage.codecs.jobs[0]
    answer = decode_json(request)
    said = stage.memory.allocate(len(answer.outputs[0].data[0]))
    said.view[:] = answer.outputs[0].data[0]
    answer.outputs[0].data = [said]  # as it comes where it has got the granted slot
    stage.codecs.work(answer)
    stage.worker.answer()
    assert len(stage.worker.sent[1][0].request.parameters) == 1000
    stage.finish()
    assert stage.memory.out == 0


async def test_two_unopened_bodies_never_go_to_one_worker_together():
    stage = Stage(max_batch_size=8)
    await stage.ask("a")
    for name in "bcde":
        await stage.ask(name)
    stage.worker.answer()  # b is being opened
    assert stage.worker.names() == [["a"], ["c"]]


async def test_opened_bodies_share_a_batch():
    stage = Stage(max_batch_size=8)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1], "data": [True]}]}).encode()
    await stage.ask("a")
    for name in "bcd":
        await stage.ask(name, body=body + b" " * 300_000)
    for _ in "bcd":
        stage.codecs.work()
    stage.worker.answer()
    assert stage.worker.names() == [["a"], ["b", "c", "d"]]


@pytest.mark.parametrize("error", [WorkerDied("Worker died."), QueueFull("no"), ModelNotReady("not yet")])
async def test_where_the_codec_process_fails_the_worker_opens_the_body(stage, error):
    await stage.ask("a")
    await stage.ask("b")
    stage.codecs.work(error)
    stage.worker.answer()
    assert stage.worker.sent[1][0].request.inputs[0].json
    assert not stage.codecs.jobs
    stage.finish()
    assert stage.memory.out == 0


async def test_where_shared_memory_is_full_the_worker_opens_the_body(stage):
    await stage.ask("a")
    await stage.ask("b")
    stage.memory.full = True
    (request, _) = stage.codecs.jobs[0]
    answer = decode_json(request)
    answer.outputs[1].data = bytes(answer.outputs[1].data)  # as it comes without a granted slot
    stage.codecs.work(answer)
    stage.worker.answer()
    assert stage.worker.sent[1][0].request.inputs[0].json


async def test_a_bad_body_is_refused_as_the_model_would(stage):
    await stage.ask("a")
    await stage.ask("b", body=b"{" + b" " * 300_000)
    stage.codecs.work()
    (error,) = stage.outcomes["b"]
    assert isinstance(error, InvalidInput)
    assert (error.model, error.version) == ("m", "1")
    assert stage.memory.out == 1
    stage.finish()
    assert stage.scheduler.idle


async def test_a_request_that_is_withdrawn_while_it_is_opened_is_gone(stage):
    await stage.ask("a")
    ticket = await stage.ask("b")
    ticket.cancel()
    assert stage.codecs.cancelled == 1
    assert stage.scheduler.waiting == 0
    assert stage.outcomes["b"] == []
    stage.finish()
    assert stage.scheduler.idle


async def test_a_request_whose_time_runs_out_while_it_is_opened_hears_so(stage):
    await stage.ask("a")
    await stage.ask("b", deadline=time.monotonic() + 60)
    stage.scheduler.check(time.monotonic() + 61)
    (error,) = stage.outcomes["b"]
    assert isinstance(error, DeadlineExceeded)
    assert stage.codecs.cancelled == 1
    assert stage.scheduler.waiting == 0


async def test_what_is_being_opened_counts_in_the_queue():
    stage = Stage(queue_size=2)
    for name in "abcd":
        await stage.ask(name)
    assert stage.scheduler.waiting == 2
    assert isinstance(stage.outcomes["d"][0], QueueFull)
    assert isinstance(stage.scheduler.overload_error(), QueueFull)
    stage.codecs.work()
    await stage.ask_small("e")
    assert isinstance(stage.outcomes["e"][0], QueueFull)
    stage.worker.answer()
    await stage.ask_small("f")
    assert stage.outcomes["f"] == []


async def test_a_version_that_is_given_up_refuses_what_is_being_opened(stage):
    await stage.ask("a")
    await stage.ask("b")
    stage.scheduler.refuse_all(ModelNotReady("gone"))
    assert isinstance(stage.outcomes["b"][0], ModelNotReady)
    assert stage.scheduler.waiting == 0


def output(count=MANY):
    return Tensor("y", "INT32", [count], b"\1\0\0\0" * count)


async def opened_and_answered(stage, *outputs, **more):
    await stage.ask("a")
    await stage.ask("b", **more)
    stage.codecs.work()
    stage.worker.answer()
    stage.worker.answer(*outputs)
    return stage.outcomes["b"]


async def test_the_text_of_a_large_output_is_written_elsewhere_and_of_a_small_one_here(stage):
    told = await opened_and_answered(stage, output(), output(2))
    assert told == []
    assert not stage.scheduler.idle
    stage.codecs.work()
    large, small = told[0].outputs
    assert large.json
    assert small.json
    assert bytes(small.data) == b"[1,1]"
    assert json.loads(bytes(large.data)) == [1] * MANY
    assert stage.scheduler.idle
    assert stage.memory.out == 0


@pytest.mark.parametrize("works", [None, WorkerDied("Worker died.")])
@pytest.mark.parametrize(("null", "word"), [(False, b"NaN"), (True, b"null")])
async def test_wherever_it_is_written_it_says_nan_as_the_client_wants(stage, null, word, works):
    nan = Tensor("y", "FP32", [MANY], b"\0\0\xc0\x7f" * MANY)
    small = Tensor("z", "FP32", [1], b"\0\0\xc0\x7f")
    told = await opened_and_answered(stage, nan, small, null=null)
    stage.codecs.work(works)
    await until_answered(told)
    assert [bytes(each.data).strip(b"[]").split(b",")[0] for each in told[0].outputs] == [word, word]


async def until_answered(told):
    """A thread may have to write it first."""
    for _ in range(1000):
        if told:
            return
        await asyncio.sleep(0.01)


async def test_the_text_is_written_in_a_thread_where_no_process_can(stage):
    told = await opened_and_answered(stage, output())
    stage.codecs.work(WorkerDied("Worker died."))
    assert told == []  # the event loop does not
    await until_answered(told)
    assert json.loads(bytes(told[0].outputs[0].data)) == [1] * MANY
    assert (stage.scheduler.idle, stage.memory.out) == (True, 0)


async def test_what_cannot_be_written_is_said_and_gives_its_memory_back(stage):
    wrong = Tensor("y", "FP32", [7], output().data)
    told = await opened_and_answered(stage, wrong)
    stage.codecs.work(WorkerDied("Worker died."))
    await until_answered(told)
    assert isinstance(told[0], InvalidInput)
    assert (stage.scheduler.idle, stage.memory.out) == (True, 0)


async def test_what_is_wanted_in_binary_is_left_as_it_is(stage):
    outputs = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}]
    told = await opened_and_answered(stage, output(), outputs=outputs)
    assert not told[0].outputs[0].json
    assert not stage.codecs.jobs


async def test_an_answer_nobody_waits_for_is_not_written(stage):
    await stage.ask("a")
    ticket = await stage.ask("b")
    stage.codecs.work()
    stage.worker.answer()
    ticket.cancel()
    stage.worker.answer(output())
    assert not stage.codecs.jobs
    assert stage.scheduler.idle


async def test_a_piece_of_a_stream_is_written_here(stage):
    await stage.ask("a")
    await stage.ask("b")
    stage.codecs.work()
    stage.worker.answer()
    stage.worker.sent[-1][0].piece(InferenceResponse([output(2)], final=False))
    (piece,) = stage.outcomes["b"]
    assert bytes(piece.outputs[0].data) == b"[1,1]"

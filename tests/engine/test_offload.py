"""Requests whose large JSON is opened while they wait: their place, their memory, and what happens when it fails."""

import asyncio
import json

import pytest
from fakes import FakeCodecs
from scheduler_kit import Stage

from mooring.backends.codec_backend import decode_json
from mooring.core.errors import DeadlineExceeded, InvalidInput, ModelNotReady, QueueFull, WorkerDied
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.tensors import JsonOutput, Tensor

MANY = 40_000


class OffloadStage(Stage):
    """A scheduler with one worker and one codec process."""

    def __init__(self, **spec):
        super().__init__(codecs=FakeCodecs(), **spec)

    def ask_large(self, *names, body=None, deadline=None, null=False, **more):
        """Requests with large bodies."""
        for name in names:
            data = body if body is not None else body_of(**more)
            place = self.memory.allocate(len(data))
            place.view[:] = data
            ticket = self.submit(
                InferenceRequest(
                    "m",
                    "",
                    name,
                    [],
                    deadline=deadline,
                    null_for_nan=null,
                    body=UndecodedBody(BodyKind.V2, place),
                )
            )
            self.loop.turn()
        return ticket


def body_of(**more):
    data = [at / 4 for at in range(MANY)]
    return json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [MANY], "data": data}], **more}
    ).encode()


@pytest.fixture
def stage():
    return OffloadStage()


def test_an_idle_worker_gets_the_body_as_it_came(stage):
    stage.ask_large("a")
    assert stage.worker.names == [["a"]]
    assert stage.worker.sent[0][0].request.body
    assert not stage.codecs.jobs


def test_a_body_that_waits_reaches_the_worker_as_tensors_in_shared_memory(stage):
    stage.ask_large("a")
    stage.ask_large("b", parameters={"k": 3})
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


def test_who_was_opened_goes_before_those_that_came_later_and_after_those_with_a_priority(stage):
    for name in "abcd":
        stage.ask_large(name)
    stage.ask("late")
    stage.ask("first", priority=1)
    stage.codecs.work()  # b
    stage.codecs.work()  # c, while d is begun
    for _ in range(5):
        stage.worker.answer()
    assert [names[0] for names in stage.worker.names] == ["a", "first", "b", "c", "late"]
    stage.codecs.work()
    assert stage.worker.names[-1] == ["d"]


def test_a_worker_takes_the_next_one_while_the_oldest_is_being_opened(stage):
    for name in "abc":
        stage.ask_large(name)
    stage.worker.answer()
    assert stage.worker.names == [["a"], ["c"]]
    stage.codecs.work()
    stage.worker.answer()
    assert stage.worker.names[-1] == ["b"]


def test_what_a_client_calls_undecoded_is_no_body(stage):
    stage.ask_large("a")
    for name, data in (("b", bytes(4 * MANY)), ("c", [])):
        tensor = Tensor("x", "FP32", [MANY], data, {"undecoded": True, "json": True})
        stage.submit(InferenceRequest("m", "", name, [tensor]))
    assert not stage.codecs.jobs
    assert stage.scheduler.waiting == 2


def test_a_body_that_says_much_beside_its_tensors_gives_all_memory_back(stage):
    stage.ask_large("a")
    stage.ask_large("b", parameters={f"k{at}": "v" * 100 for at in range(1000)})
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


def test_two_unopened_bodies_never_go_to_one_worker_together():
    stage = OffloadStage(max_batch_size=8)
    stage.ask_large("a")
    for name in "bcde":
        stage.ask_large(name)
    stage.worker.answer()  # b is being opened
    assert stage.worker.names == [["a"], ["c"]]


def test_opened_bodies_share_a_batch():
    stage = OffloadStage(max_batch_size=8)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "BOOL", "shape": [1], "data": [True]}]}).encode()
    stage.ask_large("a")
    for name in "bcd":
        stage.ask_large(name, body=body + b" " * 300_000)
    for _ in "bcd":
        stage.codecs.work()
    stage.worker.answer()
    assert stage.worker.names == [["a"], ["b", "c", "d"]]


@pytest.mark.parametrize("error", [WorkerDied("Worker died."), QueueFull("no"), ModelNotReady("not yet")])
def test_where_the_codec_process_fails_the_worker_opens_the_body(stage, error):
    stage.ask_large("a")
    stage.ask_large("b")
    stage.codecs.work(error)
    stage.worker.answer()
    assert stage.worker.sent[1][0].request.body
    assert not stage.codecs.jobs
    stage.finish()
    assert stage.memory.out == 0


def test_where_shared_memory_is_full_the_worker_opens_the_body(stage):
    stage.ask_large("a")
    stage.ask_large("b")
    stage.memory.full = True
    (request, _) = stage.codecs.jobs[0]
    answer = decode_json(request)
    answer.outputs[1].data = bytes(answer.outputs[1].data)  # as it comes without a granted slot
    stage.codecs.work(answer)
    stage.worker.answer()
    assert stage.worker.sent[1][0].request.body


def test_a_bad_body_is_refused_as_the_model_would(stage):
    stage.ask_large("a")
    stage.ask_large("b", body=b"{" + b" " * 300_000)
    stage.codecs.work()
    (error,) = stage.outcomes["b"]
    assert isinstance(error, InvalidInput)
    assert (error.model, error.version) == ("m", "1")
    assert stage.memory.out == 1
    stage.finish()
    assert stage.scheduler.idle


def test_a_request_that_is_withdrawn_while_it_is_opened_is_gone(stage):
    stage.ask_large("a")
    ticket = stage.ask_large("b")
    ticket.cancel()
    assert stage.codecs.cancelled == 1
    assert stage.scheduler.waiting == 0
    assert stage.outcomes["b"] == []
    stage.finish()
    assert stage.scheduler.idle


def test_a_request_whose_time_runs_out_while_it_is_opened_hears_so(stage):
    stage.ask_large("a")
    stage.ask_large("b", deadline=stage.clock() + 60)
    stage.scheduler.check_deadlines(stage.clock() + 61)
    (error,) = stage.outcomes["b"]
    assert isinstance(error, DeadlineExceeded)
    assert stage.codecs.cancelled == 1
    assert stage.scheduler.waiting == 0


def test_what_is_being_opened_counts_in_the_queue():
    stage = OffloadStage(queue_size=2)
    for name in "abcd":
        stage.ask_large(name)
    assert stage.scheduler.waiting == 2
    assert isinstance(stage.outcomes["d"][0], QueueFull)
    assert isinstance(stage.scheduler.overload_error(), QueueFull)
    stage.codecs.work()
    stage.ask("e")
    assert isinstance(stage.outcomes["e"][0], QueueFull)
    stage.worker.answer()
    stage.ask("f")
    assert stage.outcomes["f"] == []


def test_a_version_that_is_given_up_refuses_what_is_being_opened(stage):
    stage.ask_large("a")
    stage.ask_large("b")
    stage.scheduler.refuse_all(ModelNotReady("gone"))
    assert isinstance(stage.outcomes["b"][0], ModelNotReady)
    assert stage.scheduler.waiting == 0


def output(count=MANY):
    return Tensor("y", "INT32", [count], b"\1\0\0\0" * count)


def opened_and_answered(stage, *outputs, **more):
    stage.ask_large("a")
    stage.ask_large("b", **more)
    stage.codecs.work()
    stage.worker.answer()
    stage.worker.answer(InferenceResponse(list(outputs)))
    return stage.outcomes["b"]


def test_the_text_of_a_large_output_is_written_elsewhere_and_of_a_small_one_here(stage):
    told = opened_and_answered(stage, output(), output(2))
    assert told == []
    assert not stage.scheduler.idle
    stage.codecs.work()
    large, small = told[0].outputs
    assert type(large) is JsonOutput
    assert type(small) is JsonOutput
    assert bytes(small.data) == b"[1,1]"
    assert json.loads(bytes(large.data)) == [1] * MANY
    assert stage.scheduler.idle
    assert stage.memory.out == 0


@pytest.mark.parametrize("works", [None, WorkerDied("Worker died.")])
@pytest.mark.parametrize(("null", "word"), [(False, b"NaN"), (True, b"null")])
async def test_wherever_it_is_written_it_says_nan_as_the_client_wants(stage, null, word, works):
    nan = Tensor("y", "FP32", [MANY], b"\0\0\xc0\x7f" * MANY)
    small = Tensor("z", "FP32", [1], b"\0\0\xc0\x7f")
    told = opened_and_answered(stage, nan, small, null=null)
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
    told = opened_and_answered(stage, output())
    stage.codecs.work(WorkerDied("Worker died."))
    assert told == []  # the event loop does not
    await until_answered(told)
    assert json.loads(bytes(told[0].outputs[0].data)) == [1] * MANY
    assert (stage.scheduler.idle, stage.memory.out) == (True, 0)


async def test_what_cannot_be_written_is_said_and_gives_its_memory_back(stage):
    wrong = Tensor("y", "FP32", [7], output().data)
    told = opened_and_answered(stage, wrong)
    stage.codecs.work(WorkerDied("Worker died."))
    await until_answered(told)
    assert isinstance(told[0], InvalidInput)
    assert (stage.scheduler.idle, stage.memory.out) == (True, 0)


def test_what_is_wanted_in_binary_is_left_as_it_is(stage):
    outputs = [{"name": "y", "parameters": {"binary_data": True}}, {"name": "z"}]
    told = opened_and_answered(stage, output(), outputs=outputs)
    assert type(told[0].outputs[0]) is Tensor
    assert not stage.codecs.jobs


def test_an_answer_nobody_waits_for_is_not_written(stage):
    stage.ask_large("a")
    ticket = stage.ask_large("b")
    stage.codecs.work()
    stage.worker.answer()
    ticket.cancel()
    stage.worker.answer(InferenceResponse([output()]))
    assert not stage.codecs.jobs
    assert stage.scheduler.idle


def test_a_piece_of_a_stream_is_written_here(stage):
    stage.ask_large("a")
    stage.ask_large("b")
    stage.codecs.work()
    stage.worker.answer()
    stage.worker.sent[-1][0].piece(InferenceResponse([output(2)], final=False))
    (piece,) = stage.outcomes["b"]
    assert bytes(piece.outputs[0].data) == b"[1,1]"

"""From a request to the queue: its deadline, and its parts where it has more rows than a batch."""

import json

import pytest
from scheduler_kit import Stage

from mooring.core.errors import ErrorRecord, ModelNotReady, QueueFull, Unsupported
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.tensors import Tensor
from mooring.engine.admission import admit_request


def instances(count):
    rows = [str(at).encode() for at in range(count)]
    return InferenceRequest("m", "", "7", [Tensor("instances", "BYTES", [count], rows)], form=Form.INSTANCES)


class Caller:
    def __init__(self, request, **spec):
        self.stage = Stage(max_batch_size=2, **spec)
        self.outcomes = []
        self.ticket = admit_request(self.stage.scheduler, request, self.outcomes.append)
        self.stage.loop.turn()

    def answer_rows(self):
        """The worker answers a part: each instance with itself."""
        (work,) = self.stage.worker.sent[-1]
        rows = work.request.inputs[0].data
        self.stage.worker.answer(InferenceResponse([Tensor("predictions", "BYTES", [len(rows)], list(rows))]))


def test_a_model_with_a_time_out_for_its_clients_gives_a_request_without_a_deadline_one():
    caller = Caller(InferenceRequest("m", "", "7", []), client_timeout=5.0)
    (work,) = caller.stage.worker.sent[0]
    assert work.request.deadline is not None
    mine = InferenceRequest("m", "", "7", [], deadline=17.0)
    admit_request(caller.stage.scheduler, mine, caller.outcomes.append)
    assert mine.deadline == 17.0


def test_a_request_of_more_rows_than_a_batch_is_split_and_joined_in_order():
    caller = Caller(instances(5))
    for _ in range(3):
        assert caller.outcomes == []
        caller.answer_rows()
    (answer,) = caller.outcomes
    assert answer.outputs[0].shape == [5]
    assert [json.loads(row) for row in answer.outputs[0].data] == [0, 1, 2, 3, 4]


def test_parts_that_are_answered_out_of_order_are_joined_in_order():
    caller = Caller(instances(4), workers=2)
    for worker in sorted(caller.stage.pool.workers, key=lambda worker: worker.sent[0][0].key, reverse=True):
        (work,) = worker.sent[-1]
        rows = work.request.inputs[0].data
        worker.answer(InferenceResponse([Tensor("predictions", "BYTES", [len(rows)], list(rows))]))
    assert [json.loads(row) for row in caller.outcomes[0].outputs[0].data] == [0, 1, 2, 3]


def test_the_first_part_that_fails_answers_for_all_and_the_others_are_withdrawn():
    caller = Caller(instances(5))
    caller.stage.scheduler.refuse_all(ModelNotReady("it failed"))
    assert [type(outcome) for outcome in caller.outcomes] == [ModelNotReady]
    assert caller.stage.worker.cancelled == caller.stage.worker.sent[0]
    assert caller.stage.scheduler.waiting == 0


def test_once_a_part_is_refused_no_further_ones_are_queued():
    caller = Caller(instances(9), queue_size=1)
    assert [type(outcome) for outcome in caller.outcomes] == [QueueFull]
    caller.stage.finish()
    assert caller.stage.scheduler.idle


def test_many_instances_for_a_function_go_in_parts_that_leave_room_in_its_queue():
    caller = Caller(instances(100), queue_size=10, backend="function")
    while not caller.outcomes:
        caller.answer_rows()
    (answer,) = caller.outcomes
    assert [json.loads(row) for row in answer.outputs[0].data] == list(range(100))
    assert len(caller.stage.worker.sent) == 5


@pytest.mark.parametrize(
    ("told", "says"),
    [("instance 1: no number", "instance 3: no number"), ("no number", "instance 2: no number")],
)
def test_what_is_wrong_with_an_instance_is_said_with_its_place_in_the_request(told, says):
    caller = Caller(instances(5), backend="function")
    caller.answer_rows()
    caller.stage.worker.answer(ErrorRecord("InvalidInput", told))
    assert [outcome.message for outcome in caller.outcomes] == [says]


def test_who_withdraws_a_request_of_many_parts_withdraws_all():
    caller = Caller(instances(5))
    caller.ticket.cancel()
    caller.stage.finish()
    assert (caller.outcomes, caller.stage.scheduler.idle) == ([], True)
    assert len(caller.stage.worker.sent) == 1


def test_an_answer_in_pieces_to_one_of_several_parts_is_refused():
    caller = Caller(instances(3))
    caller.stage.worker.sent[0][0].piece(InferenceResponse([], final=False))
    assert [type(outcome) for outcome in caller.outcomes] == [Unsupported]


def test_a_request_without_rows_is_answered_without_a_worker():
    caller = Caller(instances(0))
    assert caller.outcomes[0].outputs[0].shape == [0]
    assert caller.stage.worker.sent == []
    caller.ticket.cancel()


@pytest.mark.parametrize(("form", "rows"), [(Form.BODY, 1), (Form.TENSORS, 6)])
def test_rows_of_other_forms_count_as_the_first_dimension_says(form, rows):
    caller = Caller(InferenceRequest("m", "", "7", [Tensor("x", "FP32", [6], b"1234" * 6)], form=form))
    (work,) = caller.stage.worker.sent[0]
    assert work.rows == rows

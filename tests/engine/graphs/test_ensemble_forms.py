"""Bodies and instances for an ensemble: made tensors of by a codec process, and answered of all samples together."""

import msgspec
from ensemble_kit import Steps, ensemble_spec, step
from msgspec import structs

from mooring.core.buffers import HeapAllocator
from mooring.core.errors import InvalidInput, ModelFailed, Unsupported
from mooring.core.requests import BodyKind, Form, InferenceRequest, Operation, UndecodedBody
from mooring.core.tensors import Tensor
from mooring.engine.graphs.ensemble_forms import observe_run, run_ensemble
from mooring.observability.statistics import ModelStatistics

SPEC = ensemble_spec(
    step("first", "x=A", "y=m"), step("last", "x=m", "y=C"), inputs="A", outputs="C", batch=2
)


BODY = [Tensor("body", "BYTES", [1], [b"[1, 2]"], {"content_type": "application/json"})]


def instances(*rows):
    return [Tensor("instances", "BYTES", [len(rows)], [msgspec.json.encode(row) for row in rows])]


def ask(steps, inputs, form=Form.INSTANCES, **fields):
    request = InferenceRequest("e", "", "7", inputs, form=form, **fields)
    return run_ensemble(steps.plan, request, steps.outcomes.append, steps.context, HeapAllocator().allocate)


def answer_all(steps):
    while steps.waiting():
        model = steps.waiting()[0]
        steps.answer(model, steps.tensor("y", steps.given(model)[0][1][0]))


def test_rows_go_in_batches_and_come_back_as_one_answer():
    steps = Steps(SPEC)
    ask(steps, instances([1, 2], [3, 4], [5, 6]))
    assert steps.waiting() == ["first", "first"]
    answer_all(steps)
    (answer,) = steps.outcomes
    assert (answer.outputs[0].data, answer.id, answer.version) == ([b"[0.0,0.0]"] * 3, "7", "3")
    assert steps.runs == set()


def test_no_rows_are_no_predictions():
    steps = Steps(SPEC)
    ask(steps, instances())
    assert (steps.outcomes[0].outputs[0].shape, steps.asked) == ([0], [])


def test_so_many_samples_are_under_way_at_a_time():
    spec = ensemble_spec(step("first", "x=A", "y=C"), inputs="A", outputs="C", batch=1, max_inflight=2)
    steps = Steps(spec)
    ask(steps, instances(*[[each, 0] for each in range(5)]))
    assert steps.waiting() == ["first"] * 2
    steps.answer("first", steps.tensor("y"))
    assert steps.waiting() == ["first"] * 2
    answer_all(steps)
    assert steps.outcomes[0].outputs[0].shape == [5]


def test_an_undecoded_body_without_rows_is_answered():
    steps = Steps(SPEC)
    ask(steps, [], body=UndecodedBody(BodyKind.V1, b'{"instances": []}'))
    assert steps.outcomes[0].outputs[0].shape == [0]


def test_a_body_is_answered_with_a_body():
    steps = Steps(SPEC)
    ask(steps, [structs.replace(each) for each in BODY], Form.BODY)
    answer_all(steps)
    assert bytes(steps.outcomes[0].outputs[0].data[0]) == b'{"C":[0.0,0.0]}'


def test_a_body_is_answered_in_pieces_and_a_row_with_the_list_of_them():
    spec = ensemble_spec(step("pieces", "x=A", "y=C"), inputs="A", outputs="C", batch=2)
    for form, inputs in ((Form.BODY, BODY), (Form.INSTANCES, instances([1, 2]))):
        steps = Steps(spec, pieces=True)
        ask(steps, [structs.replace(each) for each in inputs], form)
        for _ in range(2):
            steps.answer("pieces", steps.tensor("y"), final=False)
        steps.answer("pieces")
        if form is Form.BODY:
            assert [outcome.final for outcome in steps.outcomes] == [False, False, True]
            assert bytes(steps.outcomes[1].outputs[0].data[0]) == b'{"C":[0.0,0.0]}'
        else:
            assert steps.outcomes[0].outputs[0].data == [b"[[0.0,0.0],[0.0,0.0]]"]
        assert steps.runs == set()


def test_a_body_without_a_response_is_answered_with_none():
    steps = Steps(ensemble_spec(step("pieces", "x=A", "y=C"), inputs="A", outputs="C", batch=2), pieces=True)
    ask(steps, [structs.replace(each) for each in BODY], Form.BODY)
    steps.answer("pieces")
    assert [(outcome.outputs, outcome.final) for outcome in steps.outcomes] == [([], True)]


def test_a_wrong_body_or_row_is_named():
    steps = Steps(SPEC)
    ask(steps, instances([1, 2], [3, "x"]))
    ask(steps, [Tensor("body", "BYTES", [1], [b"{"])], Form.BODY)
    assert [type(outcome) for outcome in steps.outcomes] == [InvalidInput, InvalidInput]
    assert steps.outcomes[0].message.startswith("instance 1")
    assert steps.runs == set()


def test_the_first_failure_withdraws_all_samples():
    steps = Steps(SPEC)
    ask(steps, instances([1, 2], [3, 4], [5, 6]))
    steps.answer("first", error=ModelFailed("no"))
    assert steps.outcomes[0].message == "in ensemble 'e', step 'first': no"
    assert (len(steps.outcomes), steps.withdrawn, steps.runs) == (1, ["first"], set())


def test_who_goes_away_withdraws_all_samples():
    steps = Steps(SPEC)
    ask(steps, instances([1, 2], [3, 4], [5, 6])).cancel()
    assert (steps.outcomes, steps.withdrawn, steps.runs) == ([], ["first", "first"], set())


def test_an_ensemble_has_no_explanation():
    steps = Steps(SPEC)
    ask(steps, instances([1, 2]), operation=Operation.EXPLAIN)
    assert isinstance(steps.outcomes[0], Unsupported)


def test_requests_rows_and_failures_are_counted():
    steps, statistics = Steps(SPEC), ModelStatistics("e", "3")
    for error in (None, ModelFailed("no")):
        request = InferenceRequest("e", "", "7", [steps.tensor("A", 2)])
        done = observe_run(steps.plan, request, statistics, steps.outcomes.append)
        run_ensemble(steps.plan, request, done, steps.context, HeapAllocator().allocate)
        steps.answer("first", steps.tensor("y", 2), error=error)
        answer_all(steps)
    counts = statistics.counts
    assert (counts.outcomes, counts.by_size.keys()) == ([1, 1], {2})


def test_the_first_dimension_is_no_row_where_there_is_no_batch():
    steps = Steps(ensemble_spec(step("first", "x=A", "y=C"), inputs="A", outputs="C", batch=0))
    statistics = ModelStatistics("e", "3")
    request = InferenceRequest("e", "", "7", [steps.tensor("A", 5)])
    done = observe_run(steps.plan, request, statistics, steps.outcomes.append)
    run_ensemble(steps.plan, request, done, steps.context, HeapAllocator().allocate)
    steps.answer("first", steps.tensor("y", 5))
    assert statistics.counts.by_size.keys() == {1}

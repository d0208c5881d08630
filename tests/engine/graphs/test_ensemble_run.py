"""A request on its way through an ensemble: who is asked when, with what, and that all memory is given back."""

import pytest
from ensemble_kit import Steps, ensemble_spec, step
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelNotReady,
    QueueFull,
    Unsupported,
    VersionNotFound,
)
from mooring.core.requests import InferenceResponse, RequestedOutput
from mooring.core.tensors import release
from mooring.engine.admission import refuse_request

DIAMOND = ensemble_spec(
    step("first", "x=A", "y=m rest=unused"),
    step("left", "x=m", "y=l"),
    step("right", "x=m b=B", "y=r"),
    step("last", "x=l z=r", "y=C more=D"),
    inputs="A B?",
    outputs="C D unused",
)
STREAM = ensemble_spec(
    step("pieces", "x=A", "y=p"), step("then", "x=p", "y=C"), inputs="A", outputs="C", max_inflight=2
)


def test_steps_run_as_soon_as_their_tensors_are_there_and_get_them_by_their_own_names():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A", 3), steps.tensor("B", 3))
    assert steps.waiting() == ["first"]
    steps.answer("first", steps.tensor("y", 3), steps.tensor("rest", 3))
    assert steps.waiting() == ["left", "right"]
    assert steps.given("right") == [("b", [3, 2]), ("x", [3, 2])]
    steps.answer("right", steps.tensor("y", 3))
    assert steps.waiting() == ["left"]
    steps.answer("left", steps.tensor("y", 3))
    assert sorted(steps.given("last")) == [("x", [3, 2]), ("z", [3, 2])]
    steps.answer("last", steps.tensor("y", 3), steps.tensor("more", 3))
    (answer,) = steps.outcomes
    assert [each.name for each in answer.outputs] == ["C", "D", "unused"]
    assert (answer.model, answer.version, answer.id, answer.final) == ("e", "3", "7", True)
    assert steps.runs == set()


def test_only_what_is_wanted_is_asked_for():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"), outputs=[RequestedOutput("unused")])
    assert [each.name for each in steps.asked[0][0].outputs] == ["rest"]
    steps.answer("first", steps.tensor("rest"))
    assert steps.waiting() == []
    assert [each.name for each in steps.outcomes[0].outputs] == ["unused"]


def test_an_optional_tensor_that_is_not_there_is_left_out_of_the_step():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"))
    steps.answer("first", steps.tensor("y"), steps.tensor("rest"))
    assert steps.given("right") == [("x", [1, 2])]


def test_a_missing_output_is_left_out_of_the_next_step_or_named():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"))
    steps.answer("first", steps.tensor("y"))
    steps.answer("left", steps.tensor("y"))
    steps.answer("right")
    assert steps.given("last") == [("x", [1, 2])]
    steps.answer("last", steps.tensor("y"), steps.tensor("more"))
    assert isinstance(steps.outcomes[0], InvalidOutput)
    assert "step 'first': there is no output 'unused'" in steps.outcomes[0].message


def test_each_step_has_what_the_client_said():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"), parameters={"p": 1}, priority=2, deadline=5.0)
    request = steps.asked[0][0]
    assert (request.parameters, request.priority, request.deadline, request.id) == ({"p": 1}, 2, 5.0, "7")


def test_a_failure_names_its_step_and_withdraws_the_others():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"))
    steps.answer("first", steps.tensor("y"), steps.tensor("rest"))
    shared = QueueFull("model 'left' has 3 requests waiting", model="left")
    shared.retry_after = 4.0
    steps.answer("left", error=shared)
    (error,) = steps.outcomes
    assert error.message == "in ensemble 'e', step 'left': model 'left' has 3 requests waiting"
    assert (type(error), error.retry_after, shared.message) == (
        QueueFull,
        4.0,
        "model 'left' has 3 requests waiting",
    )
    assert steps.withdrawn == ["right"]
    assert steps.runs == set()


def test_a_model_that_went_meanwhile_is_no_unknown_ensemble():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"))
    steps.answer("first", error=VersionNotFound("model 'first' has no version '3'"))
    assert type(steps.outcomes[0]) is ModelNotReady


@pytest.mark.parametrize("end", ["answered", "failed", "cancelled", "unwanted"])
def test_all_memory_is_given_back(end):
    spec = ensemble_spec(
        step("first", "x=A", "y=m"),
        step("left", "x=m", "y=l"),
        step("right", "x=m b=A", "y=r"),
        inputs="A",
        outputs="l r m",
        shape=(-1, -1),
    )
    steps = Steps(spec)
    run = steps.run(steps.tensor("A", large=True))
    steps.answer("first", steps.tensor("y", large=True))
    steps.answer("left", steps.tensor("y", large=True))
    if end == "answered":
        steps.answer("right", steps.tensor("y", large=True))
        release(steps.outcomes[0].outputs)
    elif end == "failed":
        steps.answer("right", error=ModelFailed("no"))
    else:
        run.cancel()
        if end == "unwanted":  # the model had answered already
            steps.answer("right", steps.tensor("y", large=True))
        else:
            steps.asked[0][0].release()
    assert steps.memory.held == 0
    assert steps.runs == set()


def test_refused_inputs_are_given_back():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("B", large=True))
    assert isinstance(steps.outcomes[0], InvalidInput)
    assert (steps.memory.held, steps.asked, steps.runs) == (0, [], set())


def test_a_step_that_is_refused_at_once_ends_the_run():
    steps = Steps(DIAMOND)
    steps.submit = lambda request, done: refuse_request(request, done, ModelNotReady("loading"))
    steps.run(steps.tensor("A"))
    assert [type(outcome) for outcome in steps.outcomes] == [ModelNotReady]


def test_pieces_go_on_by_themselves_and_are_answered_in_order():
    steps = Steps(STREAM, pieces=True)
    steps.run(steps.tensor("A"))
    for _ in range(3):
        steps.answer("pieces", steps.tensor("y"), final=False)
    assert steps.waiting() == ["pieces", "then", "then"]  # the third waits for its turn
    second = steps.asked.pop(2)
    second[1](InferenceResponse([steps.tensor("y", 2)]))
    assert steps.outcomes == []
    steps.answer("then", steps.tensor("y", 1))
    assert [outcome.outputs[0].shape[0] for outcome in steps.outcomes] == [1, 2]
    assert steps.waiting() == ["pieces", "then"]
    steps.answer("then", steps.tensor("y", 3))
    steps.answer("pieces", steps.tensor("y"))  # the last piece ends the stream
    steps.answer("then", steps.tensor("y", 4))
    assert [outcome.outputs[0].shape[0] for outcome in steps.outcomes[:-1]] == [1, 2, 3, 4]
    assert [outcome.final for outcome in steps.outcomes] == [False] * 4 + [True]
    assert steps.outcomes[-1].outputs == []


def test_a_stream_of_nothing_is_an_answer_of_nothing():
    steps = Steps(STREAM, pieces=True)
    steps.run(steps.tensor("A"))
    steps.answer("pieces")
    assert [(outcome.outputs, outcome.final) for outcome in steps.outcomes] == [([], True)]


def test_streams_in_streams_keep_their_order():
    spec = ensemble_spec(
        step("pieces", "x=A", "y=p"),
        step("more", "x=p", "y=q"),
        step("then", "x=q", "y=C"),
        inputs="A",
        outputs="C",
    )
    steps = Steps(spec, pieces=True, more=True)
    steps.run(steps.tensor("A"))
    steps.answer("pieces", steps.tensor("y"), final=False)
    steps.answer("pieces", steps.tensor("y"), final=True)
    first, second = steps.asked
    for rows in (3, 4):
        second[1](InferenceResponse([steps.tensor("y", rows)], final=False))
    second[1](InferenceResponse([]))
    first[1](InferenceResponse([steps.tensor("y", 1)], final=False))
    first[1](InferenceResponse([steps.tensor("y", 2)]))
    while "then" in steps.waiting():
        rows = steps.given("then")[0][1][0]
        steps.answer("then", steps.tensor("y", rows))
    assert [outcome.outputs[0].shape[0] for outcome in steps.outcomes[:-1]] == [1, 2, 3, 4]
    assert steps.outcomes[-1].final


def test_a_stream_that_is_cancelled_gives_back_what_waits():
    spec = ensemble_spec(
        step("pieces", "x=A", "y=p"),
        step("then", "x=p", "y=C"),
        inputs="A",
        outputs="C",
        max_inflight=1,
        shape=(-1, -1),
    )
    steps = Steps(spec, pieces=True)
    run = steps.run(steps.tensor("A", large=True))
    for _ in range(3):
        steps.answer("pieces", steps.tensor("y", large=True), final=False)
    run.cancel()
    for request, _ in steps.asked:
        request.release()
    assert steps.withdrawn == ["pieces", "then"]
    assert steps.memory.held == 0


def test_a_model_that_streams_where_others_are_not_behind_it_is_refused():
    steps = Steps(DIAMOND)
    steps.run(steps.tensor("A"))
    steps.answer("first", steps.tensor("y"), steps.tensor("rest"))
    steps.answer("left", steps.tensor("y"), final=False)
    assert isinstance(steps.outcomes[0], Unsupported)
    assert "step 'left'" in steps.outcomes[0].message


def value_of(tensor):
    return int.from_bytes(bytes(tensor.data)[:8], "little")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_the_graph_and_the_order_of_answers_the_outputs_are_right(data):
    count = data.draw(st.integers(1, 7))
    steps, names = [], ["A"]
    for index in range(count):
        read = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        written = [f"t{index}_{each}" for each in range(data.draw(st.integers(1, 2)))]
        steps.append(
            step(
                f"m{index}",
                " ".join(f"x{at}={name}" for at, name in enumerate(read)),
                " ".join(f"y{at}={name}" for at, name in enumerate(written)),
            )
        )
        names += written
    order = data.draw(st.permutations(steps))
    spec = ensemble_spec(*order, inputs="A", outputs=" ".join(names[1:]))
    wanted = data.draw(st.lists(st.sampled_from(names[1:]), min_size=1, unique=True))
    values = {"A": 3}
    for (
        each
    ) in steps:  # what each tensor must be: the sum of what its step reads, and its place among the outputs
        total = sum(values[name] for name in each.inputs.values())
        values |= {name: (total + at) % (1 << 60) for at, name in enumerate(each.outputs.values())}
    ran = Steps(spec)
    first = ran.tensor("A")
    first.data = (3).to_bytes(8, "little")
    ran.run(first, outputs=[RequestedOutput(name) for name in wanted])
    while ran.asked:
        request, done = ran.asked.pop(data.draw(st.integers(0, len(ran.asked) - 1)))
        total = sum(map(value_of, request.inputs)) % (1 << 60)
        found = []
        for output in request.outputs:
            made = ran.tensor(output.name)
            made.data = ((total + int(output.name[1:])) % (1 << 60)).to_bytes(8, "little")
            found.append(made)
        done(InferenceResponse(found))
    (answer,) = ran.outcomes
    assert {each.name: value_of(each) for each in answer.outputs} == {name: values[name] for name in wanted}
    assert ran.runs == set()

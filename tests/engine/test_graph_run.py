"""Graphs: nodes in order, names matched, errors and cancellation passed on, memory given back."""

import asyncio
import json
import time

import numpy as np
import pytest
from fakes import FakeCodecs

from mooring.codecs.packed import pack_predictions
from mooring.core.buffers import LARGE, Buffer, Slot
from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelNotReady,
    ModelRefused,
    NodeFailed,
    QueueFull,
    RequestCancelled,
    Unsupported,
    WorkerDied,
)
from mooring.core.requests import (
    BodyKind,
    Form,
    InferenceRequest,
    InferenceResponse,
    JsonWriter,
    Operation,
    RequestedOutput,
    ResponseHead,
    UndecodedBody,
)
from mooring.core.tensors import ROWS, Tensor, TensorSpec, release
from mooring.core.timing import RequestTiming
from mooring.engine.graphs.run import Graph, GraphRun, chain_of
from mooring.repository.spec import Node


class Stages:
    """Models that answer when they are told to."""

    def __init__(self, **declared):
        self.codecs = FakeCodecs(at_hand=True)
        self.declared = {
            name: [TensorSpec(tensor, "FP32", [1]) for tensor in names] for name, names in declared.items()
        }
        self.asked = []
        self.withdrawn = []
        self.outcomes = []
        self.runs = set()

    def submit(self, request, done):
        self.asked.append((request, done))
        stages = self

        class Ticket:
            def cancel(self):
                stages.withdrawn.append(request.model)

        return Ticket()

    def run(self, *names, form=Form.TENSORS, **fields):
        request = InferenceRequest("chain", "", "7", [tensor("x", b"in")], form=form, **fields)
        return self.of(chain_of(names), request)

    def of(self, graph, request):
        inputs = lambda name: self.declared.get(name, ())  # noqa: E731
        read = self.codecs.reader()
        return GraphRun(graph, request, self.outcomes.append, self.submit, inputs, self.runs, read)

    def answer(self, *tensors, **fields):
        self.asked[-1][1](InferenceResponse(list(tensors), **fields))


def tensor(name, data):
    return Tensor(name, "BYTES", [1], [data])


def test_the_outputs_of_a_stage_are_the_inputs_of_the_next_under_its_names():
    stages = Stages(first=["x"], second=["image"])
    stages.run("first", "second")
    assert stages.asked[0][0].inputs[0].name == "x"
    stages.answer(tensor("out", b"between"))
    assert [(each.name, each.data) for each in stages.asked[1][0].inputs] == [("image", [b"between"])]
    stages.answer(tensor("scores", b"end"))
    assert (stages.outcomes[0].outputs[0].data, stages.outcomes[0].model) == ([b"end"], "chain")


def test_names_that_agree_are_kept_in_any_order():
    stages = Stages(second=["b", "a"])
    stages.run("first", "second")
    stages.answer(tensor("a", b"1"), tensor("b", b"2"))
    assert {each.name: each.data for each in stages.asked[1][0].inputs} == {"a": [b"1"], "b": [b"2"]}


def test_several_models_have_no_explanation_together_and_a_single_one_has_its_own():
    stages = Stages()
    stages.run("first", "second", operation=Operation.EXPLAIN)
    assert (stages.asked, stages.runs) == ([], set())
    assert isinstance(stages.outcomes[0], Unsupported)
    stages.run("first", operation=Operation.EXPLAIN)
    assert stages.asked[0][0].operation is Operation.EXPLAIN


def test_too_few_outputs_are_said_so_and_given_back():
    given_back = []
    slot = Slot(0, 0, 4)
    stages = Stages(second=["a", "b"])
    stages.run("first", "second")
    stages.answer(tensor("a", Buffer(memoryview(b"abcd"), slot, given_back.append)))
    assert isinstance(stages.outcomes[0], InvalidOutput)
    assert given_back == [slot]


def test_the_error_of_a_stage_is_the_answer():
    stages = Stages()
    stages.run("first", "second")
    stages.asked[0][1](ModelFailed("ValueError: no"))
    assert isinstance(stages.outcomes[0], ModelFailed)
    assert len(stages.asked) == 1


def test_a_withdrawn_chain_withdraws_the_stage_that_runs_and_answers_no_more():
    stages = Stages()
    run = stages.run("first", "second")
    run.cancel()
    assert stages.withdrawn == ["first"]
    stages.asked[0][1](RequestCancelled())
    assert stages.outcomes == []


def test_requested_outputs_concern_the_last_stage_only():
    stages = Stages()
    stages.run("first", "second", outputs=["y"], json_writer=JsonWriter.SERVER)
    stages.answer(tensor("a", b"1"))
    (first, _), (second, _) = stages.asked
    assert (first.outputs, first.json_writer) == (None, JsonWriter.NOBODY)
    assert (second.outputs, second.json_writer) == (["y"], JsonWriter.SERVER)


def test_a_large_v2_body_is_opened_before_the_first_stage_and_answered_as_the_last_one_is_asked():
    stages = Stages()
    body = (
        b'{"id": "mine", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}],'
        b' "outputs": [{"name": "y"}], "parameters": {"k": 3}}'
    )
    request = InferenceRequest("chain", "", "7", [], body=UndecodedBody(BodyKind.V2, body))
    stages.of(chain_of(["first", "second"]), request)
    first = stages.asked[0][0]
    assert (first.id, first.outputs, first.parameters) == ("mine", None, {"k": 3})
    assert first.json_writer is JsonWriter.NOBODY
    assert first.inputs[0].array().tolist() == [1.0, 2.0]
    stages.answer(first.inputs[0])
    assert [output.name for output in stages.asked[1][0].outputs] == ["y"]


def test_a_large_v2_body_that_makes_no_sense_reaches_no_stage():
    stages = Stages()
    request = InferenceRequest("chain", "", "7", [], body=UndecodedBody(BodyKind.V2, b"[]"))
    stages.of(chain_of(["first"]), request)
    assert isinstance(stages.outcomes[0], InvalidInput)
    assert stages.asked == []


def test_no_stage_is_asked_before_a_large_v2_body_is_read_and_a_withdrawn_one_gives_its_memory_back():
    given_back = []
    body = Buffer(memoryview(b'{"inputs": []}'), Slot(0, 0, 14), given_back.append)
    stages = Stages()
    stages.codecs.at_hand = False
    request = InferenceRequest("chain", "", "7", [], body=UndecodedBody(BodyKind.V2, body))
    run = stages.of(chain_of(["first"]), request)
    assert (stages.asked, len(stages.codecs.jobs), stages.runs) == ([], 1, {run})
    run.cancel()
    assert (stages.codecs.cancelled, stages.runs, stages.outcomes) == (1, set(), [])
    release(stages.codecs.jobs[0][0].inputs)  # as a scheduler does of what was withdrawn
    assert given_back == [Slot(0, 0, 14)]


def test_a_codec_that_dies_of_a_body_is_the_answer_and_no_stage_is_asked():
    stages = Stages()
    stages.codecs.at_hand = False
    request = InferenceRequest("chain", "", "7", [], body=UndecodedBody(BodyKind.V2, b"{}"))
    stages.of(chain_of(["first"]), request)
    stages.codecs.work(WorkerDied("Worker died.", model="codec"))
    (error,) = stages.outcomes
    assert (type(error), error.model, stages.asked) == (WorkerDied, "", [])


def test_a_body_goes_through_with_the_content_type_the_stage_gave_it():
    stages = Stages()
    stages.run("first", "second", form=Form.BODY)
    stages.answer(tensor("body", b"{}"), head=ResponseHead(content_type="application/json"))
    (body,) = stages.asked[1][0].inputs
    assert (body.name, body.data, body.parameters) == ("body", [b"{}"], {"content_type": "application/json"})


def test_instances_go_through_row_by_row():
    stages = Stages()
    stages.run("first", "second", form=Form.INSTANCES)
    stages.answer(Tensor("predictions", "BYTES", [2], [b"1", b"2"]))
    (instances,) = stages.asked[1][0].inputs
    assert (instances.name, instances.shape, instances.data) == ("instances", [2], [b"1", b"2"])


DIAMOND = (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["b", "c"]))


def workflow(*nodes, **fields):
    """A workflow of (name, parents); the models are called as the nodes are."""
    made = [Node(name, name, parents, **fields) for name, parents in nodes]
    return Graph(made, workflow=True, version="1.0")


def asking(stages, graph, tensors, form=Form.BODY, **fields):
    return stages.of(graph, InferenceRequest("wf", "", "7", tensors, form=form, **fields))


def answer(stages, model, *tensors, **fields):
    """Answer the last time that a model was asked."""
    done = next(done for request, done in reversed(stages.asked) if request.model == model)
    done(InferenceResponse(list(tensors), **fields))


def fail(stages, model, error):
    next(done for request, done in reversed(stages.asked) if request.model == model)(error)


def models_asked(stages):
    return [request.model for request, _ in stages.asked]


class Memory:
    """Large buffers, and whether all of them came back."""

    def __init__(self):
        self.out = 0

    def tensor(self, name="body", fill=b"x"):
        self.out += 1
        size = 2 * LARGE
        return tensor(name, Buffer(memoryview(fill * size), Slot(0, 0, size), self.back))

    def back(self, _slot):
        self.out -= 1


def release_asked(stages):
    """What the scheduler does once a request is answered or withdrawn."""
    for request, _ in stages.asked:
        request.release()


def test_nodes_of_one_level_are_asked_together_and_the_next_when_all_have_answered():
    stages = Stages()
    asking(stages, workflow(*DIAMOND), [tensor("body", b"in")])
    assert models_asked(stages) == ["a"]
    answer(stages, "a", tensor("body", b"from a"), head=ResponseHead(content_type="application/json"))
    assert models_asked(stages) == ["a", "b", "c"]
    answer(stages, "c", tensor("body", b"from c"))
    assert len(stages.asked) == 3
    answer(stages, "b", tensor("body", b"from b"))
    joined = stages.asked[-1][0]
    fields = [(each.name, each.data, each.parameters["content_type"]) for each in joined.inputs]
    assert fields == [("b", [b"from b"], ""), ("c", [b"from c"], "")]  # bytes, as TorchServe passes them
    answer(stages, "d", tensor("body", b"end"))
    assert stages.outcomes[0].outputs[0].data == [b"end"]
    assert stages.runs == set()


def test_the_answers_of_several_leaves_are_one_object_of_texts():
    stages = Stages()
    asking(stages, workflow(("a", []), ("b", [])), [tensor("body", b"in")])
    answer(stages, "b", tensor("body", b"{}"))
    answer(stages, "a", tensor("body", b"\xff"))
    (outcome,) = stages.outcomes
    assert json.loads(outcome.outputs[0].data[0]) == {"a": "\ufffd", "b": "{}"}


def test_instances_of_several_nodes_are_joined_row_by_row():
    stages = Stages()
    asking(stages, workflow(*DIAMOND), [Tensor("instances", "BYTES", [2], [b"1", b"2"])], Form.INSTANCES)
    answer(stages, "a", Tensor("p", "BYTES", [2], [b"1", b"2"]))
    answer(stages, "b", Tensor("p", "BYTES", [2], [b"[3]", b"4"]))
    answer(stages, "c", Tensor("p", "BYTES", [2], [b'"x"', b"6"]))
    assert stages.asked[-1][0].inputs[0].data == [b'{"b":[3],"c":"x"}', b'{"b":4,"c":6}']


def test_different_numbers_of_rows_are_the_failure_of_the_node_that_joins_them():
    stages = Stages()
    asking(stages, workflow(*DIAMOND), [Tensor("instances", "BYTES", [1], [b"1"])], Form.INSTANCES)
    for model, rows in (("a", [b"1"]), ("b", [b"1"]), ("c", [b"1", b"2"])):
        answer(stages, model, Tensor("p", "BYTES", [len(rows)], rows))
    assert stages.outcomes[0].message == "Error executing d"


def test_tensors_of_several_nodes_go_under_the_names_the_next_declares():
    stages = Stages(d=["left", "right"])
    asking(stages, workflow(*DIAMOND), [tensor("x", b"in")], Form.TENSORS)
    for model in "abc":
        answer(stages, model, tensor("out", model.encode()))
    assert {each.name: each.data for each in stages.asked[-1][0].inputs} == {"left": [b"b"], "right": [b"c"]}


def test_tensors_of_several_leaves_are_named_as_their_nodes_and_chosen_by_that_name():
    stages = Stages()
    graph = workflow(("a", []), ("b", []))
    asking(stages, graph, [tensor("x", b"in")], Form.TENSORS)
    answer(stages, "a", tensor("y", b"1"), tensor("z", b"2"))
    answer(stages, "b", tensor("y", b"3"))
    (outcome,) = stages.outcomes
    assert [each.name for each in outcome.outputs] == ["a.y", "a.z", "b"]
    assert (outcome.model, outcome.version, outcome.id) == ("wf", "1.0", "7")
    for name, expected in (("b", ["b"]), ("gone", None)):
        stages = Stages()
        asking(stages, graph, [tensor("x", b"in")], Form.TENSORS, outputs=[RequestedOutput(name)])
        answer(stages, "a", tensor("y", b"1"))
        answer(stages, "b", tensor("y", b"3"))
        (outcome,) = stages.outcomes
        if expected is None:
            assert isinstance(outcome, InvalidInput)
        else:
            assert [each.name for each in outcome.outputs] == expected


@pytest.mark.parametrize("error", [ModelFailed("x"), WorkerDied("x"), DeadlineExceeded("x")])
def test_what_may_pass_is_tried_as_often_as_it_may_and_no_more(error):
    stages = Stages()
    asking(stages, workflow(("a", []), retries=2), [tensor("body", b"in")])
    for _ in range(3):
        assert stages.outcomes == []
        assert stages.asked[-1][0].inputs[0].data == [b"in"]
        fail(stages, "a", error)
    (outcome,) = stages.outcomes
    assert (type(outcome), outcome.message) == (NodeFailed, "Error executing a")
    assert len(stages.asked) == 3


@pytest.mark.parametrize("error", [ModelRefused("no", code=400), InvalidInput("no"), ModelNotReady("no")])
def test_what_cannot_pass_is_not_tried_again(error):
    stages = Stages()
    asking(stages, workflow(("a", []), retries=2), [tensor("body", b"in")])
    fail(stages, "a", error)
    assert [type(outcome) for outcome in stages.outcomes] == [NodeFailed]
    assert len(stages.asked) == 1


def test_a_full_queue_and_the_clients_own_deadline_are_what_they_are():
    for error, deadline in ((QueueFull("full"), None), (DeadlineExceeded("late"), time.monotonic() - 1)):
        stages = Stages()
        asking(stages, workflow(("a", []), retries=2), [tensor("body", b"in")], deadline=deadline)
        fail(stages, "a", error)
        assert stages.outcomes == [error]


def test_a_nodes_deadline_is_its_own_unless_the_clients_comes_first():
    for deadline in (None, time.monotonic() + 1, time.monotonic() + 1000):
        stages = Stages()
        before = time.monotonic()
        asking(stages, workflow(("a", []), timeout=10.0), [tensor("body", b"in")], deadline=deadline)
        own = stages.asked[0][0].deadline
        if deadline is not None and deadline < before + 10:
            assert own == deadline
        else:
            assert before + 10 <= own <= time.monotonic() + 10


def test_the_first_failure_withdraws_all_other_nodes():
    stages = Stages()
    asking(stages, workflow(*DIAMOND), [tensor("body", b"in")])
    answer(stages, "a", tensor("body", b"1"))
    fail(stages, "b", ModelFailed("no"))
    assert "c" in stages.withdrawn
    assert len(stages.outcomes) == 1
    answer(stages, "c", tensor("body", b"late"))
    assert (len(stages.outcomes), len(stages.asked), stages.runs) == (1, 3, set())


def test_a_stream_comes_from_the_only_leaf_or_not_at_all():
    stages = Stages()
    asking(stages, workflow(("a", []), retries=1), [tensor("body", b"in")])
    answer(stages, "a", tensor("body", b"piece"), final=False)
    fail(stages, "a", ModelFailed("no"))  # no second try: the first piece is on its way
    assert (stages.outcomes[0].final, type(stages.outcomes[1])) == (False, NodeFailed)
    stages = Stages()
    asking(stages, workflow(("a", []), ("b", ["a"])), [tensor("body", b"in")])
    answer(stages, "a", tensor("body", b"piece"), final=False)
    assert isinstance(stages.outcomes[0], Unsupported)


@pytest.mark.parametrize("end", ["answered", "failed", "withdrawn", "refused"])
async def test_all_memory_comes_back_however_it_ends(end):
    memory, stages = Memory(), Stages()
    graph = workflow(*DIAMOND, ("e", []), ("f", ["a"]), retries=2)
    run = asking(stages, graph, [memory.tensor()])
    answer(stages, "a", memory.tensor())
    answer(stages, "b", memory.tensor())
    answer(stages, "e", memory.tensor())
    if end == "answered":
        for model in "cdf":
            answer(stages, model, memory.tensor())
        await until_joined(stages)
        (outcome,) = stages.outcomes
        assert outcome.outputs[0].data[0].startswith(b'{"d":"xxx')
    elif end == "failed":
        fail(stages, "c", ModelRefused("no"))
    elif end == "refused":
        fail(stages, "c", QueueFull("no"))
    else:
        run.cancel()
    for model in "cf":  # what comes when nobody waits any more
        answer(stages, model, memory.tensor())
    release_asked(stages)
    assert memory.out == 0


async def until_joined(stages):
    """Large answers are joined in a thread."""
    for _ in range(1000):
        if stages.outcomes:
            return
        await asyncio.sleep(0.01)


MANY = 300


def predictions(first):
    rows = Tensor("predictions", "BYTES", [MANY], [b"[%d]" % (first + each) for each in range(MANY)])
    pack_predictions([rows])
    return rows


async def test_predictions_of_many_rows_are_joined_row_by_row_whichever_form_they_come_in():
    stages = Stages()
    graph = workflow(("a", []), ("b", []), ("c", ["a", "b"]))
    instances = Tensor("instances", "BYTES", [1], [b"1"])
    asking(stages, graph, [instances], form=Form.INSTANCES)
    for model, first in (("a", 0), ("b", 500)):
        answer(stages, model, predictions(first))
    for _ in range(1000):
        if len(stages.asked) == 3:
            break
        await asyncio.sleep(0.01)
    (given,) = stages.asked[2][0].inputs
    assert (given.packed, given.shape) == (ROWS, [1])
    rows = json.loads(bytes(given.data))
    assert (len(rows), rows[0], rows[-1]) == (
        MANY,
        {"a": [0], "b": [500]},
        {"a": [MANY - 1], "b": [499 + MANY]},
    )


async def test_large_tensors_of_several_leaves_keep_their_memory_and_json_is_written_aside():
    memory, stages = Memory(), Stages()
    graph = workflow(("a", []), ("b", []))
    asking(stages, graph, [tensor("x", b"in")], form=Form.TENSORS, json_writer=JsonWriter.SERVER)
    large = np.arange(40_000, dtype=np.float32)
    held = memory.tensor().data[0]
    answer(stages, "a", Tensor("y", "BYTES", [1], [held]))
    answer(stages, "b", Tensor.of("y", large))
    await until_joined(stages)
    (outcome,) = stages.outcomes
    by_name = {each.name: each for each in outcome.outputs}
    assert json.loads(bytes(by_name["b"].data)) == large.tolist()
    release(outcome.outputs)
    release_asked(stages)
    assert memory.out == 0


async def test_a_run_that_is_withdrawn_while_its_answers_are_joined_says_nothing_and_holds_nothing():
    memory, stages = Memory(), Stages()
    run = asking(stages, workflow(("a", []), ("b", [])), [tensor("body", b"in")])
    for model in "ab":
        answer(stages, model, memory.tensor())
    run.cancel()
    await asyncio.sleep(0.2)
    release_asked(stages)
    assert (stages.outcomes, stages.runs, memory.out) == ([], set(), 0)


def test_an_undecoded_v1_body_goes_whole_to_every_start_and_is_given_back_with_the_last():
    given_back, stages = [], Stages()
    payload = Buffer(memoryview(b"[1]" * LARGE), Slot(0, 0, 3 * LARGE), given_back.append)
    body = UndecodedBody(BodyKind.V1, payload)
    graph = workflow(("a", []), ("b", []), ("c", ["a", "b"]))
    stages.of(graph, InferenceRequest("wf", "", "7", [], form=Form.INSTANCES, body=body))
    assert [request.body.kind for request, _ in stages.asked] == [BodyKind.V1] * 2
    assert [bytes(request.body.data) for request, _ in stages.asked] == [b"[1]" * LARGE] * 2
    for model in "ab":
        answer(stages, model, Tensor("predictions", "BYTES", [1], [b"1"]))
    asked_first = [request for request, _ in stages.asked if request.model in {"a", "b"}]
    for request in asked_first:
        assert not given_back
        request.release()
    assert len(given_back) == 1


def test_an_undecoded_body_is_given_back_once_it_is_open():
    for body in (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}', b"{}"):
        given_back, stages = [], Stages()
        payload = Buffer(memoryview(body), Slot(0, 0, len(body)), given_back.append)
        request = InferenceRequest("c", "", "7", [], body=UndecodedBody(BodyKind.V2, payload))
        stages.of(chain_of(["first"]), request)
        assert len(given_back) == 1


def test_a_node_refused_at_once_ends_the_run_before_the_others_begin():
    stages = Stages()

    def submit(request, done):
        stages.asked.append((request, done))
        done(ModelNotReady("gone"))

    stages.submit = submit
    asking(stages, workflow(("a", []), ("b", [])), [tensor("body", b"in")])
    assert models_asked(stages) == ["a"]
    assert [type(outcome) for outcome in stages.outcomes] == [NodeFailed]


def test_nodes_have_timings_of_their_own_under_the_names_that_clients_know():
    for graph, names in (
        (chain_of(["same", "other", "same"]), ["same", "other", "same#2"]),
        (Graph([Node("pre", "m1"), Node("post", "m2", ["pre"])], workflow=True), ["pre", "post"]),
    ):
        stages, timing = Stages(), RequestTiming()
        stages.of(graph, InferenceRequest("chain", "", "7", [tensor("x", b"in")], timing=timing))
        for name in names:
            assert stages.asked[-1][0].timing is timing.nodes[name]
            assert timing.nodes[name].ended == 0.0
            stages.answer(tensor("x", b"1"))
            assert timing.nodes[name].ended > 0.0
        assert [*timing.nodes] == names


def test_node_that_fails_has_ended_too():
    stages, timing = Stages(), RequestTiming()
    stages.run("first", "second", timing=timing)
    stages.asked[0][1](ModelFailed("ValueError: no"))
    assert timing.nodes["first"].ended > 0.0
    stages = Stages()
    stages.run("first", "second")
    assert stages.asked[0][0].timing is None

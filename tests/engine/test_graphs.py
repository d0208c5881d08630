"""Graphs: nodes in order, names matched, errors and cancellation passed on, memory given back."""

from mooring.core.buffers import Buffer, Slot
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, RequestCancelled, Unsupported
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation, ResponseHead
from mooring.core.tensors import Tensor, TensorSpec
from mooring.engine.graphs import GraphRun, chain_of


class Stages:
    """Models that answer when they are told to."""

    def __init__(self, **declared):
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
        return GraphRun(graph, request, self.outcomes.append, self.submit, inputs, self.runs)

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
    stages.run("first", "second", outputs=["y"], json_outputs=True)
    stages.answer(tensor("a", b"1"))
    (first, _), (second, _) = stages.asked
    assert (first.outputs, first.json_outputs, second.outputs, second.json_outputs) == (
        None,
        False,
        ["y"],
        True,
    )


def test_a_large_v2_body_is_opened_before_the_first_stage_and_answered_as_the_last_one_is_asked():
    stages = Stages()
    body = (
        b'{"id": "mine", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}],'
        b' "outputs": [{"name": "y"}], "parameters": {"k": 3}}'
    )
    request = InferenceRequest(
        "chain", "", "7", [Tensor("request", "BYTES", [1], [body], {"undecoded": True})]
    )
    stages.of(chain_of(["first", "second"]), request)
    first = stages.asked[0][0]
    assert (first.id, first.outputs, first.json_outputs, first.parameters) == ("mine", None, False, {"k": 3})
    assert first.inputs[0].array().tolist() == [1.0, 2.0]
    stages.answer(first.inputs[0])
    assert [output.name for output in stages.asked[1][0].outputs] == ["y"]


def test_a_large_v2_body_that_makes_no_sense_reaches_no_stage():
    stages = Stages()
    request = InferenceRequest(
        "chain", "", "7", [Tensor("request", "BYTES", [1], [b"{}"], {"undecoded": True})]
    )
    stages.of(chain_of(["first"]), request)
    assert isinstance(stages.outcomes[0], InvalidInput)
    assert stages.asked == []


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

"""Requests of KServe and the Open Inference Protocol, and TorchServe's envelopes (docs/contracts/torchserve.md, section 5)."""

import json

import numpy as np
import pytest
from handler_kit import answer, instances, request

from mooring.backends.backend import run_sync
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed
from mooring.core.requests import Form, InferenceRequest, Operation, RequestedOutput
from mooring.core.tensors import Tensor

DOUBLE = """
calls = []
def handle(data, context):
    if data is None:
        return
    calls.append(len(data))
    if context.get_request_header(0, "body"):
        context.set_response_header(0, "X-Calls", str(calls))
    return [row * 2 for row in data]
"""
SEEN = """
def handle(data, context):
    return None if data is None else [[repr(row), context.get_request_id(i), len(data)] for i, row in enumerate(data)]
"""


def predictions(outcome):
    (tensor,) = outcome.outputs
    assert tensor.datatype == "BYTES"
    assert tensor.shape == [len(tensor.data)]
    return [json.loads(element) for element in tensor.data]


def test_every_instance_is_a_row_and_gets_its_own_prediction(load):
    one, two = load(DOUBLE, max_batch_size=8).infer(instances(b"1", b'"ab"'), instances(b"[3]"))
    assert predictions(one) == [2, "abab"]
    assert predictions(two) == [[3, 3]]


def test_rows_have_ids_of_their_own(load):
    one, two = load(SEEN, max_batch_size=8).infer(instances(b"1", b"2", key="a"), instances(b"3", key="b"))
    assert predictions(one) == [["1", "a-0", 3], ["2", "a-1", 3]]
    assert predictions(two) == [["3", "b", 3]]


@pytest.mark.parametrize(("most", "calls"), [(1, [1] * 5), (2, [2, 2, 1]), (4, [4, 1]), (9, [5])])
def test_more_rows_than_the_batch_size_are_several_calls_in_order(load, most, calls):
    source = "sizes = []\ndef handle(data, context):\n    if data is not None:\n        sizes.append(len(data))\n        return [[row, list(sizes)] for row in data]\n"
    found = predictions(load(source, max_batch_size=most).infer(instances(*(b"%d" % n for n in range(5))))[0])
    assert [row for row, _ in found] == [0, 1, 2, 3, 4]
    assert found[-1][1] == calls


def test_a_whole_body_is_decoded_by_the_worker(load):
    model = load(DOUBLE, max_batch_size=2)
    (outcome,) = model.infer(instances(b'{"instances": [1, 2, 3]}', undecoded=True))
    assert predictions(outcome) == [2, 4, 6]


@pytest.mark.parametrize("body", [b"{", b"[1]", b"{}", b'{"instances": 1}', b'{"instances": {"a": 1}}'])
def test_a_body_without_a_list_of_instances_is_its_own_callers_fault(load, body):
    bad, good = load(DOUBLE, max_batch_size=2).infer(instances(body, undecoded=True), instances(b"1"))
    assert isinstance(bad, InvalidInput)
    assert predictions(good) == [2]


def test_no_instances_are_no_predictions(load):
    (outcome,) = load(DOUBLE).infer(instances(b'{"instances": []}', undecoded=True))
    assert predictions(outcome) == []


def test_one_bad_instance_fails_a_batch_as_a_whole_so_that_it_is_tried_singly(load):
    model = load(
        "def handle(data, context):\n    return data and [1 / row for row in data]\n", max_batch_size=2
    )
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        model.infer(instances(b"1"), instances(b"0"))
    assert predictions(model.infer(instances(b"1"))[0]) == [1.0]


@pytest.mark.parametrize(
    ("item", "prediction"),
    [
        ("'a'", "a"),
        ("b'a'", "a"),
        ("{'a': (1, None)}", {"a": [1, None]}),
        ("__import__('torch').ones(2)", [1.0, 1.0]),
    ],
)
def test_predictions_are_json_of_what_the_handler_returned(load, item, prediction):
    model = load(f"def handle(data, context):\n    return data and [{item}]\n")
    assert predictions(model.infer(instances(b"1"))[0]) == [prediction]


@pytest.mark.parametrize("item", ["b'\\xff'", "{1}"])
def test_a_prediction_that_is_not_json_is_refused(load, item):
    model = load(f"def handle(data, context):\n    return data and [{item}]\n")
    assert isinstance(model.infer(instances(b"1"))[0], InvalidOutput)


def test_requests_of_different_forms_may_share_a_batch(load):
    model = load(
        "def handle(data, context):\n    return data and [str(row) for row in data]\n", max_batch_size=4
    )
    first, second, third = model.infer(request(b"a"), instances(b"1", b"2"), request(b"b"))
    assert answer(first) == b"{'body': bytearray(b'a')}"
    assert predictions(second) == ["1", "2"]
    assert answer(third) == b"{'body': bytearray(b'b')}"


def test_explanations_reach_the_handler_one_row_at_a_time_and_only_the_bad_one_fails(load):
    source = """
        def handle(data, context):
            return data and [[len(data), 1 / row, context.get_request_header(0, "explain")] for row in data]
    """
    model = load(source, max_batch_size=8)
    outcomes = model.infer(
        instances(b"1", b"2", operation=Operation.EXPLAIN), instances(b"0", operation=Operation.EXPLAIN)
    )
    assert predictions(outcomes[0]) == [[1, 1.0, "True"], [1, 0.5, "True"]]
    assert isinstance(outcomes[1], ModelFailed)


def tensors(*inputs, outputs=None):
    return InferenceRequest("m", "", "r", list(inputs), form=Form.TENSORS, outputs=outputs)


def strings(name, *elements):
    return Tensor(name, "BYTES", [len(elements)], list(elements))


def test_elements_of_text_tensors_are_rows_by_name(load):
    model = load(SEEN, max_batch_size=2)
    (outcome,) = model.infer(tensors(strings("a", b"1", b"2"), strings("b", b"3", b"4")))
    assert predictions(outcome) == [
        ["{'a': bytearray(b'1'), 'b': bytearray(b'3')}", "r-0", 2],
        ["{'a': bytearray(b'2'), 'b': bytearray(b'4')}", "r-1", 2],
    ]
    assert outcome.outputs[0].name == "a"


def test_a_numeric_tensor_is_nested_lists_in_one_row(load):
    model = load("def handle(data, context):\n    return data and [row['x'] for row in data]\n")
    (outcome,) = model.infer(tensors(Tensor.of("x", np.array([[1.5, 2], [3, 4]], dtype=np.float32))))
    (output,) = outcome.outputs
    assert (output.name, output.datatype, output.shape) == ("x", "FP64", [2, 2])
    assert output.array().tolist() == [[1.5, 2], [3, 4]]


@pytest.mark.parametrize(
    ("item", "datatype", "shape"),
    [
        ("1.5", "FP64", [1]),
        ("7", "INT64", [1]),
        ("[1, 2, 3]", "INT64", [3]),
        ("True", "BOOL", [1]),
        ("'text'", "BYTES", [1]),
        ("b'raw'", "BYTES", [1]),
        ("{'a': 1}", "BYTES", [1]),
        ("None", "BYTES", [1]),
        ("['a', 'b']", "BYTES", [2]),
        ("[[1], [2, 3]]", "BYTES", [2]),
        ("__import__('numpy').zeros((2, 3), 'float32')", "FP32", [2, 3]),
        ("__import__('torch').zeros(2, 3)", "FP32", [2, 3]),
        ("[__import__('torch').zeros(3)]", "FP64", [1, 3]),
    ],
)
def test_outputs_are_typed_from_what_the_handler_returned(load, item, datatype, shape):
    model = load(f"def handle(data, context):\n    return data and [{item}]\n")
    (outcome,) = model.infer(tensors(Tensor.of("x", np.zeros(2))))
    (output,) = outcome.outputs
    assert (output.datatype, output.shape) == (datatype, shape)
    assert output.array().shape == tuple(shape)


def test_an_output_has_the_name_that_was_asked_for(load):
    model = load("def handle(data, context):\n    return data and [1]\n")
    (outcome,) = model.infer(tensors(strings("a", b"1"), outputs=[RequestedOutput("mine")]))
    assert outcome.outputs[0].name == "mine"


def test_results_of_one_size_are_stacked_row_by_row(load):
    model = load(
        "def handle(data, context):\n    return data and [[1.0, 2.0] for row in data]\n", max_batch_size=2
    )
    (outcome,) = model.infer(tensors(strings("a", b"1", b"2")))
    assert outcome.outputs[0].shape == [2, 2]


def enveloped(name, *bodies, operation=Operation.INFER):
    def ask(model):
        requests = (
            request(body, "application/json", operation=operation, key=str(n))
            for n, body in enumerate(bodies)
        )
        return [json.loads(answer(outcome)) for outcome in model.infer(*requests)]

    return ask


def test_the_kserve_envelope_reads_every_request_of_a_batch(load):
    model = load(DOUBLE, envelope="kserve", max_batch_size=8)
    ask = enveloped("kserve", b'{"instances": [1, 2]}', b'{"instances": [3]}')
    assert ask(model) == [{"predictions": [2, 4]}, {"predictions": [6]}]


def test_the_kserve_envelope_names_explanations(load):
    model = load(DOUBLE, envelope="kserve")
    assert enveloped("kserve", b'{"instances": [1]}', operation=Operation.EXPLAIN)(model) == [
        {"explanations": [2]}
    ]


def test_a_body_that_does_not_fit_its_envelope_is_its_own_callers_fault(load):
    model = load(DOUBLE, envelope="kserve", max_batch_size=8)
    bad, worse, good = model.infer(request(b"{}"), request(b"x"), request(b'{"instances": [1]}'))
    assert isinstance(bad, InvalidInput)
    assert isinstance(worse, InvalidInput)
    assert answer(good) == b'{\n  "predictions": [\n    2\n  ]\n}'


def test_the_json_envelope_undoes_base64_and_answers_on_one_line(load):
    source = "def handle(data, context):\n    return data and [repr(row) for row in data]\n"
    model = load(source, envelope="json", max_batch_size=8)
    body = b'{"instances": [{"b64": "aGk="}, {"x": {"b64": "aGk="}, "y": 1}, 2]}'
    assert (
        model.body(body, "application/json")
        == json.dumps({"predictions": ["b'hi'", "{'x': b'hi', 'y': 1}", "2"]}).encode()
    )
    assert isinstance(model.infer(request(b'{"instances": [{"b64": 1}]}'))[0], InvalidInput)


def test_the_body_envelope_gives_the_body_itself(load):
    model = load(DOUBLE, envelope="body")
    assert model.body(b"ab") == b"abab"
    assert model.body(b"3", "application/json") == b"6"


def test_the_kservev2_envelope_gives_the_list_of_inputs_and_names_outputs_after_them(load):
    source = "def handle(data, context):\n    return data and [each['data'] for each in data]\n"
    model = load(source, envelope="kservev2", max_batch_size=8)
    inputs = [
        {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [1.5, 2, 3, 4]},
        {"name": "b", "shape": [1], "datatype": "BYTES", "data": ["text"]},
    ]
    ask = enveloped(
        "kservev2",
        json.dumps({"inputs": inputs}).encode(),
        json.dumps({"id": "own", "inputs": inputs[:1]}).encode(),
    )
    first, second = ask(model)
    assert list(first) == ["id", "model_name", "model_version", "outputs"]
    assert first == {
        "id": "0",
        "model_name": "m",
        "model_version": "1.0",
        "outputs": [
            {"name": "a", "datatype": "FP64", "data": [1.5, 2.0, 3.0, 4.0], "shape": [4]},
            {"name": "b", "datatype": "BYTES", "data": ["text"], "shape": [1]},
        ],
    }
    assert second["id"] == "own"


@pytest.mark.parametrize("inputs", [1, [1], [{"name": "a"}], [{"shape": [3], "data": [1, 2]}]])
def test_inputs_that_do_not_hold_together_are_the_callers_fault(load, inputs):
    model = load("def handle(data, context):\n    return data and [1]\n", envelope="kservev2")
    assert isinstance(model.infer(request(json.dumps({"inputs": inputs}).encode()))[0], InvalidInput)


def test_more_outputs_than_inputs_have_no_names(load):
    model = load("def handle(data, context):\n    return data and [1, 2]\n", envelope="kservev2")
    assert isinstance(model.infer(tensors(strings("a", b"1")))[0], InvalidOutput)
    assert isinstance(model.infer(request(b'{"inputs": [{"data": [1]}]}'))[0], InvalidOutput)


def test_tensors_reach_a_handler_of_the_kservev2_envelope_as_its_list_of_inputs(load):
    source = "def handle(data, context):\n    return data and [sorted(data[0]), data[1]['data']]\n"
    model = load(source, envelope="kservev2")
    (outcome,) = model.infer(tensors(strings("a", b"1"), Tensor.of("b", np.array([1, 2]))))
    first, second = outcome.outputs
    assert (first.name, [bytes(each) for each in first.data]) == (
        "a",
        [b"data", b"datatype", b"name", b"shape"],
    )
    assert (second.name, second.array().tolist()) == ("b", [1, 2])


def test_instances_need_no_envelope_whatever_the_server_has(load):
    model = load(DOUBLE, envelope="json", max_batch_size=2)
    assert predictions(model.infer(instances(b"1", b"2"))[0]) == [2, 4]


def test_a_description_needs_no_body_for_the_envelope(load):
    model = load(
        "def handle(data, context):\n    return data and [context.get_request_header(0, 'describe')]\n",
        envelope="kserve",
    )
    outcome = model.infer(InferenceRequest("m", "", "r", [], form=Form.BODY, operation=Operation.DESCRIBE))[0]
    assert answer(outcome) == b"True"


MIXED = """
def handle(data, context):
    if data is None:
        return
    if context.get_request_header(0, "x-head"):
        context.set_response_header(0, "X-Rows", str(len(data)))
    return [[repr(row), context.get_request_id(i)] if row != {"body": bytearray(b"odd")} else {1} for i, row in enumerate(data)]
"""


@pytest.mark.parametrize("headers", [None, [(b"x-head", b"1")]])
@pytest.mark.parametrize("payloads", [[b"a"], [b"a", b"b", b'{"x": 1}'], [b"a", b"odd"], [b"odd"]])
def test_plain_bodies_are_answered_as_requests_of_any_form_are(load, payloads, headers):
    model = load(MIXED, max_batch_size=8)
    bodies = [request(each, key=f"r{at}", headers=headers) for at, each in enumerate(payloads)]
    assert answers(model.infer(*bodies)) == answers(general(model, bodies))


@pytest.mark.parametrize("element", [b"1", b'{"x": [1, null]}', b'"odd"', b"{", b""])
def test_a_lone_instance_is_answered_as_requests_of_any_form_are(load, element):
    model = load(MIXED, max_batch_size=8)
    assert answers(model.infer(instances(element))) == answers(general(model, [instances(element)]))


def general(model, requests):
    """The outcomes by the way of all forms, which the fast paths for plain bodies and lone instances leave out."""
    return run_sync(model.backend._infer_forms(requests, model.reply))


def answers(outcomes):
    return [(type(each), str(each)) if isinstance(each, Exception) else each for each in outcomes]

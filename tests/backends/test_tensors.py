"""Batches of a tensor model: who shares a call, and that nobody's answer is another's."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, OutOfResources
from mooring.core.options import BatchMode
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import TensorSpec

# Tells what it was called with, and fails for a negative number.
COUNTING = """
calls = []
def infer(inputs, parameters):
    x = inputs["x"]
    calls.append(x.shape)
    if (x < 0).any():
        raise ValueError("negative")
    return {"y": x * parameters.get("k", 2), "total": x.reshape(len(x), -1).sum(1)}
"""
WIDE = {"inputs": [TensorSpec("x", "FP32", [-1, 2])], "outputs": [TensorSpec("y", "FP32", [-1, 2])]}


def calls(model):
    return model._code.module.calls


def tensors(ask, rows, **more):
    return ask.tensors(more, x=np.float32(rows))


def test_requests_that_fit_share_a_call(function, reply, ask):
    model = function(COUNTING, max_batch_size=8, **WIDE)
    found = model.infer([tensors(ask, [[1, 2]]), ask.body([3, 4]), ask.instances([5, 6], [7, 8])], reply)
    assert calls(model) == [(4, 2)]
    assert ask.read(found[0]) == {"y": [[2, 4]], "total": [3]}
    assert ask.read(found[1]) == {"y": [6, 8], "total": 7}
    assert ask.read(found[2]) == [{"y": [10, 12], "total": 11}, {"y": [14, 16], "total": 15}]


@pytest.mark.parametrize(
    "other",
    [
        lambda ask: ask.tensors(x=np.float64([[1, 2]])),
        lambda ask: ask.tensors(x=np.float32([[1, 2, 3]])),
        lambda ask: ask.tensors({"parameters": {"k": 3}}, x=np.float32([[1, 2]])),
        lambda ask: ask.tensors({"parameters": {"k": True}}, x=np.float32([[1, 2]])),
    ],
)
def test_requests_that_differ_do_not(function, reply, ask, other):
    model = function(COUNTING, max_batch_size=8)
    model.infer([ask.tensors({"parameters": {"k": 1}}, x=np.float32([[1, 2]])), other(ask)], reply)
    assert len(calls(model)) == 2


def test_no_call_has_more_rows_than_the_maximum(function, reply, ask):
    model = function(COUNTING, max_batch_size=3, **WIDE)
    many = [[row, row] for row in range(7)]
    for request in (ask.body(many), ask.instances(*many), ask.instances(*many, undecoded=True)):
        calls(model).clear()
        model.infer([request], reply)
        assert [shape[0] for shape in calls(model)] == [3, 3, 1]


def test_a_v2_request_of_more_rows_is_told_the_limit(function, reply, ask):
    model = function(COUNTING, max_batch_size=3, **WIDE)
    (found,) = model.infer([tensors(ask, [[0, 0]] * 4)], reply)
    assert found.message == "inference request batch-size must be <= 3 for 'm', and is 4; send fewer rows"
    assert calls(model) == []


TWO = "def infer(x, y): return {'x': x, 'y': y}"
PAIR = [TensorSpec("x", "FP32", [-1, 1]), TensorSpec("y", "FP32", [-1, 1])]


@pytest.mark.parametrize("batching", [{"max_batch_size": 8}, {"max_batch_size": 8, "batch_dimension": True}])
def test_inputs_of_a_batched_model_have_as_many_rows(function, reply, ask, batching):
    model = function(TWO, inputs=PAIR, **batching)
    uneven = ask.tensors(x=np.float32([[1], [2]]), y=np.float32([[1], [2], [3]]))
    even = ask.tensors(x=np.float32([[1], [2]]), y=np.float32([[1], [2]]))
    refused, answered = model.infer([uneven, even], reply)
    assert refused.message.startswith("input 'y' batch size does not match other inputs for 'm'")
    assert ask.read(answered)["y"] == [[1], [2]]
    assert isinstance(model.infer([ask.body({"x": [[1]], "y": [[1], [2]]})], reply)[0], InvalidInput)


@pytest.mark.parametrize("batching", [{}, {"max_batch_size": 8, "size_by_default": True}])
def test_inputs_without_a_declared_batch_are_as_long_as_they_like(function, reply, ask, batching):
    model = function(TWO, inputs=PAIR, **batching)
    (found,) = model.infer([ask.tensors(x=np.float32([[1], [2]]), y=np.float32([[1]]))], reply)
    assert len(ask.read(found)["x"]) == 2


def test_a_limit_that_nobody_set_only_says_how_it_is_called(function, reply, ask):
    model = function(COUNTING, max_batch_size=3, size_by_default=True, **WIDE)
    (found,) = model.infer([tensors(ask, [[0, 0]] * 4)], reply)
    assert len(ask.read(found)["y"]) == 4
    assert [shape[0] for shape in calls(model)] == [3, 1]


def test_with_a_batch_of_one_a_request_goes_in_as_it_is(function, reply, ask):
    model = function("def infer(inputs): return {'sum': inputs['x'].sum()}")
    (found,) = model.infer([tensors(ask, [[1, 2], [3, 4]])], reply)
    assert ask.read(found) == {"sum": 10}


def test_instances_go_in_row_by_row_with_a_batch_of_one(function, reply, ask):
    model = function(COUNTING, **WIDE)
    (found,) = model.infer([ask.instances([1, 2], [3, 4])], reply)
    assert [each["total"] for each in ask.read(found)] == [3, 7]
    assert calls(model) == [(1, 2), (1, 2)]


def test_instances_of_different_shapes_are_told_apart(function, reply, ask):
    model = function(COUNTING, max_batch_size=8)
    (found,) = model.infer([ask.instances({"x": [1]}, {"x": [1, 2]}, {"x": [3]})], reply)
    assert [each["y"] for each in ask.read(found)] == [[2], [2, 4], [6]]
    assert sorted(calls(model)) == [(1, 2), (2, 1)]


def test_a_faulty_instance_is_named(function, reply, ask):
    (found,) = function(COUNTING, max_batch_size=8, **WIDE).infer([ask.instances([1, 2], [1, "b"])], reply)
    assert isinstance(found, InvalidInput)
    assert found.message.startswith("instance 1: input 'x' holds")


def test_stacked_models_get_a_new_first_dimension(function, reply, ask):
    model = function(COUNTING, mode=BatchMode.STACK, max_batch_size=2, inputs=[TensorSpec("x", "FP32", [2])])
    found = model.infer([tensors(ask, [1, 2]), ask.body([3, 4]), ask.instances([5, 6])], reply)
    assert calls(model) == [(2, 2), (1, 2)]
    assert ask.read(found[0]) == {"y": [2, 4], "total": 3}
    assert ask.read(found[1]) == {"y": [6, 8], "total": 7}
    assert ask.read(found[2]) == [{"y": [10, 12], "total": 11}]


def test_a_faulty_request_keeps_no_other_from_its_answer(function, reply, ask):
    model = function(COUNTING, max_batch_size=8, **WIDE)
    found = model.infer(
        [tensors(ask, [[1, 2]]), ask.body([1]), ask.body(b"{"), tensors(ask, [[3, 4]])], reply
    )
    assert [isinstance(each, InvalidInput) for each in found] == [False, True, True, False]
    assert calls(model) == [(2, 2)]


def test_a_call_that_fails_is_raised_where_it_was_shared(function, reply, ask):
    model = function(COUNTING, max_batch_size=8, **WIDE)
    bad, good = tensors(ask, [[-1, 0]]), tensors(ask, [[1, 0]])
    with pytest.raises(ModelFailed, match="ValueError: negative"):
        model.infer([good, bad], reply)
    (alone,) = model.infer([bad], reply)
    assert alone.message == "ValueError: negative"
    other = ask.tensors({"parameters": {"k": 3}}, x=np.float32([[1, 0]]))
    mixed = model.infer([bad, other], reply)
    assert isinstance(mixed[0], ModelFailed)
    assert ask.read(mixed[1])["y"] == [[3, 0]]


def test_out_of_memory_has_a_name_of_its_own(function, reply, ask):
    (found,) = function("def infer(inputs): raise MemoryError('no room')").infer([ask.body([1])], reply)
    assert isinstance(found, OutOfResources)


def test_outputs_without_the_batch_dimension_are_invalid_always(function, reply, ask):
    model = function("def infer(inputs): return {'y': inputs['x'].sum()}", max_batch_size=4)
    (found,) = model.infer([tensors(ask, [[1, 2]])], reply)
    assert isinstance(found, InvalidOutput)
    assert "batch of 1 rows" in found.message


def test_only_requested_outputs_are_sent_in_the_order_asked(function, reply, ask):
    model = function(COUNTING)
    asked = {"outputs": [RequestedOutput("total"), RequestedOutput("y")]}
    (found,) = model.infer([ask.tensors(asked, x=np.float32([[1, 2]]))], reply)
    assert [each.name for each in found.outputs] == ["total", "y"]
    asked = {"outputs": [RequestedOutput("z")]}
    (found,) = model.infer([ask.tensors(asked, x=np.float32([[1, 2]]))], reply)
    assert found.message == "unexpected inference output 'z' for model 'm'"


def test_an_output_that_is_not_declared_is_refused_before_the_model_runs(function, reply, ask):
    model = function(COUNTING, **WIDE)
    (found,) = model.infer([ask.tensors({"outputs": [RequestedOutput("z")]}, x=np.float32([[1, 2]]))], reply)
    assert isinstance(found, InvalidInput)
    assert calls(model) == []


def test_a_declared_output_must_be_there_and_fit(function, reply, ask):
    wanted = {"outputs": [TensorSpec("y", "UINT8", [-1])]}
    (found,) = function("def infer(inputs): return {'z': 1}", **wanted).infer([ask.body([1])], reply)
    assert "output 'y' is missing" in found.message
    (found,) = function("def infer(inputs): return {'y': [300]}", **wanted).infer([ask.body([1])], reply)
    assert isinstance(found, InvalidOutput)
    assert "output 'y' holds 300" in found.message


def test_bf16_goes_in_as_float32_and_comes_out_rounded_to_nearest(function, reply, ask):
    spec = [TensorSpec("x", "BF16", [-1])]
    model = function("def infer(inputs): return inputs", inputs=spec, outputs=spec)
    (found,) = model.infer([ask.body(b"[1.0, 1.01, NaN, -Infinity, 3.3895e38]")], reply)
    assert ask.read(found)["x"][:2] == [1.0, pytest.approx(1.01)]
    # What the wire holds is what reads back.
    request = ask.tensors(x=np.float32([0]))
    request.inputs[0].datatype, request.inputs[0].data, request.inputs[0].shape = (
        "BF16",
        b"\x80\x3f\x81\x3f",
        [2],
    )
    (found,) = model.infer([request], reply)
    (tensor,) = found.outputs
    assert (tensor.datatype, bytes(tensor.data)) == ("BF16", b"\x80\x3f\x81\x3f")


def test_labels_name_the_class_of_a_body_and_of_nothing_else(function, reply, ask):
    model = function(
        "def infer(inputs): return {'scores': inputs['x']}",
        labels={"0": "cat", "1": "dog"},
        inputs=WIDE["inputs"],
    )
    (found,) = model.infer([ask.body([0.25, 0.75])], reply)
    assert ask.read(found) == {"class": "dog", "probability": 0.75}
    (found,) = model.infer([ask.body([[0.25, 0.75], [1, 0]])], reply)
    assert [each["class"] for each in ask.read(found)] == ["dog", "cat"]
    (found,) = model.infer([ask.instances([0.25, 0.75])], reply)
    assert ask.read(found) == [[0.25, 0.75]]


def test_instances_in_a_body_are_answered_as_predictions(function, reply, ask):
    (found,) = function(COUNTING, **WIDE).infer([ask.body({"instances": [[1, 2]]})], reply)
    assert ask.read(found) == {"predictions": [{"y": [2, 4], "total": 3}]}
    (found,) = function(COUNTING, **WIDE).infer([ask.body({"instances": []})], reply)
    assert ask.read(found) == {"predictions": []}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
    ),
    limit=st.integers(1, 6),
    forms=st.lists(st.sampled_from(["tensors", "body", "instances", "undecoded"]), min_size=6, max_size=6),
)
def test_whoever_shares_a_call_gets_the_rows_it_sent(function, reply, ask, rows, limit, forms):
    model = function(COUNTING, max_batch_size=limit, **WIDE)
    makers = {
        "tensors": lambda each: ask.tensors(x=np.float32(each)),
        "body": lambda each: ask.body(json.dumps(each).encode()),
        "instances": lambda each: ask.instances(*each),
        "undecoded": lambda each: ask.instances(*each, undecoded=True),
    }
    found = model.infer([makers[form](each) for form, each in zip(forms, rows, strict=False)], reply)
    for outcome, each, form in zip(found, rows, forms, strict=False):
        if form == "tensors" and len(each) > limit > 1:
            assert isinstance(outcome, InvalidInput)
            continue
        answer = ask.read(outcome)
        y = [row["y"] for row in answer] if isinstance(answer, list) else answer["y"]
        assert y == [[2 * a, 2 * b] for a, b in each]
    assert limit == 1 or max([0, *(shape[0] for shape in calls(model))]) <= limit


def test_texts_are_split_like_numbers(function, reply, ask):
    spec = {"inputs": [TensorSpec("x", "BYTES", [-1])], "outputs": [TensorSpec("y", "BYTES", [-1])]}
    model = function("def infer(inputs): return {'y': inputs['x']}", max_batch_size=4, **spec)
    found = model.infer(
        [ask.body(b'"a"'), ask.body(b'["b", "c"]'), ask.instances("d"), ask.tensors(x=["e"])], reply
    )
    assert [ask.read(each) for each in found[:3]] == [{"y": "a"}, {"y": ["b", "c"]}, ["d"]]
    assert ask.read(found[3]) == {"y": [b"e"]}

"""The fast path for requests that are alike: it says what the general way says, or leaves the batch to it."""

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.backends.backend import run_sync
from mooring.backends.uniform_batches import UniformBatches
from mooring.core.errors import MooringError
from mooring.core.options import BatchMode
from mooring.core.requests import InferenceResponse, JsonWriter, RequestedOutput
from mooring.core.tensors import TensorSpec

TWICE = """
def infer(inputs):
    x = inputs["x"]
    if (x == 13).any():
        raise ValueError("unlucky")
    given = x.copy()
    x += x
    return {"twice": x, "first": given.reshape(len(x), -1)[:, 0] if x.ndim else given, "text": x.astype(str)}
"""
NUMBERS = TWICE.replace(', "text": x.astype(str)', "")
PAIRS = {"inputs": [TensorSpec("x", "FP32", [-1, 2])], "max_batch_size": 4}


def told(outcomes):
    return [
        (type(outcome), outcome.message)
        if isinstance(outcome, MooringError)
        else msgspec.msgpack.encode(outcome.outputs, enc_hook=bytes)  # the scheduler knows the id
        for outcome in outcomes
    ]


def both_ways(model, requests, reply):
    """What each way says; None of one that raises, so that the worker tries the requests one by one."""
    found = []
    for way in (
        lambda: model.infer(requests, reply),
        lambda: run_sync(model._served.infer_async(requests, reply)),
    ):
        try:
            found.append(told(way()))
        except MooringError as error:
            found.append(error.message)
    return found


@pytest.mark.parametrize("code", [TWICE, NUMBERS])
@pytest.mark.parametrize(
    "settings_",
    [{}, PAIRS, {**PAIRS, "inputs": []}, {**PAIRS, "mode": BatchMode.STACK}, {"max_batch_size": 4}],
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_both_ways_say_the_same(function, reply, ask, code, settings_, data):
    model = function(code, **settings_)
    shape = data.draw(st.sampled_from([(), (1,), (1, 2), (2, 2), (2,), (5, 2)]))
    requests = []
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.sampled_from([shape, shape, shape, (2, 2)]))
        dtype = data.draw(st.sampled_from(["<f4", "<f4", "<f4", "<i8"]))
        values = data.draw(st.lists(st.integers(0, 14), min_size=10, max_size=10))
        requests.append(ask.tensors(x=np.resize(np.array(values, dtype), size)))
    short, general = both_ways(model, requests, reply)
    assert short == general


@pytest.mark.parametrize(
    "more",
    [{"parameters": {"k": 1}}, {"outputs": [RequestedOutput("first")]}, {"json_writer": JsonWriter.SERVER}],
)
def test_what_asks_for_more_is_answered_as_ever(function, reply, ask, more):
    model = function(NUMBERS)
    requests = [ask.tensors(more, x=np.ones((1, 2), np.float32))]
    short, general = both_ways(model, requests, reply)
    assert short == general


WIDE = {"inputs": [TensorSpec("x", "FP32", [-1, 30_000])], "max_batch_size": 4}
BINARY = {"binary_data": True}


@pytest.mark.parametrize("settings_", [{}, WIDE, {**WIDE, "mode": BatchMode.STACK}, {"max_batch_size": 4}])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"json_writer": JsonWriter.SERVER},
        {"json_writer": JsonWriter.WORKER},
        {"json_writer": JsonWriter.CODEC},
        {"json_writer": JsonWriter.SERVER, "outputs": [RequestedOutput("twice", BINARY)]},
        {
            "json_writer": JsonWriter.SERVER,
            "outputs": [RequestedOutput("first", BINARY), RequestedOutput("twice")],
        },
        {"outputs": [RequestedOutput("twice"), RequestedOutput("first")]},
        {"outputs": [RequestedOutput("none")]},
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_large_requests_are_answered_alike_and_left_as_they_are(function, reply, ask, settings_, more, count):
    model = function(NUMBERS, **settings_)
    shape = (30_000,) if settings_.get("mode") is BatchMode.STACK else (1, 30_000)
    values = [np.full(shape, 20 + number, np.float32) for number in range(count)]
    requests = [ask.tensors(more, x=each) for each in values]
    for outputs in [each.outputs for each in requests]:
        assert outputs == more.get("outputs")
    short, general = both_ways(model, requests, reply)
    assert short == general
    assert [each[each != 20 + number].size for number, each in enumerate(values)] == [0] * count


def test_a_large_array_of_a_request_alone_is_not_copied_on_its_way_to_the_model(function, ask):
    alike = UniformBatches(function(NUMBERS)._served)
    given = np.zeros((1, 30_000), np.float32)
    batch = alike.build_batch([ask.tensors({"outputs": [RequestedOutput("twice", BINARY)]}, x=given)])
    assert batch is not None
    assert np.shares_memory(batch.arrays["x"], given)


def test_a_function_may_keep_what_it_was_given_when_its_memory_is_another_requests(function, reply, ask):
    model = function(
        "kept = []\ndef infer(x: 'ndarray'):\n    kept.append(x)\n    return {'first': kept[0][:, 0]}"
    )
    memory = np.full((1, 30_000), 5, np.float32)
    for _ in range(3):
        (outcome,) = model.infer([ask.tensors(x=memory)], reply)
        assert ask.read(outcome)["first"] == [5]
        memory += 1


def test_batches_of_equal_requests_are_taken_and_others_left(function, ask):
    model = function(NUMBERS, **PAIRS)
    alike = UniformBatches(model._served)
    pair, other = (ask.tensors(x=np.float32(rows)) for rows in ([[1, 2]], [[3, 4], [5, 6]]))
    assert alike.build_batch([pair, pair]).arrays["x"].tolist() == [[1, 2], [1, 2]]
    assert alike.build_batch([pair, other]) is None
    assert alike.build_batch([other, other, other]) is None  # six rows
    assert alike.build_batch([ask.body([1, 2])]) is None


def test_a_request_too_short_for_its_shape_does_not_borrow_of_its_neighbor(function, ask):
    model = function(NUMBERS, **PAIRS)
    alike = UniformBatches(model._served)
    requests = [ask.tensors(x=np.float32([[1, 2]])) for _ in range(3)]
    assert alike.build_batch(requests) is not None
    first, second = requests[0].inputs[0], requests[1].inputs[0]
    first.data, second.data = first.data[:4], second.data + second.data[:4]
    assert alike.build_batch(requests) is None
    assert alike.build_batch(requests[:1]) is None


def test_a_function_that_changes_its_input_does_not_change_the_request(function, reply, ask):
    model = function(NUMBERS)
    request = ask.tensors(x=np.float32([3.0]))
    for _ in range(2):
        (outcome,) = model.infer([request], reply)
        assert isinstance(outcome, InferenceResponse)
        assert ask.read(outcome)["twice"] == [6]


def test_a_stream_is_sent_piece_by_piece(function, reply, ask):
    model = function("def infer(x: 'ndarray'):\n    yield {'y': x}\n    yield {'y': x + 1}")
    (last,) = model.infer([ask.tensors(x=np.float32([1.0]))], reply)
    assert last.outputs == []
    assert [ask.read(piece) for _, piece in reply.pieces] == [{"y": [1]}, {"y": [2]}]


def test_a_function_that_asks_whether_anybody_waits_is_told_of_its_own_request(function, reply, ask):
    model = function("def infer(x: 'ndarray', cancelled): return {'gone': x * cancelled()}")
    request = ask.tensors(x=np.float32([1.0]))
    for gone in (False, True, False):
        reply.gone = {0} if gone else set()
        (outcome,) = model.infer([request], reply)
        assert ask.read(outcome) == {"gone": [float(gone)]}


def test_large_arrays_that_are_joined_have_their_own_memory_in_order(function, ask):
    model = function(
        "def infer(x: 'ndarray'):\n    return {'y': x}",
        inputs=[TensorSpec("x", "FP32", [-1, 2000])],
        max_batch_size=4,
    )
    rows = [np.full((1, 2000), number, np.float32) for number in range(3)]
    requests = [ask.tensors(x=row) for row in rows]
    batch = UniformBatches(model._served).build_batch(requests)
    assert batch.arrays["x"].flags.owndata  # what has not, a library would copy before it writes
    assert batch.arrays["x"].flags.writeable
    assert np.array_equal(batch.arrays["x"], np.concatenate(rows))

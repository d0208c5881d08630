"""What workers do for v2: large bodies, classification, and outputs as JSON text, with tensor models and handlers."""

import json

import numpy as np
import pytest

from mooring.codecs.v2_json import encode_json_output
from mooring.core.errors import InvalidInput
from mooring.core.requests import BodyKind, InferenceRequest, JsonWriter, RequestedOutput, UndecodedBody
from mooring.core.tensors import JsonOutput, Tensor, TensorSpec

TWICE = "def infer(x: 'ndarray', k=1): return {'y': x * 2, 'z': x[:1]}"
SPEC = {
    "inputs": [TensorSpec("x", "FP32", [-1, 3])],
    "outputs": [TensorSpec("y", "FP32", [-1, 3]), TensorSpec("z", "FP32", [-1, 3])],
}
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 3, 2]}


def undecoded(**more):
    body = json.dumps({"inputs": [X]} | more).encode()
    return InferenceRequest("m", "", "ours", [], body=UndecodedBody(BodyKind.V2, body))


def is_json(output):
    return isinstance(output, JsonOutput)


def one(model, reply, request):
    (outcome,) = model.infer([request], reply)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def shown(outcome):
    return {
        each.name: json.loads(each.data) if is_json(each) else each.array().tolist()
        for each in outcome.outputs
    }


def test_a_body_is_decoded_and_answered_in_json(function, reply):
    answer = one(function(TWICE, **SPEC), reply, undecoded(id="7"))
    assert answer.id == "7"
    assert [*map(is_json, answer.outputs)] == [True, True]
    assert shown(answer) == {"y": [2, 6, 4], "z": [1, 3, 2]}
    assert one(function(TWICE, **SPEC), reply, undecoded()).id == "ours"


def test_a_body_is_decoded_once_and_can_be_tried_again(function, reply):
    model, request = function(TWICE, **SPEC), undecoded(id="7", outputs=[{"name": "y"}])
    for _ in range(2):
        assert shown(one(model, reply, request)) == {"y": [2, 6, 4]}


def test_outputs_wanted_in_binary_are_no_text(function, reply):
    model = function(TWICE, **SPEC)
    answer = one(model, reply, undecoded(parameters={"binary_data_output": True}))
    assert [*map(is_json, answer.outputs)] == [False, False]
    outputs = [{"name": "z"}, {"name": "y", "parameters": {"binary_data": True}}]
    answer = one(model, reply, undecoded(outputs=outputs))
    assert [(each.name, is_json(each)) for each in answer.outputs] == [("z", True), ("y", False)]


def test_what_the_server_reads_does_not_reach_the_model(function, reply):
    source = "def infer(x, parameters): return {'y': x, 'z': x * parameters.get('k', 0) + len(parameters)}"
    parameters = {"priority": 1, "timeout": 5, "binary_data_output": False, "k": 2}
    answer = one(function(source, **SPEC), reply, undecoded(parameters=parameters))
    assert shown(answer)["z"] == [3, 7, 5]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"inputs": []}, '"inputs"'),
        ({"inputs": [X | {"datatype": "INT32"}]}, "is INT32; the model takes FP32"),
        ({"inputs": [X | {"name": "q"}]}, "unexpected input 'q'"),
        ({"inputs": [X | {"shape": [3]}, X]}, "sent twice"),
        ({"inputs": [X | {"shape": [1, 1, 3]}]}, "the model takes [-1, 3]"),
        ({"outputs": [{"name": "q"}]}, "unexpected inference output 'q'"),
        ({"parameters": {"binary_data_output": 1}}, "must be true or false"),
        (
            {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32",
                         "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 12}}]},
            "shared memory",
        ),
    ],
)  # fmt: skip
def test_a_faulty_body_never_reaches_the_model(function, reply, more, said):
    with pytest.raises(InvalidInput) as caught:
        one(function("def infer(x: 'ndarray'): raise SystemExit", **SPEC), reply, undecoded(**more))
    assert said in caught.value.message


def tensors(array, outputs=None, **more):
    return InferenceRequest("m", "", "ours", [Tensor.of("x", np.asarray(array))], outputs=outputs, **more)


def test_large_outputs_are_text_where_json_is_wanted_and_small_ones_are_not(function, reply):
    model = function("def infer(x: 'ndarray'): return {'small': x[:2], 'large': x, 'text': ['a' * 70_000]}")
    array = np.arange(10_000, dtype=np.float32)
    answer = one(model, reply, tensors(array, json_writer=JsonWriter.SERVER))
    assert [*map(is_json, answer.outputs)] == [False, True, True]
    assert json.loads(answer.outputs[1].data) == array.tolist()
    answer = one(model, reply, tensors(array))
    assert not any(map(is_json, answer.outputs))
    wishes = [RequestedOutput("large", {"binary_data": True}), RequestedOutput("text")]
    answer = one(model, reply, tensors(array, wishes, json_writer=JsonWriter.SERVER))
    assert [*map(is_json, answer.outputs)] == [False, True]


@pytest.mark.parametrize(
    ("json_nan", "asked", "word"),
    [("by_protocol", False, b"NaN"), ("by_protocol", True, b"null"), ("nan", False, b"NaN"),
     ("nan", True, b"null"), ("null", False, b"null")],
)  # fmt: skip
def test_large_outputs_say_nan_as_the_setting_and_the_client_want(function, reply, json_nan, asked, word):
    model = function("def infer(x: 'ndarray'): return {'y': x}", json_nan=json_nan)
    array = np.full(10_000, np.nan, np.float32)
    (output,) = one(model, reply, tensors(array, json_writer=JsonWriter.SERVER, null_for_nan=asked)).outputs
    assert bytes(output.data) == b"[" + b",".join([word] * 10_000) + b"]"


def classified(model, reply, array, count, **more):
    wish = [RequestedOutput("y", {"classification": count})]
    (output,) = one(model, reply, tensors(array, wish, **more)).outputs
    return output.shape, [text.decode() for text in output.data]


SAME = "def infer(x: 'ndarray'): return {'y': x}"


def test_the_likeliest_classes_come_with_value_index_and_label(function, reply):
    model = function(SAME, labels={"1": "dog", "2": ["n01", "cat"]})
    assert classified(model, reply, np.float32([0.25, 10, 2]), 2) == (
        [2], ["10.000000:1:dog", "2.000000:2:cat"],
    )  # fmt: skip
    assert classified(model, reply, np.int32([[1, 2], [4, 3]]), 5) == (
        [2, 2], ["2.000000:1:dog", "1.000000:0", "4.000000:0", "3.000000:1:dog"],
    )  # fmt: skip
    assert classified(model, reply, np.float32([1, 1, 1]), 1) == ([1], ["1.000000:0"])


@pytest.mark.parametrize(
    ("array", "count"), [([1.0], 0), ([1.0], "2"), ([1.0], True), ([b"a"], 1), ([True], 1)]
)
def test_a_classification_that_cannot_be_is_the_callers_fault(function, reply, array, count):
    with pytest.raises(InvalidInput, match="output 'y'"):
        classified(function(SAME), reply, np.array(array), count)


def test_a_place_in_shared_memory_is_told_to_the_server(function, reply):
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 80_000, "shared_memory_offset": 4}
    array = np.zeros(20_000, np.float32)
    answer = one(
        function(SAME), reply, tensors(array, [RequestedOutput("y", place)], json_writer=JsonWriter.SERVER)
    )
    (output,) = answer.outputs
    assert (output.parameters, is_json(output), len(output.data)) == (place, False, 80_000)
    del place["shared_memory_region"]
    with pytest.raises(InvalidInput, match="needs shared_memory_region"):
        one(function(SAME), reply, tensors(array, [RequestedOutput("y", place)]))


def test_pieces_of_a_stream_are_text_too(function, reply):
    model = function("def infer(x: 'ndarray'):\n    yield {'y': x}\n    yield {'y': x + 1}", max_batch_size=1)
    one(model, reply, undecoded(id="7"))
    assert [(piece.id, piece.final, shown(piece)) for _, piece in reply.pieces] == [
        ("7", False, {"y": [1, 3, 2]}), ("7", False, {"y": [2, 4, 3]}),
    ]  # fmt: skip


def test_bfloat16_has_a_text():
    assert (
        encode_json_output(Tensor("x", "BF16", [2], np.uint16([0x3F80, 0x7FC0]).tobytes())).data
        == b"[1.0,NaN]"
    )

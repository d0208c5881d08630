"""A Python file as a model: what it may look like, and what is said when it is wrong."""

import re
import sys

import numpy as np
import pytest

from mooring.core.errors import (
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    ModelLoadFailed,
    ModelRefused,
    Unsupported,
)
from mooring.core.requests import Operation, RequestedOutput
from mooring.core.tensors import TensorSpec

DOUBLE = "def infer(inputs, parameters):\n    return {'y': inputs['x'] * 2}\n"


def one(backend, reply, request):
    (outcome,) = backend.infer([request], reply)
    return outcome


def test_a_number_in_json_is_a_number_in_the_answer(function, reply, ask):
    model = function(DOUBLE)
    assert ask.read(one(model, reply, ask.body({"x": 1.0}))) == {"y": 2.0}
    assert ask.read(one(model, reply, ask.body({"x": [1, 2]}))) == {"y": [2, 4]}
    assert ask.read(one(model, reply, ask.tensors(x=np.float32([[1.5]])))) == {"y": [[3.0]]}
    assert ask.read(one(model, reply, ask.instances({"x": 1}, {"x": 2.5}))) == [2, 5.0]


def test_a_bare_value_is_called_input_or_the_only_argument(function, reply, ask):
    assert ask.read(one(function("def infer(inputs): return inputs"), reply, ask.body([1, 2]))) == {
        "input": [1, 2]
    }
    assert ask.read(
        one(function("def infer(values: 'ndarray'): return values + 1"), reply, ask.body([1, 2]))
    ) == {"output": [2, 3]}


def test_arguments_are_inputs_by_name(function, reply, ask):
    model = function(
        "def add(a: 'ndarray', b, scale=1, *, parameters): return (a + b) * scale * parameters['k']",
        "f.py:add",
    )
    assert ask.read(one(model, reply, ask.body({"a": 1, "b": 2}, parameters={"k": 10}))) == {"output": 30}
    assert ask.read(one(model, reply, ask.body({"a": 1, "b": 2, "scale": 2}, parameters={"k": 1}))) == {
        "output": 6
    }
    assert one(model, reply, ask.body({"a": 1})).message == "input 'b' is missing"
    assert "unexpected input 'c'" in one(model, reply, ask.body({"a": 1, "b": 2, "c": 3})).message
    assert "name the inputs" in one(model, reply, ask.body([1])).message


def test_parameters_may_be_lists_and_objects_and_join_only_their_equals(function, reply, ask):
    model = function(
        "def infer(inputs, parameters): return {'y': inputs['x'] * len(parameters['stop'])}", max_batch_size=8
    )
    said = [{"stop": ["a", "b"]}, {"stop": ["a"]}, {"stop": ["a", "b"]}, {"stop": {"a": [1]}}]
    requests = [ask.tensors({"parameters": each}, x=np.float32([[1]])) for each in said]
    answers = [ask.read(outcome)["y"] for outcome in model.infer(requests, reply)]
    assert answers == [[[2]], [[1]], [[2]], [[1]]]


def test_the_models_parameters_stand_in_for_the_requests(function, reply, ask):
    model = function("def infer(inputs, parameters): return {'k': parameters['k']}", parameters={"k": 1})
    assert ask.read(one(model, reply, ask.body({"x": 1}))) == {"k": 1}
    assert ask.read(one(model, reply, ask.body({"x": 1}, parameters={"k": 2}))) == {"k": 2}


def test_text_goes_in_as_bytes_and_comes_out_as_text(function, reply, ask):
    model = function("def infer(inputs): return {'y': inputs['x'].item().decode().upper()}")
    assert ask.read(one(model, reply, ask.body({"x": "hé"}))) == {"y": "HÉ"}


def test_a_function_may_change_its_arrays(function, reply, ask):
    model = function("def infer(inputs):\n    x = inputs['x']\n    x += 1\n    return {'y': x}")
    request = ask.tensors(x=np.arange(3.0))
    assert ask.read(one(model, reply, request)) == ask.read(one(model, reply, request)) == {"y": [1, 2, 3]}


def test_declared_inputs_and_outputs_have_the_last_word(function, reply, ask):
    model = function(
        DOUBLE, inputs=[TensorSpec("x", "FP32", [-1, 2])], outputs=[TensorSpec("y", "FP16", [-1, 2])]
    )
    assert ask.read(one(model, reply, ask.body([[1, 2]]))) == {"y": [[2.0, 4.0]]}
    assert ask.read(one(model, reply, ask.body([1, 2]))) == {"y": [2.0, 4.0]}
    assert one(model, reply, ask.tensors(x=np.float32([[1, 2]]))).outputs[0].datatype == "FP16"
    for wrong in (
        ask.body([[1, 2, 3]]),
        ask.body({"z": 1}),
        ask.tensors(x=np.float64([[1, 2]])),
        ask.tensors(),
    ):
        assert isinstance(one(model, reply, wrong), InvalidInput)
    assert model.metadata.outputs[0].datatype == "FP16"


def test_a_class_keeps_state_and_is_told_when_it_ends(function, reply, ask):
    model = function(
        """
class Model:
    def load(self, context):
        self.seen, self.context = 0, context
    def infer(self, inputs):
        self.seen += 1
        return {"seen": self.seen, "name": self.context.name, "k": self.context.parameters["k"]}
    def explain(self, inputs):
        return {"why": inputs["x"] * 10}
    def close(self):
        global closed
        import sys
        sys.modules["closed_model"] = self
""",
        parameters={"k": 7},
    )
    assert ask.read(one(model, reply, ask.body({"x": 1}))) == {"seen": 1, "name": "m", "k": 7}
    assert ask.read(one(model, reply, ask.body({"x": 1}))) == {"seen": 2, "name": "m", "k": 7}
    assert ask.read(one(model, reply, ask.body({"x": 1}, operation=Operation.EXPLAIN))) == {"why": 10}
    assert ask.read(one(model, reply, ask.instances({"x": 1}, operation=Operation.EXPLAIN))) == [10]
    model.close()
    assert sys.modules.pop("closed_model").seen == 2


def test_a_function_gives_no_explanations(function, reply, ask):
    assert isinstance(
        one(function(DOUBLE), reply, ask.body({"x": 1}, operation=Operation.EXPLAIN)), Unsupported
    )


STREAM = "def infer(inputs):\n    for step in range(3):\n        yield {'y': inputs['x'] + step}\n"


def test_every_item_of_a_generator_is_a_piece_and_the_answer_ends_with_nothing_more(function, reply, ask):
    last = one(function(STREAM), reply, ask.body({"x": 1}))
    assert [(row, ask.read(piece), piece.final) for row, piece in reply.pieces] == [
        (0, {"y": 1}, False),
        (0, {"y": 2}, False),
        (0, {"y": 3}, False),
    ]
    assert (last.outputs, last.final) == ([], True)


def test_a_stream_of_a_batch_goes_to_each_of_its_rows(function, reply, ask):
    model = function(STREAM, max_batch_size=4)
    found = model.infer([ask.tensors(x=np.array([1])), ask.tensors(x=np.array([10, 20]))], reply)
    assert [(row, ask.read(piece)["y"]) for row, piece in reply.pieces] == [
        (0, [1]),
        (1, [10, 20]),
        (0, [2]),
        (1, [11, 21]),
        (0, [3]),
        (1, [12, 22]),
    ]
    assert [each.outputs for each in found] == [[], []]


def test_a_prediction_of_a_streaming_model_is_the_list_of_its_pieces(function, reply, ask):
    assert ask.read(one(function(STREAM, max_batch_size=4), reply, ask.instances({"x": 1}, {"x": 5}))) == [
        [1, 2, 3],
        [5, 6, 7],
    ]
    assert reply.pieces == []


def test_a_stream_that_nobody_reads_is_closed(function, reply, ask):
    model = function(
        "seen = []\ndef infer(inputs):\n    try:\n        yield {'y': 1}\n        yield {'y': 2}\n    finally:\n        seen.append(1)\n"
    )
    reply.gone.add(0)
    assert type(one(model, reply, ask.body({"x": 1}))).__name__ == "RequestCancelled"
    assert sys.modules["_mooring_model_m_1"].seen == [1]


@pytest.mark.parametrize(
    "source", ["def infer(inputs):\n    if 0: yield", "def infer(inputs):\n    yield {'y': 1}\n    1 / 0"]
)
def test_a_broken_stream_is_the_models_fault(function, reply, ask, source):
    assert isinstance(one(function(source), reply, ask.body({"x": 1})), ModelFailed)


def test_what_the_function_raises_is_told_with_its_traceback(function, reply, ask):
    failure = one(
        function("def infer(inputs):\n    return {'y': 1 / inputs['zero']}\n"), reply, ask.body({"x": 1})
    )
    assert type(failure) is ModelFailed
    assert failure.message == "KeyError: 'zero'"
    assert "model.py" in failure.detail


@pytest.mark.parametrize(
    ("source", "first"),
    [("def infer(", "  File "), ("open('gone.bin')", "Traceback (most recent call last):\n  File ")],
)
def test_the_traceback_of_a_load_begins_with_the_users_code(function, source, first):
    with pytest.raises(ModelLoadFailed) as caught:
        function(source)
    assert re.match(re.escape(first) + r'".*model\.py", line 1', caught.value.detail)


def test_a_function_may_refuse_in_our_own_words(function, reply, ask):
    source = "from mooring.core.errors import ModelRefused\ndef infer(inputs): raise ModelRefused('too cold', code=418)"
    refusal = one(function(source), reply, ask.body({"x": 1}))
    assert isinstance(refusal, ModelRefused)
    assert refusal.code == 418


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("None", "returned None"),
        ("{}", "no outputs"),
        ("{'y': None}", "Python objects"),
        ("{'y': {'a': 1}}", "Python objects"),
        ("{'y': [[1], [2, 3]]}", "not an array"),
        ("{'y': 1j}", "not an array"),
    ],
)
def test_what_is_no_answer_is_invalid_output(function, reply, ask, returned, says):
    failure = one(function(f"def infer(inputs): return {returned}"), reply, ask.body({"x": 1}))
    assert isinstance(failure, InvalidOutput)
    assert says in failure.message


def test_texts_keep_the_nuls_at_their_end(function, reply, ask):
    (found,) = function("def infer(inputs): return {'y': [b'a\\0', b'b']}").infer([ask.body({"x": 1})], reply)
    assert ask.read(found) == {"y": ["a\0", "b"]}


@pytest.mark.parametrize(
    ("source", "entry", "says"),
    [
        ("def infer(inputs:\n", "model.py", "model.py, line 1: SyntaxError"),
        ("x = 1\n\nimport no_such_module\n", "model.py", "model.py, line 3: ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "model.py", "SystemExit: 3"),
        ("x = 1", "model.py", "defines neither infer nor Model"),
        ("x = 1", "f.py:go", "no function or class 'go'"),
        ("class Model: pass", "model.py", "no method infer"),
        (
            "class Model:\n    def predict(self, x): pass",
            "model.py",
            "no method infer; if it is 'predict', call it infer",
        ),
        (
            "class Model:\n    def load(self, context):\n        1 / 0\n    def infer(self, inputs): pass",
            "model.py",
            "line 3: ZeroDivisionError",
        ),
    ],
)
def test_a_file_that_does_not_load_says_where_and_why(function, source, entry, says):
    with pytest.raises(ModelLoadFailed) as failure:
        function(source, entry)
    assert says in failure.value.message


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (
            "class Model:\n    async def load(self, context): pass\n    def infer(self, x: 'ndarray'): return x",
            "'load' is async and 'infer' is not",
        ),
        (
            "class Model:\n    def infer(self, x: 'ndarray'): return x\n    async def explain(self, x): return x",
            "'explain' is async and 'infer' is not",
        ),
    ],
)
def test_what_waits_beside_an_infer_that_does_not_is_refused(function, source, says):
    with pytest.raises(ModelLoadFailed, match=says):
        function(source)


def test_a_function_that_waits_cannot_be_explained_by_calling_it(function):
    with pytest.raises(ModelLoadFailed, match="write a method explain instead"):
        function("async def infer(x: 'ndarray'): return x", explain={"method": "integrated_gradients"})


def test_the_line_at_fault_in_an_asynchronous_load_is_named(function):
    source = "class Model:\n    async def load(self, context):\n        raise KeyError('w')\n    async def infer(self, x: 'ndarray'): pass"
    with pytest.raises(ModelLoadFailed, match=r"model\.py, line 3: KeyError: 'w'"):
        function(source)


def test_a_function_and_its_configuration_must_agree(function):
    with pytest.raises(ModelLoadFailed, match="the configuration declares x"):
        function("def infer(a): return a", inputs=[TensorSpec("x", "FP32", [1])])


def test_a_file_imports_its_neighbors(function, reply, ask, tmp_path):
    (tmp_path / "neighbor_of_model.py").write_text("K = 5")
    model = function("import neighbor_of_model\ndef infer(x: 'ndarray'): return x * neighbor_of_model.K")
    assert ask.read(one(model, reply, ask.body(2))) == {"output": 10}


def test_a_function_that_needs_no_inputs_is_asked_with_nothing(function, reply, ask):
    for source, answer in [
        ("def infer(k: 'ndarray' = 4):\n    return {'y': [k]}", [4]),
        ("def infer(x: 'ndarray' = None):\n    return {'y': [5] if x is None else x}", [5]),
    ]:
        model = function(source)
        for request in (ask.tensors(), ask.body(b""), ask.body({})):
            (outcome,) = model.infer([request], reply)
            assert ask.read(outcome) == {"y": answer}
        (outcome,) = model.infer([ask.instances({}, {})], reply)
        assert ask.read(outcome) == [answer, answer]


OPTIONAL = [TensorSpec("x", "FP32", [-1]), TensorSpec("k", "FP32", [1], optional=True)]


def test_an_optional_input_may_be_left_out(function, reply, ask):
    model = function("def infer(inputs): return {'names': sorted(inputs)}", inputs=OPTIONAL)
    x, k = np.float32([1, 2]), np.float32([3])
    assert ask.read(one(model, reply, ask.tensors(x=x))) == {"names": [b"x"]}
    assert ask.read(one(model, reply, ask.tensors(x=x, k=k))) == {"names": [b"k", b"x"]}
    assert ask.read(one(model, reply, ask.body([1, 2]))) == {"names": ["x"]}
    assert "input 'x' is missing" in one(model, reply, ask.tensors(k=k)).message


def test_an_optional_argument_has_its_default(function, reply, ask):
    model = function("def infer(x, k=10): return {'y': x * k}", inputs=OPTIONAL)
    assert ask.read(one(model, reply, ask.tensors(x=np.float32([1, 2])))) == {"y": [10, 20]}


def test_an_argument_without_a_default_cannot_be_optional(function):
    with pytest.raises(ModelLoadFailed, match=r"input 'k' is optional, .* write k=None"):
        function("def infer(x, k): return {'y': x}", inputs=OPTIONAL)


def test_requests_with_other_inputs_do_not_share_a_call(function, reply, ask):
    specs = [TensorSpec("x", "FP32", [-1, 1]), TensorSpec("k", "FP32", [-1, 1], optional=True)]
    model = function(
        "def infer(x, k=None): return {'rows': [len(x)] * len(x), 'k': [k is not None] * len(x)}",
        inputs=specs,
        max_batch_size=8,
    )
    row = np.float32([[1]])
    found = model.infer(
        [ask.tensors(x=row), ask.tensors(x=row, k=row), ask.tensors(x=row), ask.tensors(x=row, k=row)], reply
    )
    assert [ask.read(each) for each in found] == [
        {"rows": [2], "k": [False]},
        {"rows": [2], "k": [True]},
        {"rows": [2], "k": [False]},
        {"rows": [2], "k": [True]},
    ]


NOTHING = "def infer(x: 'ndarray'):\n    yield from []\n"


def test_a_decoupled_model_may_give_no_response(function, reply, ask):
    model = function(NOTHING, decoupled=True)
    outcome = one(model, reply, ask.tensors(x=np.float32([1])))
    assert (outcome.outputs, outcome.final, reply.pieces) == ([], True, [])
    assert one(model, reply, ask.body({"x": 1})).outputs == []
    assert ask.read(one(model, reply, ask.instances({"x": 1}, {"x": 2}))) == [[], []]


def test_any_other_model_must_give_one(function, reply, ask):
    outcome = one(function(NOTHING), reply, ask.tensors(x=np.float32([1])))
    assert isinstance(outcome, InvalidOutput)
    assert "say decoupled" in outcome.message


def classes_of(backend, reply, ask, array, count=2):
    wanted = [RequestedOutput("y", {"classification": count})]
    outcome = one(backend, reply, ask.tensors({"outputs": wanted}, x=np.float32(array)))
    return ask.read(outcome)["y"]


@pytest.mark.parametrize(
    ("batched", "shape", "array", "classes"),
    [
        (False, [2, 3], [[1, 2, 3], [4, 5, 6]], [b"6.000000:5", b"5.000000:4"]),
        (True, [-1, 3], [[1, 2, 3]], [[b"3.000000:2", b"2.000000:1"]]),
        (True, [-1, 3], [1, 2, 3], [b"3.000000:2", b"2.000000:1"]),
        (None, [2, 3], [[1, 2, 3], [4, 5, 6]], [b"6.000000:5", b"5.000000:4"]),
        (
            None,
            [-1, 3],
            [[1, 2, 3], [6, 5, 4]],
            [[b"3.000000:2", b"2.000000:1"], [b"6.000000:0", b"5.000000:1"]],
        ),
        (None, [-1], [1, 2, 3], [b"3.000000:2", b"2.000000:1"]),
    ],
)
def test_classes_are_those_of_a_row_only_where_there_is_a_batch(
    function, reply, ask, batched, shape, array, classes
):
    specs = {"inputs": [TensorSpec("x", "FP32", shape)], "outputs": [TensorSpec("y", "FP32", shape)]}
    model = function("def infer(x: 'ndarray'): return {'y': x}", batch_dimension=batched, **specs)
    assert classes_of(model, reply, ask, array) == classes


def test_each_output_has_its_own_labels(function, reply, ask):
    names = {"a": {"1": "dog"}, "b": {"1": "blue"}}
    model = function("def infer(x: 'ndarray'): return {'a': x, 'b': x, 'c': x}", output_labels=names)
    wanted = [RequestedOutput(name, {"classification": 1}) for name in "abc"]
    outcome = one(model, reply, ask.tensors({"outputs": wanted}, x=np.float32([1, 2])))
    assert ask.read(outcome) == {
        "a": [b"2.000000:1:dog"],
        "b": [b"2.000000:1:blue"],
        "c": [b"2.000000:1"],
    }


def test_a_row_is_all_that_a_batch_of_one_takes(function, reply, ask):
    specs = [TensorSpec("x", "FP32", [-1, 1])]
    model = function("def infer(x: 'ndarray'): return {'y': x}", inputs=specs, batch_dimension=True)
    assert ask.read(one(model, reply, ask.tensors(x=np.float32([[1]])))) == {"y": [[1]]}
    assert "batch-size must be <= 1" in one(model, reply, ask.tensors(x=np.float32([[1], [2]]))).message

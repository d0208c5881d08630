"""ONNX models: what the file says is what clients get, a configuration must agree, and faults are the right party's."""

import sys

import numpy as np
import onnx
import pytest
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx import helper
from onnx_kit import X3, Y3, node, write_model

from mooring.backends.backend import create_backend
from mooring.backends.onnx import OnnxBackend
from mooring.core.errors import InvalidInput, ModelFailed, ModelLoadFailed, Unsupported
from mooring.core.options import BatchMode
from mooring.core.requests import Form, InferenceRequest, Operation, RequestedOutput
from mooring.core.service import JoiningState, LoadContext
from mooring.core.tensors import Tensor, TensorSpec
from mooring.repository.preloads import preload


@pytest.fixture
def write(tmp_path):
    def write(*arguments, name="model.onnx", **more):
        return write_model(tmp_path / name, *arguments, **more)

    return write


@pytest.fixture
def load():
    opened = []

    def load(file, context=None, *, tried=True, **more):
        """With ``tried`` as it is once a trial has shown that rows are independent."""
        more = {"max_batch_size": 8, "size_by_default": True, **more}
        spec = model_spec(name="m", version="1", backend="onnx", location=str(file), **more)
        backend = OnnxBackend()
        backend.metadata = backend.load(spec, context or LoadContext())
        if tried and backend.joining.state is JoiningState.UNTRIED:
            backend.join_requests()
        opened.append(backend)
        return backend

    yield load
    for backend in opened:
        backend.close()


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the first input of every call of the model."""
    seen = []

    def watch(model):
        predict = model.predict

        def counted(arrays, parameters):
            seen.append(next(iter(arrays.values())).shape)
            return predict(arrays, parameters)

        monkeypatch.setattr(model, "predict", counted)
        return seen

    return watch


def one(backend, reply, request):
    (outcome,) = backend.infer([request], reply)
    return outcome


def test_names_types_and_shapes_come_from_the_file(write, load):
    model = load(write())
    assert model.metadata.inputs == [TensorSpec("x", "FP32", [-1, 3])]
    assert model.metadata.outputs == [TensorSpec("y", "FP32", [-1, 3])]
    assert (model.metadata.platform, model.metadata.versions) == ("onnx_onnxv1", ["1"])


def test_every_form_of_request_is_answered(write, load, reply, ask):
    model = load(write())
    assert ask.read(one(model, reply, ask.tensors(x=np.float32([[1, 2, 3]])))) == {"y": [[-1, -2, -3]]}
    assert ask.read(one(model, reply, ask.body({"x": [[1, 2, 3]]}))) == {"y": [[-1, -2, -3]]}
    assert ask.read(one(model, reply, ask.body([1, 2, 3]))) == {"y": [-1, -2, -3]}
    assert ask.read(one(model, reply, ask.instances([1, 2, 3], [4, 5, 6]))) == [[-1, -2, -3], [-4, -5, -6]]


def test_an_open_first_dimension_is_a_batch_that_requests_share(write, load, reply, ask, calls):
    model = load(write())
    seen = calls(model)
    requests = [ask.tensors(x=np.full((rows, 3), rows, np.float32)) for rows in (1, 2, 5, 7)]
    answers = [ask.read(outcome)["y"] for outcome in model.infer(requests, reply)]
    assert answers == [[[-rows] * 3] * rows for rows in (1, 2, 5, 7)]
    assert seen == [(8, 3), (7, 3)]


def test_a_fixed_first_dimension_is_no_batch(write, load, reply, ask, calls):
    model = load(write([("x", Kind.FLOAT, [1, 3])], [("y", Kind.FLOAT, [1, 3])]), max_batch_size=8)
    seen = calls(model)
    outcomes = model.infer([ask.tensors(x=np.float32([[n, n, n]])) for n in range(3)], reply)
    assert [ask.read(outcome) for outcome in outcomes] == [{"y": [[-n, -n, -n]]} for n in range(3)]
    assert ask.read(one(model, reply, ask.instances([1, 2, 3], [4, 5, 6]))) == [[-1, -2, -3], [-4, -5, -6]]
    assert set(seen) == {(1, 3)}


@pytest.mark.parametrize(
    ("dimensions", "joined"),
    [
        (("batch_size", "batch_size"), True),
        (("N", "N"), True),
        ((None, None), True),
        (("s77", "unk__3"), True),
        (("time", "time"), False),
        (("batch", None), True),
        ((1, 1), False),
    ],
)
def test_only_what_looks_like_a_batch_is_one_when_nobody_asked(
    write, load, reply, ask, calls, dimensions, joined
):
    file = write([("x", Kind.FLOAT, [dimensions[0], 3])], [("y", Kind.FLOAT, [dimensions[1], 3])])
    model = load(file)
    seen = calls(model)
    model.infer([ask.tensors(x=np.zeros((1, 3), np.float32))] * 2, reply)
    assert seen == ([(2, 3)] if joined else [(1, 3), (1, 3)])


def test_a_dimension_of_another_name_is_the_batch_where_the_configuration_asks_for_one(
    write, load, reply, ask, calls
):
    file = write([("x", Kind.FLOAT, ["rows", 3])], [("y", Kind.FLOAT, ["rows", 3])])
    model = load(file, max_batch_size=4, size_by_default=False)
    seen = calls(model)
    model.infer([ask.tensors(x=np.zeros((2, 3), np.float32))] * 2, reply)
    assert seen == [(4, 3)]


def test_an_output_that_has_no_batch_keeps_requests_apart(write, load, reply, ask):
    model = load(write([X3], [("y", Kind.FLOAT, [])], [node("ReduceSum", keepdims=0)]))
    outcomes = model.infer([ask.tensors(x=np.full((2, 3), n, np.float32)) for n in (1, 2)], reply)
    assert [ask.read(outcome) for outcome in outcomes] == [{"y": 6}, {"y": 12}]


def detections(write, rows="num_dets"):
    """A row for every element above a half, of all the pictures together."""
    return write(
        [("image", Kind.FLOAT, ["batch", 4])],
        [("boxes", Kind.INT64, [rows, 2])],
        [node("Greater", "image half", "m"), node("NonZero", "m", "z"), node("Transpose", "z", "boxes")],
        [("half", np.float32(0.5))],
    )


def test_outputs_of_their_own_length_are_answered_whole(write, load, reply, ask):
    model = load(detections(write))
    for picture, boxes in [
        ([1, 0, 1, 1], [[0, 0], [0, 2], [0, 3]]),
        ([0, 0, 0, 1], [[0, 3]]),
        ([0, 0, 0, 0], []),
    ]:
        whole = ask.tensors(image=np.float32([picture]))
        assert ask.read(one(model, reply, whole)) == {"boxes": boxes}
        assert ask.read(one(model, reply, ask.instances(picture))) == [boxes]
        assert ask.read(one(model, reply, ask.body({"image": picture}))) == {"boxes": boxes}
        assert ask.read(one(model, reply, ask.tensors(image=np.float32(picture)))) == {"boxes": boxes}
    two = model.infer([ask.tensors(image=np.float32([[1, 0, 0, 0]]))] * 2, reply)
    assert [ask.read(outcome) for outcome in two] == [{"boxes": [[0, 0]]}] * 2


def test_an_output_with_another_dimension_before_the_batch_keeps_every_element(write, load, reply, ask):
    file = write(
        [X3], [("y", Kind.FLOAT, [2, "N", 3])], [node("Expand", "x twice")], [("twice", np.int64([2, 1, 1]))]
    )
    model = load(file)
    row = [1, 2, 3]
    assert ask.read(one(model, reply, ask.instances(row, row))) == [[[row], [row]]] * 2
    assert ask.read(one(model, reply, ask.body(row))) == {"y": [[row], [row]]}
    assert ask.read(one(model, reply, ask.body({"x": [row]}))) == {"y": [[row], [row]]}


def test_several_inputs_and_outputs_are_told_by_name(write, load, reply, ask):
    file = write(
        [("a", Kind.FLOAT, ["N"]), ("b", Kind.FLOAT, ["N"])],
        [("sum", Kind.FLOAT, ["N"]), ("difference", Kind.FLOAT, ["N"])],
        [node("Add", "a b", "sum"), node("Sub", "a b", "difference")],
    )
    request = ask.tensors(a=np.float32([5, 6]), b=np.float32([1, 2]))
    assert ask.read(one(load(file), reply, request)) == {"sum": [6, 8], "difference": [4, 4]}
    request.outputs = [RequestedOutput("difference")]
    assert ask.read(one(load(file), reply, request)) == {"difference": [4, 4]}
    request.outputs = [RequestedOutput("product")]
    with pytest.raises(InvalidInput, match="product"):
        ask.read(one(load(file), reply, request))


TYPES = [
    (Kind.BOOL, "BOOL", np.array([True, False])),
    (Kind.UINT8, "UINT8", np.array([0, 255], np.uint8)),
    (Kind.UINT16, "UINT16", np.array([0, 65535], np.uint16)),
    (Kind.UINT32, "UINT32", np.array([0, 2**32 - 1], np.uint32)),
    (Kind.UINT64, "UINT64", np.array([0, 2**64 - 1], np.uint64)),
    (Kind.INT8, "INT8", np.array([-128, 127], np.int8)),
    (Kind.INT16, "INT16", np.array([-(2**15), 2**15 - 1], np.int16)),
    (Kind.INT32, "INT32", np.array([-(2**31), 2**31 - 1], np.int32)),
    (Kind.INT64, "INT64", np.array([-(2**63), 2**63 - 1], np.int64)),
    (Kind.FLOAT16, "FP16", np.array([0.1, -np.inf], np.float16)),
    (Kind.FLOAT, "FP32", np.array([0.1, np.inf], np.float32)),
    (Kind.DOUBLE, "FP64", np.array([0.1, 1e300])),
    (Kind.STRING, "BYTES", np.array(["a\0b", "é"], object)),
]


@pytest.mark.parametrize(("kind", "datatype", "array"), TYPES, ids=[each[1] for each in TYPES])
def test_every_type_comes_back_exactly(write, load, reply, ask, kind, datatype, array):
    model = load(write([("x", kind, ["N"])], [("y", kind, ["N"])], [node("Identity")]))
    request = ask.tensors(x=array)
    outcome = one(model, reply, request)
    assert not isinstance(outcome, Exception), outcome
    (output,) = outcome.outputs
    assert (output.datatype, output.shape) == (datatype, [2])
    assert output.data == request.inputs[0].data


def test_bfloat16_goes_in_and_out_by_its_bits(write, load, reply):
    file = write([("x", Kind.BFLOAT16, ["N"])], [("y", Kind.BFLOAT16, ["N"])], [node("Identity")])
    bits = np.array([0x3F80, 0xC000, 0x7F80, 0x0001], np.uint16).tobytes()
    for size, data in ((4, bits), (0, b"")):
        outcome = one(
            load(file), reply, InferenceRequest("m", "1", "id", [Tensor("x", "BF16", [size], data)])
        )
        assert (outcome.outputs[0].datatype, outcome.outputs[0].data) == ("BF16", data)


def test_text_that_is_no_utf8_is_the_callers_fault(write, load, reply, ask):
    file = write([("x", Kind.STRING, ["N"])], [("y", Kind.STRING, ["N"])], [node("Identity")])
    with pytest.raises(InvalidInput, match="UTF-8"):
        ask.read(one(load(file), reply, ask.tensors(x=np.array([b"\xff"], object))))


def test_a_classifier_of_maps_gives_a_row_of_probabilities(write, load, reply, ask):
    maps = helper.make_map_type_proto(Kind.INT64, helper.make_tensor_type_proto(Kind.FLOAT, []))
    file = write([X3], [("y", Kind.FLOAT, ["N", 3])])
    model = onnx.load(file)
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.append(
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[7, 8, 9])
    )
    model.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(maps)))
    file.write_bytes(model.SerializeToString())
    model = load(file)
    assert model.metadata.outputs == [TensorSpec("y", "FP32", [-1, -1], labels=["7", "8", "9"])]
    outcomes = model.infer(
        [ask.tensors(x=np.float32([[1, 2, 3]])), ask.tensors(x=np.float32([[4, 5, 6]]))], reply
    )
    assert [ask.read(outcome) for outcome in outcomes] == [{"y": [[1, 2, 3]]}, {"y": [[4, 5, 6]]}]


def test_a_classifiers_json_answers_say_each_probability_by_its_class(write, load, reply, ask):
    maps = helper.make_map_type_proto(Kind.STRING, helper.make_tensor_type_proto(Kind.FLOAT, []))
    model = onnx.load(write())
    del model.graph.node[:], model.graph.output[:]
    labels = ["z", "a", "\u00e4"]
    model.graph.node.append(
        helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=labels)
    )
    model.graph.output.append(helper.make_value_info("y", helper.make_sequence_type_proto(maps)))
    file = write()
    file.write_bytes(model.SerializeToString())
    model = load(file)
    assert model.metadata.outputs[0].labels == labels
    first, second = dict(zip(labels, [0.25, 0.5, 3], strict=True)), dict(zip(labels, [4, 5, 6], strict=True))
    rows = [[0.25, 0.5, 3], [4, 5, 6]]
    assert ask.read(one(model, reply, ask.tensors(x=np.float32(rows)))) == {"y": rows}
    assert ask.read(one(model, reply, ask.instances(*rows))) == [first, second]
    assert ask.read(one(model, reply, ask.body(rows))) == {"y": [first, second]}
    assert ask.read(one(model, reply, ask.body(rows[0]))) == {"y": first}
    none = ask.tensors(x=np.empty((0, 3), np.float32))
    assert one(model, reply, none).outputs[0].shape == [0, 3]


def test_an_unknown_rank_is_not_taken_for_a_scalars(write, load):
    file = write(
        [("x", Kind.FLOAT, None), ("k", Kind.FLOAT, [])], [("y", Kind.FLOAT, None)], [node("Mul", "x k")]
    )
    model = load(file)
    assert model.metadata.inputs == [
        TensorSpec("x", "FP32", [], unknown_rank=True),
        TensorSpec("k", "FP32", []),
    ]
    assert model.metadata.outputs == [TensorSpec("y", "FP32", [], unknown_rank=True)]


SCALED = [X3, ("k", Kind.FLOAT, [3])], [Y3], [node("Mul", "x k")], [("k", np.float32([2, 2, 2]))]


@pytest.mark.parametrize("tried", [False, True])
def test_an_input_with_a_default_may_be_left_out(write, load, reply, ask, tried):
    model = load(write(*SCALED), tried=tried)
    assert model.metadata.inputs == [
        TensorSpec("x", "FP32", [-1, 3]),
        TensorSpec("k", "FP32", [3], optional=True),
    ]
    x, k = np.float32([[1, 2, 3]]), np.float32([1, 10, 100])
    outcomes = model.infer([ask.tensors(x=x), ask.tensors(x=x, k=k), ask.tensors(x=x)], reply)
    assert [ask.read(each)["y"] for each in outcomes] == [[[2, 4, 6]], [[1, 20, 300]], [[2, 4, 6]]]
    assert ask.read(one(model, reply, ask.body([1, 2, 3]))) == {"y": [2, 4, 6]}
    assert ask.read(one(model, reply, ask.body({"x": [1, 2, 3], "k": [1, 1, 1]}))) == {"y": [1, 2, 3]}
    instances = ask.instances({"x": [1, 2, 3]}, {"x": [1, 2, 3], "k": [1, 10, 100]})
    assert ask.read(one(model, reply, instances)) == [[2, 4, 6], [1, 20, 300]]
    with pytest.raises(InvalidInput, match=r"input 'k' has shape \[2\]; the model takes \[3\]"):
        ask.read(one(model, reply, ask.tensors(x=x, k=np.float32([1, 2]))))


def test_requests_that_leave_a_default_are_joined_and_others_are_not(write, load, reply, ask, calls):
    model = load(write(*SCALED))
    seen = calls(model)
    x, k = np.zeros((2, 3), np.float32), np.zeros(3, np.float32)
    model.infer([ask.tensors(x=x), ask.tensors(x=x), ask.tensors(x=x, k=k), ask.tensors(x=x, k=k)], reply)
    assert sorted(seen) == [(2, 3), (2, 3), (4, 3)]


def test_a_configuration_may_declare_an_input_with_a_default(write, load, reply, ask):
    inputs = declared("x", "FP32", [-1, 3]) + declared("k", "FP32", [3])
    model = load(write(*SCALED), inputs=inputs, max_batch_size=4, size_by_default=False)
    assert [each.optional for each in model.metadata.inputs] == [False, True]
    assert ask.read(one(model, reply, ask.tensors(x=np.float32([[1, 2, 3]])))) == {"y": [[2, 4, 6]]}
    with_batch = declared("x", "FP32", [-1, 3]) + declared("k", "FP32", [-1, 3])
    assert load(write(*SCALED), inputs=with_batch).metadata.inputs == model.metadata.inputs
    stacked = load(write(*SCALED), inputs=declared("x", "FP32", [3]), mode=BatchMode.STACK)
    assert ask.read(one(stacked, reply, ask.tensors(x=np.float32([1, 2, 3])))) == {"y": [2, 4, 6]}


def test_a_model_without_inputs_is_asked_with_nothing(write, load, reply, ask):
    value = onnx.numpy_helper.from_array(np.float32([4, 5]), "v")
    model = load(write([], [("y", Kind.FLOAT, [2])], [node("Constant", "", value=value)]))
    assert model.metadata.inputs == []
    for request in (ask.tensors(), ask.body(b""), ask.body({})):
        assert ask.read(one(model, reply, request)) == {"y": [4, 5]}
    assert ask.read(one(model, reply, ask.instances({}, {}))) == [[4, 5], [4, 5]]
    two = model.infer([ask.tensors(), ask.tensors()], reply)
    assert [ask.read(each) for each in two] == [{"y": [4, 5]}] * 2
    with pytest.raises(InvalidInput, match="unexpected input 'x'; the model takes none"):
        ask.read(one(model, reply, ask.tensors(x=np.float32([1]))))


def test_an_input_of_any_rank_takes_any_shape(write, load, reply, ask):
    model = load(write([("x", Kind.FLOAT, None)], [("y", Kind.FLOAT, None)]))
    for array in (np.float32(3), np.ones((2, 2), np.float32)):
        assert ask.read(one(model, reply, ask.tensors(x=array))) == {"y": (-array).tolist()}
    assert ask.read(one(model, reply, ask.body({"x": [1.5]}))) == {"y": [-1.5]}


def test_a_missing_input_of_any_rank_is_named(write, load, reply, ask):
    file = write(
        [("a", Kind.FLOAT, None), ("b", Kind.FLOAT, None)], [("y", Kind.FLOAT, None)], [node("Add", "a b")]
    )
    with pytest.raises(InvalidInput, match=r"\['b'\]\) are missing"):
        ask.read(one(load(file), reply, ask.tensors(a=np.float32([1]))))


def test_what_the_client_sent_wrong_is_the_clients_fault(write, load, reply, ask):
    model = load(write())
    for request, match in [
        (ask.tensors(x=np.zeros((1, 4), np.float32)), r"shape \[1, 4\]"),
        (ask.tensors(x=np.zeros((1, 3))), "FP64"),
        (ask.tensors(z=np.zeros((1, 3), np.float32)), "unexpected input 'z'"),
        (ask.tensors(), "no inputs"),
        (ask.body({"x": [["a", "b", "c"]]}), "strings"),
    ]:
        with pytest.raises(InvalidInput, match=match):
            ask.read(one(model, reply, request))


def test_what_a_node_refuses_is_the_clients_value(write, load, reply, ask):
    table = np.arange(3, dtype=np.float32)
    file = write(
        [("x", Kind.INT64, ["N"])],
        [("y", Kind.FLOAT, ["N"])],
        [node("Gather", "table x")],
        [("table", table)],
    )
    assert ask.read(one(load(file), reply, ask.tensors(x=np.int64([2, 0])))) == {"y": [2, 0]}
    with pytest.raises(InvalidInput, match="out of data bounds"):
        ask.read(one(load(file), reply, ask.tensors(x=np.int64([5]))))


def test_the_fault_of_one_request_is_not_the_others(write, load, reply, ask):
    table = np.arange(3, dtype=np.float32)
    file = write(
        [("x", Kind.INT64, ["N"])],
        [("y", Kind.FLOAT, ["N"])],
        [node("Gather", "table x")],
        [("table", table)],
    )
    with pytest.raises(InvalidInput):  # the worker then runs each of them by itself
        load(file).infer([ask.tensors(x=np.int64([n])) for n in (1, 5)], reply)


def test_explanations_are_not_to_be_had(write, load, reply, ask):
    request = ask.tensors(x=np.zeros((1, 3), np.float32))
    request.operation = Operation.EXPLAIN
    with pytest.raises(Unsupported):
        ask.read(one(load(write()), reply, request))


def declared(name, datatype, shape):
    return [TensorSpec(name, datatype, shape)]


def test_a_configuration_may_narrow_what_the_file_leaves_open(write, load, reply, ask):
    file = write([("x", Kind.FLOAT, ["N", None])], [("y", Kind.FLOAT, ["N", None])])
    model = load(file, inputs=declared("x", "FP32", [-1, 2]))
    assert model.metadata.inputs == declared("x", "FP32", [-1, 2])
    with pytest.raises(InvalidInput, match=r"\[-1, 2\]"):
        ask.read(one(model, reply, ask.tensors(x=np.zeros((1, 3), np.float32))))


def test_declared_outputs_are_the_ones_there_are(write, load, reply, ask):
    file = write([X3], [Y3, ("z", Kind.FLOAT, ["N", 3])], [node("Neg"), node("Abs", "x", "z")])
    model = load(file, outputs=declared("z", "FP32", [-1, 3]))
    assert ask.read(one(model, reply, ask.tensors(x=-np.ones((1, 3), np.float32)))) == {"z": [[1, 1, 1]]}


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"inputs": declared("x", "FP32", [-1, 4])}, r"'x' as FP32 \[-1, 4\]; .*model.onnx has it as FP32 \[-1, 3\]"),
        ({"inputs": declared("x", "FP64", [-1, 3])}, r"'x' as FP64 .* has it as FP32"),
        ({"inputs": declared("x", "FP32", [3])}, r"FP32 \[3\]; .* FP32 \[-1, 3\]"),
        ({"inputs": declared("image", "FP32", [-1, 3])}, r"declares input 'image'; .*model.onnx has 'x'"),
        ({"outputs": declared("y", "INT8", [-1, 3])}, "output 'y' as INT8"),
        ({"inputs": declared("x", "FP32", [4]), "mode": BatchMode.STACK}, r"FP32 \[-1, 3\], batch included"),
        ({"parameters": {"providers": "abacus"}}, "no 'abacus' here; it has .*cpu"),
    ],
)  # fmt: skip
def test_a_configuration_that_disagrees_is_refused_with_both_sides(write, load, more, match):
    with pytest.raises(ModelLoadFailed, match=match):
        load(write(), **more)


def test_an_input_that_the_configuration_forgets_is_named(write, load):
    file = write([X3, ("b", Kind.FLOAT, ["N", 3])], [Y3], [node("Add", "x b")])
    with pytest.raises(ModelLoadFailed, match="input 'b', which the configuration does not declare"):
        load(file, inputs=declared("x", "FP32", [-1, 3]))


@pytest.mark.parametrize("first", ["N", 1])
@pytest.mark.parametrize("inputs", [[], declared("x", "FP32", [3])])
def test_single_samples_are_stacked_where_the_configuration_says_so(
    write, load, reply, ask, calls, first, inputs
):
    file = write([("x", Kind.FLOAT, [first, 3])], [("y", Kind.FLOAT, [first, 3])])
    model = load(file, inputs=inputs, mode=BatchMode.STACK, max_batch_size=4)
    seen = calls(model)
    assert model.metadata.inputs == declared("x", "FP32", [3])
    outcomes = model.infer([ask.tensors(x=np.full(3, n, np.float32)) for n in range(3)], reply)
    assert [ask.read(outcome) for outcome in outcomes] == [{"y": [-n, -n, -n]} for n in range(3)]
    assert seen == ([(3, 3)] if first == "N" else [(1, 3)] * 3)


def test_a_model_without_a_batch_takes_single_samples_as_they_are(write, load, reply, ask):
    file = write([("x", Kind.FLOAT, [3])], [("y", Kind.FLOAT, [3])])
    model = load(file, inputs=declared("x", "FP32", [3]), mode=BatchMode.STACK, max_batch_size=4)
    outcomes = model.infer([ask.tensors(x=np.full(3, n, np.float32)) for n in range(2)], reply)
    assert [ask.read(outcome) for outcome in outcomes] == [{"y": [0, 0, 0]}, {"y": [-1, -1, -1]}]


def test_a_fixed_batch_of_several_takes_no_single_samples(write, load):
    file = write([("x", Kind.FLOAT, [4, 3])], [("y", Kind.FLOAT, [4, 3])])
    with pytest.raises(ModelLoadFailed, match="a fixed batch of 4"):
        load(file, mode=BatchMode.STACK)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09" * 50])
def test_a_file_that_is_no_model_is_named(tmp_path, load, content):
    (tmp_path / "broken.onnx").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"broken\.onnx cannot be loaded: ."):
        load(tmp_path / "broken.onnx")


def test_a_truncated_file_is_named(write, load):
    file = write()
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ModelLoadFailed, match=r"model\.onnx"):
        load(file)


def test_a_file_that_is_gone_is_named(tmp_path, load):
    with pytest.raises(ModelLoadFailed, match=r"no file .*gone\.onnx"):
        load(tmp_path / "gone.onnx")


def test_an_input_that_is_no_tensor_is_named(write, load):
    file = write()
    model = onnx.load(file)
    del model.graph.input[:]
    tensors = helper.make_sequence_type_proto(helper.make_tensor_type_proto(Kind.FLOAT, [3]))
    model.graph.input.append(helper.make_value_info("x", tensors))
    model.graph.node[0].CopyFrom(node("ConcatFromSequence", axis=0))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadFailed, match="input 'x' is a seq"):
        load(file)


def test_without_the_library_the_reason_says_what_to_install(write, load, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelLoadFailed, match=r'pip install "mooring\[onnx\]"'):
        load(write())


def test_what_the_runtime_cannot_do_is_a_failure_of_the_model(write, load, reply, ask, monkeypatch):
    model = load(write())

    class Session:
        def __init__(self, error):
            self.error = error

        def run(self, names, feed):
            raise self.error

    request = ask.tensors(x=np.zeros((1, 3), np.float32))
    for error, kind in [
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : it broke"), ModelFailed),
        (RuntimeError("Failed to allocate memory for requested buffer"), "OutOfResources"),
        (RuntimeError("Non-zero status code: std::bad_alloc"), "OutOfResources"),
    ]:
        monkeypatch.setattr(model, "_session", Session(error))
        outcome = one(model, reply, request)
        assert type(outcome) is kind or type(outcome).__name__ == kind
        assert "ONNXRuntimeError" not in outcome.message


def test_the_configuration_chooses_the_provider_by_a_short_name(write, load):
    model = load(write(), parameters={"providers": "cpu"})
    assert model._session.get_providers() == ["CPUExecutionProvider"]


def test_a_worker_uses_the_threads_it_is_given(write, load):
    model = load(write(), LoadContext(threads=3))
    assert model._session.get_session_options().intra_op_num_threads == 3


def test_the_library_is_there_before_workers_are_forked_and_torch_is_not(tmp_path):
    spec = model_spec(name="m", version="1", backend="onnx", location=str(tmp_path))
    assert preload(spec) == ("onnxruntime", "mooring.backends.onnx")
    assert isinstance(create_backend("onnx"), OnnxBackend)


def test_a_row_too_many_is_called_in_parts(write, load, reply, ask, calls):
    model = load(write())
    seen = calls(model)
    answer = ask.read(one(model, reply, ask.tensors(x=np.ones((19, 3), np.float32))))
    assert np.shape(answer["y"]) == (19, 3)
    assert seen == [(8, 3), (8, 3), (3, 3)]


def test_the_names_of_a_body_are_read_by_the_form(write, load, reply, ask):
    request = ask.body({"x": [[1, 2, 3]]})
    assert request.form is Form.BODY
    with pytest.raises(InvalidInput):
        ask.read(one(load(write()), reply, ask.body({"q": [[1, 2, 3]]})))

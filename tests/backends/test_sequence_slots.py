"""Sequences that have a row of the batch, or a state, of their own: what the model is called with, and what is kept."""

import numpy as np
import pytest
from model_kit import model_spec
from onnx import TensorProto as Kind
from onnx_kit import node, write_model

from mooring.backends.backend import create_backend
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, ModelLoadFailed, Unsupported
from mooring.core.options import Control, ControlKind, ImplicitState, SequenceOptions
from mooring.core.requests import Operation, Step
from mooring.core.service import LoadContext
from mooring.core.tensors import TensorSpec

START = Control("START", ControlKind.START, "INT32")
END = Control("END", ControlKind.END, "INT32")
READY = Control("READY", ControlKind.READY, "FP32", (-1.0, 1.0))
CORRID = Control("CORRID", ControlKind.ID, "UINT64")
NAME = Control("NAME", ControlKind.ID, "BYTES")
X = TensorSpec("x", "FP32", [-1, 1])
SUM = ImplicitState("before", "after", "FP32", (-1,), (1,))


def opened(kind, file, *, rows=4, batched=True, inputs=(X,), outputs=(), **sequence):
    spec = model_spec(
        name="m", version="1", backend=kind, location=str(file), max_batch_size=max(rows, 1), batch_dimension=batched,
        inputs=list(inputs), outputs=list(outputs), sequence=SequenceOptions(enabled=True, **sequence), retry=False,
    )  # fmt: skip
    backend = create_backend(kind)
    backend.metadata = backend.load(spec, LoadContext())
    return backend


def step(ask, slot, value, *, name=7, start=False, end=False, **more):
    values = np.atleast_1d(np.asarray(value, np.float32))[None]
    return ask.tensors({"sequence": Step(name, start, end, slot), **more}, x=values)


def answers(ask, backend, reply, *requests):
    """The outputs of each step as plain lists, or its error."""
    outcomes = backend.infer(requests, reply)
    return [
        outcome
        if isinstance(outcome, Exception)
        else {name: np.asarray(array).tolist() for name, array in ask.read(outcome).items()}
        for outcome in outcomes
    ]


@pytest.fixture
def echoing(tmp_path):
    """A function whose outputs tell what it was called with: a row of every slot."""
    (tmp_path / "model.py").write_text(
        "import numpy as np\n"
        "def infer(x, START, END, READY, CORRID, NAME):\n"
        "    rows = np.hstack([x, START, END, READY, CORRID])\n"
        "    return {'rows': np.stack([rows] * len(x)), 'name': NAME, 'y': x}\n"
    )
    return opened("function", tmp_path, direct=True, controls=(START, END, READY, CORRID, NAME))


def test_every_sequence_has_its_row_and_rows_between_say_that_they_are_not_ready(ask, reply, echoing):
    last, first = answers(
        ask, echoing, reply, step(ask, 2, 5.0, name=9, end=True), step(ask, 0, 3.0, name=8, start=True)
    )
    rows = [[3.0, 1.0, 0.0, 1.0, 8.0], [0.0, 0.0, 0.0, -1.0, 0.0], [5.0, 0.0, 1.0, 1.0, 9.0]]
    assert first == {"rows": [rows], "name": [[b"8"]], "y": [[3.0]]}
    assert last == {"rows": [rows], "name": [[b"9"]], "y": [[5.0]]}


def test_a_call_ends_with_the_last_slot_that_has_a_step(ask, reply, echoing):
    (found,) = answers(ask, echoing, reply, step(ask, 1, 5.0))
    assert found["rows"] == [[[0.0, 0.0, 0.0, -1.0, 0.0], [5.0, 0.0, 0.0, 1.0, 7.0]]]


def test_a_text_is_the_id_of_a_model_that_takes_texts(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text("def infer(x, NAME): return {'name': NAME}\n")
    backend = opened("function", tmp_path, direct=True, controls=(NAME,))
    (found,) = answers(ask, backend, reply, step(ask, 1, 5.0, name="a text"))
    assert found == {"name": [[b"a text"]]}


@pytest.mark.parametrize("rows", [0, 1])
def test_without_room_for_two_sequences_there_is_one_row(ask, reply, tmp_path, rows):
    (tmp_path / "model.py").write_text(
        "def infer(x, READY): return {'shapes': [str((x.shape, READY.shape))]}\n"
    )
    inputs = [TensorSpec("x", "FP32", [-1, 1] if rows else [1])]
    backend = opened(
        "function", tmp_path, rows=rows, batched=rows > 0, inputs=inputs, direct=True, controls=(READY,)
    )
    request = ask.tensors({"sequence": Step(7, start=True)}, x=np.zeros((1, 1) if rows else 1, np.float32))
    (found,) = answers(ask, backend, reply, request)
    assert found == {"shapes": [b"((1, 1), (1, 1))" if rows else b"((1,), (1,))"]}


def test_steps_of_different_shapes_are_calls_of_their_own(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text(
        "calls = []\ndef infer(x, READY):\n    calls.append(READY[:, 0].tolist())\n"
        "    return {'calls': [[str(calls)]] * len(x)}\n"
    )
    inputs = [TensorSpec("x", "FP32", [-1, -1])]
    backend = opened("function", tmp_path, inputs=inputs, direct=True, controls=(READY,))
    steps = [step(ask, 0, [1, 2]), step(ask, 1, [1, 2, 3]), step(ask, 2, [4, 5])]
    found = [each["calls"] for each in answers(ask, backend, reply, *steps)]
    assert found == [
        [[b"[[1.0, -1.0, 1.0]]"]],
        [[b"[[1.0, -1.0, 1.0], [-1.0, 1.0]]"]],
        [[b"[[1.0, -1.0, 1.0]]"]],
    ]


def test_a_step_of_several_rows_is_refused_and_the_others_are_not(ask, reply, echoing):
    wide = ask.tensors({"sequence": Step(7, slot=0)}, x=np.zeros((2, 1), np.float32))
    refused, fine = answers(ask, echoing, reply, wide, step(ask, 1, 5.0))
    assert isinstance(refused, InvalidInput)
    assert "must specify batch-size 1 due to requirements of sequence batcher" in refused.message
    assert fine["y"] == [[5.0]]


def test_explanations_are_refused(ask, reply, echoing):
    (refused,) = answers(ask, echoing, reply, step(ask, 1, 5.0, operation=Operation.EXPLAIN))
    assert isinstance(refused, Unsupported)


def test_a_model_whose_batch_has_no_rows_for_sequences_is_refused(tmp_path):
    (tmp_path / "model.py").write_text("async def infer(x): return {'y': x}\n")
    with pytest.raises(ModelLoadFailed, match="choose the strategy oldest"):
        opened("function", tmp_path, direct=True)
    file = write_model(tmp_path / "fixed.onnx", [("x", Kind.FLOAT, [1, 1])], [("y", Kind.FLOAT, [1, 1])])
    with pytest.raises(ModelLoadFailed, match="has no first dimension that is open"):
        opened("onnx", file, inputs=(), direct=True)


@pytest.fixture
def adding(tmp_path):
    """An ONNX file that adds what it is given to its state, unless the sequence starts."""
    file = tmp_path / "sum.onnx"
    return write_model(
        file,
        [("x", Kind.FLOAT, ["N", "k"]), ("before", Kind.FLOAT, ["N", "k"]), ("START", Kind.INT32, ["N", 1])],
        [("y", Kind.FLOAT, ["N", "k"]), ("after", Kind.FLOAT, ["N", "k"])],
        [
            node("Cast", "START", "starts", to=Kind.BOOL),
            node("Add", "x before", "sum"),
            node("Where", "starts x sum", "after"),
            node("Identity", "after", "y"),
        ],
    )


def test_the_state_of_a_step_is_an_input_of_the_next_and_no_clients_to_see(ask, reply, adding):
    backend = opened("onnx", adding, direct=True, controls=(START,), states=(SUM,))
    assert [each.name for each in backend.metadata.inputs] == ["x"]
    assert [each.name for each in backend.metadata.outputs] == ["y"]
    told = [
        answers(ask, backend, reply, step(ask, 0, 1, start=True), step(ask, 1, 10, name=8, start=True)),
        answers(ask, backend, reply, step(ask, 1, 20, name=8)),
        answers(ask, backend, reply, step(ask, 0, 2), step(ask, 1, 30, name=8, end=True)),
        answers(ask, backend, reply, step(ask, 1, 5, name=9, start=True), step(ask, 0, 3)),
    ]
    totals = [[each["y"] for each in call] for call in told]
    assert totals == [[[[1.0]], [[10.0]]], [[[30.0]]], [[[3.0]], [[60.0]]], [[[5.0]], [[6.0]]]]
    assert {name for call in told for each in call for name in each} == {"y"}


def test_a_state_that_is_an_output_as_well_can_be_had(ask, reply, adding):
    outputs = [TensorSpec("y", "FP32", [-1, -1]), TensorSpec("after", "FP32", [-1, -1])]
    backend = opened("onnx", adding, outputs=outputs, controls=(START,), states=(SUM,))
    (found,) = answers(ask, backend, reply, step(ask, 0, 4, start=True))
    assert found == {"y": [[4.0]], "after": [[4.0]]}


def test_a_client_cannot_send_a_state(ask, reply, adding):
    backend = opened("onnx", adding, controls=(START,), states=(SUM,))
    request = step(ask, 0, 1, start=True)
    request.inputs.append(ask.tensors(before=np.zeros((1, 1), np.float32)).inputs[0])
    (refused,) = answers(ask, backend, reply, request)
    assert "unexpected input 'before'" in refused.message


def test_states_of_different_sizes_do_not_share_a_call(ask, reply, tmp_path):
    file = write_model(
        tmp_path / "longer.onnx",
        [("x", Kind.FLOAT, ["N", 1]), ("before", Kind.FLOAT, ["N", "k"])],
        [("y", Kind.FLOAT, ["N", "k1"]), ("after", Kind.FLOAT, ["N", "k1"])],
        [node("Concat", "before x", "after", axis=1), node("Identity", "after", "y")],
    )
    backend = opened(
        "onnx", file, inputs=(), direct=True, states=(ImplicitState("before", "after", "FP32", (-1,), (0,)),)
    )
    answers(ask, backend, reply, step(ask, 0, 1, start=True))
    found = answers(
        ask, backend, reply, step(ask, 0, 2), step(ask, 1, 8, start=True), step(ask, 2, 9, start=True)
    )
    assert [each["y"] for each in found] == [[[1.0, 2.0]], [[8.0]], [[9.0]]]


def test_a_sequence_begins_with_what_a_file_has(ask, reply, adding, tmp_path):
    (tmp_path / "first").write_bytes(np.array([100], np.float32).tobytes())
    never = Control("START", ControlKind.START, "INT32", (0, 0))
    states = (ImplicitState("before", "after", "FP32", (1,), (1,), str(tmp_path / "first")),)
    backend = opened("onnx", adding, controls=(never,), states=states)
    found = [
        answers(ask, backend, reply, step(ask, 0, 1, start=start))[0]["y"] for start in (True, False, True)
    ]
    assert found == [[[101.0]], [[102.0]], [[101.0]]]


def test_a_file_that_is_too_short_for_a_state_is_named(adding, tmp_path):
    (tmp_path / "first").write_bytes(bytes(3))
    states = (ImplicitState("before", "after", "FP32", (1,), (1,), str(tmp_path / "first")),)
    with pytest.raises(
        ModelLoadFailed, match=r"expects 4 bytes, but the data provided from .*first only has 3 bytes"
    ):
        opened("onnx", adding, controls=(START,), states=states)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (ImplicitState("past", "after", "FP32", (1,), (1,)), "declares a state with input 'past'"),
        (ImplicitState("before", "future", "FP32", (1,), (1,)), "declares a state with output 'future'"),
        (ImplicitState("before", "after", "INT32", (1,), (1,)), "as INT32; .* has it as FP32"),
    ],
)
def test_a_state_that_the_file_does_not_have_is_refused(adding, state, match):
    with pytest.raises(ModelLoadFailed, match=match):
        opened("onnx", adding, inputs=(), controls=(START,), states=(state,))


def test_a_function_gets_and_returns_states_of_any_kind(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text(
        "import numpy as np\n"
        "def infer(x, words, total):\n"
        "    words = np.array([[b'%s%d' % (w[0], v)] for w, v in zip(words, x[:, 0])], object)\n"
        "    total += x\n"
        "    if (x < 0).any(): raise ValueError('negative')\n"
        "    return {'y': words, 'z': +total, 'new words': words, 'new total': total}\n"
    )
    states = (
        ImplicitState("words", "new words", "BYTES", (1,), (1,)),
        ImplicitState("total", "new total", "FP64", (1,), (1,)),
    )
    backend = opened("function", tmp_path, controls=(), states=states)
    answers(ask, backend, reply, step(ask, 5, 1, start=True))
    (failed,) = answers(ask, backend, reply, step(ask, 5, -9))
    assert isinstance(failed, ModelFailed)
    answers(ask, backend, reply, step(ask, 5, 2))
    assert answers(ask, backend, reply, step(ask, 5, 3, end=True)) == [{"y": [[b"123"]], "z": [[6.0]]}]


def test_a_function_that_returns_no_state_is_told_so(ask, reply, tmp_path):
    (tmp_path / "model.py").write_text("def infer(x, before): return {'y': x}\n")
    backend = opened("function", tmp_path, states=(SUM,))
    (failed,) = answers(ask, backend, reply, step(ask, 0, 1, start=True))
    assert isinstance(failed, InvalidOutput)
    assert (
        failed.message
        == "output 'after' is missing, which the configuration declares as the state of a sequence"
    )


def test_a_function_without_an_argument_for_a_state_is_refused(tmp_path):
    (tmp_path / "model.py").write_text("def infer(x): return {'y': x}\n")
    with pytest.raises(ModelLoadFailed, match="the function has no argument 'before' for the state"):
        opened("function", tmp_path, states=(SUM,))

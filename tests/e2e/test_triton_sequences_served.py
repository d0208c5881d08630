"""Sequences as Triton's own example clients ask for them, of the models of its quick start: direct, oldest, and implicit state."""

import os
import queue
import signal
import threading
from contextlib import closing

import numpy as np
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from e2e_kit import PATIENCE, Server, free_ports, until
from onnx import TensorProto as Kind
from onnx_kit import node, write_model
from tritonclient.utils import InferenceServerException

# The quick start's clients: they send these to one sequence, and their negatives to another.
VALUES = [11, 7, 5, 3, 2, 0, 1]
FLAG = "control [ {{ kind: CONTROL_SEQUENCE_{} {}_false_true: [ 0, 1 ] }} ]"


def control(name, kind, datatype="int32"):
    return f'{{ name: "{name}" {FLAG.format(kind, datatype)} }}'


def tensors(datatype, dims="1"):
    return (
        f'input [ {{ name: "INPUT" data_type: TYPE_{datatype} dims: [ {dims} ] }} ]\n'
        f'output [ {{ name: "OUTPUT" data_type: TYPE_{datatype} dims: [ {dims} ] }} ]\n'
    )


START, END, READY = control("START", "START"), control("END", "END"), control("READY", "READY")
CORRID = '{ name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }'
STATE = """
state [ {
  input_name: "INPUT_STATE" output_name: "OUTPUT_STATE" data_type: TYPE_INT32 dims: [ 1 ]
  initial_state: { data_type: TYPE_INT32 dims: [ 1 ] name: "first" data_file: "hundred" }
} ]
"""
# Rows are summed by their place in the batch, as a model does that keeps its state for each slot.
SLOTS = """
import time
import numpy as np

class Model:
    def load(self, context):
        self.sums = np.zeros(2, np.int32)
        self.first = 0

    def infer(self, INPUT, START, READY):
        rows = len(INPUT)
        self.first = self.first or rows
        time.sleep(0.002)
        started = START[:, 0] == 1
        self.sums[:rows] = np.where(started, 0, self.sums[:rows]) + np.where(READY[:, 0] == 1, INPUT[:, 0], 0)
        return {"OUTPUT": self.sums[:rows, None], "FIRST": np.full((rows, 1), self.first, np.int32)}
"""
# The same as Triton's own Python backend has it: a request for every slot, and answers to those that are not ready.
REQUESTS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.sums = [0, 0]

    def execute(self, requests):
        responses = []
        for slot, request in enumerate(requests):
            given, start, ready = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0, 0] for name in ("INPUT", "START", "READY")
            )
            assert bool(ready) == (request.correlation_id() != 0)
            assert bool(start) == bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
            if ready:
                self.sums[slot] = given + (0 if start else self.sums[slot])
            output = np.array([[self.sums[slot]]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)]))
        return responses
"""
STATES = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            given, before = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT", "INPUT_STATE")
            )
            before += given
            outputs = [pb_utils.Tensor(name, before) for name in ("OUTPUT", "OUTPUT_STATE")]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""
# A request is called again, until all its responses are given.
ITERATIVE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            name = request.correlation_id()
            if request.flags() == pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.left[name] = int(pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[0, 0])
            self.left[name] -= 1
            final = not self.left[name]
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
            if not final:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            output = pb_utils.Tensor("OUTPUT", np.array([[self.left[name]]], np.int32))
            request.get_response_sender().send(pb_utils.InferenceResponse([output]), flags)
"""
CONFIGS = {
    "iterative": f"""
        backend: "python" max_batch_size: 4 {tensors("INT32")}
        model_transaction_policy {{ decoupled: true }}
        sequence_batching {{ iterative_sequence: true }}
    """,
    "requests": f"""
        backend: "python" max_batch_size: 2 {tensors("INT32")}
        sequence_batching {{ max_sequence_idle_microseconds: 5000000 control_input [ {START}, {READY} ] }}
    """,
    "states": f"""
        backend: "python" max_batch_size: 2 {tensors("INT32")}
        sequence_batching {{
          max_sequence_idle_microseconds: 5000000 oldest {{ max_candidate_sequences: 2 }} {STATE}
        }}
    """,
    "simple_sequence": f"""
        platform: "onnxruntime_onnx" max_batch_size: 8 {tensors("INT32")}
        sequence_batching {{ max_sequence_idle_microseconds: 5000000 control_input [ {START}, {READY} ] }}
    """,
    "simple_dyna_sequence": f"""
        platform: "onnxruntime_onnx" max_batch_size: 8 {tensors("INT32")}
        sequence_batching {{
          max_sequence_idle_microseconds: 5000000
          oldest {{ max_candidate_sequences: 2 max_queue_delay_microseconds: 1000 preferred_batch_size: [ 2 ] }}
          control_input [ {START}, {END}, {READY}, {CORRID} ]
        }}
    """,
    "kept": f"""
        platform: "onnxruntime_onnx" max_batch_size: 4 {tensors("INT32")}
        instance_group [ {{ count: 2 }} ]
        sequence_batching {{ max_sequence_idle_microseconds: 60000000 {STATE} }}
    """,
    "slots": f"""
        backend: "python" max_batch_size: 2
        input [ {{ name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }} ]
        sequence_batching {{ max_sequence_idle_microseconds: 400000 control_input [ {START}, {READY} ] }}
        model_warmup [ {{
          name: "full" batch_size: 2
          inputs {{ key: "INPUT" value {{ data_type: TYPE_INT32 dims: [ 1 ] random_data: true }} }}
        }} ]
    """,
    "unbatched": f"""
        platform: "onnxruntime_onnx" max_batch_size: 0 {tensors("INT32")}
        sequence_batching {{ direct {{ }} control_input [ {START}, {READY} ] }}
    """,
}


def sequence_file(file, shape, nodes, controls, state=()):
    own = [("INPUT", Kind.INT32, shape)]
    filled = [(name, Kind.UINT64 if name == "CORRID" else Kind.INT32, shape) for name in controls]
    before = [("INPUT_STATE", Kind.INT32, shape)] * bool(state)
    after = [("OUTPUT_STATE", Kind.INT32, shape)] * bool(state)
    write_model(file, own + filled + before, [("OUTPUT", Kind.INT32, shape), *after], nodes)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("triton") / "models"
    for name, config in CONFIGS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    begun = [node("Add", "INPUT START", "sum"), node("Mul", "sum READY", "OUTPUT")]
    sequence_file(folder / "simple_sequence/1/model.onnx", ["N", 1], begun, ["START", "READY"])
    sequence_file(folder / "unbatched/1/model.onnx", [1], begun, ["START", "READY"])
    named = [
        node("Cast", "CORRID", "id", to=Kind.INT32),
        node("Mul", "id END", "last"),
        node("Add", "INPUT START", "begun"),
        node("Add", "begun last", "sum"),
        node("Mul", "sum READY", "OUTPUT"),
    ]
    sequence_file(
        folder / "simple_dyna_sequence/1/model.onnx", ["N", 1], named, ["START", "END", "READY", "CORRID"]
    )
    added = [node("Add", "INPUT INPUT_STATE", "OUTPUT_STATE"), node("Identity", "OUTPUT_STATE", "OUTPUT")]
    sequence_file(folder / "kept/1/model.onnx", ["N", 1], added, [], state=True)
    for name in ("kept", "states"):
        (folder / f"{name}/initial_state").mkdir()
        (folder / f"{name}/initial_state/hundred").write_bytes(np.array([100], np.int32).tobytes())
    for name, source in (
        ("slots", SLOTS),
        ("requests", REQUESTS),
        ("states", STATES),
        ("iterative", ITERATIVE),
    ):
        (folder / f"{name}/1/model.py").write_text(source)
    return folder


class Served(Server):
    def __init__(self, folder, *arguments):
        (self.rpc,) = free_ports(1)
        super().__init__(folder, *arguments, f"--grpc-address=127.0.0.1:{self.rpc}")


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    server = Served(tmp_path_factory.mktemp("server"), "--model-repository", repository)
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


def tensor(value, kind=tritonclient.grpc, shape=(1, 1)):
    found = kind.InferInput("INPUT", list(shape), "INT32")
    found.set_data_from_numpy(np.full(shape, value, np.int32))
    return found


class Stream:
    """Steps over one stream of gRPC, as the quick start's streaming client sends them."""

    def __init__(self, server):
        self.client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}")
        self._came = queue.Queue()

    def __enter__(self):
        self.client.start_stream(lambda result, error: self._came.put((result, error)))
        return self

    def __exit__(self, *_):
        self.client.stop_stream()
        self.client.close()

    def send(self, model, name, value, *, shape=(1, 1), **said):
        marks = {f"sequence_{key}": each for key, each in said.items()}
        self.client.async_stream_infer(
            model, [tensor(value, shape=shape)], request_id=str(name), sequence_id=name, **marks
        )

    def read(self, count):
        """The outputs by sequence, and an error as its text."""
        answers = {}
        for _ in range(count):
            result, error = self._came.get(timeout=PATIENCE)
            if error is not None:
                answers.setdefault("errors", []).append(error.message())
            else:
                name = result.get_response().id
                answers.setdefault(name, []).append(result.as_numpy("OUTPUT").item())
        return answers


def send_all(stream, model, names, values):
    """All steps of all sequences at once, each value once in every sequence."""
    for place, value in enumerate(values):
        for name in names:
            stream.send(model, name, value, start=place == 0, end=place == len(values) - 1)


@pytest.mark.parametrize(("model", "dyna"), [("simple_sequence", 0), ("simple_dyna_sequence", 1)])
def test_the_quick_starts_sequences_over_a_stream(server, model, dyna):
    with Stream(server) as stream:
        send_all(stream, model, [1007, 1008], VALUES)
        found = stream.read(2 * len(VALUES))
    for name in (1007, 1008):
        expected = list(VALUES)
        expected[0] += 1
        expected[-1] += dyna * name
        assert found[str(name)] == expected


@pytest.mark.parametrize(("model", "dyna"), [("simple_sequence", 0), ("simple_dyna_sequence", 1)])
@pytest.mark.parametrize("kind", [tritonclient.grpc, tritonclient.http])
def test_the_quick_starts_sequences_request_by_request(server, kind, model, dyna):
    port = server.rpc if kind is tritonclient.grpc else server.port
    with closing(kind.InferenceServerClient(f"127.0.0.1:{port}")) as client:
        for name in (1000, "text" if not dyna else 1001):
            found = [
                client.infer(
                    model, [tensor(value, kind)], sequence_id=name, sequence_start=place == 0,
                    sequence_end=place == len(VALUES) - 1,
                ).as_numpy("OUTPUT").item()
                for place, value in enumerate(VALUES)
            ]  # fmt: skip
            expected = [VALUES[0] + 1, *VALUES[1:-1], VALUES[-1] + (name if dyna else 0)]
            assert found == expected


@pytest.mark.parametrize("model", ["slots", "requests"])
def test_a_sequence_has_one_row_of_the_batch_from_its_first_step_to_its_last(server, model):
    with Stream(server) as stream:
        for name, value in ((1, 1), (2, 10)):
            stream.send(model, name, value, start=True)
        for place in range(20):
            for name, value in ((1, 1), (2, 10)):
                if name == 1 or place % 3:
                    stream.send(model, name, value, end=place == 19)
        ones, tens = 21, 1 + sum(bool(place % 3) for place in range(20))
        found = stream.read(ones + tens)
    assert found == {"1": list(range(1, ones + 1)), "2": [10 * count for count in range(1, tens + 1)]}


@pytest.mark.parametrize("model", ["slots", "requests"])
def test_a_step_has_its_row_where_no_other_sequence_has_one(server, model):
    with Stream(server) as stream:
        told = []
        for name, value, mark in (
            (1, 1, "start"),
            (2, 10, "start"),
            (2, 20, ""),
            (1, 2, "end"),
            (2, 30, "end"),
        ):
            stream.send(model, name, value, **{mark: True for mark in [mark] if mark})
            told += stream.read(1)[str(name)]
    assert told == [1, 10, 30, 3, 60]


def test_a_warm_up_of_a_batch_is_a_step_in_every_slot(server):
    with closing(tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")) as client:
        found = client.infer(
            "slots", [tensor(5, tritonclient.http)], sequence_id=1, sequence_start=True, sequence_end=True
        )
    assert (found.as_numpy("OUTPUT").item(), found.as_numpy("FIRST").item()) == (5, 2)


def test_more_sequences_than_slots_wait_for_one(server):
    names = list(range(1, 41))
    with Stream(server) as stream:
        send_all(stream, "slots", names, [1, 1, 1])
        found = stream.read(3 * len(names))
    assert found == {str(name): [1, 2, 3] for name in names}


def test_a_sequence_that_nobody_goes_on_with_leaves_its_slot_to_those_who_wait(server):
    with Stream(server) as stream:
        for name in (1, 2):
            stream.send("slots", name, 1, start=True)
        assert stream.read(2) == {"1": [1], "2": [1]}
        stream.send("slots", 3, 5, start=True, end=True)
        assert stream.read(1) == {"3": [5]}
        stream.send("slots", 1, 1)
        (error,) = stream.read(1)["errors"]
        assert "sequence 1 to model 'slots' must specify the START flag on the first request" in error


@pytest.mark.parametrize(
    ("model", "shape"), [("slots", (1, 2)), ("simple_sequence", (1, 2)), ("simple_dyna_sequence", (1, 2))]
)
def test_a_first_step_of_the_wrong_shape_leaves_no_sequence_open(server, model, shape):
    with Stream(server) as stream:
        stream.send(model, 77, 1, shape=shape, start=True)
        stream.send(model, 77, 1)
        refused, unstarted = stream.read(2)["errors"]
        assert "shape" in refused
        assert "must specify the START flag on the first request of the sequence" in unstarted
        for name in (1, 2):
            stream.send(model, name, 1, start=True, end=True)
        assert len(stream.read(2)) == 2


@pytest.mark.parametrize(
    ("marks", "shape", "text"),
    [
        (
            {"sequence_id": 0},
            (1, 1),
            "inference request to model 'simple_sequence' must specify a non-zero or non-empty correlation ID",
        ),
        (
            {"sequence_id": 5},
            (1, 1),
            "inference request for sequence 5 to model 'simple_sequence' must specify the START flag on the first request of the sequence",
        ),
        (
            {"sequence_id": 5, "sequence_start": True},
            (2, 1),
            "inference request to model 'simple_sequence' must specify batch-size 1 due to requirements of sequence batcher",
        ),
    ],
)
def test_the_words_of_tritons_refusals(server, marks, shape, text):
    for kind, port in ((tritonclient.grpc, server.rpc), (tritonclient.http, server.port)):
        with closing(kind.InferenceServerClient(f"127.0.0.1:{port}")) as client:
            with pytest.raises(InferenceServerException) as refused:
                client.infer("simple_sequence", [tensor(1, kind, shape)], **marks)
            assert refused.value.message() == text


@pytest.mark.parametrize("model", ["kept", "states"])
def test_the_server_keeps_the_state_of_each_sequence_in_its_worker(server, model):
    names = list(range(1, 25))  # more than there are slots
    with Stream(server) as stream:
        send_all(stream, model, names, [1, 2, 3, 4])
        found = stream.read(4 * len(names))
    assert found == {str(name): [101, 103, 106, 110] for name in names}


def test_no_client_sees_a_state(server):
    with closing(tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")) as client:
        described = client.get_model_metadata("kept")
        assert [each["name"] for each in described["inputs"] + described["outputs"]] == ["INPUT", "OUTPUT"]
        asked = [tritonclient.http.InferRequestedOutput("OUTPUT_STATE")]
        with pytest.raises(InferenceServerException, match="unexpected inference output 'OUTPUT_STATE'"):
            client.infer(
                "kept", [tensor(1, tritonclient.http)], outputs=asked, sequence_id=1, sequence_start=True,
                sequence_end=True,
            )  # fmt: skip


def test_a_worker_that_dies_takes_the_states_of_its_sequences_and_of_no_others(server):
    until(lambda: len(server.workers("kept")) == 2)
    with Stream(server) as stream:
        for name in (1, 2):  # one in each worker
            stream.send("kept", name, 1, start=True)
        stream.read(2)
        victim = server.workers("kept")[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(server.workers("kept")) == 2 and victim not in server.workers("kept"))
        for name in (1, 2):
            stream.send("kept", name, 1, end=True)
        found = stream.read(2)
    (error,) = found.pop("errors")
    assert "start the sequence anew" in error
    assert list(found.values()) == [[102]]


def test_without_a_batch_dimension_one_sequence_runs_at_a_time(server):
    with Stream(server) as stream:
        for place, value in enumerate(VALUES):
            for name in (1, 2, 3):
                stream.send(
                    "unbatched", name, value, shape=(1,), start=place == 0, end=place == len(VALUES) - 1
                )
        found = stream.read(3 * len(VALUES))
    assert found == {str(name): [VALUES[0] + 1, *VALUES[1:]] for name in (1, 2, 3)}


def test_many_clients_at_once_lose_no_step(server):
    told = {}

    def client(number):
        with closing(tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")) as http:
            told[number] = [
                http.infer(
                    "slots", [tensor(1, tritonclient.http)], sequence_id=number, sequence_start=place == 0,
                    sequence_end=place == 4,
                ).as_numpy("OUTPUT").item()
                for place in range(5)
            ]  # fmt: skip

    threads = [threading.Thread(target=client, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {number: [1, 2, 3, 4, 5] for number in range(1, 13)}


def test_a_request_may_be_a_sequence_by_itself_that_is_called_again(server):
    with Stream(server) as stream:
        for name, count in ((1, 5), (2, 3)):
            stream.client.async_stream_infer("iterative", [tensor(count)], request_id=str(name))
        found = stream.read(8)
    assert found == {"1": [4, 3, 2, 1, 0], "2": [2, 1, 0]}


def test_the_configuration_is_shown_whole(server):
    shown = requests.get(f"{server.url}/v2/models/kept/config", timeout=PATIENCE).json()["sequence_batching"]
    (state,) = shown["state"]
    assert (state["input_name"], state["output_name"]) == ("INPUT_STATE", "OUTPUT_STATE")
    assert state["initial_state"][0]["data_file"] == "hundred"
    with closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}")) as client:
        found = {name: client.get_model_config(name).config.sequence_batching for name in CONFIGS}
    dyna = found["simple_dyna_sequence"]
    assert (dyna.max_sequence_idle_microseconds, dyna.oldest.preferred_batch_size) == (5_000_000, [2])
    # What is left out is shown as Triton completes it.
    assert found["states"].oldest.preferred_batch_size == [2]
    assert found["unbatched"].max_sequence_idle_microseconds == 1_000_000
    assert found["iterative"].iterative_sequence

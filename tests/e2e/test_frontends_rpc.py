"""gRPC in frontend processes: calls that only the first process can answer, streams, and processes that die."""

import queue
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_kit import PATIENCE, Server, assert_gone, free_ports, frontends, until
from tritonclient.utils import InferenceServerException, shared_memory

from mooring.codecs.proto import health_pb2
from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.proto import torchserve_management_pb2 as management

MODEL = """
import time
import numpy as np

def double(x: np.ndarray):
    return {"y": x * 2}

def slow(x: np.ndarray):
    time.sleep(float(x[0]))
    return {"y": x}
"""
STEPS = """
TOTALS = {}

def infer(x, sequence_id, sequence_start, sequence_end):
    (name,) = sequence_id
    total = TOTALS[name] = x + (0 if sequence_start[0] else TOTALS[name])
    return {"y": total}
"""
WORDS = """
def infer(inputs, parameters):
    for count in range(int(inputs["x"][0])):
        yield {"y": [float(count)]}
"""
TENSORS = "".join(
    f'[[{kind}]]\nname = "{name}"\ndatatype = "FP32"\nshape = [-1]\n'
    for kind, name in (("inputs", "x"), ("outputs", "y"))
)


class OnlyFrontends(Server):
    """A server whose first process leaves all connections to frontend processes."""

    PROGRAM = (sys.executable, Path(__file__).parent / "only_frontends.py")


class Started:
    """A server, and the address of its gRPC."""

    def __init__(self, program, folder, *flags):
        (folder / "model.py").write_text(MODEL)
        for name, source, text in (("steps", STEPS, "[sequences]\n" + TENSORS), ("words", WORDS, TENSORS)):
            (folder / "repository" / name / "1").mkdir(parents=True)
            (folder / "repository" / name / "config.toml").write_text(text)
            (folder / "repository" / name / "1" / "model.py").write_text(source)
        self.target = f"127.0.0.1:{free_ports(1)[0]}"
        self.server = program(
            folder, "model.py:double", "model.py:slow", f"--model-repository={folder / 'repository'}",
            "--frontends=3", "--deal-connections=evenly", f"--grpc-address={self.target}",
            f"--grpc-management-address={self.target}", *flags,
        )  # fmt: skip

    @contextmanager
    def client(self):
        """A client of Triton's, on a connection of its own."""
        with triton.InferenceServerClient(
            self.target, channel_args=[("grpc.use_local_subchannel_pool", 1)]
        ) as client:
            yield client

    def call(self, path, message, kind):
        """One unary call, on a connection of its own."""
        with grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            method = channel.unary_unary(
                path,
                request_serializer=type(message).SerializeToString,
                response_deserializer=kind.FromString,
            )
            return method(message, timeout=PATIENCE)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    started = Started(OnlyFrontends, tmp_path_factory.mktemp("server"))
    try:
        started.server.started()
        yield started
        assert started.server.stop() == 0
        assert not started.server.faults(), started.server.log[-5000:]
    finally:
        started.server.kill()


def tensor(values):
    values = np.asarray(values, np.float32)
    return triton.InferInput("x", values.shape, "FP32").set_data_from_numpy(values)


@pytest.fixture
def region():
    """A region of shared memory with three numbers."""
    handle = shared_memory.create_shared_memory_region("given", "/mooring-frontends-rpc", 12)
    shared_memory.set_shared_memory_region(handle, [np.float32([1, 2, 3])])
    yield handle
    shared_memory.destroy_shared_memory_region(handle)


@pytest.fixture
def registered(served, region):
    with served.client() as client:
        client.register_system_shared_memory("given", "/mooring-frontends-rpc", 12)
        yield region
        client.unregister_system_shared_memory("given")


def from_region():
    given = triton.InferInput("x", [3], "FP32")
    given.set_shared_memory("given", 12)
    return given


def to_region():
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("given", 12)
    return wanted


def test_a_region_that_one_process_registered_is_read_and_written_over_all(served, registered):
    for _ in range(8):
        with served.client() as client:
            assert [each.name for each in client.get_system_shared_memory_status().regions.values()] == [
                "given"
            ]
            assert client.infer("double", [from_region()]).as_numpy("y").tolist() == [2, 4, 6]
            client.infer("double", [tensor([3, 4, 5])], outputs=[to_region()])
            assert shared_memory.get_contents_as_numpy(registered, np.float32, [3]).tolist() == [6, 8, 10]
            shared_memory.set_shared_memory_region(registered, [np.float32([1, 2, 3])])


def test_a_large_message_that_names_a_region_is_forwarded_whole(served, registered):
    values = np.arange(300_000, dtype=np.float32)
    with served.client() as client:
        answer = client.infer("double", [tensor(values)], outputs=[triton.InferRequestedOutput("y")])
        np.testing.assert_array_equal(answer.as_numpy("y"), values * 2)
        with pytest.raises(InferenceServerException, match="its place in shared memory has 12"):
            client.infer("double", [tensor(values)], outputs=[to_region()])  # it is too small


def test_a_region_that_is_not_there_is_refused_as_ever(served):
    with served.client() as client, pytest.raises(InferenceServerException, match="given"):
        client.infer("double", [from_region()])


def test_messages_of_a_stream_are_answered_where_they_can_be(served, registered):
    answers = queue.Queue()
    with served.client() as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for turn in range(6):
            client.async_stream_infer(
                "double", [from_region() if turn % 2 else tensor([turn])], request_id=str(turn)
            )
        client.async_stream_infer("nobody", [from_region()], request_id="nobody")
        client.async_stream_infer("words", [tensor([3])], request_id="words")
        got = [answers.get(timeout=PATIENCE) for _ in range(10)]
        client.stop_stream()
    found = {}
    for result, error in got:
        if error is None:
            found.setdefault(result.get_response().id, []).append(result.as_numpy("y").tolist())
    assert found == {
        **{str(turn): [[2, 4, 6] if turn % 2 else [2 * turn]] for turn in range(6)},
        "words": [[0], [1], [2]],
    }
    assert ["nobody" in str(error) for _, error in got if error is not None] == [True]


def test_a_sequence_may_go_over_any_process(served):
    for name in range(1, 7):
        total = 0
        for step in range(5):
            total += step
            with served.client() as client:
                asked = {"sequence_id": name, "sequence_start": step == 0, "sequence_end": step == 4}
                assert client.infer("steps", [tensor([step])], **asked).as_numpy("y").tolist() == [total]


def test_what_is_loaded_and_unloaded_over_one_connection_is_so_for_all_at_once(served):
    for _ in range(3):
        with served.client() as one, served.client() as another:
            one.unload_model("words")
            assert not another.is_model_ready("words")
            with pytest.raises(InferenceServerException):
                another.infer("words", [tensor([1])])
            one.load_model("words")
            assert another.is_model_ready("words")
            assert another.infer("words", [tensor([1])]).as_numpy("y").tolist() == [0]


def test_settings_statistics_and_management_are_the_first_process_s(served):
    for level in (1, 0, 1):
        with served.client() as client:
            client.update_log_settings({"log_verbose_level": level})
        with served.client() as client:
            assert client.get_log_settings().settings["log_verbose_level"].uint32_param == level
            assert client.get_inference_statistics("double").model_stats[0].name == "double"
            assert client.get_model_config("steps").config.name == "steps"
    asked = management.ListModelsRequest(limit=50)
    path = "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"
    assert '"steps"' in served.call(path, asked, management.ManagementResponse).msg


def test_a_call_whose_deadline_is_over_ends_then(served):
    with served.client() as client:
        began = time.monotonic()
        with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
            client.infer("slow", [tensor([2])], client_timeout=0.3)
        assert time.monotonic() - began < 2
        assert client.infer("slow", [tensor([0])]).as_numpy("y").tolist() == [0]


def test_health_is_told_and_watched_over_every_connection(served):
    for _ in range(4):
        with grpc.insecure_channel(served.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
    unknown = health_pb2.HealthCheckRequest(service="nobody.Knows")
    with pytest.raises(grpc.RpcError) as refused:
        served.call("/grpc.health.v1.Health/Check", unknown, health_pb2.HealthCheckResponse)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_frontend_that_is_killed_takes_only_its_own_calls_with_it(tmp_path):
    started = Started(Server, tmp_path)
    stop, gone, answered, lost = threading.Event(), threading.Event(), Counter(), Counter()

    def ask(number):
        channel = grpc.insecure_channel(started.target, [("grpc.use_local_subchannel_pool", 1)])
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        asked = pb.ModelInferRequest(model_name="double")
        asked.inputs.add(name="x", datatype="FP32", shape=[1]).contents.fp32_contents.append(number)
        while not stop.is_set():
            try:
                answer = infer(asked, timeout=PATIENCE, wait_for_ready=True)
            except grpc.RpcError as error:
                lost[number, error.code()] += 1
                # Until then the kernel may connect it once more to the socket that the process listened on.
                gone.wait(PATIENCE)
            else:
                assert list(answer.raw_output_contents) == [struct.pack("<f", 2 * number)]
                answered[number] += 1
        channel.close()

    try:
        started.server.started()
        clients = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for client in clients:
            client.start()
        until(lambda: len(answered) == 12 and min(answered.values()) > 10)
        listening = started.server.log.count("frontend listening")
        victim = frontends(started.server)[0]
        victim.kill()
        assert_gone([victim])
        gone.set()
        until(lambda: started.server.log.count("frontend listening") > listening)
        before = answered.copy()
        until(lambda: all(answered[number] > before[number] + 10 for number in range(12)))
        stop.set()
        for client in clients:
            client.join(PATIENCE)
            assert not client.is_alive()
        # A connection has one call at a time, and a client loses no more than that; or it connects once more while the
        # kernel is about to close the socket that the process listened on.
        assert {code for _, code in lost} <= {grpc.StatusCode.UNAVAILABLE}
        assert all(count <= 2 for count in lost.values())
        assert len(lost) < 12
        assert started.server.stop() == 0
        assert not started.server.faults(), started.server.log[-5000:]
    finally:
        stop.set()
        started.server.kill()

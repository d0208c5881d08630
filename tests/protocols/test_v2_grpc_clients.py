"""Real clients of Triton, with their defaults, over gRPC against a real engine with real workers."""

import asyncio
import queue
import threading
import time
import uuid
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from model_kit import model_spec
from tritonclient.utils import InferenceServerException

from mooring.core.tensors import TensorSpec
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.metrics import Metrics
from mooring.protocols.grpc_health import Health
from mooring.protocols.grpc_server import GrpcServer
from mooring.protocols.kserve.grpc_administration import GrpcSharedMemory
from mooring.protocols.kserve.grpc_infer import Inference
from mooring.protocols.kserve.shared_memory import SharedMemory
from mooring.protocols.kserve.v2_grpc import NAME, KServeV2Grpc

pytestmark = pytest.mark.processes

MODELS = """
import time
import numpy as np

def same(inputs):
    return dict(inputs)

def half(inputs):
    return {"y": inputs["x"] / 2}

def failing(inputs):
    raise ValueError("no \\u2014 never")

def counting(inputs):
    for number in range(int(inputs["x"][0])):
        yield {"n": np.array([number], np.int64)}

def slow(inputs):
    time.sleep(float(inputs["x"][0]))
    return dict(inputs)
"""
BF16 = TensorSpec("x", "BF16", [-1]), TensorSpec("y", "BF16", [-1])


class Running:
    """A server on a thread and a loop of its own, as it is for a client."""

    def __init__(self, folder):
        (folder / "model.py").write_text(MODELS)
        self._folder = folder
        self._ready, self._end = threading.Event(), None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(30)

    @property
    def address(self):
        return f"127.0.0.1:{self.server.port}"

    async def _run(self):
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self.arena = Arena(64 << 20)
        self.engine = Engine(self.arena, Metrics())
        await asyncio.gather(*(self.load(name) for name in ("same", "half", "failing", "counting", "slow")))
        memory = SharedMemory(self.arena)
        v2 = KServeV2Grpc(Inference(self.engine, self.arena, memory=memory), version="1")
        services = [
            *v2.services(GrpcSharedMemory(memory).methods()),
            Health(self.engine.ready, [NAME]).service(),
        ]
        self.server = GrpcServer(services)
        await self.server.start("127.0.0.1", 0)
        self._ready.set()
        await self._end.wait()
        await self.server.close()
        memory.unregister()
        await self.engine.close()

    async def load(self, entry, name=""):
        how = {"inputs": [BF16[0]], "outputs": [BF16[1]]} if entry == "half" else {}
        if entry == "slow":
            how["queue_size"] = 1
        await self.engine.deploy_version(
            model_spec(
                name=name or entry, version="1", backend="function", location=str(self._folder), entry=f"model.py:{entry}",
                max_response_bytes=1 << 30, **how,
            )
        )  # fmt: skip

    def close(self):
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    running = Running(tmp_path_factory.mktemp("models"))
    yield running
    running.close()


@pytest.fixture
def client(running):
    with triton.InferenceServerClient(running.address) as client:
        yield client


def sent(array, datatype, name="x"):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("BOOL", np.array([[True, False]])),
        ("INT8", np.array([-128, 127], np.int8)),
        ("INT16", np.array([-(2**15), 2**15 - 1], np.int16)),
        ("INT32", np.array([-(2**31), 2**31 - 1], np.int32)),
        ("INT64", np.array([-(2**63), 2**63 - 1], np.int64)),
        ("UINT8", np.array([0, 255], np.uint8)),
        ("UINT16", np.array([0, 2**16 - 1], np.uint16)),
        ("UINT32", np.array([0, 2**32 - 1], np.uint32)),
        ("UINT64", np.array([0, 2**64 - 1], np.uint64)),
        ("FP16", np.array([0.5, np.inf, -1.5], np.float16)),
        ("FP32", np.array([[0.1], [np.nan]], np.float32)),
        ("FP64", np.array([0.1, 1e300], np.float64)),
        ("BYTES", np.array([b"", b"\x00\xff", "ü".encode()], np.object_)),
    ],
)
def test_every_datatype_goes_and_comes_back(client, datatype, array):
    result = client.infer("same", [sent(array, datatype)], request_id="r")
    np.testing.assert_array_equal(result.as_numpy("x"), array)
    assert result.get_response().id == "r"
    assert result.get_response().model_version == "1"


def test_bfloat16_goes_and_comes_back(client):
    array = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    result = client.infer("half", [sent(array, "BF16")])
    (raw,) = result.get_response().raw_output_contents
    np.testing.assert_array_equal(np.frombuffer(raw, ml_dtypes.bfloat16).astype(np.float32), [0.75, -1.0])


def test_a_large_tensor_goes_and_comes_back_and_leaves_nothing_behind(running, client):
    array = np.arange(5_000_000, dtype=np.float32).reshape(5, -1)
    np.testing.assert_array_equal(client.infer("same", [sent(array, "FP32")]).as_numpy("x"), array)
    assert running.arena.slots_in_use <= 1  # one is granted for the next answer


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_read(client, algorithm):
    array = np.zeros(10_000, np.float32)
    result = client.infer("same", [sent(array, "FP32")], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("x"), array)


def test_what_the_server_and_the_models_are_is_told(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("same")
    assert not client.is_model_ready("same", "9")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "mooring"
    assert client.get_model_metadata("half").inputs[0].datatype == "BF16"


@pytest.mark.parametrize(
    ("model", "version", "code", "text"),
    [
        ("failing", "", "INTERNAL", "ValueError: no — never"),
        ("nobody", "", "NOT_FOUND", "nobody"),
        ("same", "9", "NOT_FOUND", "'9'"),
        ("counting", "", "UNIMPLEMENTED", "ModelStreamInfer"),
    ],
)
def test_errors_have_their_status_and_text(client, model, version, code, text):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [sent(np.array([3], np.int32), "INT32")], version)
    assert caught.value.status() == f"StatusCode.{code}"
    assert text in caught.value.message()


def test_a_wrong_request_never_reaches_the_model(client):
    with pytest.raises(InferenceServerException, match="takes BF16"):
        client.infer("half", [sent(np.array([1], np.int32), "INT32")])


def test_a_client_time_out_ends_the_wait_and_drops_what_is_queued(client):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("slow", [sent(np.array([0.5], np.float32), "FP32")], client_timeout=0.1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    # It holds the worker, the two cancelled ones held the only place in the queue: a third would not find one.
    for _ in range(2):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("slow", [sent(np.array([0.0], np.float32), "FP32")], client_timeout=0.05)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    client.infer("slow", [sent(np.array([0.0], np.float32), "FP32")], client_timeout=5)


def test_a_full_queue_is_resource_exhausted(client):
    results = queue.Queue()
    for _ in range(4):
        client.async_infer(
            "slow", [sent(np.array([0.2], np.float32), "FP32")], lambda result, error: results.put(error)
        )
    errors = [results.get(timeout=10) for _ in range(4)]
    statuses = [error.status() for error in errors if error is not None]
    assert statuses
    assert set(statuses) == {"StatusCode.RESOURCE_EXHAUSTED"}


def test_tritons_timeout_is_the_queues(running, client):
    busy = queue.Queue()
    client.async_infer(
        "slow", [sent(np.array([0.4], np.float32), "FP32")], lambda result, error: busy.put(error)
    )
    worker = running.engine.registry.find_version("slow").scheduler
    while worker.idle:
        time.sleep(0.005)
    with pytest.raises(InferenceServerException) as caught:
        client.infer("slow", [sent(np.array([0.0], np.float32), "FP32")], timeout=50_000, priority=1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert busy.get(timeout=5) is None


def test_a_stream_gives_every_piece_and_its_end(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(
        "counting", [sent(np.array([3], np.int32), "INT32")], request_id="c", enable_empty_final_response=True
    )
    numbers, last = [], False
    while not last:
        result, error = answers.get(timeout=10)
        assert error is None
        response = result.get_response()
        last = response.parameters["triton_final_response"].bool_param
        numbers += [] if last else result.as_numpy("n").tolist()
        assert response.id == "c"
    assert numbers == [0, 1, 2]
    client.async_stream_infer("nobody", [sent(np.array([3], np.int32), "INT32")])
    _, error = answers.get(timeout=10)
    assert "nobody" in error.message()
    client.async_stream_infer("same", [sent(np.array([3], np.int32), "INT32")])
    result, error = answers.get(timeout=10)
    assert (error, result.as_numpy("x").tolist()) == (None, [3])
    client.stop_stream()


async def test_the_asyncio_client_is_served_too(running):
    async with triton_aio.InferenceServerClient(running.address) as client:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        results = await asyncio.gather(*(client.infer("same", [sent(array, "FP32")]) for _ in range(40)))
        assert all((result.as_numpy("x") == array).all() for result in results)

        async def asking():
            yield {"model_name": "counting", "inputs": [sent(np.array([2], np.int32), "INT32")]}

        found = [result.as_numpy("n").tolist() async for result, _ in client.stream_infer(asking())]
        assert found == [[0], [1]]


def test_only_the_outputs_asked_for_come_back(client):
    inputs = [sent(np.array([1], np.int8), "INT8", name) for name in "ab"]
    result = client.infer("same", inputs, outputs=[triton.InferRequestedOutput("b")])
    assert [output.name for output in result.get_response().outputs] == ["b"]
    with pytest.raises(InferenceServerException, match="'c'") as caught:
        client.infer("same", inputs, outputs=[triton.InferRequestedOutput("c")])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.skipif(not SharedMemory.available(), reason="this system has no /dev/shm")
def test_tensors_in_shared_memory_go_both_ways(client):
    key = f"/mooring-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm", key.removeprefix("/"))
    array = np.arange(4, dtype=np.int32)
    path.write_bytes(array.tobytes() + bytes(16))
    try:
        client.register_system_shared_memory("r", key, 32)
        tensor = triton.InferInput("x", [4], "INT32")
        tensor.set_shared_memory("r", 16)
        output = triton.InferRequestedOutput("x")
        output.set_shared_memory("r", 16, 16)
        result = client.infer("same", [tensor], outputs=[output])
        assert result.get_output("x").shape == [4]
        assert path.read_bytes() == array.tobytes() * 2
        assert client.get_system_shared_memory_status().regions["r"].byte_size == 32
    finally:
        client.unregister_system_shared_memory()
        path.unlink()


def test_workers_start_while_requests_come_over_grpc(running, client):
    array = np.zeros(3, np.float32)
    deploying = asyncio.run_coroutine_threadsafe(running.load("same", "later"), running.loop)
    while not deploying.done():
        client.infer("same", [sent(array, "FP32")])
    deploying.result()
    assert client.infer("later", [sent(array, "FP32")]).as_numpy("x").tolist() == [0, 0, 0]


def test_classes_can_be_asked_for(client):
    array = np.array([[0.25, 0.5, 0.125]], np.float32)
    output = triton.InferRequestedOutput("x", class_count=2)
    result = client.infer("same", [sent(array, "FP32")], outputs=[output])
    assert result.as_numpy("x").ravel().tolist() == [b"0.500000:1", b"0.250000:0"]

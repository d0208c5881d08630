"""Triton's quick start at ``mooring tritonserver``: its repository, asked by programs as its clients' examples are.

Each program is a function that does what one of the published examples does, with the official clients.
"""

import asyncio
import io
import queue
import re
import uuid
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
import tritonclient.utils.shared_memory as shm
from e2e_kit import PATIENCE, Server, free_ports, until
from PIL import Image
from triton_repository import COLORS, write_quick_start
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor, serialized_byte_size

VALUES = [11, 7, 5, 3, 2, 0, 1]


class Protocol(NamedTuple):
    """One of the two protocols: the library's module, its asynchronous one, and the server's address."""

    library: ModuleType
    aio: ModuleType
    url: str

    def client(self, **how):
        return self.library.InferenceServerClient(self.url, **how)


class Served(NamedTuple):
    """The server, by both protocols."""

    http: Protocol
    grpc: Protocol
    metrics: str


def start(folder, repository, *flags):
    """Start ``mooring tritonserver`` on free ports of this machine, and return it when its models are loaded."""
    ports = free_ports(3)
    named = zip(("http", "grpc", "metrics"), ports, strict=True)
    addresses = [f"--{name}-address=127.0.0.1" for name in ("http", "grpc")]
    server = Server(
        folder, f"--model-repository={repository}", *addresses, *(f"--{name}-port={port}" for name, port in named),
        *flags, command="tritonserver", ports=ports,
    )  # fmt: skip
    until(
        lambda: "Started HTTPService" in server.log or server.process.poll() is not None, within=3 * PATIENCE
    )
    return server


def addresses_of(server):
    http, rpc, metrics = server.ports
    return Served(
        Protocol(triton_http, triton_http_aio, f"127.0.0.1:{http}"),
        Protocol(triton_grpc, triton_grpc_aio, f"127.0.0.1:{rpc}"),
        f"http://127.0.0.1:{metrics}/metrics",
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick-start") / "models"
    write_quick_start(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    server = start(
        tmp_path_factory.mktemp("server"), repository, "--model-control-mode=explicit", "--load-model=*"
    )
    try:
        assert server.process.poll() is None, server.log
        assert "ERROR" not in server.log  # of an ensemble that looks for its models before they are there
        yield server
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def served(server):
    return addresses_of(server)


def pair(library, kind="INT32", *, to_wire=lambda array: array, **how):
    """Two inputs of sixteen elements, with the arrays that they hold."""
    arrays = np.arange(16).reshape(1, 16), np.ones((1, 16), int)
    inputs = [library.InferInput(f"INPUT{index}", [1, 16], kind) for index in (0, 1)]
    for tensor, array in zip(inputs, arrays, strict=True):
        tensor.set_data_from_numpy(to_wire(array), **how)
    return inputs, arrays


def wanted(library, **how):
    return [library.InferRequestedOutput(name, **how) for name in ("OUTPUT0", "OUTPUT1")]


def check_pair(result, arrays):
    found = [result.as_numpy(name).astype(int) for name in ("OUTPUT0", "OUTPUT1")]
    np.testing.assert_array_equal(found, [arrays[0] + arrays[1], arrays[0] - arrays[1]])


def int32(array):
    return array.astype(np.int32)


def texts(array):
    return np.array([str(each).encode() for each in array.ravel()], object).reshape(array.shape)


def infer(protocol):
    """simple_*_infer_client: JSON and binary tensors mixed, with outputs named and not, statistics, a wrong name."""
    library = protocol.library
    inputs, arrays = pair(library, to_wire=int32)
    how, outputs = {}, wanted(library)
    if library is triton_http:
        inputs[0].set_data_from_numpy(int32(arrays[0]), binary_data=False)
        outputs = [
            library.InferRequestedOutput("OUTPUT0"),
            library.InferRequestedOutput("OUTPUT1", binary_data=False),
        ]
        how = {"query_params": {"test_1": 1, "test_2": 2}}
    with protocol.client() as client:
        check_pair(client.infer("simple", inputs, outputs=outputs, headers={"test": "1"}, **how), arrays)
        check_pair(client.infer("simple", inputs, outputs=None, **how), arrays)
        found = client.get_inference_statistics(model_name="simple")
        assert len(found["model_stats"] if library is triton_http else found.model_stats) == 1
        with pytest.raises(InferenceServerException) as error:
            client.infer("wrong_model_name", inputs, outputs=outputs)
        assert error.value.message().startswith("Request for unknown model")


def compressed_infer(protocol):
    """simple_*_infer_client with compression of both directions."""
    inputs, arrays = pair(protocol.library, to_wire=int32)
    how = (
        {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
        if protocol.library is triton_http
        else {"compression_algorithm": "gzip"}
    )
    with protocol.client() as client:
        check_pair(client.infer("simple", inputs, **how), arrays)


def async_infer(protocol):
    """simple_*_async_infer_client: several requests at once."""
    inputs, arrays = pair(protocol.library, to_wire=int32)
    if protocol.library is triton_http:
        with protocol.client(concurrency=2) as client:
            waiting = [client.async_infer("simple", inputs) for _ in range(4)]
            for each in waiting:
                check_pair(each.get_result(), arrays)
        return
    heard = queue.Queue()
    with protocol.client() as client:
        for _ in range(4):
            client.async_infer("simple", inputs, lambda result, error: heard.put((result, error)))
        for _ in range(4):
            result, error = heard.get(timeout=PATIENCE)
            assert error is None
            check_pair(result, arrays)


def aio(protocol, program):
    """Run a program that gets an asynchronous client."""

    async def run():
        async with protocol.aio.InferenceServerClient(protocol.url) as client:
            await program(client)

    asyncio.run(run())


def aio_infer(protocol):
    """simple_*_aio_infer_client."""

    async def program(client):
        inputs, arrays = pair(protocol.aio, to_wire=int32)
        check_pair(await client.infer("simple", inputs, outputs=wanted(protocol.aio)), arrays)
        check_pair(await client.infer("simple", inputs), arrays)
        with pytest.raises(InferenceServerException) as error:
            await client.infer("wrong_model_name", inputs)
        assert error.value.message().startswith("Request for unknown model")

    aio(protocol, program)


def string_infer(protocol):
    """simple_*_string_infer_client."""
    inputs, arrays = pair(protocol.library, "BYTES", to_wire=texts)
    with protocol.client() as client:
        check_pair(client.infer("simple_string", inputs, outputs=wanted(protocol.library)), arrays)


def aio_string_infer(protocol):
    """simple_*_aio_string_infer_client."""

    async def program(client):
        inputs, arrays = pair(protocol.aio, "BYTES", to_wire=texts)
        check_pair(await client.infer("simple_string", inputs), arrays)

    aio(protocol, program)


@contextmanager
def regions(sizes):
    """Objects of shared memory by name, gone at the end."""
    handles = {}
    try:
        for name, size in sizes.items():
            handles[name] = shm.create_shared_memory_region(name, f"/{name}_{uuid.uuid4().hex}", size)
        yield handles
    finally:
        for handle in handles.values():
            shm.destroy_shared_memory_region(handle)


def key_of(handle):
    return handle._key if hasattr(handle, "_key") else handle._shm_key


def shared_infer(protocol, model="simple", kind="INT32", to_wire=int32):
    """simple_*_shm_client: every region is forgotten first, of CUDA's too; tensors go both ways through memory."""
    arrays = np.arange(16).reshape(1, 16), np.ones((1, 16), int)
    sent = [to_wire(array) for array in arrays]
    if kind == "BYTES":
        sizes = [serialized_byte_size(serialize_byte_tensor(array)) for array in sent]
        room = 256
    else:
        sizes, room = [array.nbytes for array in sent], 64
    names = {"input0_data": sizes[0], "input1_data": sizes[1], "output0_data": room, "output1_data": room}
    library = protocol.library
    with protocol.client() as client, regions(names) as handles:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        for name, handle in handles.items():
            client.register_system_shared_memory(name, key_of(handle), names[name])
        for index, array in enumerate(sent):
            data = [serialize_byte_tensor(array)] if kind == "BYTES" else [array]
            shm.set_shared_memory_region(handles[f"input{index}_data"], data)
        inputs = [library.InferInput(f"INPUT{index}", [1, 16], kind) for index in (0, 1)]
        outputs = wanted(library)
        for index in (0, 1):
            inputs[index].set_shared_memory(f"input{index}_data", sizes[index])
            outputs[index].set_shared_memory(f"output{index}_data", room)
        result = client.infer(model, inputs, outputs=outputs)
        for index, expected in enumerate((arrays[0] + arrays[1], arrays[0] - arrays[1])):
            assert result.get_output(f"OUTPUT{index}") is not None
            found = shm.get_contents_as_numpy(
                handles[f"output{index}_data"], np.object_ if kind == "BYTES" else np.int32, [1, 16]
            )
            np.testing.assert_array_equal(found.astype(int), expected)
        status = client.get_system_shared_memory_status()
        assert len(status if library is triton_http else status.regions) == 4
        cuda = client.get_cuda_shared_memory_status()
        assert not (cuda if library is triton_http else cuda.regions)
        client.unregister_system_shared_memory()


def shared_string_infer(protocol):
    """simple_*_shm_string_client."""
    shared_infer(protocol, "simple_string", "BYTES", texts)


def reused_objects(protocol):
    """reuse_infer_objects_client: the same objects with shared memory, without, and with it again."""
    library = protocol.library
    arrays = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    names = dict.fromkeys(("input0_data", "input1_data", "output0_data", "output1_data"), 64)
    with protocol.client() as client, regions(names) as handles:
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        for name, handle in handles.items():
            client.register_system_shared_memory(name, key_of(handle), 64)
        for index, array in enumerate(arrays):
            shm.set_shared_memory_region(handles[f"input{index}_data"], [array])
        inputs = [library.InferInput(f"INPUT{index}", [1, 16], "INT32") for index in (0, 1)]
        outputs = wanted(library)
        for shared in (True, False, True):
            for index in (0, 1):
                if shared:
                    inputs[index].set_shared_memory(f"input{index}_data", 64)
                    outputs[index].set_shared_memory(f"output{index}_data", 64)
                else:
                    inputs[index].set_data_from_numpy(arrays[index])
                    outputs[index].unset_shared_memory()
            result = client.infer("simple", inputs, outputs=outputs)
            if shared:
                total = shm.get_contents_as_numpy(handles["output0_data"], np.int32, [1, 16])
            else:
                total = result.as_numpy("OUTPUT0")
            np.testing.assert_array_equal(total, arrays[0] + arrays[1])
        client.unregister_system_shared_memory()


def health_and_metadata(protocol):
    """simple_*_health_metadata: with queries over REST, and a wrong name."""
    how = (
        {"query_params": {"test_1": 1, "test_2": 2}}
        if protocol.library is triton_http
        else {"headers": {"test": "1"}}
    )
    with protocol.client() as client:
        assert client.is_server_live(**how)
        assert client.is_server_ready(**how)
        assert client.is_model_ready("simple", **how)
        about, model = client.get_server_metadata(), client.get_model_metadata("simple", **how)
        names = [each["name"] if protocol.library is triton_http else each.name for each in (about, model)]
        assert names == ["triton", "simple"]
        with pytest.raises(InferenceServerException) as error:
            client.get_model_metadata("wrong_model_name")
        assert "Request for unknown model" in error.value.message()


def aio_health(protocol):
    """simple_*_aio_health_metadata."""

    async def program(client):
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("simple")
        with pytest.raises(InferenceServerException) as error:
            await client.get_model_metadata("wrong_model_name")
        assert "Request for unknown model" in error.value.message()

    aio(protocol, program)


def model_control(protocol):
    """simple_*_model_control: index, load, with a configuration that is wrong and one that is right, unload."""

    def batch_size():
        config = client.get_model_config("simple")
        return config["max_batch_size"] if protocol.library is triton_http else config.config.max_batch_size

    with protocol.client() as client:
        index = client.get_model_repository_index()
        names = {
            each["name"] if protocol.library is triton_http else each.name
            for each in (index if protocol.library is triton_http else index.models)
        }
        assert {
            "simple",
            "simple_int8",
            "simple_string",
            "simple_sequence",
            "simple_dyna_sequence",
            "simple_identity",
        } <= names
        try:
            client.load_model("simple")
            assert client.is_model_ready("simple")
            with pytest.raises(InferenceServerException) as error:
                client.load_model("simple", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
            assert "failed to load" in error.value.message()
            client.load_model("simple", config='{"max_batch_size":"16"}')
            assert batch_size() == 16
            client.unload_model("simple")
            assert not client.is_model_ready("simple")
            with pytest.raises(InferenceServerException) as error:
                client.load_model("wrong_model_name")
            assert "failed to load" in error.value.message()
            client.unload_model("wrong_model_name")
        finally:
            client.load_model("simple")


def expected_of(first, values, sequence_id, *, dyna):
    """What a sequence is answered with: one more at the start, and of the dynamic model its id added at the end."""
    answers = [first + 1, *values]
    if dyna:
        answers[-1] += sequence_id
    return answers


def steps_of(first, values):
    return list(enumerate([first, *values]))


def sequence_input(library, value):
    tensor = library.InferInput("INPUT", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.full((1, 1), value, np.int32))
    return [tensor]


def sequence_sync(protocol, *, dyna=False):
    """simple_*_sequence_sync_infer_client: two sequences named by numbers and one by a text."""
    model = "simple_dyna_sequence" if dyna else "simple_sequence"
    negative = [-value for value in VALUES]
    kinds = [(0, VALUES, 1000), (100, negative, 1001)]
    if not dyna:  # there the id is an input, and a number
        kinds.append((20, negative, str(uuid.uuid4())))
    with protocol.client() as client:
        for first, values, sequence_id in kinds:
            found = [
                client.infer(
                    model, sequence_input(protocol.library, value), sequence_id=sequence_id,
                    sequence_start=step == 0, sequence_end=step == len(values),
                ).as_numpy("OUTPUT")[0][0]
                for step, value in steps_of(first, values)
            ]  # fmt: skip
            assert found == expected_of(first, values, sequence_id, dyna=dyna)


def dyna_sequence_sync(protocol):
    """simple_*_sequence_sync_infer_client --dyna."""
    sequence_sync(protocol, dyna=True)


def sequence_stream(protocol, *, dyna=False):
    """simple_grpc_sequence_stream_infer_client: two sequences over one stream."""
    model = "simple_dyna_sequence" if dyna else "simple_sequence"
    heard = queue.Queue()
    sequences = {2000: (0, VALUES), 2001: (100, [-value for value in VALUES])}
    with protocol.client() as client:
        client.start_stream(callback=lambda result, error: heard.put((result, error)))
        for sequence_id, (first, values) in sequences.items():
            for step, value in steps_of(first, values):
                client.async_stream_infer(
                    model, sequence_input(protocol.library, value), request_id=f"{sequence_id}_{step}",
                    sequence_id=sequence_id, sequence_start=step == 0, sequence_end=step == len(values),
                )  # fmt: skip
        found = {sequence_id: {} for sequence_id in sequences}
        for _ in range(2 * (len(VALUES) + 1)):
            result, error = heard.get(timeout=PATIENCE)
            assert error is None, error
            sequence_id, step = map(int, result.get_response().id.split("_"))
            found[sequence_id][step] = result.as_numpy("OUTPUT")[0][0]
    for sequence_id, (first, values) in sequences.items():
        answers = [found[sequence_id][step] for step, _ in steps_of(first, values)]
        assert answers == expected_of(first, values, sequence_id, dyna=dyna)


def dyna_sequence_stream(protocol):
    """simple_grpc_sequence_stream_infer_client --dyna."""
    sequence_stream(protocol, dyna=True)


def aio_sequence_stream(protocol):
    """simple_grpc_aio_sequence_stream_infer_client."""

    async def requests_of():
        for step, value in steps_of(0, VALUES):
            yield {
                "model_name": "simple_sequence", "inputs": sequence_input(triton_grpc_aio, value), "sequence_id": 3000,
                "sequence_start": step == 0, "sequence_end": step == len(VALUES),
            }  # fmt: skip

    async def program(client):
        found = []
        async for result, error in client.stream_infer(requests_of()):
            assert error is None
            found.append(result.as_numpy("OUTPUT")[0][0])
        assert found == expected_of(0, VALUES, 3000, dyna=False)

    aio(protocol, program)


def custom_repeat(protocol):
    """simple_grpc_custom_repeat: one request, many responses."""
    values = np.arange(100, 110, dtype=np.int32)
    heard = queue.Queue()
    inputs = [
        triton_grpc.InferInput("IN", [10], "INT32"),
        triton_grpc.InferInput("DELAY", [10], "UINT32"),
        triton_grpc.InferInput("WAIT", [1], "UINT32"),
    ]
    for tensor, array in zip(inputs, (values, np.ones(10, np.uint32), np.ones(1, np.uint32)), strict=True):
        tensor.set_data_from_numpy(array)
    with protocol.client() as client:
        client.start_stream(callback=lambda result, error: heard.put((result, error)))
        client.async_stream_infer("repeat_int32", inputs, outputs=[triton_grpc.InferRequestedOutput("OUT")])
        for value in values:
            result, error = heard.get(timeout=PATIENCE)
            assert error is None
            assert result.as_numpy("OUT").tolist() == [value]


def keepalive(protocol):
    """simple_grpc_keepalive_client: a client that pings."""
    options = triton_grpc.KeepAliveOptions(
        keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20000, keepalive_permit_without_calls=False,
        http2_max_pings_without_data=2,
    )  # fmt: skip
    inputs, arrays = pair(triton_grpc, to_wire=int32)
    with protocol.client(keepalive_options=options) as client:
        check_pair(client.infer("simple", inputs), arrays)


def custom_args(protocol):
    """simple_grpc_custom_args_client: options of the channel."""
    inputs, arrays = pair(triton_grpc, to_wire=int32)
    with protocol.client(
        channel_args=[("grpc.primary_user_agent", "own"), ("grpc.lb_policy_name", "pick_first")]
    ) as client:
        check_pair(client.infer("simple", inputs), arrays)


def explicit_contents(protocol, model="simple", kind="INT32", field="int_contents", encode=int):
    """grpc_explicit_int_content_client: contents of their own type are sent, raw ones read; a version that is none."""
    numbers = {"INPUT0": list(range(16)), "INPUT1": [1] * 16}
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in numbers.items():
        tensor = request.inputs.add(name=name, datatype=kind, shape=[1, 16])
        getattr(tensor.contents, field).extend(map(encode, values))
    for name in ("OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    with grpc.insecure_channel(protocol.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request)
        assert len(answer.raw_output_contents) == len(answer.outputs) == 2
        if kind == "BYTES":
            found = [re.findall(rb"-?\d+", raw) for raw in answer.raw_output_contents]
        else:
            found = [np.frombuffer(raw, kind.lower()) for raw in answer.raw_output_contents]
        expected = [[a + 1 for a in numbers["INPUT0"]], [a - 1 for a in numbers["INPUT0"]]]
        assert [[int(each) for each in values] for values in found] == expected
        request.model_version = "wrong_specification"
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request)
        text = "failed to get model version from specified version string 'wrong_specification'"
        assert text in error.value.details()


def explicit_int8_contents(protocol):
    """grpc_explicit_int8_content_client."""
    explicit_contents(protocol, "simple_int8", "INT8")


def explicit_byte_contents(protocol):
    """grpc_explicit_byte_content_client."""
    explicit_contents(protocol, "simple_string", "BYTES", "bytes_contents", lambda value: str(value).encode())


def bare_stub(protocol):
    """grpc_client: health, metadata, configuration and inference by the stub alone."""
    with grpc.insecure_channel(protocol.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
        assert stub.ServerReady(service_pb2.ServerReadyRequest()).ready
        assert stub.ModelReady(service_pb2.ModelReadyRequest(name="simple", version="")).ready
        assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).name == "triton"
        config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="simple")).config
        assert (config.name, config.backend, config.max_batch_size) == ("simple", "onnxruntime", 8)
        request = service_pb2.ModelInferRequest(model_name="simple", id="my request id")
        for name in ("INPUT0", "INPUT1"):
            request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
            request.raw_input_contents.append(np.arange(16, dtype=np.int32).tobytes())
        answer = stub.ModelInfer(request)
        assert answer.id == "my request id"
        assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == list(range(0, 32, 2))


def images():
    """One image of each color, the first green."""
    return [Image.new("RGB", (20, 20), color) for color in ("green", "blue", "red")]


def classify(protocol):
    """image_client and grpc_image_client: what the model takes is read from its configuration, the classes have names."""
    library = protocol.library
    with protocol.client() as client:
        if library is triton_http:
            metadata, config = client.get_model_metadata("colors"), client.get_model_config("colors")
            name, output = metadata["inputs"][0]["name"], metadata["outputs"][0]["name"]
            layout, (_, channels, height, width) = (
                config["input"][0]["format"],
                metadata["inputs"][0]["shape"],
            )
        else:
            metadata, config = client.get_model_metadata("colors"), client.get_model_config("colors").config
            name, output = metadata.inputs[0].name, metadata.outputs[0].name
            layout = model_config_pb2.ModelInput.Format.Name(config.input[0].format)
            _, channels, height, width = metadata.inputs[0].shape
        assert (layout, channels) == ("FORMAT_NCHW", 3)
        batch = np.stack(
            [np.array(image.resize((width, height)), np.float32).transpose(2, 0, 1) for image in images()]
        )
        tensor = library.InferInput(name, batch.shape, "FP32")
        tensor.set_data_from_numpy(batch)
        outputs = [library.InferRequestedOutput(output, class_count=2)]
        result = client.infer("colors", [tensor], outputs=outputs).as_numpy(output)
    best = [row[0].decode().split(":")[2] for row in result]
    assert best == ["green", "blue", "red"]
    assert set(best) == set(COLORS)


def classify_files(protocol):
    """ensemble_image_client: the files of images go to an ensemble, a batch of them, and classes come back."""
    library = protocol.library
    files = []
    for image in images():
        image.save(file := io.BytesIO(), "PNG")
        files.append([file.getvalue()])
    with protocol.client() as client:
        if library is triton_http:
            metadata, config = (
                client.get_model_metadata("colors_ensemble"),
                client.get_model_config("colors_ensemble"),
            )
            name, outputs = metadata["inputs"][0]["name"], [each["name"] for each in metadata["outputs"]]
            rows, inputs = config["max_batch_size"], config["input"]
        else:
            metadata, config = (
                client.get_model_metadata("colors_ensemble"),
                client.get_model_config("colors_ensemble").config,
            )
            name, outputs = metadata.inputs[0].name, [each.name for each in metadata.outputs]
            rows, inputs = config.max_batch_size, config.input
        assert (len(inputs), rows, outputs) == (1, 4, ["CLASSES"])
        batch = np.array(files, object)
        tensor = library.InferInput(name, batch.shape, "BYTES")
        tensor.set_data_from_numpy(batch)
        wanted = [library.InferRequestedOutput(each, class_count=1) for each in outputs]
        result = client.infer("colors_ensemble", [tensor], outputs=wanted).as_numpy("CLASSES")
    assert [row[0].decode().split(":")[2] for row in result] == ["green", "blue", "red"]


def identity(protocol):
    """The text of a request comes back from a model in Python, whatever its bytes are."""
    sent = np.array([["one"], ["zwei \u00fc"]], object)
    tensor = protocol.library.InferInput("INPUT0", [2, 1], "BYTES")
    tensor.set_data_from_numpy(sent)
    with protocol.client() as client:
        result = client.infer("simple_identity", [tensor])
    assert [row[0].decode() for row in result.as_numpy("OUTPUT0")] == ["one", "zwei \u00fc"]


def steady_memory(protocol):
    """memory_growth_test, short: the same request again and again."""
    inputs, arrays = pair(protocol.library, to_wire=int32)
    with protocol.client() as client:
        for _ in range(100):
            result = client.infer("simple", inputs)
        check_pair(result, arrays)


def generate(protocol):
    """The generate extension, as curl asks it: JSON of the inputs by name."""
    row = list(range(16))
    body = {"INPUT0": row, "INPUT1": row, "id": "mine"}
    url = f"http://{protocol.url}/v2/models/simple/generate"
    answer = requests.post(url, json=body, timeout=PATIENCE).json()
    assert (answer["model_name"], answer["OUTPUT0"]) == ("simple", [2 * each for each in row])


BOTH = (
    infer, compressed_infer, async_infer, aio_infer, string_infer, aio_string_infer, shared_infer, shared_string_infer,
    reused_objects, health_and_metadata, aio_health, model_control, sequence_sync, dyna_sequence_sync, classify, classify_files, identity,
    steady_memory,
)  # fmt: skip
ONLY_GRPC = (
    sequence_stream, dyna_sequence_stream, aio_sequence_stream, custom_repeat, keepalive, custom_args, explicit_contents,
    explicit_int8_contents, explicit_byte_contents, bare_stub,
)  # fmt: skip
PROGRAMS = [
    *((program, name) for program in BOTH for name in ("http", "grpc")),
    *((program, "grpc") for program in ONLY_GRPC),
    (generate, "http"),
]


@pytest.mark.parametrize(
    ("program", "name"), PROGRAMS, ids=[f"{name}-{program.__name__}" for program, name in PROGRAMS]
)
def test_a_program_written_for_triton_runs_as_it_is(served, program, name):
    program(getattr(served, name))


def test_metrics_have_tritons_names(served):
    infer(served.grpc)
    page = requests.get(served.metrics, timeout=PATIENCE).text
    (answered,) = re.findall(r'nv_inference_request_success\{model="simple",version="1"\} (\S+)', page)
    assert float(answered) > 0
    for name in ("nv_inference_count", "nv_inference_exec_count", "nv_inference_request_duration_us"):
        assert f'{name}{{model="simple",version="1"}}' in page


def test_a_configuration_that_is_shown_loads_its_model_as_it_was(served):
    with served.grpc.client() as client:
        names = [each.name for each in client.get_model_repository_index().models]
        for name in names:
            before = requests.get(f"http://{served.http.url}/v2/models/{name}/config", timeout=PATIENCE)
            client.load_model(name, config=before.text)
            after = requests.get(f"http://{served.http.url}/v2/models/{name}/config", timeout=PATIENCE)
            assert after.json() == before.json(), name
    sequence_sync(served.grpc)
    dyna_sequence_sync(served.grpc)
    classify_files(served.grpc)


def test_statistics_tell_the_responses_of_a_decoupled_model_apart(served):
    custom_repeat(served.grpc)  # ten responses, and the end of the request
    with served.grpc.client() as client:
        (told,) = client.get_inference_statistics("repeat_int32").model_stats
    (shown,) = requests.get(
        f"http://{served.http.url}/v2/models/repeat_int32/stats", timeout=PATIENCE
    ).json()["model_stats"]
    responses = shown["response_stats"]
    assert (
        sorted(responses, key=int)
        == sorted(told.response_stats, key=int)
        == [str(number) for number in range(11)]
    )
    assert responses["9"]["success"]["count"] == responses["10"]["empty_response"]["count"] > 0
    assert responses["9"]["success"]["ns"] == told.response_stats["9"].compute_infer.ns > 0
    assert responses["10"]["success"]["count"] == responses["9"]["fail"]["count"] == 0

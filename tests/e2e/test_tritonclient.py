"""tritonclient as it comes: http, http.aio, grpc and grpc.aio, with their defaults, and shared memory."""

import asyncio
import queue
from contextlib import suppress

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException, shared_memory

TOTAL = [12.0, 3.0]
X = np.array([[1, 2, 3], [0.5, 0.25, 0]], np.float32)
FACTOR = np.array([2, 4], np.float32)


class Client:
    """One of the four, and the classes that belong to it. The asynchronous ones are waited for."""

    def __init__(self, kind, server):
        self.kind = kind
        self.api = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind.partition(".")[0]]
        self.aio = kind.endswith(".aio")
        address = server.authority if kind.startswith("http") else server.grpc_authority
        self.runner = asyncio.Runner() if self.aio else None
        self.raw = self.wait(self.make(address))

    async def make(self, address):
        module = tritonclient.http.aio if self.kind == "http.aio" else tritonclient.grpc.aio
        return module.InferenceServerClient(address)

    def wait(self, work):
        if self.runner is not None:
            return self.runner.run(work)
        work.close()
        return None

    def close(self):
        self.do("close")
        if self.runner is not None:
            self.runner.close()

    def do(self, method, *args, **how):
        found = getattr(self.raw, method)(*args, **how)
        return self.runner.run(found) if self.runner is not None else found

    def input(self, name, array, **how):
        kinds = {"f4": "FP32", "f8": "FP64", "f2": "FP16", "i4": "INT32", "i1": "INT8", "u4": "UINT32", "u8": "UINT64",
                 "b1": "BOOL", "O": "BYTES", "i8": "INT64", "i2": "INT16", "u1": "UINT8", "u2": "UINT16"}  # fmt: skip
        tensor = self.api.InferInput(
            name, list(array.shape), kinds[array.dtype.str[1:] if array.dtype != object else "O"]
        )
        tensor.set_data_from_numpy(array, **how)
        return tensor

    def infer(self, model, arrays, **how):
        return self.do("infer", model, [self.input(name, array) for name, array in arrays.items()], **how)

    def sums(self, **how):
        return self.infer("sums", {"x": X, "factor": FACTOR}, **how)

    def wants(self, name, **how):
        return self.api.InferRequestedOutput(name, **how)

    def said(self, answer):
        """An answer that is a message over gRPC, as the JSON it is over HTTP."""
        from google.protobuf.json_format import MessageToDict

        return (
            answer
            if isinstance(answer, dict | list)
            else MessageToDict(answer, preserving_proto_field_name=True)
        )


class Plain(Client):
    """One of the two that are not asynchronous."""

    def __init__(self, kind, server):
        self.kind, self.aio, self.runner = kind, False, None
        self.api = {"http": tritonclient.http, "grpc": tritonclient.grpc}[kind]
        address = server.authority if kind == "http" else server.grpc_authority
        self.raw = self.api.InferenceServerClient(address)


KINDS = ["http", "http.aio", "grpc", "grpc.aio"]


@pytest.fixture(scope="module", params=KINDS)
def triton(request, tensors):
    client = (Client if request.param.endswith(".aio") else Plain)(request.param, tensors)
    yield client
    client.close()


def test_the_server_is_live_and_ready_and_says_what_it_is(triton):
    assert triton.do("is_server_live")
    assert triton.do("is_server_ready")
    said = triton.said(triton.do("get_server_metadata"))
    assert said["name"]
    assert {"binary_tensor_data", "model_repository", "statistics", "model_configuration"} <= set(
        said["extensions"]
    )


def test_a_model_is_ready_and_says_what_it_takes(triton):
    assert triton.do("is_model_ready", "sums")
    assert triton.do("is_model_ready", "sums", "1")
    said = triton.said(triton.do("get_model_metadata", "sums"))
    assert (said["name"], said["versions"]) == ("sums", ["1"])
    assert [(each["name"], each["datatype"]) for each in said["inputs"]] == [
        ("x", "FP32"),
        ("factor", "FP32"),
    ]
    assert [[int(size) for size in each["shape"]] for each in said["inputs"]] == [[-1, 3], [-1]]
    config = triton.said(triton.do("get_model_config", "sums"))
    config = config.get("config", config)
    assert (config["name"], config["max_batch_size"]) == ("sums", 8)
    assert [[int(size) for size in each.get("dims", [])] for each in config["input"]] == [[3], []]


def test_a_model_that_is_not_there_is_not_ready(triton):
    with suppress(InferenceServerException):  # over HTTP some versions raise for a 404, others say False
        assert not triton.do("is_model_ready", "nobody")


def test_an_inference_with_the_defaults(triton):
    result = triton.sums()
    assert result.as_numpy("total").tolist() == TOTAL
    assert result.as_numpy("peak").tolist() == [3, 0.5]
    assert triton.said(result.get_response())["model_version"] == "1"


def test_outputs_that_are_asked_for(triton):
    result = triton.sums(outputs=[triton.wants("peak")], request_id="mine", model_version="1")
    assert result.as_numpy("peak").tolist() == [3, 0.5]
    assert result.as_numpy("total") is None
    assert triton.said(result.get_response())["id"] == "mine"


def test_json_both_ways_one_way_and_the_other(tensors, triton):
    if not triton.kind.startswith("http"):
        pytest.skip("gRPC has no JSON")
    for binary_in in (True, False):
        for binary_out in (True, False):
            inputs = [
                triton.input("x", X, binary_data=binary_in),
                triton.input("factor", FACTOR, binary_data=not binary_in),
            ]
            outputs = [triton.wants("total", binary_data=binary_out), triton.wants("peak", binary_data=False)]
            result = triton.do("infer", "sums", inputs, outputs=outputs)
            assert result.as_numpy("total").tolist() == TOTAL
            assert result.as_numpy("peak").tolist() == [3, 0.5]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(triton, algorithm):
    large = np.tile(np.arange(100, dtype=np.float32), (4, 50))
    if triton.kind.startswith("http"):
        how = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    else:
        how = {"compression_algorithm": algorithm}
    assert np.array_equal(triton.infer("mirror", {"x": large}, **how).as_numpy("x"), large)


@pytest.mark.parametrize(
    "array",
    [
        np.array([True, False]),
        np.array([0, 2**64 - 1], np.uint64),
        np.array([[-(2**63)], [2**63 - 1]], np.int64),
        np.array([0.1, -0.0, np.nan, np.inf], np.float64),
        np.array([65504, 0.1], np.float16),
        np.array([b"a", b"\xff\x00", b""], object),
        np.zeros((0, 3), np.float32),
        np.arange(150_528, dtype=np.float32).reshape(1, 3, 224, 224),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_an_array_comes_back_as_it_went(triton, array):
    found = triton.infer("mirror", {"x": array}).as_numpy("x")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


def test_bfloat16(triton):
    values = np.array([1.5, -2.25, 3.3895314e38], np.float32)
    try:
        from ml_dtypes import bfloat16

        sent = values.astype(bfloat16)
    except ImportError:
        sent = values
    tensor = triton.api.InferInput("x", [3], "BF16")
    tensor.set_data_from_numpy(sent)
    result = triton.do("infer", "half", [tensor])
    assert result.as_numpy("y").astype(np.float32).tolist() == values.tolist()


def test_parameters_reach_the_model_and_priority_and_timeout_do_not_hurt(triton):
    mine = {"a": 1, "b": True, "c": "text"}
    result = triton.infer("told", {"x": X}, parameters=mine, priority=1, timeout=30_000_000)
    (told,) = result.as_numpy("told")
    assert told.decode() == '{"a": 1, "b": true, "c": "text"}'


def test_the_likeliest_classes(tensors, triton):
    scores = np.array([[0.1, 3, 2], [9, 0, 8]], np.float32)
    result = triton.infer("mirror", {"x": scores}, outputs=[triton.wants("x", class_count=2)])
    found = [[text.decode() for text in row] for row in result.as_numpy("x")]
    assert found == [["3.000000:1", "2.000000:2"], ["9.000000:0", "8.000000:2"]]


@pytest.mark.parametrize(
    ("model", "arrays", "status", "text"),
    [
        ("nobody", {"x": X}, ("404", "StatusCode.NOT_FOUND"), "nobody"),
        ("sums", {"x": X}, ("400", "StatusCode.INVALID_ARGUMENT"), "factor"),
        (
            "sums",
            {"x": X.astype(np.float64), "factor": FACTOR},
            ("400", "StatusCode.INVALID_ARGUMENT"),
            "FP64",
        ),
        ("sums", {"x": -X, "factor": FACTOR}, ("500", "StatusCode.INTERNAL"), "a negative number"),
    ],
)
def test_a_refusal_has_its_status_and_its_reason(triton, model, arrays, status, text):
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(model, arrays)
    assert refused.value.status() in status
    assert text in refused.value.message()


def test_models_are_unloaded_and_loaded(triton):
    states = {each["name"]: each.get("state") for each in index(triton)}
    assert {states["sums"], states["told"]} == {"READY"}
    triton.do("unload_model", "told")
    assert {each["name"]: each.get("state") for each in index(triton)}["told"] != "READY"
    with pytest.raises(InferenceServerException):
        triton.infer("told", {"x": X})
    triton.do("load_model", "told")
    assert triton.do("is_model_ready", "told")
    assert triton.infer("told", {"x": X}).as_numpy("told").tolist() == [b"{}"]
    with pytest.raises(InferenceServerException, match="nobody"):
        triton.do("load_model", "nobody")


def index(triton):
    found = triton.said(triton.do("get_model_repository_index"))
    return found.get("models", []) if isinstance(found, dict) else found


def test_a_model_is_loaded_with_another_configuration(triton):
    triton.do("load_model", "sums", config='{"max_batch_size": 4}')
    config = triton.said(triton.do("get_model_config", "sums"))
    assert config.get("config", config)["max_batch_size"] == 4
    triton.do("load_model", "sums")
    assert triton.sums().as_numpy("total").tolist() == TOTAL


def test_statistics_count_what_was_done(triton):
    def done():
        (stats,) = triton.said(triton.do("get_inference_statistics", "mirror"))["model_stats"]
        return int(stats["inference_stats"]["success"]["count"])

    before = done()
    for _ in range(3):
        triton.infer("mirror", {"x": X})
    assert done() == before + 3


def test_log_and_trace_settings_are_shown_and_changed(triton):
    if not triton.do("is_server_live"):
        pytest.fail("the server is gone")
    shown = triton.said(triton.do("get_log_settings"))
    triton.do("update_log_settings", {"log_verbose_level": 0})
    assert triton.said(triton.do("get_log_settings")) == shown
    traced = triton.said(triton.do("get_trace_settings"))
    assert triton.said(triton.do("update_trace_settings", settings={"trace_rate": "500"})) != traced
    triton.do("update_trace_settings", settings={"trace_rate": None})
    assert triton.said(triton.do("get_trace_settings")) == traced


def test_shared_memory_both_ways(triton):
    if triton.aio:
        pytest.skip("the asynchronous clients register regions as the others do")
    given = shared_memory.create_shared_memory_region("given", f"/mooring_given_{triton.kind}", X.nbytes)
    taken = shared_memory.create_shared_memory_region("taken", f"/mooring_taken_{triton.kind}", X.nbytes)
    try:
        shared_memory.set_shared_memory_region(given, [X])
        triton.do("register_system_shared_memory", "given", f"/mooring_given_{triton.kind}", X.nbytes)
        triton.do("register_system_shared_memory", "taken", f"/mooring_taken_{triton.kind}", X.nbytes)
        tensor = triton.api.InferInput("x", list(X.shape), "FP32")
        tensor.set_shared_memory("given", X.nbytes)
        wanted = triton.wants("x")
        wanted.set_shared_memory("taken", X.nbytes)
        result = triton.do("infer", "mirror", [tensor], outputs=[wanted])
        assert np.array_equal(shared_memory.get_contents_as_numpy(taken, np.float32, list(X.shape)), X)
        assert result.get_output("x") is not None
        status = triton.said(triton.do("get_system_shared_memory_status"))
        names = status["regions"] if isinstance(status, dict) else [each["name"] for each in status]
        assert {"given", "taken"} <= set(names)
        with pytest.raises(InferenceServerException):
            triton.do("register_system_shared_memory", "given", f"/mooring_given_{triton.kind}", X.nbytes)
    finally:
        triton.do("unregister_system_shared_memory")
        shared_memory.destroy_shared_memory_region(given)
        shared_memory.destroy_shared_memory_region(taken)


def test_async_infer_answers_later(triton):
    if triton.aio:
        pytest.skip("infer is that there")
    inputs = [triton.input("x", X), triton.input("factor", FACTOR)]
    if triton.kind == "http":
        found = triton.raw.async_infer("sums", inputs).get_result()
    else:
        answers = queue.Queue()
        triton.raw.async_infer("sums", inputs, lambda result, error: answers.put((result, error)))
        found, error = answers.get(timeout=30)
        assert error is None
    assert found.as_numpy("total").tolist() == TOTAL


def steps_of(result, error):
    return str(error) if error is not None else result.as_numpy("step").ravel().tolist()


def test_a_stream_brings_every_piece_and_errors_do_not_end_it(tensors):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(tensors.grpc_authority) as client:
        client.start_stream(lambda result, error: answers.put(steps_of(result, error)))
        tensor = tritonclient.grpc.InferInput("n", [1], "INT32")
        tensor.set_data_from_numpy(np.array([3], np.int32))
        client.async_stream_infer("steps", [tensor], request_id="1")
        assert [answers.get(timeout=30) for _ in range(3)] == [[0], [1], [2]]
        client.async_stream_infer("nobody", [tensor], request_id="2")
        assert "nobody" in answers.get(timeout=30)
        client.async_stream_infer("steps", [tensor], request_id="3", parameters={"fails": 1})
        assert answers.get(timeout=30) == [0]
        assert "no further" in answers.get(timeout=30)
        client.async_stream_infer("steps", [tensor], request_id="4")
        assert [answers.get(timeout=30) for _ in range(3)] == [[0], [1], [2]]
        client.stop_stream()


async def test_an_asynchronous_stream_brings_every_piece(tensors):
    tensor = tritonclient.grpc.InferInput("n", [1], "INT32")
    tensor.set_data_from_numpy(np.array([2], np.int32))

    async def requests():
        yield {"model_name": "steps", "inputs": [tensor], "request_id": "mine"}

    found = []
    async with tritonclient.grpc.aio.InferenceServerClient(tensors.grpc_authority) as client:
        async for result, error in client.stream_infer(requests()):
            assert result.get_response().id == "mine"
            found.append(steps_of(result, error))
    assert found == [[0], [1]]


def test_a_stream_says_that_it_is_over_where_that_is_asked_for(tensors):
    answers = queue.Queue()
    tensor = tritonclient.grpc.InferInput("n", [1], "INT32")
    tensor.set_data_from_numpy(np.array([2], np.int32))
    with tritonclient.grpc.InferenceServerClient(tensors.grpc_authority) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("steps", [tensor], enable_empty_final_response=True)
        found = []
        for _ in range(3):
            result, error = answers.get(timeout=30)
            assert error is None
            response = result.get_response()
            found.append((len(response.outputs), response.parameters["triton_final_response"].bool_param))
        client.stop_stream()
    assert found == [(1, False), (1, False), (0, True)]


def test_the_digits_are_read_in_every_format(triton):
    from e2e_kit import SAMPLES
    from PIL import Image

    for sample in SAMPLES:
        image = (np.asarray(Image.open(sample), np.float32) / 255)[None, None]
        for model in ("digits_onnx", "digits_pytorch"):
            scores = triton.infer(model, {"image": image}).as_numpy("scores")
            assert scores.argmax() == int(sample.stem)
        found = triton.infer("digits", {"data": np.array([sample.read_bytes()], object)})
        name = triton.said(found.get_response())["outputs"][0]["name"]
        assert f'"class": "{sample.stem}"'.replace(" ", "") in found.as_numpy(name)[0].decode().replace(
            " ", ""
        )

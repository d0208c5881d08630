"""What the server and its models say of themselves over v2, and the extensions that an operator uses."""

import base64
import json
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
from openapi_spec_validator import validate
from protocol_wire import JSON
from v2_wire import echoed, infer_body, named, x

from mooring.codecs.requested_outputs import encode_outputs
from mooring.core.service import ModelState
from mooring.core.tensors import TensorSpec
from mooring.protocols.dialect import AMD

X = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}


async def got(served, target, method="GET", document=None, status=200):
    body = b"" if document is None else json.dumps(document).encode()
    reply = await served.call(method, target, body)
    assert (reply.status, reply.headers["content-type"]) == (status, JSON), reply.body
    return json.loads(reply.body)


@pytest.mark.parametrize("target", ["/v2", "/v2/"])
async def test_the_server_says_what_it_is_and_what_it_can_do(v2, target):
    found = await got(v2, target)
    assert (found["name"], found["version"]) == ("mooring", "0.0.1")
    assert sorted(found["extensions"]) == [
        "binary_tensor_data", "classification", "logging", "model_configuration", "model_repository",
        "model_repository(unload_dependents)", "parameters", "schedule_policy", "sequence", "sequence(string_id)", "statistics", "system_shared_memory",
    ]  # fmt: skip


async def test_liveness_and_readiness_have_bodies(v2):
    assert await got(v2, "/v2/health/live") == {"live": True}
    assert await got(v2, "/v2/health/ready", status=503) == {"ready": False}
    v2.service.states = v2.service.states[:1]
    assert await got(v2, "/v2/health/ready") == {"ready": True}
    reply = await v2.call("HEAD", "/v2/health/ready")
    assert (reply.status, reply.headers["content-length"]) == (200, "14")


async def test_models_are_listed_where_they_are_ready(v2):
    assert await got(v2, "/v2/models") == {"models": ["echo"]}


@pytest.mark.parametrize("target", ["/v2/models/echo", "/v2/models/echo/versions/2.0", "/v2/models/%65cho"])
async def test_a_model_says_what_it_takes_and_gives(v2, target):
    assert await got(v2, target) == {
        "name": "echo", "versions": ["1.0", "2.0"], "platform": "python", "inputs": [X], "outputs": [X],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v2/models/nobody", 404),
        ("/v2/models/echo/versions/9", 404),
        ("/v2/models/echo/versions/abc", 404),
        ("/v2/models/sleepy", 503),
        ("/v2/models/nobody/config", 404),
        ("/v2/models/echo/versions/9/config", 404),
        ("/v2/models/nobody/stats", 404),
        ("/v2/models/nobody/trace/setting", 404),
        ("/v2/models/nobody/ready", 404),
        ("/v2/models/echo/versions/9/ready", 404),
    ],
)
async def test_what_is_not_there_is_an_error(v2, target, status):
    found = await got(v2, target, status=status)
    assert list(found) == ["error"]
    assert target.split("/")[3] in found["error"]


async def test_a_model_says_whether_it_is_ready(v2):
    assert await got(v2, "/v2/models/echo/ready") == {"name": "echo", "ready": True}
    assert await got(v2, "/v2/models/echo/versions/2.0/ready") == {"name": "echo", "ready": True}
    found = await got(v2, "/v2/models/sleepy/ready", status=503)
    assert (found["name"], found["ready"], "sleepy" in found["error"]) == ("sleepy", False, True)


async def test_a_configuration_is_in_tritons_terms(v2):
    v2.service.inputs["echo"] = [TensorSpec("x", "FP32", [-1, 2]), TensorSpec("t", "BYTES", [-1])]
    found = await got(v2, "/v2/models/echo/config")
    assert (found["name"], found["backend"], found["max_batch_size"]) == ("echo", "python", 8)
    assert [(each["name"], each["data_type"], each["dims"]) for each in found["input"]] == [
        ("x", "TYPE_FP32", [2]), ("t", "TYPE_STRING", []),
    ]  # fmt: skip
    assert found["instance_group"][0]["count"] == 2
    assert found["dynamic_batching"]["max_queue_delay_microseconds"] == 1000
    assert found["parameters"] == {"a": {"string_value": "1"}, "b": {"string_value": "true"}}
    v2.service.inputs["echo"] = [TensorSpec("x", "FP32", [3, 2])]
    found = await got(v2, "/v2/models/echo/versions/2.0/config")
    assert (found["max_batch_size"], found["input"][0]["dims"]) == (0, [3, 2])


@pytest.mark.parametrize(
    ("target", "models"),
    [("/v2/models/stats", 3), ("/v2/models/echo/stats", 1), ("/v2/models/echo/versions/2.0/stats", 1)],
)
async def test_statistics_are_integers_in_tritons_shape(v2, target, models):
    found = (await got(v2, target))["model_stats"]
    assert len(found) == models
    first = found[0]
    assert (first["inference_count"], first["execution_count"]) == (5, 3)
    assert first["inference_stats"]["fail"] == {"count": 1, "ns": 9}
    assert set(first["inference_stats"]) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss",
    }  # fmt: skip
    assert first["batch_stats"][0]["batch_size"] == 2
    assert first["batch_stats"][0]["compute_infer"] == {"count": 2, "ns": 200}


# The repository


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/any/index"])
async def test_the_index_has_every_version_and_what_was_never_loaded_by_name(v2, path):
    v2.service.states.append(ModelState("bad", "1", "FAILED", ready=False, is_default=True, reason="no file"))
    found = await got(v2, path, "POST")
    assert found == [
        {"name": "echo", "version": "1.0", "state": "READY", "reason": ""},
        {"name": "echo", "version": "2.0", "state": "READY", "reason": ""},
        {"name": "sleepy", "version": "1.0", "state": "LOADING", "reason": ""},
        {"name": "bad", "version": "1", "state": "UNAVAILABLE", "reason": "no file"},
        {"name": "stored"},
    ]
    assert len(await got(v2, path, "POST", {"ready": True})) == 2
    assert len(await got(v2, path, "POST", {"ready": False})) == 5
    assert list(await got(v2, path, "POST", {"ready": "yes"}, 400)) == ["error"]
    assert list(await got(v2, path, "POST", [1], 400)) == ["error"]


LOAD = "/v2/repository/models/echo/load"
UNLOAD = "/v2/repository/models/echo/unload"


@pytest.mark.parametrize("document", [None, {}, {"parameters": {}}])
async def test_a_load_without_a_word_is_a_load_of_what_is_stored(v2, document):
    assert await got(v2, LOAD, "POST", document) == {"name": "echo", "load": True}
    ((what, model, version, options),) = v2.service.calls
    assert (what, model, version) == ("load", "echo", "")
    assert not any(options.values())


async def test_a_load_may_bring_its_configuration_and_files(v2):
    parameters = {
        "config": json.dumps({"max_batch_size": 4}),
        "file:1/model.onnx": base64.b64encode(b"onnx").decode(),
        "own": 3,
    }
    await got(v2, "/v2/repository/any/models/echo/versions/2.0/load", "POST", {"parameters": parameters})
    ((_, _, version, options),) = v2.service.calls
    assert version == "2.0"
    assert options == {
        "config": {"max_batch_size": 4}, "files": {"1/model.onnx": b"onnx"}, "parameters": {"own": 3},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "document", "status"),
    [
        ("/v2/repository/models/nobody/load", None, 404),
        ("/v2/repository/models/broken/load", None, 400),
        (LOAD, {"parameters": {"config": "{"}}, 400),
        (LOAD, {"parameters": {"config": 3}}, 400),
        (LOAD, {"parameters": {"file:a": "%"}}, 400),
        (LOAD, [1], 400),
        ("/v2/repository/models/nobody/unload", None, 404),
        (UNLOAD, {"parameters": {"unload_dependents": "yes"}}, 400),
    ],
)
async def test_a_load_or_unload_that_cannot_be_is_the_callers_fault(v2, target, document, status):
    assert list(await got(v2, target, "POST", document, status)) == ["error"]
    assert v2.service.calls == []


async def test_an_unload_may_take_the_dependents_with_it(v2):
    assert await got(v2, UNLOAD, "POST") == {"name": "echo", "unload": True}
    await got(v2, UNLOAD, "POST", {"parameters": {"unload_dependents": True}})
    assert v2.service.calls == [("unload", "echo", "", False), ("unload", "echo", "", True)]


async def test_amds_clients_may_unload_what_is_not_there(v2_as):
    served = await v2_as(dialect=AMD)
    assert (await got(served, "/v2/repository/models/nobody/unload", "POST"))["unload"] is True


async def test_where_nothing_may_be_changed_everything_can_be_seen(v2_as):
    served = await v2_as(changes=False)
    for target in (LOAD, UNLOAD, "/v2/logging", "/v2/trace/setting"):
        assert "insecure" in (await got(served, target, "POST", {}, 403))["error"]
    assert served.service.calls == []
    await got(served, "/v2/repository/index", "POST")
    await got(served, "/v2/logging")


# Logging and tracing


async def test_log_settings_are_the_servers_level(v2):
    assert await got(v2, "/v2/logging") == {
        "log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
        "log_format": "default",
    }  # fmt: skip
    for change, expected in (
        ({"log_info": False}, (False, True, 0)),
        ({"log_warning": False}, (False, False, 0)),
        ({"log_verbose_level": 2}, (True, True, 2)),
        ({"log_verbose_level": 0, "unknown": 1}, (True, True, 0)),
    ):
        found = await got(v2, "/v2/logging", "POST", change)
        assert (found["log_info"], found["log_warning"], found["log_verbose_level"]) == expected
        assert found == await got(v2, "/v2/logging")
    assert (await got(v2, "/v2/logging", "POST", {"log_format": "ISO8601"}))["log_format"] == "ISO8601"


@pytest.mark.parametrize(
    "change",
    [
        {"log_info": 1},
        {"log_verbose_level": -1},
        {"log_verbose_level": True},
        {"log_format": "xml"},
        {"log_file": "/tmp/a"},
    ],
)
async def test_a_log_setting_of_the_wrong_kind_changes_nothing(v2, change):
    before = await got(v2, "/v2/logging")
    assert list(await got(v2, "/v2/logging", "POST", {"log_error": True} | change, 400)) == ["error"]
    assert await got(v2, "/v2/logging") == before


async def test_a_models_trace_settings_lie_over_the_servers(v2):
    ours, model = "/v2/trace/setting", "/v2/models/echo/trace/setting"
    assert (await got(v2, ours))["trace_level"] == ["OFF"]
    found = await got(v2, model, "POST", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
    assert (found["trace_level"], found["trace_rate"]) == (["TIMESTAMPS"], "5")
    await got(v2, ours, "POST", {"trace_rate": ["7"], "trace_count": 9})
    assert (await got(v2, ours))["trace_level"] == ["OFF"]
    found = await got(v2, model)
    assert (found["trace_rate"], found["trace_count"]) == ("5", "9")
    found = await got(v2, model, "POST", {"trace_rate": None, "trace_level": None})
    assert (found["trace_rate"], found["trace_level"]) == ("7", ["OFF"])
    assert (await got(v2, ours, "POST", {"trace_rate": None}))["trace_rate"] == "1000"


@pytest.mark.parametrize(
    "change",
    [
        {"trace_level": "ALL"},
        {"trace_level": []},
        {"trace_rate": "x"},
        {"trace_rate": "-1"},
        {"trace_count": "-2"},
        {"trace_file": "/etc/passwd"},
        {"trace_mode": "opentelemetry"},
        {"unknown": "1"},
    ],
)
async def test_a_trace_setting_of_the_wrong_kind_changes_nothing(v2, change):
    before = await got(v2, "/v2/trace/setting")
    await got(v2, "/v2/trace/setting", "POST", {"log_frequency": "3"} | change, 400)
    assert await got(v2, "/v2/trace/setting") == before


# Shared memory

REGIONS = "/v2/systemsharedmemory"
needs_shm = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no shared memory by name here")


@pytest.fixture
def memory():
    path = Path("/dev/shm", f"mooring-test-{uuid.uuid4()}")
    path.write_bytes(bytes(1_000_000))
    yield path
    path.unlink()


async def register(served, path, name="r", status=200, **more):
    document = {"key": f"/{path.name}", "offset": 0, "byte_size": 1_000_000} | more
    return await served.call("POST", f"{REGIONS}/region/{name}/register", json.dumps(document).encode())


def in_region(size, offset=0, name="r"):
    return {"shared_memory_region": name, "shared_memory_byte_size": size, "shared_memory_offset": offset}


@needs_shm
@pytest.mark.parametrize("count", [2, 100_000])
async def test_inputs_and_outputs_may_lie_in_shared_memory(v2, memory, count):
    v2.service.answer = lambda request: [named(request, encode_outputs(request, echoed(request), {}))]
    array = np.arange(count, dtype=np.float32)
    with memory.open("r+b") as file:
        file.seek(10)
        file.write(array.tobytes())
    assert (await register(v2, memory, offset=10, byte_size=count * 4)).body == b""
    assert (await register(v2, memory, "out", offset=500_000)).status == 400  # beyond the end
    assert (await register(v2, memory, "out", offset=500_001, byte_size=count * 4 + 3)).status == 200
    assert await got(v2, f"{REGIONS}/status") == [
        {"name": "r", "key": f"/{memory.name}", "offset": 10, "byte_size": count * 4},
        {"name": "out", "key": f"/{memory.name}", "offset": 500_001, "byte_size": count * 4 + 3},
    ]
    body = infer_body(
        {"name": "x", "shape": [1, count], "datatype": "FP32", "parameters": in_region(count * 4)},
        outputs=[{"name": "x", "parameters": in_region(count * 4, 3, "out")}],
    )
    found = await got(v2, "/v2/models/echo/infer", "POST", json.loads(body))
    assert found["outputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, count]}]
    written = memory.read_bytes()[500_004 : 500_004 + count * 4]
    np.testing.assert_array_equal(np.frombuffer(written, np.float32), array)


@needs_shm
async def test_a_region_is_known_until_it_is_unregistered(v2, memory):
    await register(v2, memory)
    assert (await register(v2, memory)).status == 400
    assert len(await got(v2, f"{REGIONS}/region/r/status")) == 1
    assert (await v2.call("POST", f"{REGIONS}/region/r/unregister")).status == 200
    assert (await v2.call("POST", f"{REGIONS}/region/nobody/unregister")).status == 200
    assert "'r' is not registered" in (await got(v2, f"{REGIONS}/region/r/status", status=404))["error"]
    await register(v2, memory)
    assert (await v2.call("POST", f"{REGIONS}/unregister")).status == 200
    assert await got(v2, f"{REGIONS}/status") == []


@needs_shm
@pytest.mark.parametrize(
    "key",
    [
        "/../etc/passwd",
        "..",
        ".",
        "",
        "/",
        "/a/b",
        "//etc/passwd",
        "nobody-has-this",
        "sem.x",
        "a\x00b",
        7,
        None,
    ],
)
async def test_a_key_that_is_no_name_of_an_object_is_refused(v2, memory, key):
    reply = await register(v2, memory, key=key)
    assert (reply.status, list(json.loads(reply.body))) == (400, ["error"])


@needs_shm
async def test_only_plain_objects_are_opened(v2, memory):
    for make in (os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to(memory)):
        path = memory.with_name(f"{memory.name}-odd")
        make(path)
        try:
            assert (await register(v2, path)).status == 400
        finally:
            path.rmdir() if path.is_dir() else path.unlink()


@needs_shm
@pytest.mark.parametrize("more", [{"byte_size": 0}, {"byte_size": None}, {"offset": -1}, {"byte_size": 1.5}])
async def test_a_region_needs_sizes_that_make_sense(v2, memory, more):
    assert (await register(v2, memory, **more)).status == 400


@needs_shm
async def test_a_region_that_was_cut_short_is_an_error_and_no_crash(v2, memory):
    await register(v2, memory)
    os.truncate(memory, 100)
    for size in (200, 400_000):
        place = in_region(size)
        tensor = {"name": "x", "shape": [size // 4], "datatype": "FP32", "parameters": place}
        found = await got(v2, "/v2/models/echo/infer", "POST", {"inputs": [tensor]}, 400)
        assert "shorter" in found["error"]
    v2.service.answer = lambda request: [named(request, encode_outputs(request, echoed(request), {}))]
    outputs = [{"name": "x", "parameters": in_region(8, 96)}]
    found = await got(v2, "/v2/models/echo/infer", "POST", {"inputs": [x()], "outputs": outputs}, 400)
    assert "shorter" in found["error"]
    assert memory.stat().st_size == 100


@needs_shm
async def test_a_region_stays_readable_when_its_name_is_gone_and_no_other_object_takes_its_place(v2, memory):
    memory.write_bytes(b"\x01" * 1_000_000)
    await register(v2, memory)
    memory.unlink()
    memory.write_bytes(b"\x02" * 1_000_000)
    seen = []

    def answer(request):
        seen.append(bytes(request.inputs[0].data))
        return [named(request, encode_outputs(request, echoed(request), {}))]

    v2.service.answer = answer
    tensor = {"name": "x", "shape": [4], "datatype": "UINT8", "parameters": in_region(4)}
    await got(v2, "/v2/models/echo/infer", "POST", {"inputs": [tensor]})
    assert seen == [b"\x01" * 4]


@needs_shm
@pytest.mark.parametrize(
    "place",
    [
        in_region(8, 2**63), in_region(2**64, 0), in_region(-8, 0), in_region(8, -1), in_region(8.5, 0), in_region("8", 0),
        in_region(True, 0), in_region(8, None),
    ],
)  # fmt: skip
async def test_an_input_beyond_its_region_is_an_error(v2, memory, place):
    await register(v2, memory)
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "parameters": place}
    found = await got(v2, "/v2/models/echo/infer", "POST", {"inputs": [tensor]}, 400)
    assert list(found) == ["error"]
    assert v2.service.requests == []


@needs_shm
@pytest.mark.parametrize(
    "more", [{"offset": 2**63}, {"byte_size": 2**64}, {"offset": 2**63 - 1, "byte_size": 2**63 - 1}]
)
async def test_a_region_larger_than_anything_is_refused(v2, memory, more):
    assert (await register(v2, memory, **more)).status == 400


@needs_shm
@pytest.mark.parametrize(
    "place", [in_region(4), in_region(8, 999_999), in_region(8, 0, "nobody"), {"shared_memory_region": "r"}]
)
async def test_an_output_that_does_not_fit_its_region_is_an_error(v2, memory, place):
    v2.service.answer = lambda request: [named(request, encode_outputs(request, echoed(request), {}))]
    await register(v2, memory)
    outputs = [{"name": "x", "parameters": place}]
    found = await got(v2, "/v2/models/echo/infer", "POST", {"inputs": [x()], "outputs": outputs}, 400)
    assert list(found) == ["error"]


async def test_where_shared_memory_is_off_everything_says_so(v2_as):
    served = await v2_as(shared=False)
    for method, path in (("GET", "status"), ("POST", "region/r/register"), ("POST", "unregister")):
        assert "shared memory is off" in (await got(served, f"{REGIONS}/{path}", method, status=501))["error"]
    tensor = {"name": "x", "shape": [1], "datatype": "FP32", "parameters": in_region(4)}
    found = await got(served, "/v2/models/echo/infer", "POST", {"inputs": [tensor]}, 400)
    assert "not offered" in found["error"]
    served.service.answer = lambda request: [named(request, encode_outputs(request, echoed(request), {}))]
    body = {"inputs": [x()], "outputs": [{"name": "x", "parameters": in_region(8)}]}
    assert "not offered" in (await got(served, "/v2/models/echo/infer", "POST", body, 400))["error"]


async def test_a_gpus_shared_memory_is_as_where_there_is_none(v2):
    assert await got(v2, "/v2/cudasharedmemory/status") == []
    missing = await got(v2, "/v2/cudasharedmemory/region/r/status", status=404)
    assert missing == {"error": "Unable to find cuda shared memory region: 'r'"}
    for path in ("unregister", "region/r/unregister"):
        reply = await v2.call("POST", f"/v2/cudasharedmemory/{path}")
        assert (reply.status, reply.body) == (200, b""), reply.body
    refused = await got(v2, "/v2/cudasharedmemory/region/r/register", "POST", {}, 400)
    assert refused == {"error": "failed to register CUDA shared memory region: 'r', GPUs not supported"}


# The document


async def test_the_document_describes_every_endpoint_and_is_valid(v2):
    found = await got(v2, "/", "OPTIONS")
    validate(found)
    operations = [call["operationId"] for path in found["paths"].values() for call in path.values()]
    assert len(operations) == len(set(operations))
    for path in ("/v2/models/{model_name}/infer", "/v2/repository/index", "/v2/systemsharedmemory/status"):
        assert path in found["paths"]
    errors = found["paths"]["/v2/models/{model_name}/infer"]["post"]["responses"]["400"]
    assert errors["content"][JSON]["schema"] == {"$ref": "#/components/schemas/OpenInferenceError"}


async def test_every_promised_call_has_a_handler(v2):
    v2.service.states = v2.service.states[:1]
    found = await got(v2, "/", "OPTIONS")
    values = {"model_name": "echo", "model_version": "1.0", "repository_name": "any", "region_name": "r"}
    for path, calls in found["paths"].items():
        for method in calls:
            reply = await v2.call(method.upper(), path.format(**values))
            assert reply.status in {200, 400} or path.endswith("region/{region_name}/status")

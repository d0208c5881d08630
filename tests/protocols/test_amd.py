"""AMD's API as its clients use it: every row of its endpoint list, by name, in both dialects of v2."""

import asyncio
import json

import msgspec
import pytest
from amd_wire import FakeAdministration, listening, request
from protocol_wire import Reply, Served

from mooring.core.errors import InvalidInput, ModelLoadFailed, ModelNotFound, WorkerDied
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.protocols.dialect import AMD, V2
from mooring.repository.catalog import worker_extensions


@pytest.fixture
def service():
    return FakeAdministration()


def _served(dialect):
    @pytest.fixture
    async def fixture(service):
        server, metrics = await listening(service, dialect)
        yield Served(service, metrics, server.port)
        await server.close()

    return fixture


v2 = _served(V2)
amd = _served(AMD)


@pytest.fixture(params=["v2", "amd"])
def served(request):
    return request.getfixturevalue(request.param)


def error_of(reply: Reply) -> str:
    assert reply.headers["content-type"] == "application/json"
    (key,) = json.loads(reply.body)
    assert key == "error"
    return json.loads(reply.body)["error"]


def outputs(*tensors, model="echo"):
    def answer(request):
        fresh = [msgspec.structs.replace(tensor) for tensor in tensors]
        return [InferenceResponse(fresh, model=model, version="1.0", id=request.id)]

    return answer


SIX = Tensor("out", "UINT32", [1], b"\x06\0\0\0")


# Every row of the seed's endpoint list.


@pytest.mark.parametrize("target", ["/v2/repository/models/zz/load", "/v2/models/zz/load"])
async def test_loading_what_is_not_in_the_repository_is_amds_400(amd, service, target):
    service.fails = ModelNotFound("model 'zz' is not in the repository", model="zz")
    reply = await amd.call("POST", target)
    assert (reply.status, error_of(reply)) == (400, "model 'zz' is not in the repository")


@pytest.mark.parametrize("target", ["/v2/", "/v2"])
async def test_get_v2_server_metadata(amd, target):
    reply = await amd.call("GET", target)
    found = json.loads(reply.body)
    assert (reply.status, found["name"]) == (200, "amdinfer")
    assert {"name", "version", "extensions"} <= set(found)
    assert set(worker_extensions()) <= set(found["extensions"])


async def test_post_v2_hardware_has_hardware(served):
    for body in (
        {"name": "CPU", "num": 4},
        {"name": "CPU"},
        {"name": "NVIDIA H200", "num": 2},
        {"name": "CPU", "num": 0},
    ):
        reply = await served.call("POST", "/v2/hardware", json.dumps(body).encode())
        assert (reply.status, reply.body) == (200, b"")
    for body in (
        {"name": "CPU", "num": 5},
        {"name": "DPUCADF8H", "num": 1},
        {"name": "cpu"},
        {},
        {"name": "x", "num": 0},
    ):
        reply = await served.call("POST", "/v2/hardware", json.dumps(body).encode())
        assert (reply.status, reply.body) == (404, b"")


async def test_get_v2_health_live_server_live(served):
    assert (await served.call("GET", "/v2/health/live")).status == 200


async def test_get_v2_health_ready_server_ready(served, monkeypatch):
    monkeypatch.setattr(served.service, "ready", lambda *_: True)
    assert (await served.call("GET", "/v2/health/ready")).status == 200


async def test_get_v2_models_models(served):
    reply = await served.call("GET", "/v2/models")
    assert json.loads(reply.body) == {"models": ["echo"]}


async def test_get_v2_models_ready_model_ready(served):
    assert (await served.call("GET", "/v2/models/echo/ready")).status == 200
    assert (await served.call("GET", "/v2/models/sleepy/ready")).status == 503


async def test_get_v2_models_model_metadata(served):
    reply = await served.call("GET", "/v2/models/echo")
    found = json.loads(reply.body)
    assert (reply.status, found["name"], found["platform"]) == (200, "echo", "CPU")
    assert found["inputs"] == [{"name": "in", "datatype": "UINT32", "shape": [1]}]
    assert found["outputs"] == [{"name": "out", "datatype": "UINT32", "shape": [1]}]


async def test_post_v2_models_load_model_load(served):
    reply = await served.call(
        "POST", "/v2/models/new/load", b'{"batch_size": 2, "share": false, "f": 0.5, "s": "x"}'
    )
    assert (reply.status, reply.body) == (200, b"")
    assert served.service.done == [
        ("load", "new", "", None, None, {"batch_size": 2, "share": False, "f": 0.5, "s": "x"})
    ]


async def test_post_v2_models_unload_model_unload(served):
    reply = await served.call("POST", "/v2/models/echo/unload", b"null")
    assert (reply.status, reply.body) == (200, b"")
    assert served.service.done == [("unload", "echo", "")]


async def test_post_v2_workers_load_worker_load(served):
    reply = await served.call("POST", "/v2/workers/CPlusPlus/load", b'{"model": "echo"}')
    assert (reply.status, reply.body) == (200, b"cplusplus-0")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert served.service.done == [("load_worker", "cplusplus", {"model": "echo"})]


async def test_post_v2_workers_unload_worker_unload(served):
    reply = await served.call("POST", "/v2/workers/echo/unload", b"null")
    assert (reply.status, reply.body) == (200, b"")
    assert served.service.done == [("unload_worker", "echo")]


async def test_post_v2_models_infer_inference(amd):
    amd.service.answer = outputs(SIX)
    reply = await amd.call(
        "POST", "/v2/models/echo/infer", request(1), "content-type: application/json; charset=utf-8"
    )
    assert reply.status == 200
    assert json.loads(reply.body) == {
        "id": "",
        "model_name": "echo",
        "outputs": [{"name": "out", "datatype": "UINT32", "shape": [1], "parameters": {}, "data": [6]}],
    }


# What its clients send, and what goes wrong.


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b" \n"])
@pytest.mark.parametrize(
    "path", ["/v2/models/echo", "/v2/models/echo/versions/1.0", "/v2/repository/models/echo"]
)
async def test_a_load_or_unload_needs_no_body(served, path, body):
    version = "1.0" if "versions" in path else ""
    assert (await served.call("POST", f"{path}/load", body)).status == 200
    assert (await served.call("POST", f"{path}/unload", body)).status == 200
    assert served.service.done == [("load", "echo", version, None, None, None), ("unload", "echo", version)]


@pytest.mark.parametrize("body", [b"", b"null", b"{}"])
async def test_a_worker_needs_no_body_to_load(served, body):
    assert (await served.call("POST", "/v2/workers/fake/load", body)).body == b"fake-0"


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"7", b'"x"', b'{"a": null}', b'{"a": []}', b'{"a": {}}', b'{"parameters": []}', b"{} trailing",
     b"\xff", b"[" * 5000],
)  # fmt: skip
@pytest.mark.parametrize(
    "target", ["/v2/models/echo/load", "/v2/workers/fake/load", "/v2/repository/models/echo/load"]
)
async def test_a_body_that_holds_no_parameters_is_a_bad_request(served, target, body):
    reply = await served.call("POST", target, body)
    assert reply.status == 400
    assert error_of(reply)
    assert served.service.done == []


async def test_tritons_form_of_a_load_works_on_amds_path_too(served):
    body = {"parameters": {"config": '{"max_batch_size": 4}', "file:1/model.onnx": "AAEC", "more": 1}}
    assert (await served.call("POST", "/v2/models/new/load", json.dumps(body).encode())).status == 200
    assert served.service.done == [
        ("load", "new", "", {"max_batch_size": 4}, {"1/model.onnx": b"\0\1\2"}, {"more": 1})
    ]


@pytest.mark.parametrize(
    "parameters",
    [{"config": "{"}, {"config": "[]"}, {"config": 7}, {"file:a": "?"}, {"file:a": 7}, {"file:a": "é"}],
)
async def test_tritons_form_with_nonsense_in_it_is_a_bad_request(served, parameters):
    reply = await served.call("POST", "/v2/models/new/load", json.dumps({"parameters": parameters}).encode())
    assert reply.status == 400
    assert next(iter(parameters)) in error_of(reply)


@pytest.mark.parametrize(
    "fails", [ModelNotFound("not there"), ModelLoadFailed("broken"), InvalidInput("No model specified")]
)
@pytest.mark.parametrize("target", ["/v2/models/new/load", "/v2/workers/fake/load"])
async def test_a_load_that_fails_is_a_bad_request_with_the_reason(served, target, fails):
    served.service.fails = fails
    reply = await served.call("POST", target, b"{}")
    assert reply.status == 400
    assert error_of(reply)


async def test_a_fault_of_ours_is_a_500(served, caplog):
    served.service.fails = WorkerDied("worker died")
    assert (await served.call("POST", "/v2/models/new/load")).status == 500
    served.service.fails = ZeroDivisionError("a secret")
    reply = await served.call("POST", "/v2/models/new/load")
    assert reply.status == 500
    assert "secret" not in error_of(reply)
    assert "a secret" in caplog.text


@pytest.mark.parametrize("target", ["/v2/models/nobody/unload", "/v2/workers/nobody/unload"])
async def test_unloading_what_is_not_there_succeeds_on_amds_paths(served, target):
    reply = await served.call("POST", target, b"null")
    assert (reply.status, reply.body) == (200, b"")


async def test_unloading_what_is_not_there_from_the_repository_is_up_to_the_dialect(v2, amd):
    target = "/v2/repository/models/nobody/unload"
    assert (await v2.call("POST", target)).status == 404
    assert (await amd.call("POST", target)).status == 200


async def test_names_that_nobody_has_but_in_lower_case_are_lowered(served):
    await served.call("POST", "/v2/models/Echo/load")
    await served.call("POST", "/v2/models/ECHO/unload")
    await served.call("POST", "/v2/models/New/load")
    assert [what[1] for what in served.service.done] == ["echo", "echo", "New"]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'{"name": 7}', b'{"name": "CPU", "num": -1}', b'{"name": "CPU", "num": null}',
     b'{"name": "CPU", "num": "4"}', b'{"name": "CPU", "num": 1.5}', b'{"name": "CPU", "num": true}',
     b'{"name": "CPU", "num": 1e400}', b'{"name": "CPU"} x'],
)  # fmt: skip
async def test_a_question_for_hardware_that_makes_no_sense_is_a_bad_request(served, body):
    reply = await served.call("POST", "/v2/hardware", body)
    assert reply.status == 400
    assert "name" in error_of(reply)


@pytest.mark.parametrize("target", ["/v2/models/nobody", "/v2/models/nobody/ready"])
async def test_an_unknown_model_is_a_bad_request_in_amds_words(v2, amd, target):
    assert (await v2.call("GET", target)).status == 404
    reply = await amd.call("GET", target)
    assert (reply.status, error_of(reply)) == (400, "Worker nobody not found")


async def test_an_unknown_version_is_named_as_amds_endpoints_are(amd):
    reply = await amd.call("GET", "/v2/models/echo/versions/9")
    assert (reply.status, error_of(reply)) == (400, "Worker echo_9 not found")


async def test_inference_with_an_unknown_model_is_a_bad_request_in_amds_words(v2, amd):
    def refuse(asked):
        return [ModelNotFound(model=asked.model)]

    v2.service.answer = amd.service.answer = refuse
    target = "/v2/models/nobody/infer"
    assert (await v2.call("POST", target, request(1))).status == 404
    reply = await amd.call("POST", target, request(1))
    assert (reply.status, error_of(reply)) == (400, "Worker nobody not found")


async def test_amds_answer_names_the_models_own_code_and_ours_the_model(v2, amd):
    v2.service.answer = amd.service.answer = outputs(SIX, model="PTModel")
    assert (
        json.loads((await amd.call("POST", "/v2/models/echo/infer", request(1))).body)["model_name"]
        == "PTModel"
    )
    found = json.loads((await v2.call("POST", "/v2/models/echo/infer", request(1))).body)
    assert found["model_name"] == "echo"
    assert found["model_version"] == "1.0"
    assert "id" not in found
    assert "parameters" not in found["outputs"][0]


async def test_an_id_comes_back(served):
    served.service.answer = outputs(SIX)
    reply = await served.call("POST", "/v2/models/echo/infer", request(1, id="mine"))
    assert json.loads(reply.body)["id"] == "mine"


@pytest.mark.parametrize(
    ("shape", "texts"), [([5], ["hello"]), ([2, 3], ["sixsix"]), ([7], ["gr\u00fc\u00dfe"]), ([0], [""])]
)
async def test_bytes_may_have_the_shape_of_their_bytes(served, shape, texts):
    served.service.answer = outputs(SIX)
    body = request(*shape, datatype="BYTES", data=texts)
    assert (await served.call("POST", "/v2/models/echo/infer", body)).status == 200
    (tensor,) = served.service.requests[-1].inputs
    assert (tensor.shape, tensor.data) == ([1], [texts[0].encode()])


@pytest.mark.parametrize(
    ("shape", "texts"), [([1], ["hello"]), ([1], ["h"]), ([2], ["a", "b"]), ([], ["scalar"])]
)
async def test_bytes_may_have_the_shape_of_their_texts(served, shape, texts):
    served.service.answer = outputs(SIX)
    body = request(*shape, datatype="BYTES", data=texts)
    assert (await served.call("POST", "/v2/models/echo/infer", body)).status == 200
    (tensor,) = served.service.requests[-1].inputs
    assert (tensor.shape, tensor.data) == (shape, [text.encode() for text in texts])


@pytest.mark.parametrize(
    ("shape", "texts"), [([4], ["hello"]), ([2], ["a"]), ([0], ["x"]), ([3], ["ab", "c"])]
)
async def test_bytes_with_any_other_shape_are_refused(served, shape, texts):
    body = request(*shape, datatype="BYTES", data=texts)
    assert (await served.call("POST", "/v2/models/echo/infer", body)).status == 400
    assert served.service.requests == []


async def test_bytes_come_back_with_the_shape_of_their_bytes_under_amd(v2, amd):
    text = Tensor("out", "BYTES", [1], [b"hello"])
    v2.service.answer = amd.service.answer = outputs(text)
    found = json.loads((await amd.call("POST", "/v2/models/echo/infer", request(1))).body)["outputs"][0]
    assert (found["shape"], found["data"]) == ([5], ["hello"])
    found = json.loads((await v2.call("POST", "/v2/models/echo/infer", request(1))).body)["outputs"][0]
    assert (found["shape"], found["data"]) == ([1], ["hello"])


# Browsers, and other methods.


async def test_every_answer_of_amds_dialect_is_for_pages_of_any_site(v2, amd):
    for method, target in (
        ("GET", "/v2"),
        ("GET", "/v2/models/nobody"),
        ("POST", "/v2/hardware"),
        ("OPTIONS", "/v2"),
    ):
        assert (await amd.call(method, target)).headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in (await v2.call(method, target)).headers


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/v2", "OPTIONS,GET,HEAD"),
        ("/v2/models/echo", "OPTIONS,GET,HEAD"),
        ("/v2/models/echo/infer", "OPTIONS,POST"),
        ("/v2/hardware", "OPTIONS,POST"),
        ("/v2/workers/fake/load", "OPTIONS,POST"),
        ("/v2/models/echo/load", "OPTIONS,POST"),
    ],
)
async def test_options_tells_the_methods(v2, amd, target, allow):
    reply = await v2.call("OPTIONS", target)
    assert (reply.status, reply.body, reply.headers["allow"]) == (200, b"", allow)
    reply = await amd.call("OPTIONS", target)
    assert (reply.headers["allow"], reply.headers["access-control-allow-methods"]) == (allow, allow)


@pytest.mark.parametrize("target", ["/v2/hardware", "/v2/models/echo/load", "/v2/workers/fake/unload"])
async def test_other_methods_are_not_allowed(served, target):
    reply = await served.call("GET", target)
    assert reply.status == 405
    assert reply.headers["allow"] == "OPTIONS, POST"
    assert error_of(reply) == "Method Not Allowed"


@pytest.mark.parametrize(
    "target",
    ["/v2/models/echo/load", "/v2/models/echo/unload", "/v2/workers/fake/load", "/v2/workers/echo/unload",
     "/v2/repository/models/echo/load"],
)  # fmt: skip
async def test_where_everybody_may_come_nobody_changes_anything(service, target):
    server, metrics = await listening(service, AMD, changes=False)
    reply = await Served(service, metrics, server.port).call("POST", target)
    await server.close()
    assert reply.status == 403
    assert "--insecure" in error_of(reply)
    assert service.done == []


async def test_a_client_that_goes_away_does_not_stop_a_load(amd):
    begun, go_on, loaded = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def load(model, version="", **changes):
        begun.set()
        await go_on.wait()
        loaded.set()

    amd.service.load = load
    _, writer = await asyncio.open_connection("127.0.0.1", amd.port)
    writer.write(b"POST /v2/models/new/load HTTP/1.1\r\nhost: here\r\n\r\n")
    await begun.wait()
    writer.close()
    await writer.wait_closed()
    go_on.set()
    await asyncio.wait_for(loaded.wait(), 5)


async def test_extensions_are_those_whose_library_is_there(monkeypatch):
    there = {"onnxruntime"}
    monkeypatch.setattr("mooring.repository.catalog.find_spec", lambda name: name in there or None)
    assert worker_extensions() == ["migraphx"]
    there |= {"torch", "tensorflow"}
    assert worker_extensions() == ["migraphx", "ptzendnn"]


# Metrics.


def samples(text: bytes):
    found = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in found}


async def test_amds_metrics_are_there_from_the_start(amd):
    found = samples((await amd.call("GET", "/metrics")).body)
    assert found['amdinfer_requests_ingress_total{api="cpp",method="native"}'] == 0
    assert found['amdinfer_queue_sizes_total{direction="input",stage="batcher"}'] == 3
    for quantile in ("0.5", "0.9", "0.99"):
        assert str(found[f'amdinfer_request_latency{{quantile="{quantile}"}}']) == "nan"
    assert found["amdinfer_request_latency_count"] == 0
    assert found["exposer_scrapes_total"] == 0


async def test_amds_metrics_count_what_amds_server_counts(amd):
    amd.service.answer = outputs(SIX)
    for method, target in (
        ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"), ("GET", "/v2/models/echo"),
        ("GET", "/v2/models/echo/ready"), ("GET", "/v2/models/echo/versions/1.0"), ("POST", "/v2/hardware"),
        ("GET", "/v2/models"), ("POST", "/v2/models/echo/load"), ("POST", "/v2/models/echo/unload"),
        ("OPTIONS", "/v2"),
    ):  # fmt: skip
        await amd.call(method, target)
    await amd.call("POST", "/v2/models/echo/infer", request(1))
    found = samples((await amd.call("GET", "/metrics")).body)
    assert found['amdinfer_requests_ingress_total{api="rest",method="GET"}'] == 7
    assert found['amdinfer_requests_ingress_total{api="rest",method="POST"}'] == 1


async def test_amds_metrics_follow_the_models(amd):
    model = amd.metrics.statistics_for("echo", "1.0")
    for _ in range(10):
        model.observe_request(0.0002, 0.0, ok=True)
    model.observe_batches([(10, 0.0001, 1)])
    first = await amd.call("GET", "/metrics")
    found = samples(first.body)
    assert found['amdinfer_pipeline_ingress_total{stage="batcher"}'] == 13
    assert found['amdinfer_pipeline_egress_total{stage="batcher"}'] == 1
    assert found['amdinfer_pipeline_ingress_total{stage="worker"}'] == 1
    assert found["amdinfer_request_latency_count"] == 10
    assert found["amdinfer_request_latency_sum"] == pytest.approx(2000)
    assert 100 < found['amdinfer_request_latency{quantile="0.5"}'] <= 250
    again = samples((await amd.call("GET", "/metrics")).body)
    assert again["exposer_scrapes_total"] == 1
    assert again["exposer_transferred_bytes_total"] == len(first.body)

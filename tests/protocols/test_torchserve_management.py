"""TorchServe's management and metrics ports, as far as they look."""

import asyncio
import gzip
import json

import pytest
from protocol_wire import JSON, answered, refused

from mooring.codecs.compression import deflate
from mooring.core.service import ModelState
from mooring.observability.metrics import CONTENT_TYPE


def named(*names: str, token: str = "") -> bytes:
    page: dict[str, object] = {"nextPageToken": token} if token else {}
    page["models"] = [{"modelName": name, "modelUrl": f"{name}.mar"} for name in names]
    return answered(json.dumps(page, indent=2).encode() + b"\n", JSON)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", named("a", "b", "c")),
        ("?limit=2", named("a", "b", token="2")),
        ("?limit=2&next_page_token=2", named("c")),
        ("?limit=3", named("a", "b", "c", token="3")),
        ("?limit=1&next_page_token=2", named("c", token="3")),
        ("?limit=0", named(token="0")),
        ("?limit=-1", named("a", "b", "c")),
        ("?limit=101", named("a", "b", "c")),
        ("?limit=x", named("a", "b", "c")),
        ("?next_page_token=9", named()),
        ("?next_page_token=-1&limit=1", named("a", token="1")),
        ("?next_page_token=x", named("a", "b", "c")),
    ],
)
async def test_models_are_listed_in_pages(management, query, expected):
    management.service.states = [ModelState(n, "1", "READY", ready=True, is_default=True) for n in "cab"]
    assert (await management.call("GET", f"/models{query}")).raw == expected


async def test_a_name_with_several_versions_is_listed_once(management):
    reply = await management.call("GET", "/models")
    assert [model["modelName"] for model in json.loads(reply.body)["models"]] == ["echo", "sleepy"]


DESCRIBED = [
    "modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay",
    "responseTimeout", "startupTimeout", "maxRetryTimeoutInSec", "clientTimeoutInMills", "parallelType", "parallelLevel",
    "deviceType", "continuousBatching", "useJobTicket", "useVenv", "stateful", "sequenceMaxIdleMSec",
    "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize", "loadedAtStartup", "workers", "jobQueueStatus",
]  # fmt: skip


async def test_a_model_is_described_in_torchserves_order_and_units(management):
    reply = await management.call("GET", "/models/echo")
    (model,) = json.loads(reply.body)
    assert list(model)[: len(DESCRIBED)] == DESCRIBED
    assert (model["maxBatchDelay"], model["clientTimeoutInMills"], model["startupTimeout"]) == (50, 1500, 60)
    assert model["jobQueueStatus"] == {"remainingCapacity": 97, "pendingRequests": 3}
    assert model["workers"] == [
        {
            "id": "9000", "startTime": "2023-11-14T22:13:20.250Z", "status": "READY", "memoryUsage": 1_000_000,
            "pid": 4711, "gpu": False, "gpuUsage": "N/A",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "versions"),
    [
        ("/models/echo", ["1.0"]),
        ("/models/echo/2.0", ["2.0"]),
        ("/models/echo/all", ["1.0", "2.0"]),
        ("/models/sleepy", ["1.0"]),
    ],
)
async def test_one_version_or_all_are_described(management, target, versions):
    reply = await management.call("GET", target)
    assert [model["modelVersion"] for model in json.loads(reply.body)] == versions


async def test_what_keeps_a_version_from_being_ready_is_told(management):
    management.service.states = [
        ModelState("m", "1", "FAILED", ready=False, is_default=True, reason="no such file: m.py")
    ]
    (model,) = json.loads((await management.call("GET", "/models/m")).body)
    assert (model["state"], model["reason"]) == ("FAILED", "no such file: m.py")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("/models/nobody", "ModelNotFoundException", "Model not found: nobody"),
        ("/models/nobody/all", "ModelNotFoundException", "Model not found: nobody"),
        (
            "/models/echo/9",
            "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: echo",
        ),
    ],
)
async def test_models_that_are_not_there_are_not_described(management, method, target, kind, message):
    assert (await management.call(method, target)).raw == refused("404 Not Found", kind, message)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PUT", "/models", "GET, HEAD, POST"),
        ("POST", "/models/echo", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("PATCH", "/models/echo/1.0", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("DELETE", "/models/echo/1.0/set-default", "GET, HEAD, PUT"),
        ("POST", "/v1/models/echo", "GET, HEAD"),
        ("GET", "/", "OPTIONS"),
    ],
)
async def test_other_methods_are_not_allowed(management, method, target, allow):
    expected = refused(
        "405 Method Not Allowed",
        "MethodNotAllowedException",
        "Requested method is not allowed, please refer to API document.",
        more=f"allow: {allow}\r\n".encode(),
    )
    assert (await management.call(method, target)).raw == expected


async def test_readiness_lives_on_the_management_port_too(management):
    reply = await management.call("GET", "/v1/models/echo")
    assert reply.raw == answered(b'{\n  "name": "echo",\n  "ready": true\n}\n', JSON)


@pytest.mark.parametrize("target", ["/predictions/echo", "/ping", "/v1/models/echo:predict"])
async def test_nothing_is_predicted_on_the_management_port(management, target):
    assert (await management.call("POST", target, b'{"instances":[1]}')).status in {404, 405}
    assert management.service.requests == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("target", ["/metrics", "/metrics/", "/metrics/and/more"])
async def test_metrics_are_told_whatever_the_method(metrics, method, target):
    reply = await metrics.call(method, target)
    assert reply.headers["content-type"] == CONTENT_TYPE
    assert b"# TYPE Requests2XX counter\n" in reply.body
    assert b"# TYPE process_resident_memory_bytes gauge\n" in reply.body


async def test_metrics_can_be_chosen_by_name(metrics):
    metrics.metrics.statistics_for("m", "1").observe_request(0.1, 0.0, ok=True)
    reply = await metrics.call("GET", "/metrics?name[]=Requests4XX&name%5B%5D=ts_inference_requests_total")
    families = [line.split()[2] for line in reply.body.decode().splitlines() if line.startswith("# TYPE")]
    assert sorted(families) == ["Requests4XX", "ts_inference_requests_total"]


async def test_scrapes_are_counted_as_responses(metrics):
    await metrics.call("GET", "/metrics")
    reply = await metrics.call("GET", "/metrics?name[]=Requests2XX")
    assert reply.body.splitlines()[-1].endswith(b" 1.0")


async def test_scrapes_at_the_same_time_are_written_one_after_the_other(metrics, monkeypatch):
    writing, most = [], []
    render = metrics.metrics.render_in_turns

    async def watched(names):
        writing.append(names)
        most.append(len(writing))
        await asyncio.sleep(0.01)
        text = await render(names)
        writing.pop()
        return text

    monkeypatch.setattr(metrics.metrics, "render_in_turns", watched)
    asked = [metrics.call("GET", "/metrics?name[]=process_start_time_seconds") for _ in range(5)]
    pages = await asyncio.gather(*asked)
    assert {page.status for page in pages} == {200}
    assert len({page.body for page in pages}) == 1
    assert most == [1] * 5


async def test_a_large_page_is_compressed_elsewhere_and_is_the_same(metrics, monkeypatch):
    for number in range(60):
        metrics.metrics.statistics_for(f"m{number}", "1")
    threads = []

    async def to_thread(work, *args):
        threads.append(work)
        return work(*args)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    target = "/metrics?name[]=mooring_request_duration_seconds"
    plain = (await metrics.call("GET", target)).body
    reply = await metrics.call("GET", target, b"", "accept-encoding: gzip")
    assert len(plain) > 65_536
    assert reply.headers["content-encoding"] == "gzip"
    assert gzip.decompress(reply.body) == plain
    assert threads == [deflate]

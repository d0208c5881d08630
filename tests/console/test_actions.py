"""What the page may change: no more than the clients of the other interfaces, and only by JSON."""

import json

import pytest
from amd_wire import FakeAdministration
from protocol_wire import Served

from mooring.config.settings import Address, Config
from mooring.console.actions import Actions, Rules, rules_of
from mooring.core.buffers import HeapAllocator
from mooring.core.errors import LoadingDisabled, ModelExists, ModelLoadFailed, SourceRefused, WorkersFailed
from mooring.core.service import Registration
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.responses import Responses
from mooring.web.http1 import HttpServer, Limits

JSON = "content-type: application/json"


@pytest.fixture
def models():
    return FakeAdministration()


@pytest.fixture
async def start(models):
    servers = []

    async def begin(rules=Rules()):  # noqa: B008 - never changed
        metrics = Metrics()
        responses = Responses(metrics.responses)
        changed = []
        actions = Actions(models, responses, rules, lambda: changed.append(True))
        server = HttpServer(
            Application(actions.endpoints("/console/api"), responses), limits=Limits(),
            allocator=HeapAllocator(), render_error=responses.format_refusal,
        )  # fmt: skip
        await server.start("127.0.0.1", 0)
        servers.append(server)
        served = Served(models, metrics, server.port)
        return served, changed

    yield begin
    for server in servers:
        await server.close()


async def post(served, path, body, *headers):
    reply = await served.call(
        "POST", f"/console/api/{path}", json.dumps(body).encode(), *(headers or (JSON,))
    )
    return reply.status, json.loads(reply.body)


async def test_each_action_is_that_of_the_administration(start, models):
    served, changed = await start()
    for path, body in (
        ("models/echo/load", {"version": "2"}),
        ("models/a%2Fb/load", {}),
        ("models/echo/unload", {"version": "1.0"}),
        ("models/echo/scale", {"version": "1.0", "min_workers": 1, "max_workers": 3}),
        ("models/echo/default", {"version": "1.0"}),
        ("models", {"url": "x.mar", "name": "y"}),
    ):
        assert await post(served, path, body) == (200, {"done": True})
    assert models.done == [
        ("load", "echo", "2", None, None, None), ("load", "a/b", "", None, None, None), ("unload", "echo", "1.0"),
    ]  # fmt: skip
    assert models.changes == [
        ("scale", "echo", "1.0", 1, 3, True), ("set default", "echo", "1.0"),
        ("register", Registration(url="x.mar", name="y"), True),
    ]  # fmt: skip
    assert len(changed) == 6


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ModelLoadFailed("no such thing"), 400),
        (LoadingDisabled("no such thing"), 403),
        (SourceRefused("no such thing"), 403),
        (ModelExists("no such thing"), 409),
        (WorkersFailed("no such thing"), 400),
    ],
)
async def test_an_error_is_its_text(start, models, error, status):
    served, changed = await start()
    models.fails = error
    found, document = await post(served, "models/echo/load", {})
    assert (found, list(document)) == (status, ["error"])
    assert "no such thing" in document["error"]
    assert changed  # a load that failed has a reason now


@pytest.mark.parametrize(
    "headers",
    [("content-type: text/plain",), ("accept: */*",), ("content-type: application/x-www-form-urlencoded",)],
)
async def test_only_json_is_read(start, models, headers):
    served, _ = await start()
    status, document = await post(served, "models/echo/unload", {}, *headers)
    assert (status, list(document)) == (415, ["error"])
    assert models.done == []


async def test_charset_may_follow_the_type(start):
    served, _ = await start()
    assert await post(served, "models/echo/load", {}, "content-type: application/json; charset=utf-8") == (
        200,
        {"done": True},
    )


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b'{"version": 1}', b'{"other": 1}', b'{"version": "' + b"x" * 70_000 + b'"}'],
)
async def test_a_body_that_is_not_understood_changes_nothing(start, models, body):
    served, _ = await start()
    reply = await served.call("POST", "/console/api/models/echo/load", body, JSON)
    assert (reply.status, list(json.loads(reply.body))) == (400, ["error"])
    assert models.done == []


async def test_what_a_start_does_not_allow_says_what_to_set(start, models):
    served, _ = await start(Rules(load="set this", register="set that", scale="set those"))
    for path, text in (
        ("models/echo/load", "set this"), ("models/echo/unload", "set this"), ("models", "set that"),
        ("models/echo/scale", "set those"), ("models/echo/default", "set those"),
    ):  # fmt: skip
        assert await post(served, path, {}) == (403, {"error": text})
    assert models.done == models.changes == []


EVERYWHERE = Address("0.0.0.0", 8080)


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({}, set()),
        ({"enable_repository_api": False}, {"load", "register"}),
        ({"enable_repository_api": False, "enable_management_api": False}, {"load", "register", "scale"}),
        ({"enable_model_api": False}, {"load", "register"}),
        ({"inference_address": EVERYWHERE}, {"register"}),
        ({"inference_address": EVERYWHERE, "enable_model_api": True}, set()),
    ],
)
def test_the_rules_of_a_start_hold_for_the_page(settings, refused):
    rules = rules_of(Config(**settings))
    assert {name for name in ("load", "register", "scale") if getattr(rules, name)} == refused
    for name in refused:
        assert " is off; start with " in getattr(rules, name)

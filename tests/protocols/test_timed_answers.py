"""Which answers have timings: those of models whose clients ask, on every connection and for every request anew."""

import pytest
from fake_transport import FakeResponseTransport
from protocol_wire import output
from test_known_ways import told_again, written

from mooring.core.errors import ModelFailed
from mooring.observability.metrics import Metrics
from mooring.protocols.access import Gate
from mooring.protocols.application import Application
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.tokens import Access, Tokens
from mooring.web.http1 import Exchange, HeadCache

ASK = "server-timing: 1"


@pytest.mark.parametrize(
    "target", ["/predictions/echo", "/explanations/echo", "/v1/models/echo:predict", "/echo/predict"]
)
async def test_request_carries_a_timing_only_where_its_client_asks(inference, target):
    body = b'{"instances": [1]}'
    inference.service.outcomes = [output(b"1")]
    for lines, asks in (([], False), ([ASK], True), (["server-timing: 0"], False)):
        await inference.call("POST", target, body, *lines)
        assert (inference.service.requests[-1].timing is not None) is asks


async def test_each_request_of_a_known_head_has_its_own(inference):
    inference.service.outcomes = [output(b"ok")]
    replies = await told_again(inference.port, written("POST", "/predictions/echo", b"x", ASK))
    timings = [request.timing for request in inference.service.requests]
    assert len({id(timing) for timing in timings}) == len(replies)
    assert all(b"\r\nserver-timing: total;dur=" in reply.raw for reply in replies)


async def test_errors_have_it_and_what_asks_no_model_does_not(inference):
    inference.service.outcomes = [ModelFailed("no")]
    assert b"\r\nserver-timing: " in (await inference.call("POST", "/predictions/echo", b"x", ASK)).raw
    assert b"\r\nserver-timing: " not in (await inference.call("GET", "/ping", b"", ASK)).raw
    assert b"\r\nserver-timing: " not in (await inference.call("GET", "/v1/models/echo", b"", ASK)).raw


def ask(application, *, cached=False, **fields):
    """What an application answers, whose connection may know the head."""
    transport = FakeResponseTransport()
    fields = {name.replace("_", "-").encode(): value for name, value in fields.items()}
    exchange = Exchange(
        "POST", b"/it/m", [], fields, True, transport, head_cache=HeadCache() if cached else None
    )
    application(exchange)
    return transport.raw


def application(**more):
    def answer(exchange, _match):
        exchange.respond(200, b"ok")

    def prepare(_exchange, match):
        return lambda exchange: answer(exchange, match)

    endpoint = Endpoint("/it/{model_name}", answer, Access.INFERENCE, prepare=prepare, infers=True)
    return Application([endpoint], Responses(Metrics().responses), **more)


@pytest.mark.parametrize("cached", [False, True])
def test_setting_has_every_answer_tell(cached):
    assert b"server-timing: total" in ask(application(times_all=True), cached=cached)
    assert b"server-timing" not in ask(application(), cached=cached)
    assert b"server-timing: total" in ask(application(), cached=cached, server_timing=b"1")


def test_pages_of_an_origin_see_it_where_they_may():
    lines = {b"http://a.example": b"timing-allow-origin: http://a.example\r\n"}
    timed = application(timing_lines_for=lambda origin: lines.get(origin, b""))
    assert b"timing-allow-origin" in ask(timed, server_timing=b"1", origin=b"http://a.example")
    assert b"timing-allow-origin" not in ask(timed, server_timing=b"1", origin=b"http://b.example")
    assert b"timing-allow-origin" not in ask(timed, server_timing=b"1")


def test_nobody_is_told_how_long_the_check_of_a_token_took():
    gate = Gate(Tokens(fixed={Access.INFERENCE: b"an-inference-token"}))
    guarded = application(gate=gate)
    assert b"server-timing" not in ask(guarded, server_timing=b"1", authorization=b"Bearer another-token")
    assert b"server-timing" in ask(guarded, server_timing=b"1", authorization=b"Bearer an-inference-token")

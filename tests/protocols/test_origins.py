"""A web page may not change what is served, unless it is the server's own: whatever the protocol."""

import json
from contextlib import AsyncExitStack

import pytest
from amd_wire import FakeAdministration
from amd_wire import listening as listening_amd
from protocol_wire import Served
from v2_wire import infer_body, x

from mooring.config.settings import Config
from mooring.core.buffers import HeapAllocator
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.dialect import AMD
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.origins import Sites, refuse_foreign
from mooring.protocols.responses import Responses
from mooring.server.server import Server
from mooring.tokens import Access
from mooring.web.http1 import Exchange, HttpServer, Limits

ELSEWHERE = "origin: http://evil.example"
CHANGES = [
    f"{model}{version}/{verb}"
    for model in ("/v2/repository/models/echo", "/v2/repository/main/models/echo")
    for version in ("", "/versions/1.0")
    for verb in ("load", "unload")
]
SETTINGS = [
    "/v2/logging", "/v2/trace/setting", "/v2/models/echo/trace/setting",
    "/v2/systemsharedmemory/region/r/register", "/v2/systemsharedmemory/region/r/unregister",
    "/v2/systemsharedmemory/unregister",
]  # fmt: skip
OF_AMD = [
    "/v2/models/echo/load", "/v2/models/echo/unload", "/v2/models/echo/versions/1/load",
    "/v2/models/echo/versions/1/unload", "/v2/workers/echo/load", "/v2/workers/echo/unload",
]  # fmt: skip


@pytest.fixture
async def amd():
    service = FakeAdministration()
    server, metrics = await listening_amd(service, AMD)
    yield Served(service, metrics, server.port)
    await server.close()


@pytest.mark.parametrize("target", [*CHANGES, *SETTINGS])
async def test_another_sites_page_changes_nothing_over_v2(v2, target):
    reply = await v2.call("POST", target, b"{}", ELSEWHERE, "content-type: text/plain")
    assert (reply.status, list(json.loads(reply.body))) == (403, ["error"])
    assert "another site" in json.loads(reply.body)["error"]
    assert v2.service.calls == []


@pytest.mark.parametrize("target", [*CHANGES, *OF_AMD])
async def test_another_sites_page_changes_nothing_over_amds_api_though_that_lets_pages_ask(amd, target):
    reply = await amd.call("POST", target, b"{}", ELSEWHERE)
    assert (reply.status, list(json.loads(reply.body))) == (403, ["error"])
    assert amd.service.done == []


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://here.evil.example",
        "http://here:81",
        "http://[",
        "https://evil.example/here",
        "here",
    ],
)
async def test_what_is_not_the_servers_own_origin_is_anothers(v2, origin):
    reply = await v2.call("POST", "/v2/repository/models/echo/unload", b"", f"origin: {origin}")
    assert (reply.status, v2.service.calls) == (403, [])


@pytest.mark.parametrize(
    "headers", [[], ["origin: http://here"], ["origin: http://HERE"], ["origin: https://here"]]
)
async def test_programs_and_the_servers_own_pages_may(v2, headers):
    reply = await v2.call("POST", "/v2/repository/models/echo/unload", b"", *headers)
    assert (reply.status, v2.service.calls) == (200, [("unload", "echo", "", False)])


async def test_any_page_may_ask_a_model_and_look(v2):
    reply = await v2.call("POST", "/v2/models/echo/infer", infer_body(x()), ELSEWHERE)
    assert reply.status == 200
    assert (await v2.call("POST", "/v2/repository/index", b"", ELSEWHERE)).status == 200
    assert (await v2.call("GET", "/v2/logging", b"", ELSEWHERE)).status == 200


OWN_WAYS = [
    [],
    ["sec-fetch-mode: navigate", "sec-fetch-site: none"],  # a typed address
    ["sec-fetch-mode: navigate", "sec-fetch-site: same-origin", "origin: http://here"],
    ["sec-fetch-mode: cors", "sec-fetch-site: cross-site", ELSEWHERE],  # a script, which shows nothing
    ["upgrade-insecure-requests: 1", "origin: http://here"],
    ["upgrade-insecure-requests: 1"],
]
FOREIGN_WAYS = [
    ["sec-fetch-mode: navigate", "sec-fetch-site: cross-site", ELSEWHERE],  # a form
    ["sec-fetch-mode: navigate", "sec-fetch-site: same-site", "sec-fetch-dest: iframe"],
    ["sec-fetch-mode: navigate", "sec-fetch-site: cross-site", "origin: null"],  # from a sandbox
    ["upgrade-insecure-requests: 1", ELSEWHERE],  # plain HTTP, to another machine
]


@pytest.mark.parametrize("headers", [*OWN_WAYS, *FOREIGN_WAYS])
async def test_an_answer_that_another_sites_page_has_a_browser_show_is_of_no_site(v2, headers):
    for _ in range(3):  # a connection that knows the head has a shorter way
        reply = await v2.call("POST", "/v2/models/echo/infer", infer_body(x()), *headers)
        assert reply.status == 200
        policy = reply.headers.get("content-security-policy", "")
        assert (policy.startswith("sandbox ") and "allow-same-origin" not in policy) == (
            headers in FOREIGN_WAYS
        )
        assert reply.headers.get("x-content-type-options") == ("nosniff" if policy else None)


@pytest.fixture
async def loopback():
    responses = Responses(Metrics().responses)

    def change(exchange, _):
        responses.send_body(exchange, b"changed", "text/plain")

    server = HttpServer(
        Application(
            [Endpoint("/change", change, Access.MANAGEMENT, changes=True)],
            responses,
            sites=Sites(loopback=True),
        ),
        limits=Limits(),
        allocator=HeapAllocator(),
        render_error=responses.format_refusal,
    )
    await server.start("127.0.0.1", 0)
    yield Served(None, None, server.port)
    await server.close()


async def asked_from(served, site, host):
    text = f"PUT /change HTTP/1.1\r\nhost: {host}\r\norigin: http://{site}\r\n\r\n"
    return await served.send(text.encode())


@pytest.mark.parametrize(
    "name", ["127.0.0.1:80", "localhost:80", "console.localhost:80", "[::1]:80", "127.3.2.1"]
)
async def test_a_listener_on_loopback_knows_its_own_pages_by_loopbacks_names(loopback, name):
    assert (await asked_from(loopback, name, name)).status == 200


@pytest.mark.parametrize("name", ["evil.example:80", "10.0.0.1.nip.example:80", "localhost.evil.example"])
async def test_a_name_pointed_at_loopback_afterwards_is_still_another_site(loopback, name):
    reply = await asked_from(loopback, name, name)
    assert (reply.status, json.loads(reply.body)["type"]) == (403, "ForbiddenException")


# What is asked with a body and changes nothing.
ASKING = (
    "/infer",
    "/explain",
    "/wfpredict/{workflow_name}",
    "/generate",
    "/generate_stream",
    "/index",
    "/v2/hardware",
)


@pytest.mark.parametrize("dialect", ["v2", "amd"])
async def test_every_endpoint_that_is_written_to_is_closed_to_pages_but_those_that_only_ask(dialect):
    async with AsyncExitStack() as stack:
        server = Server(Config(dialect=dialect, arena_size=65_536), stack)
        mounted = [endpoint for site in server.addresses.mounts() for endpoint in site.endpoints]
    written = [each for each in mounted if each.methods and each.methods & {"POST", "PUT", "PATCH", "DELETE"}]
    assert {each.pattern for each in written if not each.changes} == {
        each.pattern for each in written if each.pattern.endswith(ASKING)
    }


def asked(*headers):
    """A request with these headers, which nobody answers."""
    fields = dict(headers)
    return Exchange("GET", b"/", list(headers), fields, True, None)


LOCAL = Sites(loopback=True, checks_host=True, own_host="127.0.1.1", hosts=frozenset({"proxy.example"}))
HERE = (b"host", b"localhost:8080")


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:1", "LocalHost:8080", "localhost.", "a.b.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:80", "127.0.1.1", "proxy.example:443", "PROXY.example", "192.168.0.1:8080", "0.0.0.0", "[::2]:80", "[::ffff:127.0.0.1]"],
)  # fmt: skip
@pytest.mark.parametrize("changes", [True, False])
def test_names_of_this_machine_and_of_a_proxy_are_its_own(host, changes):
    request = asked((b"host", host.encode()))
    assert refuse_foreign(request, LOCAL, changes=changes, same_site=True) is None


@pytest.mark.parametrize(
    "host",
    ["rebound.test", "localhost.evil.example", "evil.example:8080", "192.168.0.1.evil.example", "127.0.0.1.evil.example", "0x7f.1", "proxy.example.evil", "[", "evil'\"\\"],
)  # fmt: skip
def test_any_other_name_is_refused_where_only_this_machine_reaches_the_server(host):
    request = asked((b"host", host.encode()))
    for changes, same_site in ((True, False), (False, True), (False, False)):
        refusal = refuse_foreign(request, LOCAL, changes=changes, same_site=same_site)
        assert refusal.status == 403
        assert "trusted_hosts" in refusal.message
        assert '"' not in refusal.message
    assert (
        refuse_foreign(request, Sites(), changes=True, same_site=True) is None
    )  # others reach that one by any name


def test_a_client_of_http_1_0_names_no_host():
    assert refuse_foreign(asked(), LOCAL, changes=True, same_site=True) is None


NAMED = Sites(loopback=True, checks_host=True, origins=frozenset({b"https://named.example"}))
ANY = Sites(loopback=True, checks_host=True, any_origin=True)


@pytest.mark.parametrize(
    ("headers", "changes", "reads_console", "reads"),
    [
        ([], True, True, True),
        ([(b"sec-fetch-site", b"none")], True, True, True),
        ([(b"sec-fetch-site", b"same-origin")], True, True, True),
        ([(b"sec-fetch-site", b"Same-Origin")], True, True, True),
        ([(b"sec-fetch-site", b"cross-site")], False, False, True),  # a link to /models, say
        ([(b"sec-fetch-site", b"same-site")], False, False, True),
        ([(b"origin", b"http://localhost:8080"), (b"sec-fetch-site", b"same-origin")], True, True, True),
        ([(b"origin", b"https://proxy.example"), (b"sec-fetch-site", b"same-origin")], True, True, True),
        ([(b"origin", b"https://proxy.example"), (b"sec-fetch-site", b"none")], False, False, False),
        ([(b"origin", b"http://localhost:3000"), (b"sec-fetch-site", b"same-site")], False, False, False),
        ([(b"origin", b"https://evil.example")], False, False, False),
        ([(b"origin", b"null")], False, False, False),
        ([(b"origin", b"https://named.example"), (b"sec-fetch-site", b"cross-site")], True, True, True),
    ],
)
def test_what_pages_may_by_their_origin_and_their_site(headers, changes, reads_console, reads):
    request = asked(HERE, *headers)
    found = [
        refuse_foreign(request, NAMED, changes=each == 0, same_site=each == 1) is None for each in range(3)
    ]
    assert found == [changes, reads_console, reads]


def test_a_start_that_lets_every_page_read_lets_none_change_or_read_the_console():
    request = asked(HERE, (b"origin", b"https://any.example"))
    assert refuse_foreign(request, ANY, changes=False, same_site=False) is None
    assert refuse_foreign(request, ANY, changes=True, same_site=False).status == 403
    assert refuse_foreign(request, ANY, changes=False, same_site=True).status == 403


def test_a_page_behind_a_proxy_with_a_trusted_name_is_the_servers_own():
    headers = [(b"host", b"proxy.example"), (b"origin", b"https://proxy.example")]
    assert refuse_foreign(asked(*headers), LOCAL, changes=True, same_site=True) is None

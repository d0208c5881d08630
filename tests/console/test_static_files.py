"""The files of the page: their types, what a browser may do with them, and that no path leads out of their folder."""

import pytest
from protocol_wire import Served

from mooring.console.headers import CONTENT_SECURITY_POLICY
from mooring.console.static_files import FOLDER, StaticFiles
from mooring.core.buffers import HeapAllocator
from mooring.observability.metrics import Metrics
from mooring.protocols.application import Application
from mooring.protocols.responses import Responses
from mooring.web.http1 import HttpServer, Limits


@pytest.fixture
def folder(tmp_path):
    static = tmp_path / "static"
    (static / "parts").mkdir(parents=True)
    (static / "index.html").write_text("<title>page</title>")
    (static / "app.js").write_text("// code")
    (static / "parts" / "a b.css").write_text("p {}")
    (static / "data.bin").write_bytes(b"\x00")
    (tmp_path / "secret.txt").write_text("secret")
    return static


@pytest.fixture
async def served(folder):
    metrics = Metrics()
    responses = Responses(metrics.responses)
    app = Application(StaticFiles(responses, folder).endpoints(), responses)
    server = HttpServer(
        app, limits=Limits(), allocator=HeapAllocator(), render_error=responses.format_refusal
    )
    await server.start("127.0.0.1", 0)
    yield Served(None, metrics, server.port)
    await server.close()


@pytest.mark.parametrize(
    ("target", "kind", "body"),
    [
        ("/console", "text/html; charset=utf-8", b"<title>page</title>"),
        ("/console/static/index.html", "text/html; charset=utf-8", b"<title>page</title>"),
        ("/console/static/app.js", "text/javascript; charset=utf-8", b"// code"),
        ("/console/static/parts/a%20b.css", "text/css; charset=utf-8", b"p {}"),
        ("/console/static/data.bin", "application/octet-stream", b"\x00"),
    ],
)
async def test_a_file_is_sent_with_its_type_and_what_a_browser_may_do_with_it(served, target, kind, body):
    reply = await served.call("GET", target)
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, kind, body)
    assert reply.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cross-origin-opener-policy"] == "same-origin"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert reply.headers["cache-control"] == "no-cache"


async def test_a_browser_that_has_a_file_is_not_sent_it_again(served):
    tag = (await served.call("GET", "/console")).headers["etag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        reply = await served.call("GET", "/console", b"", f"if-none-match: {known}")
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
    assert (await served.call("GET", "/console", b"", 'if-none-match: "other"')).status == 200


async def test_links_of_the_page_work_whatever_is_before_its_path(served):
    for target in ("/console/", "/console/?x=1/"):
        reply = await served.call("GET", target)
        assert (reply.status, reply.headers["location"]) == (308, "../console")
    assert (await served.call("GET", "/console?x=/")).status == 200


async def test_other_contents_have_another_tag(served):
    tags = [
        (await served.call("GET", f"/console/static/{name}")).headers["etag"]
        for name in ("app.js", "data.bin")
    ]
    assert len(set(tags)) == 2


@pytest.mark.parametrize(
    "name",
    ["../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "parts/../../secret.txt", "/etc/passwd", "parts", "none.js", ".."],
)  # fmt: skip
async def test_no_path_leads_out_of_the_folder(served, name):
    reply = await served.call("GET", f"/console/static/{name}")
    assert reply.status == 404
    assert b"secret" not in reply.body


async def test_files_are_read_once(served, folder):
    await served.call("GET", "/console")
    (folder / "index.html").write_text("changed")
    assert (await served.call("GET", "/console")).body == b"<title>page</title>"


async def test_other_methods_are_refused(served):
    assert (await served.call("POST", "/console", b"{}")).status == 405


def test_the_package_has_the_page():
    assert (FOLDER / "index.html").is_file()

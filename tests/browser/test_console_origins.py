"""What a real browser lets pages of others ask of a server on this machine, and what the server lets them have: nothing."""

import json
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from browser_kit import PATIENCE, start_driver
from console_kit import entry, read
from e2e_kit import Server
from selenium.webdriver.support.expected_conditions import url_contains
from selenium.webdriver.support.wait import WebDriverWait

REBOUND = "rebound.test"  # a name that its owner has pointed at 127.0.0.1
ECHO = """
class Echo:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        text = data[0]["body"]  # of text/plain
        kind, _, text = text.partition(":")
        if kind != "text":
            context.set_response_content_type(0, kind)
        return [text]
"""
READS = ("state", "logs", "errors", "settings", "models/app/versions/1")
FETCH = """
const [url, options, done] = arguments;
fetch(url, options).then(
  async (answer) => done({type: answer.type, status: answer.status, text: answer.type === "opaque" ? "" : await answer.text()}),
  (error) => done({type: "error", status: 0, text: String(error)}),
);
"""


class Elsewhere(BaseHTTPRequestHandler):
    """Another site: an empty page at every path."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "app.py").write_text("def double(x: float) -> float:\n    return 2 * x\n")
    (folder / "echo").mkdir()
    (folder / "echo" / "handler.py").write_text(ECHO)
    server = Server(folder, "app.py", "echo=echo")
    try:
        yield server.started()
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.fixture(scope="module")
def elsewhere():
    site = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site.server_port
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def driver():
    with ExitStack() as stack:
        driver = start_driver(f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1")
        stack.callback(driver.quit)
        yield driver


def fetch(driver, url, **options):
    return driver.execute_async_script(FETCH, url, options)


def unchanged(server):
    return entry(read(server, "state"), "app")["state"] == "READY"


def test_a_page_of_another_site_reads_and_changes_nothing(server, elsewhere, driver):
    driver.get(f"http://localhost:{elsewhere}/")  # another port is another site's page, too
    for path in READS:
        url = f"{server.url}/console/api/{path}"
        assert (
            fetch(driver, url)["type"] == "error"
        )  # the browser does not let it read the answer, which is a 403
        assert fetch(driver, url, mode="no-cors")["type"] == "opaque"
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        body = {"method": "POST", "mode": "no-cors", "body": "{}", "headers": {"Content-Type": kind}}
        fetch(driver, f"{server.url}/console/api/models/app/unload", **body)
        fetch(driver, f"{server.url}/v2/repository/models/app/unload", **body)
    assert fetch(driver, f"http://127.0.0.1:{server.ports[1]}/models/app", method="DELETE")["type"] == "error"
    assert unchanged(server)


def test_a_name_that_was_pointed_at_this_machine_reads_and_changes_nothing(server, driver):
    here = f"http://{REBOUND}:{server.port}"
    driver.get(f"{here}/console")  # the page itself is no secret
    for path in READS:
        answer = fetch(driver, f"{here}/console/api/{path}")
        assert answer["status"] == 403
        assert list(json.loads(answer["text"])) == ["error"]
    headers = {"Content-Type": "application/json"}
    for target in ("/console/api/models/app/unload", "/v2/repository/models/app/unload"):
        answer = fetch(driver, f"{here}{target}", method="POST", body="{}", headers=headers)
        assert answer["status"] == 403
        assert "trusted_hosts" in answer["text"]
    managing = f"http://{REBOUND}:{server.ports[1]}"
    driver.get(f"{managing}/openapi.json")
    assert fetch(driver, f"{managing}/models")["status"] == 403
    assert fetch(driver, f"{managing}/models/app", method="DELETE")["status"] == 403
    assert unchanged(server)


@pytest.mark.parametrize("kind", ["text", "text/html", "image/svg+xml"])
def test_markup_that_a_page_of_another_site_has_a_model_answer_is_no_page_of_the_servers(
    server, elsewhere, driver, kind
):
    driver.get(f"http://localhost:{elsewhere}/")
    unload = "fetch('/console/api/models/app/unload', {method: 'POST', body: '{}', headers: {'content-type': 'application/json'}})"
    page = f"<title>not asked</title><script>{unload}.then((a) => document.title = a.status, () => document.title = 'refused')"
    if kind.startswith("image"):
        page = page.replace("<title>", '<svg xmlns="http://www.w3.org/2000/svg"><title>', 1)
    driver.execute_script(
        """
        const form = document.createElement("form");
        Object.assign(form, {method: "POST", enctype: "text/plain", action: arguments[0]});
        const field = document.createElement("input");
        [field.name, field.value] = [arguments[1], arguments[2]];
        form.append(field);
        document.body.append(form);
        form.submit();
        """,
        f"{server.url}/predictions/echo", f"{kind}:{page} /*", "*/</script>" + ("</svg>" if "svg" in kind else ""),
    )  # fmt: skip
    WebDriverWait(driver, PATIENCE).until(url_contains(f"{server.url}/predictions/echo"))
    assert "api/models/app/unload" in driver.page_source
    assert driver.execute_script("return self.origin") == "null"
    if kind == "text/html":
        WebDriverWait(driver, PATIENCE).until(lambda each: each.title == "refused")
    assert unchanged(server)


def test_a_link_from_elsewhere_opens_the_page_which_reads_what_it_needs(server, elsewhere, driver):
    driver.get(f"http://localhost:{elsewhere}/")
    driver.execute_script("location.href = arguments[0]", f"{server.url}/console")
    WebDriverWait(driver, PATIENCE).until(url_contains(f"{server.url}/console"))
    answer = fetch(driver, f"{server.url}/console/api/state")
    assert answer["status"] == 200
    assert json.loads(answer["text"])["models"][0]["name"] == "app"

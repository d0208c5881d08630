"""Connections that threads share: each is used by one at a time, kept, and closed when it was idle for long."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from mooring.client import http_pool
from mooring.client.http_pool import HTTPPool

pytestmark = pytest.mark.sockets


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(self.client_address[1]).encode()  # which connection it came over
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def url():
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        server.block_on_close = False
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        serving.join()


@contextmanager
def client_of(most):
    pool = HTTPPool(verify=True, most=most)
    with httpx.Client(transport=pool, timeout=httpx.Timeout(30, pool=0.05)) as client:
        yield client


def test_a_connection_is_used_again(url):
    with client_of(2) as client:
        assert client.get(url).text == client.get(url).text


def test_no_more_are_used_at_once_than_allowed_and_each_by_one_call(url):
    with client_of(2) as client, client.stream("GET", url) as first, client.stream("GET", url) as second:
        with pytest.raises(httpx.PoolTimeout):
            client.get(url)
        assert first.read() != second.read()
        assert client.get(url).status_code == 200


def test_a_call_that_fails_gives_its_place_back(url):
    with client_of(1) as client:
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                client.get("http://127.0.0.1:1/")
        assert client.get(url).status_code == 200


def test_what_was_idle_for_long_is_closed_by_the_next_call(url, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(http_pool, "monotonic", lambda: now[0])
    with client_of(2) as client:
        with client.stream("GET", url) as kept, client.stream("GET", url) as idle:
            ports = {kept.read(), idle.read()}
        now[0] += 6
        last = client.get(url).content
        assert last in ports
        with client.stream("GET", url) as same, client.stream("GET", url) as new:
            assert same.read() == last
            assert new.read() not in ports


def test_a_stream_that_is_open_when_the_pool_is_closed_is_read_to_its_end(url):
    pool = HTTPPool(verify=True, most=1)
    response = pool.handle_request(httpx.Request("GET", url))
    pool.close()
    assert b"".join(response.stream).isdigit()
    response.stream.close()
    response.stream.close()  # once more does nothing
    assert not pool._idle

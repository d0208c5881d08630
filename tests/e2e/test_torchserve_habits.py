"""Small habits of TorchServe's clients: archives from URLs, workers that are listed at once, the exact body of /ping."""

import http.server
import threading

import pytest
import requests
from e2e_kit import PATIENCE, Server, pack, until

SLOW = """
import time

def handle(data, context):
    return ["ok"] * len(data or [])

time.sleep(1)
"""
PING = '{\n  "status": "Healthy"\n}\n'


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A web server with archives, and its address."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "slow.py").write_text(SLOW)
    (folder / "quick.py").write_text(SLOW.replace("time.sleep(1)", ""))
    for name in ("slow", "quick"):
        pack(folder, name, str(folder / f"{name}.py"))

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_):
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store, elsewhere, tmp_path_factory):
    flags = ["--model-store", store, "--allowed-urls", "http://127.*", "--ping-format", "status"]
    server = Server(tmp_path_factory.mktemp("server"), *flags)
    server.management = f"http://127.0.0.1:{server.ports[1]}"
    try:
        yield server.started()
    finally:
        server.kill()


def register(server, **query):
    return requests.post(f"{server.management}/models", params=query, timeout=PATIENCE)


def test_ping_says_no_more_than_torchserve_where_it_is_asked_to(server):
    assert requests.get(f"{server.url}/ping", timeout=PATIENCE).text == PING


def test_a_worker_is_listed_the_moment_a_registration_is_accepted(server, elsewhere):
    accepted = register(server, url=f"{elsewhere}/slow.mar", initial_workers=2, synchronous="false")
    assert accepted.status_code == 202
    (described,) = requests.get(f"{server.management}/models/slow", timeout=PATIENCE).json()
    assert [worker["status"] for worker in described["workers"]] == ["LOADING"] * 2
    until(lambda: requests.post(f"{server.url}/predictions/slow", timeout=PATIENCE).text == "ok")
    until(lambda: len(server.workers("slow")) == 2)
    (described,) = requests.get(f"{server.management}/models/slow", timeout=PATIENCE).json()
    assert [worker["status"] for worker in described["workers"]] == ["READY"] * 2
    assert all(worker["pid"] for worker in described["workers"])


def test_an_archive_from_a_url_is_kept_in_the_store(server, store, elsewhere):
    assert register(server, url=f"{elsewhere}/quick.mar").status_code == 200
    kept = requests.get(f"{elsewhere}/quick.mar", timeout=PATIENCE).content
    assert (store / "quick.mar").read_bytes() == kept
    assert not [each for each in store.iterdir() if each.name.startswith(".")]
    again = register(server, url="quick.mar", model_name="kept", initial_workers=1)
    assert again.status_code == 200, again.text


def test_a_file_of_the_store_is_never_replaced_by_a_fetched_one(server, store, elsewhere):
    (store / "quick.mar").write_bytes(b"mine")
    assert register(server, url=f"{elsewhere}/quick.mar", model_name="other").status_code == 200
    assert (store / "quick.mar").read_bytes() == b"mine"


def test_a_url_with_a_relative_path_is_refused_in_torchserves_words(server, elsewhere):
    url = f"{elsewhere}/a/../quick.mar"
    refused = register(server, url=url)
    assert refused.status_code == 404
    assert refused.json()["message"] == f"Relative path is not allowed in url: {url}"

"""Generated tokens and tokens in files, with several processes behind one address: a change reaches all of them."""

import json
import time

import pytest
import requests
from e2e_kit import PATIENCE, Server, frontends, until

MODEL = "def scale(x: 'ndarray'):\n    return x * 2.0\n"
BODY = json.dumps({"x": [1.0]}).encode()
FRONTENDS = 3
# Who gets a connection is the kernel's choice: of so many, every process gets some.
CONNECTIONS = 24


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(*arguments):
        (tmp_path / "model.py").write_text(MODEL)
        flags = [f"--frontends={FRONTENDS}", "--deal-connections=evenly", *arguments]
        servers.append(Server(tmp_path, "model.py:scale", *flags))
        return servers[-1].started()

    yield begin
    for server in servers:
        server.kill()


def codes(server, key):
    """What the server answers to whoever has this token, over many connections."""
    bearer = f"Authorization: Bearer {key}"
    return {server.predict("scale", BODY, bearer).code for _ in range(CONNECTIONS)}


def keys(server):
    found = json.loads((server.folder / "key_file.json").read_text())
    return {kind: entry["key"] for kind, entry in found.items()}


def renew(server, kind):
    answer = requests.get(
        f"http://127.0.0.1:{server.ports[1]}/token?type={kind}",
        headers={"Authorization": f"Bearer {keys(server)['API']}"},
        timeout=PATIENCE,
    )
    assert answer.status_code == 200, answer.text


def replace_frontend(server):
    """Kill one of the frontend processes, and return when another one listens in its place."""
    listening = server.log.count("frontend listening")
    frontends(server)[0].kill()
    until(lambda: server.log.count("frontend listening") == listening + 1)


def test_every_process_checks_generated_tokens_and_knows_a_renewed_one_at_once(start):
    server = start("--token-authorization=on")
    before = keys(server)
    assert codes(server, before["inference"]) == codes(server, before["management"]) == {200}
    assert codes(server, before["API"]) == codes(server, "no-token-at-all") == {401}
    assert {server.predict("scale", BODY).code for _ in range(CONNECTIONS)} == {401}
    for kind in ("inference", "management"):
        renew(server, kind)
        after = keys(server)
        assert after[kind] != before[kind]
        assert codes(server, after[kind]) == {200}
        assert codes(server, before[kind]) == {401}
    replace_frontend(server)
    assert codes(server, keys(server)["inference"]) == {200}
    assert codes(server, before["inference"]) == {401}
    shown = [" ".join([*each.cmdline(), *each.environ().values()]) for each in server.family()]
    assert server.stop() == 0
    secrets = {*before.values(), *after.values()}
    assert not any(secret in text for text in (server.log, *shown) for secret in secrets)


def test_every_process_refuses_only_wrong_tokens_where_none_is_demanded(start):
    server = start("--token-authorization=elsewhere")
    assert {server.predict("scale", BODY).code for _ in range(CONNECTIONS)} == {200}
    assert codes(server, keys(server)["inference"]) == {200}
    assert codes(server, "wrong-token") == {401}
    file = server.folder / "key_file.json"
    assert server.stop() == 0
    assert not file.exists()


def test_every_process_refuses_a_token_that_has_expired(start):
    server = start("--token-authorization=on", "--token-expiration-min=0.05")
    renew(server, "inference")
    renewed, key = time.monotonic(), keys(server)["inference"]
    found = codes(server, key)
    if time.monotonic() - renewed < 3:  # or the machine is too slow to see it
        assert found == {200}
    time.sleep(3)
    assert codes(server, key) == {401}


def test_every_process_learns_of_a_token_that_is_replaced_in_its_file(start, tmp_path):
    for kind in ("inference", "management"):
        (tmp_path / f"{kind}.token").write_text(f"the-first-{kind}-token\n")
    server = start("--inference-token-file=inference.token", "--management-token-file=management.token")
    assert codes(server, "the-first-inference-token") == {200}
    (tmp_path / "inference.token").write_text("another-inference-token\n")
    until(lambda: codes(server, "another-inference-token") == {200})
    assert codes(server, "the-first-inference-token") == {401}
    (tmp_path / "inference.token").unlink()  # nobody needs it to start another process
    replace_frontend(server)
    assert codes(server, "another-inference-token") == {200}

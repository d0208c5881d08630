"""A server as a user who may do nothing: it needs no more than its own folders, and others' things stay theirs."""

import json
import os
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from e2e_kit import SCRIPTS, Server, free_ports
from namespace_kit import DROP_RIGHTS, NEEDS_ROOT, NOBODY, SHOWN, make_home, namespace, remove_home

MODEL = """
import os
from pathlib import Path


def tell(x: 'ndarray'):
    try:
        Path("/etc/mooring-test").write_text("")
        wrote = "wrote"
    except OSError as error:
        wrote = error.strerror
    return [[str(os.getuid()), wrote]]
"""

pytestmark = NEEDS_ROOT


class Unprivileged(Server):
    """A server of nobody's, in a folder of nobody's; ``around`` is run before it, for more that it may not do."""

    def __init__(self, folder: Path, *arguments: str, around: Sequence[str] = ()) -> None:
        self.ports, self.folder = free_ports(3), folder
        self.log_file = folder / "server.log"
        named = zip(("inference", "management", "metrics"), self.ports, strict=True)
        flags = [f"--{name}-address=http://127.0.0.1:{port}" for name, port in named]
        flags += ["--grpc-address=127.0.0.1:0", "--grpc-management-address=127.0.0.1:0", *arguments]
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                [*around, *DROP_RIGHTS, SCRIPTS / "mooring", "serve", *flags],
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": str(folder / "tmp"), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip


@pytest.fixture
def home():
    folder = make_home()
    (folder / "model.py").write_text(MODEL)
    yield folder
    remove_home(folder)


def check(server: Server) -> None:
    """It serves, writes nothing but its own, and everything of it is nobody's."""
    body = json.dumps({"x": [1.0]}).encode()
    answer = server.ask("POST", "/predictions/tell", body, "Content-Type: application/json")
    assert answer.code == 200, answer
    uid, wrote = answer.json()["output"][0]
    assert uid == str(NOBODY)
    assert wrote in ("Permission denied", "Read-only file system")
    assert {each.uids().real for each in server.family() if each.name() != "unshare"} == {NOBODY}
    large = json.dumps({"x": [0.5] * 100_000}).encode()
    assert server.ask("POST", "/predictions/tell", large, "Content-Type: application/json").code == 200


def test_a_server_runs_as_a_user_without_rights(home):
    server = Unprivileged(home, "model.py:tell", "--snapshot-folder=tmp/snapshots", around=namespace(home))
    try:
        check(server.started())
        with_key = {"key": "", "offset": 0, "byte_size": 4}
        theirs = Path("/dev/shm", f"mooring-test-{uuid.uuid4()}")
        theirs.write_bytes(b"root")
        theirs.chmod(0o600)
        try:
            body = json.dumps(with_key | {"key": f"/{theirs.name}"}).encode()
            refused = server.ask("POST", "/v2/systemsharedmemory/region/r/register", body)
            assert (refused.code, "Permission denied" in refused.body.decode()) == (400, True)
        finally:
            theirs.unlink()
        assert server.stop() == 0
        assert not server.faults()
        assert {each.name for each in home.iterdir()} - {SHOWN} == {"model.py", "server.log", "tmp"}
        assert [each.name for each in (home / "tmp").iterdir()] == ["snapshots"]
    finally:
        server.kill()


def test_a_server_runs_where_all_but_its_folder_is_read_only(home):
    server = Unprivileged(home, "model.py:tell", around=namespace(home, read_only=True))
    try:
        check(server.started())
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()

"""A server as a user who may do nothing: it needs no more than its own folders, and others' things stay theirs."""

import json
import os
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import psutil
import pytest
from e2e_kit import ROOT, SCRIPTS, Server, free_ports

NOBODY = 65_534
MODEL = """
import os
from pathlib import Path


def tell(x):
    try:
        Path("/etc/mooring-test").write_text("")
        wrote = "wrote"
    except OSError as error:
        wrote = error.strerror
    return [[str(os.getuid()), wrote]]
"""

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="only root can start a server as somebody else"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv here"),
]


# The name of the folder in ``home`` at which ``namespace`` mounts.
SHOWN = "shown"


def namespace(home: Path, *, read_only: bool = False) -> list[str]:
    """The command that runs another one in a mount namespace where anybody can read the server's program.

    The interpreter, the virtual environment and the sources may lie in a folder that only its owner may enter, as
    root's home is: such a folder is replaced by an empty one, which has them at their old paths. ``read_only`` mounts
    all but ``home`` read-only. Skips the test where nothing can be mounted.
    """
    program = sorted({Path(place).resolve() for place in (sys.base_prefix, sys.prefix, ROOT / "src")})
    closed = {place: top for place in program if (top := closed_parent(place))}
    if not closed and not read_only:
        return []
    steps = ["set -e", "mount --make-rprivate /"]
    shown = {place: home / SHOWN / str(number) for number, place in enumerate(closed)}
    steps += [mount(place, there) for place, there in shown.items()]
    steps += [f"mount -t tmpfs -o mode=755 tmpfs {quote(str(top))}" for top in sorted(set(closed.values()))]
    steps += [mount(there, place) for place, there in shown.items()]
    if read_only:
        steps += [mount(home, home), "mount -o remount,bind,ro /"]
    around = ["unshare", "--mount", "sh", "-c", "\n".join([*steps, 'exec "$@"']), "sh"]
    tried = subprocess.run([*around, "true"], capture_output=True, text=True, timeout=60, check=False)
    if tried.returncode:
        pytest.skip(f"file systems cannot be mounted here: {tried.stderr.strip()}")
    return around


def closed_parent(place: Path) -> Path | None:
    """The uppermost folder above ``place`` that other users may not enter."""
    return next((each for each in reversed(place.parents) if not each.stat().st_mode & stat.S_IXOTH), None)


def mount(source: Path, target: Path) -> str:
    """The shell commands that show ``source`` at ``target``, too."""
    return f"mkdir -p {quote(str(target))}\nmount --bind {quote(str(source))} {quote(str(target))}"


class Unprivileged(Server):
    """A server of nobody's, in a folder of nobody's; ``around`` is run before it, for more that it may not do."""

    def __init__(self, folder: Path, *arguments: str, around: Sequence[str] = ()) -> None:
        self.ports, self.folder = free_ports(3), folder
        self.log_file = folder / "server.log"
        named = zip(("inference", "management", "metrics"), self.ports, strict=True)
        flags = [f"--{name}-address=http://127.0.0.1:{port}" for name, port in named]
        flags += ["--grpc-address=127.0.0.1:0", "--grpc-management-address=127.0.0.1:0", *arguments]
        drop = [
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                [*around, *drop, SCRIPTS / "mooring", "serve", *flags],
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": str(folder / "tmp"), "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip


@pytest.fixture
def home():
    folder = Path("/var/tmp", f"mooring-test-{uuid.uuid4()}")
    (folder / "tmp").mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    for each in (folder, folder / "tmp"):
        os.chown(each, NOBODY, NOBODY)
        each.chmod(0o700)
    yield folder
    for mounted in [*(folder / SHOWN).glob("*"), folder / SHOWN]:
        if mounted.exists():
            mounted.rmdir()  # not with what lies in it: it is empty unless a mount has come through
    shutil.rmtree(folder)


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

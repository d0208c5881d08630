"""Archives that nobody should open, registered at a real server: each is refused by name, and nothing is left of it."""

import base64
import gzip
import io
import json
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from e2e_kit import Server, Wire, request

HANDLER = "def handle(data, context):\n    return ['ok' for _ in data or ()]\n"
MANIFESTS = {
    ".war": ("WAR-INF/MANIFEST.json", {"workflow": {"workflowName": "w", "specFile": "spec.yaml", "handler": "handler.py"}}),
    ".mar": ("MAR-INF/MANIFEST.json", {"runtime": "python", "model": {"modelName": "m", "modelVersion": "1.0", "handler": "handler.py"}}),
}  # fmt: skip
MANIFESTS[".tgz"] = MANIFESTS[".mar"]
SPEC = "dag: {handle: []}\n"

Entry = tuple[str, bytes, int]
LINK, PLAIN = stat.S_IFLNK, stat.S_IFREG


def good(kind: str) -> list[Entry]:
    name, manifest = MANIFESTS[kind]
    files = {name: json.dumps(manifest), "handler.py": HANDLER, "spec.yaml": SPEC}
    return [(each, text.encode(), PLAIN) for each, text in files.items()]


HOSTILE: dict[str, list[Entry]] = {
    "a way up": [("../../escaped", b"x", PLAIN)],
    "a way up in the middle": [("a/../../escaped", b"x", PLAIN)],
    "an absolute name": [("{folder}/escaped", b"x", PLAIN)],
    "a way up with backslashes": [("..\\..\\escaped", b"x", PLAIN)],
    "a drive": [("C:\\escaped", b"x", PLAIN)],
    "a link": [("out", b"/etc/passwd", LINK)],
    "a file through a link": [("out", b"{folder}", LINK), ("out/escaped", b"x", PLAIN)],
    "a name longer than any": [("x" * 300, b"x", PLAIN)],
    "a file under a file": [("a", b"x", PLAIN), ("a/b", b"x", PLAIN)],
    "a bomb": [("bomb", bytes(80_000_000), PLAIN)],
}


def packed(kind: str, entries: list[Entry], folder: Path) -> bytes:
    made = io.BytesIO()
    placed = [
        (name.format(folder=folder), data.replace(b"{folder}", str(folder).encode()), mode)
        for name, data, mode in entries
    ]
    if kind == ".tgz":
        with (
            gzip.GzipFile(fileobj=made, mode="wb", compresslevel=1) as plain,
            tarfile.open(fileobj=plain, mode="w") as tar,
        ):
            for name, data, mode in placed:
                entry = tarfile.TarInfo(name)
                if mode == LINK:
                    entry.type, entry.linkname = tarfile.SYMTYPE, data.decode()
                else:
                    entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data) if mode != LINK else None)
        return made.getvalue()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in placed:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = (mode | 0o644) << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return made.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for each in ("store", "scratch", "repository"):
        (folder / each).mkdir()
    server = Server(
        folder, "--model-store", folder / "store", "--temporary-folder", folder / "scratch",
        "--model-repository", folder / "repository",
    )  # fmt: skip
    try:
        yield server.started()
        assert server.stop() == 0
        assert not server.faults()
        assert list((folder / "scratch").iterdir()) == []
    finally:
        server.kill()


def registered(server: Server, kind: str, method: str = "POST") -> tuple[int, str]:
    resource = "workflows" if kind == ".war" else "models"
    target = (
        f"/{resource}?url=x{kind}&initial_workers=1&synchronous=true"
        if method == "POST"
        else f"/{resource}/{kind[1]}"
    )
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        answer = wire.answer()
    return answer.code, answer.body.decode()


def unpacked(server: Server) -> list[Path]:
    files = (each for each in (server.folder / "scratch").rglob("*") if each.is_file())
    return [each for each in files if each.name != ".lock"]  # which says that its server lives


@pytest.mark.parametrize("kind", MANIFESTS)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(server, what, kind):
    outside = {each for each in server.folder.rglob("*") if "scratch" not in each.parts}
    file = server.folder / "store" / f"x{kind}"
    file.write_bytes(packed(kind, good(kind) + HOSTILE[what], server.folder))
    code, said = registered(server, kind)
    assert (code, f"x{kind}" in said) == (400, True), said
    assert unpacked(server) == []
    assert {each for each in server.folder.rglob("*") if "scratch" not in each.parts} == outside | {file}
    file.unlink()


@pytest.mark.parametrize("kind", MANIFESTS)
def test_the_archive_that_others_spoil_is_a_good_one(server, kind):
    file = server.folder / "store" / f"x{kind}"
    file.write_bytes(packed(kind, good(kind), server.folder))
    code, said = registered(server, kind)
    assert code == 200, said
    with Wire(server.ports[1]) as wire:
        wire.send(request("DELETE", "/workflows/w" if kind == ".war" else "/models/m"))
        assert wire.answer().code == 200
    file.unlink()


@pytest.mark.parametrize(
    "name",
    [
        "../escaped.py",
        "/etc/escaped.py",
        "1/../../escaped.py",
        "..",
        ".",
        "",
        "x" * 300,
        "a\0b",
        "1/" * 3000 + "x",
    ],
)
def test_a_file_sent_along_with_a_load_stays_below_the_models_folder(server, name):
    files = {
        f"file:{name}": base64.b64encode(HANDLER.encode()).decode(),
        "file:1/model.py": base64.b64encode(b"").decode(),
    }
    answer = server.ask("POST", "/v2/repository/models/sent/load", json.dumps({"parameters": files}).encode())
    assert answer.code == 400, answer
    assert unpacked(server) == []
    assert list(server.folder.rglob("escaped*")) == []


@pytest.mark.parametrize(
    "model", ["..%2f..%2fetc", "%2e%2e", "..", "a%00b", "%2fetc%2fpasswd", "..%5c..", "a" * 3000]
)
def test_a_models_name_leads_nowhere(server, model):
    for files in ({}, {"file:1/model.py": base64.b64encode(HANDLER.encode()).decode()}):
        body = json.dumps({"parameters": files}).encode()
        answer = server.ask("POST", f"/v2/repository/models/{model}/load", body)
        assert 400 <= answer.code < 500, answer
    assert unpacked(server) == []

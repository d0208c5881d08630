"""What the end-to-end tests share: a real server process to start, ask and end, and the wire byte for byte."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import psutil
from error_bodies import without_request_id
from port_kit import free_ports

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples/digits"
SAMPLES = sorted((DIGITS / "samples").glob("*.png"))
HANDLERS = Path(__file__).parent / "handlers"
SCRIPTS = Path(sys.executable).parent
JSON = "application/json"

# How long anything may take before it counts as hanging, on a machine that is busy with other things.
PATIENCE = 30.0

COMMON = {
    "x-request-id": "ID",
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Answer(NamedTuple):
    """A response: the status line without its version, all headers (an id that is a random UUID reads "ID"), the body."""

    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        return int(self.status[:3])

    def json(self):
        return json.loads(self.body)


def answered(
    body: bytes | str = b"",
    content_type: str = "",
    *,
    status: str = "200 OK",
    length: int | None = None,
    **more: str,
) -> Answer:
    """What a whole response must be, every header of it. ``more`` are further headers, "_" for "-"."""
    body = body.encode() if isinstance(body, str) else body
    headers = COMMON | {
        "content-length": str(len(body) if length is None else length),
        "connection": "keep-alive",
    }
    if content_type:
        headers["content-type"] = content_type
    return Answer(status, headers | {name.replace("_", "-"): value for name, value in more.items()}, body)


def refused(status: str, kind: str, message: str, *, error: str = "", **more: str) -> Answer:
    """What an error must be: TorchServe's triple, printed as its front prints JSON."""
    triple = {"code": int(status[:3]), "type": kind, "message": message} | ({"error": error} if error else {})
    return answered(json.dumps(triple, indent=2) + "\n", JSON, status=status, **more)


def streamed(*pieces: str, content_type: str = "") -> Answer:
    """What an answer in pieces must be, one chunk for each."""
    chunks = "".join(f"{len(piece.encode()):x}\r\n{piece}\r\n" for piece in pieces) + "0\r\n\r\n"
    headers = COMMON | {"transfer-encoding": "chunked", "ts_stream_next": "true", "connection": "keep-alive"}
    if content_type:
        headers["content-type"] = content_type
    return Answer("200 OK", headers, chunks.encode())


def request(
    method: str, target: str, body: bytes = b"", *lines: str, version: str = "1.1", length: bool = True
) -> bytes:
    """The bytes of a request."""
    head = [f"{method} {target} HTTP/{version}", "Host: localhost", *lines]
    if length and body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


class Wire:
    """A connection to a server, used as raw as it comes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """The next line, as it is."""
        return self._file.readline()

    def read(self, size: int) -> bytes:
        """So many of the next bytes."""
        return self._file.read(size)

    def answer(self, *, head: bool = False) -> Answer:
        """The next response. Interim ones are passed over; the body of a chunked one is its chunks as they came.

        The request's id in an error's body is left out, once it is known to be that of the header.
        """
        line = self._file.readline().decode("latin-1")
        while line.startswith("HTTP/1.1 100"):
            self._file.readline()
            line = self._file.readline().decode("latin-1")
        assert line.startswith("HTTP/1.1 "), f"no response, but {line!r}"
        headers: dict[str, str] = {}
        while (field := self._file.readline().decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = field.partition(": ")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value
        whole = b"" if head else self._body(headers)
        body = without_request_id(whole, headers.get("x-request-id", ""))
        if body != whole:
            headers["content-length"] = str(len(body))
        if _ID.fullmatch(headers.get("x-request-id", "")):
            headers["x-request-id"] = "ID"
        return Answer(line[9:].rstrip("\r\n"), headers, body)

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._file.read(int(headers.get("content-length", "0")))
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            size = self._file.readline()
            chunk = self._file.read(int(size, 16) + 2)
            raw += size + chunk
        return raw

    def rest(self) -> bytes:
        """Everything until the server ends the connection, cleanly or not."""
        with suppress(ConnectionResetError):
            return self._file.read()
        return b"reset"

    def ended(self) -> bool:
        """Whether the server has ended the connection, without another byte."""
        return self.rest() in (b"", b"reset")


class Server:
    """A server process of its own, and all that it started. ``folder`` is its working directory.

    It is told to listen on free ports, unless it will find out from elsewhere that it is to be ``ports``.
    """

    PROGRAM: tuple[str | Path, ...] = (SCRIPTS / "mooring",)

    def __init__(
        self,
        folder: Path,
        *arguments: str | Path,
        command: str = "serve",
        ports: Sequence[int] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.ports = ports or free_ports(3)
        self.folder = folder
        self.log_file = folder / "server.log"
        named = zip(("inference", "management", "metrics"), self.ports, strict=True)
        flags = [f"--{name}-address=http://127.0.0.1:{port}" for name, port in named] if not ports else []
        said = {str(argument).partition("=")[0] for argument in arguments}
        if command == "serve":
            if not {"--show-errors", "--no-show-errors"} & said:
                flags.append("--no-show-errors")  # most tests compare TorchServe's own texts
            if not {"--port", "--grpc-address"} & said:
                self.grpc = f"127.0.0.1:{free_ports(1)[0]}"
                flags.append(f"--grpc-address={self.grpc}")
            if not {"--port", "--grpc-management-address"} & said:
                flags.append("--grpc-management-address=127.0.0.1:0")
            if os.environ.get("FRONTENDS") and not {"--inference-address"} & said:
                flags += [f"--frontends={os.environ['FRONTENDS']}"]
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("MOORING_", "TS_"))
        }
        if command == "torchserve":  # which refuses to start where another one has its pid file
            inherited["TMPDIR"] = str(folder)
        with self.log_file.open("wb") as log:
            self.process = psutil.Popen(
                [*self.PROGRAM, command, *flags, *arguments],
                cwd=folder, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=inherited | dict(environ or {}),
            )  # fmt: skip

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def started(self, said: str = "Mooring is up.", *, ping: int = 200) -> Self:
        """Return when every model is loaded, or has failed to, and /ping says what it should of that."""
        end = time.monotonic() + 3 * PATIENCE
        while said not in self.log:
            assert self.process.poll() is None, f"the server ended by itself:\n{self.log}"
            assert time.monotonic() < end, f"the server did not start:\n{self.log}"
            time.sleep(0.05)
        assert self.ask("GET", "/ping").code == ping
        return self

    def ask(self, method: str, target: str, body: bytes = b"", *lines: str, head: bool = False) -> Answer:
        """One request on a connection of its own."""
        return self.raw(request(method, target, body, *lines), head=head)

    def raw(self, data: bytes, *, head: bool = False) -> Answer:
        """Whatever these bytes are answered with."""
        return self.at(self.port, data, head=head)

    def at(self, port: int, data: bytes, *, head: bool = False) -> Answer:
        """Whatever these bytes are answered with at one of the server's ports."""
        with Wire(port) as wire:
            wire.send(data)
            return wire.answer(head=head)

    def predict(self, model: str, body: bytes | str, *lines: str) -> Answer:
        """A prediction, as curl --data-binary would ask for it with no content type."""
        return self.ask(
            "POST", f"/predictions/{model}", body if isinstance(body, bytes) else body.encode(), *lines
        )

    def workers(self, model: str) -> list[int]:
        """The process ids of a model's workers that are ready."""
        with Wire(self.ports[1]) as wire:
            wire.send(request("GET", f"/models/{model}"))
            (described,) = wire.answer().json()
        return [worker["pid"] for worker in described["workers"] if worker["status"] == "READY"]

    def family(self) -> list[psutil.Process]:
        """The server's process and all that it started."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def stop(self) -> int:
        """End the server as an init system would; its exit status. Nothing that it started is left then."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        assert_gone(family)
        return status

    def kill(self) -> None:
        """For the end of a test that failed: no kindness, and nothing asserted."""
        for process in reversed(self.family()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE)

    def faults(self) -> list[str]:
        """Lines of the log that no server should write: its own errors, and tracebacks that are not of a model's code."""
        found, event = [], ""
        for line in self.log.splitlines():
            event = line if not line.startswith(" ") else event
            if "Traceback" in line and " prediction failed " not in event:
                found.append(event)
            if re.search(
                r"answer failed|never retrieved|Exception in callback|Fatal|supervision failed", line
            ):
                found.append(line)
        return found


@contextmanager
def serving(folder: Path, *arguments: str | Path, **environ: str) -> Iterator["Server"]:
    """A started server, which ends cleanly and has logged no fault of its own."""
    server = Server(folder, *arguments, environ=environ)
    try:
        yield server.started()
        assert server.stop() == 0
        assert not server.faults()
    finally:
        server.kill()


def frontends(server: "Server") -> list[psutil.Process]:
    """The processes beside the first one that take connections."""
    found = []
    for child in server.process.children():
        with suppress(psutil.Error):  # it may be a zombie, or gone
            if runs_as(child, "frontend", "mooring.frontends.process"):
                found.append(child)
    return found


def runs_as(process: psutil.Process, role: str, module: str) -> bool:
    """Whether a process is of this role, by its title or, until it has one, by the module that it was started as."""
    words = process.cmdline()
    return module in words or f"mooring: {role} " in f"{' '.join(words)} "


def assert_gone(processes: Iterable[psutil.Process], *, within: float = 2.0) -> None:
    """Fail if any of these still runs after ``within`` seconds."""
    _, alive = psutil.wait_procs(list(processes), timeout=within)
    left = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"left behind: {left}"


def until(reached, *, within: float = PATIENCE) -> None:
    """Return when ``reached()`` is true; fail when that takes too long."""
    end = time.monotonic() + within
    while not reached():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def run_to_end(
    command: Sequence[str | Path], folder: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command that may leave a server in the background, which keeps its output open: so files take that."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        status = subprocess.run(
            command, cwd=folder, env=environ, stdout=out, stderr=err, timeout=2 * PATIENCE, check=False
        ).returncode
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, status, out.read(), err.read())


def pack(folder: Path, name: str, handler: str, *more: str | Path) -> None:
    """Make an archive with the real torch-model-archiver, of one of our handlers or of a default one."""
    with (
        tempfile.TemporaryDirectory() as scratch
    ):  # it works in a folder of the model's name there, whoever else does
        made = subprocess.run(
            [SCRIPTS / "torch-model-archiver", "--model-name", name, "--version", "1.0", "--handler", handler,
             "--export-path", folder, *more],
            cwd=HANDLERS, env=os.environ | {"TMPDIR": scratch}, capture_output=True, timeout=2 * PATIENCE, check=False,
        )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()

"""The servers that are measured: how each starts and stops, and the CPU of its processes."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import psutil

HERE = Path(__file__).parent
NGINX = shutil.which("nginx") or next(iter(Path("/usr/sbin").glob("nginx")), None)

NGINX_CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 16m;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port};
        default_type application/json;
        root {folder};
        error_page 405 =200 $uri;  # a file in answer to a POST, its body read
    }}
}}
"""


def make_environment() -> dict[str, str]:
    """Return the environment of a server. It allows bytecode files, as an installation does: without them, half of a
    start is the compiling of our modules, and of peers that were installed without theirs.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Target:
    """A server that runs for as long as this context is open. ``label`` is its name in the tables.

    ``warm_up`` is how many seconds of load it gets before a workload is measured.
    """

    warm_up = 1.0

    def __init__(self, label: str) -> None:
        self.label = label
        self.port = self.grpc_port = find_free_port()
        self._stack = ExitStack()

    def command(self, folder: Path) -> list[str]:
        """Return the command that starts the server; ``folder`` is its own, and is removed with it."""
        raise NotImplementedError

    def variables(self, folder: Path) -> dict[str, str]:
        """Return the environment of the server."""
        return make_environment()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            self._log = stack.enter_context((folder / "log").open("w+"))
            command, variables = self.command(folder), self.variables(folder)
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=variables,
                cwd=folder,
                start_new_session=True,
            )
            stack.callback(self._stop)
            self.server = psutil.Process(self._process.pid)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _stop(self) -> None:
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = self.workers()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        # The rest of its process group, and workers that have a group of their own.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def log(self) -> str:
        """Return the last 2,000 characters that the server printed."""
        self._log.flush()
        return Path(self._log.name).read_text()[-2000:]

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Post a body on a connection of its own; return status and answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def call_rpc(self, method: str, message: bytes, limit: float = 30.0) -> bytes:
        """Call a method over gRPC once the server listens; return the answer. Raises ``RuntimeError`` when the call fails."""
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}", options=options) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            try:
                return call(message, timeout=limit, wait_for_ready=True)
            except grpc.RpcError as error:
                raise RuntimeError(f"{self.label} does not serve {method}: {error}\n{self.log()}") from None

    def wait_for_answer(
        self, path: str, body: bytes, headers: Mapping[str, str], limit: float = 30.0
    ) -> bytes:
        """Return the first answer with status 200. Raises ``RuntimeError`` after ``limit`` seconds, or when the server ends."""
        status, answer = 0, b"no answer"
        end = time.perf_counter() + limit
        while time.perf_counter() < end and self._process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                status, answer = self.post(path, body, headers)
            if status == 200:
                return answer
            time.sleep(0.002)
        raise RuntimeError(f"{self.label} does not serve {path}: {status} {answer[:300]!r}\n{self.log()}")

    def workers(self) -> list[psutil.Process]:
        """Return all processes below the first."""
        return self.server.children(recursive=True)

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds so far of the process that listens, and of all processes below it."""
        return read_cpu_seconds(self.server), sum(read_cpu_seconds(worker) for worker in self.workers())


class Mooring(Target):
    """Our own server, as a user starts it."""

    def __init__(self, models: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        super().__init__("mooring")
        self.grpc_port = find_free_port()
        self._arguments = [*models, *options]

    def command(self, folder: Path) -> list[str]:
        command = [sys.executable, "-m", "mooring", "serve", *self._arguments]
        command += ["--inference-address", f"http://127.0.0.1:{self.port}"]
        for other in ("management", "metrics"):
            command += [f"--{other}-address", f"unix:{folder}/{other}"]
        rpc = f"127.0.0.1:{self.grpc_port}"
        return [*command, "--grpc-address", rpc, "--grpc-management-address", rpc]


class BareFront(Target):
    """The least that an HTTP server in Python costs."""

    def __init__(self) -> None:
        super().__init__("bare front")

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, str(HERE / "bare_front.py"), str(self.port)]


class BareGrpc(Target):
    """The cost of gRPC with the grpcio library."""

    def __init__(self) -> None:
        super().__init__("bare gRPC")

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, str(HERE / "bare_grpc.py"), str(self.port)]


class Nginx(Target):
    """nginx, which answers with a small file. Its worker is the process that listens."""

    def __init__(self) -> None:
        super().__init__("nginx")

    def command(self, folder: Path) -> list[str]:
        (folder / "small").write_text('{"x":2.0}')
        folder.chmod(0o755)  # its worker may run as another user
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(folder=folder, port=self.port))
        return [str(NGINX), "-e", "stderr", "-p", str(folder), "-c", str(config)]

    def cpu(self) -> tuple[float, float]:
        return sum(super().cpu()), 0.0


def read_cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU seconds of a process without its children; 0 when it has ended."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def find_free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def read_nginx_version() -> str:
    """Return the version, as in ``nginx/1.22.1``; empty where nginx is not installed."""
    if NGINX is None:
        return ""
    output = subprocess.run([str(NGINX), "-v"], capture_output=True, text=True, check=False).stderr
    return output.rpartition(" ")[2].strip()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

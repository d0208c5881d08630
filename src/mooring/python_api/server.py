"""``mooring.serve``: a server of its own process, which a notebook, a script or a test starts and stops."""

import atexit
import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mooring.backends.model_source import imported_file
from mooring.backends.pickled_object import MODEL_FILE
from mooring.child_server import (
    CALLER,
    CallerNotice,
    ReportChannel,
    ServerProcess,
    StartReport,
    above_standard,
)
from mooring.config.settings import SETTINGS, Address, ConfigError
from mooring.config.sources.loading import PREFIX
from mooring.config.sources.ports import can_listen
from mooring.config.sources.values import parse_setting
from mooring.core.errors import ModelLoadFailed, MooringError
from mooring.python_api.environment import child_environment
from mooring.python_api.ports import choose_port, names_a_place
from mooring.python_api.settings import check_names, to_flags, to_variables
from mooring.python_api.targets import to_targets
from mooring.repository.server_folder import lock_folder, remove_folder

if TYPE_CHECKING:
    from mooring.client.sync.client import Client

_OWN = ("target", "port", "workers", "block", "log", "quiet")
# How often another port is tried where somebody else took the chosen one meanwhile.
_TRIES = 5
# Seconds that running requests get to finish: in a notebook a user waits for them, and not 30 seconds.
_DRAIN = 5.0
_LINES_TOLD = 10
_INTERRUPTED = 130  # the exit status of a program that Ctrl-C ended
# Servers run on although the caller does not keep what serve() returned.
_running: "set[RunningServer]" = set()


def serve(
    target: Any = None,
    *,
    port: int | None = None,
    workers: int | None = None,
    block: bool = False,
    log: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> "RunningServer":
    """Serve models from Python: start a server in a process of its own, and return it when the models are ready.

    ``target`` is what ``mooring serve`` takes (a path, as text or ``Path``), a function, a class with ``load`` and
    ``infer``, or a dict of those by the names of the models; None serves what the settings name, as ``model_repository``.
    A function or class that a file defines is imported from there by the workers, so that a script calls this under
    ``if __name__ == "__main__":``. Any other, such as one of a notebook, is pickled with what it uses.

    ``port`` is the port of the inference address; management, metrics and gRPC take the next free ones. 0 takes free
    ports, and None the default ports (8080 and so on), or from 8081 on where others have them. ``workers`` is the number
    of processes of each model. Further keyword arguments are settings by their names, as ``job_queue_size=1000``
    (docs/guide-settings.md); variables such as ``MOORING_LOG_LEVEL`` count, too.

    What the server logs is shown here; it goes to the file ``log`` where one is named, and nowhere with ``quiet`` (the
    last lines are in ``RunningServer.output``). The server ends with this process, however that ends. With ``block``
    the call returns when the server has ended, and Ctrl-C ends it.

    Raises ``ModelLoadFailed`` with the reason for a model that cannot be loaded (``keep_going=True`` serves the others), ``ModelNotFound`` for a target that is
    not there, ``TypeError`` for an unknown keyword argument or an object that cannot be served, ``ValueError`` for a name that
    no model can have, ``ConfigError`` for a setting that cannot be used, and ``OSError`` for an address that cannot be had. No server is left then.
    """
    check_names(settings, _OWN)
    _check_not_imported()
    if workers is not None:
        settings["default_workers_per_model"] = workers
    start = _Start(target, settings, _Output(log, quiet))
    if not block:
        return start.run(port)
    with _signals_as_interrupts():
        try:
            server = start.run(port)
        except KeyboardInterrupt:  # there is nothing yet that the caller could go on with
            raise SystemExit(_INTERRUPTED) from None
        server._block()  # noqa: SLF001 - its other half
    return server


class RunningServer:
    """A server that ``mooring.serve`` has started. Use it as a context manager, or ``stop`` it.

    It ends with the process that started it. In a process that this one forks, nothing here ends it.
    """

    def __init__(self, process: ServerProcess, report: StartReport, drain: float, token: str) -> None:
        self._process = process
        self._report = report
        self._drain = drain
        self._token = token
        _running.add(self)

    @property
    def url(self) -> str:
        """Where predictions are served: ``http://127.0.0.1:8080``."""
        return _reachable(self._report.inference)

    @property
    def grpc_url(self) -> str:
        """Where gRPC is served, as ``mooring.Client`` takes it: ``grpc://127.0.0.1:7070``."""
        url = _reachable(self._report.grpc)
        return url.replace("https://", "grpcs://").replace("http://", "grpc://")

    @property
    def management_url(self) -> str:
        """Where models are managed; empty where they are not."""
        return _reachable(self._report.management)

    @property
    def metrics_url(self) -> str:
        """Where metrics are read; empty where they are not."""
        return _reachable(self._report.metrics)

    @property
    def models(self) -> list[str]:
        """The names of the models that were loaded at the start."""
        return list(dict.fromkeys(each.name for each in self._report.models if each.ready))

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server runs. False in a process that was forked from the one that started it."""
        return self._process.owned and self._process.status is None

    @property
    def output(self) -> str:
        """The last lines that the server logged, where they were not written to a file or to a terminal."""
        return self._process.output

    def client(self, **options: Any) -> "Client":
        """Return a client of the server; ``options`` are those of ``mooring.Client``. The caller closes it."""
        from mooring.client.sync.client import Client  # noqa: PLC0415 - only those who ask need httpx

        if self._token:
            options.setdefault("token", self._token)
        return Client(self.url, **options)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when the server has ended. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if not self._process.owned:
            raise RuntimeError("the server belongs to the process that this one was forked from")
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the server still runs after {timeout} s") from None

    def stop(self) -> None:
        """Stop the server and return when it is gone; requests in flight are answered first.

        A server that has ended stays so, and a process forked from this one leaves it alone.
        """
        _running.discard(self)
        if self._process.owned:
            self._process.end(self._drain)

    def _block(self) -> None:
        """Return when the server has ended. A signal to stop goes to it, and a second one ends it at once."""
        while True:
            try:
                status = self.wait()
                break
            except KeyboardInterrupt:
                self._process.interrupt()
        _running.discard(self)
        if status:
            raise RuntimeError(f"the server ended with status {status}\n{self.output}".rstrip())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"running as process {self.pid}" if self.running else "stopped"
        return f"<mooring.RunningServer {self.url} models={self.models} {state}>"


class _Output:
    """Where what a server prints goes to: to the caller's terminal, to ``show``, or to a file."""

    def __init__(self, log: str | Path | None, quiet: bool) -> None:
        if log is not None and quiet:
            raise TypeError("serve() takes either log or quiet: with log only the file gets the lines")
        self._log = log
        self._quiet = quiet

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any]]:
        """Yield the arguments of ``ServerProcess``."""
        if self._log is not None:
            with Path(self._log).open("ab") as file:
                yield {"output": file}
        elif self._quiet:
            yield {"show": lambda _line: None}
        elif _is_inherited(sys.stdout, 1) and _is_inherited(sys.stderr, 2):
            yield {}
        else:
            yield {"show": _show}


def _is_inherited(stream: Any, descriptor: int) -> bool:
    """Whether a child process that inherits this descriptor prints where this stream does; not so in a notebook."""
    if stream is None or stream not in (sys.__stdout__, sys.__stderr__):
        return False
    with suppress(OSError, ValueError):
        os.fstat(descriptor)  # it may be closed, whatever the stream says
        return bool(stream.fileno() == descriptor)
    return False


def _show(line: str) -> None:
    stream = sys.stderr or sys.__stderr__
    if stream is not None:
        stream.write(line)
        stream.flush()


class _Start:
    """One call of ``serve``: tries to start a server until it has an address."""

    def __init__(self, target: Any, settings: Mapping[str, Any], output: _Output) -> None:
        self._target = target
        self._settings = settings
        self._output = output
        given = settings.get("drain_timeout") or os.environ.get(f"{PREFIX}DRAIN_TIMEOUT") or _DRAIN
        self._drain: float = parse_setting("drain_timeout", given, "drain_timeout")
        self._token = str(settings.get("management_token") or settings.get("inference_token") or "")

    def run(self, port: int | None) -> RunningServer:
        """Start it. Raises what ``serve`` says."""
        if port is not None or names_a_place(self._settings, os.environ):
            return self._try_port(port)
        first = 0
        for _ in range(_TRIES):
            chosen = choose_port(can_listen, first)
            try:
                return self._try_port(chosen)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            first = (chosen or 8080) + 1
        return self._try_port(0)

    def _try_port(self, port: int | None) -> RunningServer:
        settings = {**self._settings, "drain_timeout": self._drain} | ({} if port is None else {"port": port})
        with ExitStack() as stack:
            folder = _PrivateFolder(settings.get("temporary_folder"), stack)
            targets = to_targets(self._target, folder.make)
            flags = to_flags(settings)
            variables = child_environment(os.environ, sys.path) | to_variables(settings)
            report = stack.enter_context(ReportChannel())
            notice = CallerNotice(os.getpid(), report.writer, folder.lock, str(folder.path or ""))
            output = stack.enter_context(self._output.opened())
            process = ServerProcess(
                ["serve", *flags, "--", *targets],
                environment=variables | {CALLER: notice.encode()},
                pass_fds=[each for each in (report.writer, folder.lock) if each >= 0],
                apart=True,
                **output,
            )
            try:
                folder.leave_to_server()
                report.close_writer()
                if "show" in output:
                    process.keep_showing()
                return self._read(report, process)
            except BaseException:
                process.end()
                raise

    def _read(self, channel: ReportChannel, process: ServerProcess) -> RunningServer:
        report = channel.read(lambda: process.status is not None)
        if report is None:
            status = process.wait()
            said = "\n".join(process.output.splitlines()[-_LINES_TOLD:])
            raise ModelLoadFailed(
                f"the server ended with status {status} before it was ready\n{said}".rstrip()
            )
        if report.error:
            raise _error_of(report)
        return RunningServer(process, report, self._drain, self._token)


class _PrivateFolder:
    """A folder for pickled objects that only this user can write to. The server removes it at its end.

    Until then the server holds the lock on it, so that what a killed one leaves is found (server_folder.py).
    """

    def __init__(self, parent: Any, stack: ExitStack) -> None:
        self._parent = None if parent is None else Path(parent)
        self._stack = stack
        self._left = False
        self.path: Path | None = None
        self.lock = -1

    def make(self) -> Path:
        """Return the folder, which is made at the first call."""
        if self.path is None:
            self.path, lock = lock_folder(self._parent)
            self.lock = above_standard(lock)
            self._stack.callback(self._close)
        return self.path

    def leave_to_server(self) -> None:
        """Let the server, which has the lock now, remove it."""
        self._left = True

    def _close(self) -> None:
        os.close(self.lock)
        if not self._left and self.path is not None:
            remove_folder(self.path)


def in_python_terms(reason: str) -> str:
    """Return an error of the command as one of ``serve``: with arguments for flags.

    Without the file that stands for a pickled object, which says nothing to the user.

    >>> in_python_terms("127.0.0.1:80 is in use; choose another with --port or --inference-address")
    '127.0.0.1:80 is in use; choose another with port= or inference_address='
    """
    reason = re.sub(rf"\S*{re.escape(MODEL_FILE)}(, line \d+)?: ", "", reason)
    return re.sub(r"--([a-z][a-z-]*[a-z])", _to_argument, reason)


def _to_argument(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return f"{name}=" if name in SETTINGS else flag[0]


def _error_of(report: StartReport) -> Exception:
    """Return the error that a server reported in place of its addresses."""
    reason = in_python_terms(report.error)
    kind = MooringError.kinds.get(report.kind)
    if kind is not None:
        return kind(reason)
    if report.kind in {"AddressUnavailable", "OSError"}:
        taken = " in use" in reason  # reservation.py
        return OSError(errno.EADDRINUSE, reason) if taken else OSError(reason)
    return ConfigError(reason)


def _reachable(address: str) -> str:
    """Return the URL by which this machine reaches an address, also one that is bound to every interface."""
    return str(Address.parse(address, 0).reachable) if address else ""


def _check_not_imported() -> None:
    """Raise ``RuntimeError`` where a worker imports the script that calls ``serve``."""
    file = imported_file()
    if file is not None:
        raise RuntimeError(
            f"{file.name} calls mooring.serve() while a worker imports it to load its model: put the call under "
            'if __name__ == "__main__":'
        )


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise ``KeyboardInterrupt``, where this is the main thread and nobody handles them."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    changed: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, interrupt)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()

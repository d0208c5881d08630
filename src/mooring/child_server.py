"""Servers that a Python process starts as its child processes: what both sides say to each other, output, and the end.

    the caller                                    the server, ``python -m mooring serve ...``
    ServerProcess ──── MOORING_CALLER ──────────▶ cli/caller.py: whom to tell, and with whom to end
                  ◀─── one StartReport on a pipe ─ the addresses and the models, or why it did not start
                  ◀─── lines on another pipe ────── what it prints, where standard output is not a file

``mooring.serve`` and TorchServe's launcher start servers here.
"""

import fcntl
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Self

import msgspec

CALLER = "MOORING_CALLER"
"""The variable that tells a server of its caller; no process that the server starts sees it."""

# Seconds after each signal of ``end``. The first lets the server finish its requests, the second stops it at once.
_SECOND_SIGNAL, _KILL = 5.0, 5.0
_LINES_KEPT = 200
# A report ends so, and seconds between two looks at whether its server still runs.
_END, _LOOK = b"\n", 0.5
_STANDARD = 2  # the last descriptor of standard input, output and error

Show = Callable[[str], None]


class CallerNotice(msgspec.Struct, frozen=True):
    """What a server is told of its caller. ``folder`` is to be removed when it ends; ``lock`` is held until then."""

    pid: int
    report: int
    lock: int = -1
    folder: str = ""

    def encode(self) -> str:
        """Return the value of ``CALLER``."""
        return msgspec.json.encode(self).decode()


class ModelReport(msgspec.Struct, frozen=True):
    """One version of a model at the end of a start; ``reason`` is why it is not ready."""

    name: str
    version: str
    ready: bool
    reason: str = ""


class StartReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a start ended. The addresses are as ``Address`` writes them; ``error`` says why there is no server.

    ``kind`` is the class of that error.
    """

    inference: str = ""
    grpc: str = ""
    management: str = ""
    metrics: str = ""
    models: list[ModelReport] = []
    error: str = ""
    kind: str = ""


class ServerProcess:
    """A server that this process has started. ``arguments`` are those of the ``mooring`` command.

    What it prints goes to ``show`` line by line, or without it to the descriptor ``output``; None leaves it the caller's
    own standard output and error. It gets no signal of the caller's terminal or process group where ``apart`` is set.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        show: Show | None = None,
        output: IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        apart: bool = False,
    ) -> None:
        self._owner = os.getpid()
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._show = show
        self._process = subprocess.Popen(  # noqa: S603 - our own command under our own interpreter
            [sys.executable, "-m", "mooring", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if show is not None else output,
            stderr=subprocess.STDOUT if show is not None else output,
            env=None if environment is None else dict(environment),
            pass_fds=pass_fds,
            start_new_session=apart,
        )
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """The last lines that it printed, as far as ``show`` got them."""
        return "".join(self._lines)

    @property
    def status(self) -> int | None:
        """The exit status, and None while it runs; in a process that the caller forked, None for ever."""
        return self._process.poll() if self.owned else None

    @property
    def owned(self) -> bool:
        """Whether this process started the server, and not the one that this was forked from."""
        return os.getpid() == self._owner

    def show_until(self, wanted: str) -> None:
        """Pass lines on until one has this text, or there are no more."""
        for line in self._process.stdout or ():
            self._pass_on(line)
            if wanted.encode() in line:
                return

    def keep_showing(self, ended: Callable[[], None] = lambda: None) -> None:
        """Pass all further lines on from a thread, which calls ``ended`` when there are no more."""

        def read() -> None:
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in lines:
                    self._pass_on(line)
            self._process.wait()
            ended()

        self._reader = threading.Thread(target=read, name="server output", daemon=True)
        self._reader.start()

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self._lines.append(text)
        if self._show is not None:
            with suppress(OSError, ValueError):  # whoever read what this process prints has gone
                self._show(text)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when the server has ended and all that it printed is shown. Raises ``TimeoutExpired``."""
        status = self._process.wait(timeout)
        if self._reader is not None:
            self._reader.join(1.0)  # a process that it started may hold the pipe
        return status

    def interrupt(self) -> None:
        """Ask it to finish its requests and end; asked once more, it ends at once."""
        if self.owned:
            self._process.send_signal(signal.SIGTERM)

    def end(self, patience: float = 0.0) -> int:
        """End it and return its exit status. It gets ``patience`` seconds and some more to finish its requests."""
        for seconds in (patience + _SECOND_SIGNAL, _KILL):
            self.interrupt()
            with suppress(subprocess.TimeoutExpired):
                return self.wait(seconds)
        self._process.kill()
        return self.wait()


class ReportChannel:
    """The pipe on which a server that is being started reports. Its ``writer`` is the server's; use it as a context manager."""

    def __init__(self) -> None:
        self._reader, self.writer = map(above_standard, os.pipe())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._reader)
        self.close_writer()

    def close_writer(self) -> None:
        """Leave the writer to the server alone, so that its end ends the report."""
        writer, self.writer = self.writer, -1
        if writer >= 0:
            os.close(writer)

    def read(self, ended: Callable[[], bool]) -> StartReport | None:
        """Wait for the report; None where the server ``ended`` without one.

        The end of the pipe is not enough: a process that another thread forks while the server starts has the writer, too.
        """
        data, over = b"", False
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            while not data.endswith(_END):
                if selector.select(0.0 if over else _LOOK):
                    chunk = os.read(self._reader, 65536)
                    if not chunk:
                        break
                    data += chunk
                elif over:
                    break
                else:
                    over = ended()
        return msgspec.json.decode(data, type=StartReport) if data.endswith(_END) else None


def write_report(descriptor: int, report: StartReport) -> None:
    """Write the report and close the descriptor. A caller that has gone reads nothing."""
    with suppress(OSError), open(descriptor, "wb") as pipe:
        pipe.write(msgspec.json.encode(report) + _END)


def above_standard(descriptor: int) -> int:
    """Return a descriptor that a child process can inherit under its number: one above those of standard streams.

    Where this process has closed a standard stream, the next pipe or file gets its number.
    """
    if descriptor > _STANDARD:
        return descriptor
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STANDARD + 1)
    os.close(descriptor)
    return moved

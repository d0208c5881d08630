"""Standard output or error as a place for the log, which never holds the server up and never fails it."""

import contextlib
import logging
import os
import select
import stat
from collections.abc import Callable, Sequence
from typing import TextIO

from mooring.observability.logs import Event

# Bytes that a pipe surely takes without waiting once it can be written to (POSIX's PIPE_BUF on Linux).
_PIECE = 4096
# Milliseconds that a reader may take before its lines are left out.
_PATIENCE = 1000


class Console(logging.Handler):
    """Writes records to standard output or error.

    A reader that has gone, a closed terminal and a full disk lose the lines. So does a pipe that nobody reads, or a
    terminal that is stopped, after a second; as soon as it takes lines again, one of them says how many are missing.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._left_out = 0
        self._interlude: Callable[[], contextlib.AbstractContextManager[None]] | None = None
        # Whether the last line was written only in part; whether ``_fd`` was opened here.
        self._cut_off = self._owned = False
        self._poll, self._poll_for_many = select.poll(), select.poll()
        try:
            self._fd, self._owned = open_again(self._stream.fileno())
            for poll in (self._poll, self._poll_for_many):
                poll.register(self._fd, select.POLLOUT)
        except (OSError, ValueError, AttributeError):
            self._fd = -1  # no real file, as under a test that captures it, or closed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write_line(self.format(record))
        except OSError:
            pass
        except Exception:  # whoever logs must not fail by it
            self.handleError(record)

    def write_lines(self, lines: Sequence[str]) -> None:
        """Write lines that are formatted, as many at once as a pipe surely takes."""
        gathered: list[str] = []
        size = 0
        for line in lines:
            if gathered and size + len(line) >= _PIECE:
                self._write_gathered(gathered)
                gathered, size = [], 0
            gathered.append(line)
            size += len(line) + 1
        if gathered:
            self._write_gathered(gathered)

    def _write_gathered(self, lines: list[str]) -> None:
        if self._fd >= 0 and not self._left_out:
            # Here, where it does not hold the lock: whoever logs a line meanwhile does not wait for these.
            self._poll_for_many.poll(_PATIENCE)
        with self.lock or contextlib.nullcontext(), contextlib.suppress(OSError):
            left_out = self._left_out
            self._write_line("\n".join(lines), patience=0)
            if self._left_out > left_out:
                self._left_out += len(lines) - 1

    def set_interlude(self, interlude: Callable[[], contextlib.AbstractContextManager[None]] | None) -> None:
        """Write every line within such a context, as where something else is drawn at the end of a terminal."""
        with self.lock or contextlib.nullcontext():
            self._interlude = interlude

    def _write_line(self, line: str, patience: int = _PATIENCE) -> None:
        if self._interlude is None:
            self._write_now(line, patience)
            return
        with self._interlude():
            self._write_now(line, patience)

    def _write_now(self, line: str, patience: int) -> None:
        if self._fd < 0:
            print(line, file=self._stream, flush=True)
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if not self._poll.poll(0 if self._left_out else patience):
            self._left_out += 1
            return
        head = b"\n" if self._cut_off else b""
        if self._left_out:
            event = Event("log lines left out", {"lines": self._left_out, "reason": "nobody read them"})
            note = self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, event, None, None))
            head += note.encode() + b"\n"
        rest = memoryview(head + data)
        whole = len(rest)
        while rest:
            written = write_piece(self._fd, rest[:_PIECE])
            rest = rest[written:]
            if rest and (not written or not self._poll.poll(_PATIENCE)):
                begun = len(rest) < whole
                self._cut_off = self._cut_off or begun
                self._left_out = 1 if begun else self._left_out + 1
                return
        self._cut_off, self._left_out = False, 0

    def close(self) -> None:
        """Close the descriptor that was opened here; what is written later goes to the stream."""
        with self.lock or contextlib.nullcontext():
            fd, self._fd = self._fd, -1
            if self._owned and fd >= 0:
                os.close(fd)
        super().close()


def open_again(fd: int) -> tuple[int, bool]:
    """Open a pipe or a terminal once more, so that writing to it never waits.

    Returns that descriptor and True, or ``fd`` and False for anything else. A terminal says that it takes bytes, and then
    waits for room for all of them; a pipe may be filled by another process between the question and the write. The
    descriptor that was inherited must stay as it is: other programs have it, too.
    """
    kind = os.fstat(fd).st_mode
    if stat.S_ISFIFO(kind) or os.isatty(fd):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):  # the reader has gone, or the terminal is another user's
            return os.open(f"/proc/self/fd/{fd}", flags), True
    return fd, False


def write_piece(fd: int, data: memoryview) -> int:
    """Write what has room and return how many bytes that is."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0

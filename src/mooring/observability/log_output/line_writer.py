"""Lines of which there are many, such as one per request: a thread of their own writes them, many at a time.

The event loop only appends to a queue. A disk or a pipe that is slow, or takes nothing at all, delays nobody: what finds no
room in the queue is left out and counted.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from mooring.observability.logs import Event, get_logger

log = get_logger(__name__)

# Seconds that lines are gathered before they are written.
_PAUSE = 0.01
# Lines that may wait: some tens of megabytes.
_MAX_WAITING = 100_000
# Seconds that the end of the server waits for lines that nobody takes.
_MAX_CLOSING = 2.0


@runtime_checkable
class LineOutput(Protocol):
    """A handler that writes many formatted lines faster than one by one."""

    def write_lines(self, lines: Sequence[str]) -> None:
        """Write these lines."""


class Line(Protocol):
    """What becomes a line, whose text is made in the thread."""

    def to_event(self) -> Event:
        """Return it as the loggers take it."""

    def to_text(self) -> str:
        """Return the text of that event."""

    def to_torchserve_line(self) -> str:
        """Return the text that TorchServe's files have."""


@runtime_checkable
class LineLayout(Protocol):
    """A layout whose lines are mostly the same around the messages of a moment.

    ``torchserve`` says which of the two texts of a line is the message.
    """

    torchserve: bool

    def surround(self, record: logging.LogRecord) -> tuple[str, str] | None:
        """Return what stands before and after the message; None where that depends on the message."""


class LineRecord(logging.LogRecord):
    """A record of the level INFO, made in a fraction of the time: nobody asks it where it was logged."""

    def __init__(self, name: str, created: float, message: object) -> None:
        self.__dict__ = {**_TEMPLATE, "name": name, "msg": message, "created": created}
        self.msecs = int(created % 1 * 1000)


_TEMPLATE: Mapping[str, Any] = logging.LogRecord("", logging.INFO, "", 0, "", None, None).__dict__

_Entry = tuple[str, float, tuple[str, ...] | Line]
"""The name of a log, the time in seconds since 1970, and lines that were added together."""


class LineWriter:
    """Writes lines to named logs. ``add`` may be called from one thread, which never waits."""

    def __init__(self) -> None:
        self.left_out = 0
        self._waiting: deque[_Entry] = deque()
        self._wake = threading.Event()
        self._awake = self._closing = False
        self._thread: threading.Thread | None = None

    def add(self, name: str, lines: tuple[str, ...] | Line) -> None:
        """Write lines to the log ``name`` soon."""
        waiting = self._waiting
        if len(waiting) >= _MAX_WAITING:
            self.left_out += 1
            return
        waiting.append((name, time.time(), lines))
        if not self._awake:
            self._awake = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log lines", daemon=True)
                self._thread.start()
            self._wake.set()

    def close(self) -> None:
        """Write what waits, and return when it is written or nobody has taken it for a while."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_MAX_CLOSING)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait()
            if not self._closing:
                time.sleep(_PAUSE)
            self._wake.clear()
            self._awake = False
            try:
                self._write_waiting()
            except Exception:  # whatever it was: later lines can be written
                log.exception("log lines not written")

    def _write_waiting(self) -> None:
        waiting, outputs = self._waiting, _Outputs()
        for _ in range(len(waiting)):
            outputs.add(waiting.popleft())
        outputs.write()
        if self.left_out:
            log.warning("log lines left out", lines=self.left_out, reason="they are written too slowly")
            self.left_out = 0


class _Outputs:
    """Lines by the handlers that write them, each in the order in which they came."""

    def __init__(self) -> None:
        self._lists: dict[str, list[list[_Entry]]] = {}
        self._entries: dict[logging.Handler, list[_Entry]] = {}
        self._names: dict[logging.Handler, set[str]] = {}

    def add(self, entry: _Entry) -> None:
        lists = self._lists.get(entry[0])
        if lists is None:
            lists = self._lists[entry[0]] = self._open(entry[0])
        for entries in lists:
            entries.append(entry)

    def write(self) -> None:
        formatted: dict[tuple[int, frozenset[str]], list[str]] = {}
        for handler, entries in self._entries.items():
            layout = handler.formatter
            if not isinstance(handler, LineOutput) or layout is None:
                for record in _to_records(entries):
                    handler.handle(record)
                continue
            # Two outputs may have the same lines, as standard output and ts_log.log do.
            key = id(layout), frozenset(self._names[handler])
            if key not in formatted:
                formatted[key] = _format_all(layout, entries)
            handler.write_lines(formatted[key])

    def _open(self, name: str) -> list[list[_Entry]]:
        lists = []
        for handler in _handlers_of(name):
            lists.append(self._entries.setdefault(handler, []))
            self._names.setdefault(handler, set()).add(name)
        return lists


def _format_all(layout: logging.Formatter, entries: Sequence[_Entry]) -> list[str]:
    if not isinstance(layout, LineLayout) or layout.surround(LineRecord("", 0.0, "")) is None:
        return [layout.format(record) for record in _to_records(entries)]
    formatted = []
    known: dict[tuple[str, int], tuple[str, str]] = {}
    torchserve = layout.torchserve
    for entry in entries:
        name, created, lines = entry
        moment = name, int(created * 1000)
        around = known.get(moment)
        if around is None:
            around = known[moment] = layout.surround(LineRecord(name, created, "")) or ("", "")
        before, after = around
        if not isinstance(lines, tuple):
            text = lines.to_torchserve_line() if torchserve else lines.to_text()
            printable = text.isprintable()
        else:
            printable = all(map(str.isprintable, lines))
            if torchserve:
                text = f"{after}\n{before}".join(lines)
            else:
                text = f"{after}\n{before}{name} - ".join(lines)
                before += f"{name} - "
        if printable:
            formatted.append(f"{before}{text}{after}")
        else:
            formatted += [layout.format(record) for record in _to_records([entry])]
    return formatted


def _to_records(entries: Sequence[_Entry]) -> Iterator[logging.LogRecord]:
    for name, created, lines in entries:
        if isinstance(lines, tuple):
            for line in lines:
                yield LineRecord(name, created, Event(f"{name} - {line}", {}, line=line))
        else:
            yield LineRecord(name, created, lines.to_event())


def _handlers_of(name: str) -> list[logging.Handler]:
    """Return the handlers that get the lines of a log; none where it is off."""
    logger: logging.Logger | None = logging.getLogger(name)
    assert logger is not None
    if not logger.isEnabledFor(logging.INFO):
        return []
    found: list[logging.Handler] = []
    while logger is not None:
        found += [handler for handler in logger.handlers if handler.level <= logging.INFO]
        logger = logger.parent if logger.propagate else None
    return found


def is_written(name: str) -> bool:
    """Return whether anything that is logged to ``name`` is written anywhere."""
    return bool(_handlers_of(name))

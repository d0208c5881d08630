"""What was logged last and what went wrong last, in this process's memory: for pages, which have no log file.

A handler of Python's ``logging`` keeps both, so whatever has a line in the log is here as well. Records of models' workers
come as the lines of the log do; those of frontend processes by the link between the processes.
"""

import itertools
import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from mooring.observability.logs import Event, format_fact, to_text, truncate_text

MAX_LINES = 1_000
MAX_ERRORS = 100
# Characters of one line, and of the traceback of one error.
MAX_MESSAGE = 4_000
MAX_TRACEBACK = 16_384
MAX_NAME = 512  # of a logger, which models choose, a model, a request

# What a model writes by itself is a line of the log, and no error of the server's, whatever its level.
_OF_MODELS = "model says"


class LogLine(msgspec.Struct, array_like=True):
    """A line of the log. ``id`` ascends; ``time`` is in seconds since the epoch."""

    id: int
    time: float
    level: str
    logger: str
    model: str
    request_id: str
    message: str


class ErrorEntry(msgspec.Struct, array_like=True):
    """Something that went wrong, ``count`` times in a row. ``traceback`` is that of the worker, empty where there is none.

    ``number`` is a new one each time, ``id`` stays.
    """

    id: int
    number: int
    time: float
    model: str
    version: str
    request_id: str
    message: str
    traceback: str
    count: int = 1


class RecordReader(logging.Handler):
    """Makes lines and errors of the records of this process. The line is made at once: a record may hold on to a request."""

    def emit(self, record: logging.LogRecord) -> None:
        """Read a record, and keep what was read."""
        try:
            self._keep(*_read_record(record))
        except Exception:  # as in every handler of logging: whoever logs must not be broken by it
            self.handleError(record)

    def _keep(self, line: LogLine, error: ErrorEntry | None) -> None:
        raise NotImplementedError


class RecentRecords(RecordReader):
    """Keeps the last lines of the log, and the last errors of models and of the server.

    How this works: lines and errors are in deques of bounded length. An error that equals the last one of the same model is
    counted there. Readers ask for what is newer than a number that they know, so no reader has a queue. ``on_change`` is
    called after a line has come, from whatever thread logs; None where nobody reads.
    """

    def __init__(self, max_lines: int = MAX_LINES, max_errors: int = MAX_ERRORS) -> None:
        super().__init__()
        self.on_change: Callable[[], None] | None = None
        self._lines: deque[LogLine] = deque(maxlen=max_lines)
        self._errors: deque[ErrorEntry] = deque(maxlen=max_errors)
        self._line_numbers = itertools.count(1)
        self._error_numbers = itertools.count(1)
        self.last_line = self.last_error = 0

    def add(self, line: LogLine, error: ErrorEntry | None) -> None:
        """Keep a record of another process."""
        with self._guard:
            self._keep(line, error)

    @property
    def _guard(self) -> threading.RLock:
        """The lock that whoever logs has while ``emit`` runs."""
        assert self.lock is not None
        return self.lock

    def _keep(self, line: LogLine, error: ErrorEntry | None) -> None:
        line.id = self.last_line = next(self._line_numbers)
        self._lines.append(line)
        if error is not None:
            self._keep_error(error)
        on_change = self.on_change
        if on_change is not None:
            on_change()

    def _keep_error(self, error: ErrorEntry) -> None:
        error.number = error.id = self.last_error = next(self._error_numbers)
        same = next((each for each in reversed(self._errors) if each.model == error.model), None)
        if same is not None and _equal(same, error):
            self._errors.remove(same)
            error.id, error.count = same.id, same.count + error.count
            error.traceback = error.traceback or same.traceback
        self._errors.append(error)

    def lines_after(self, number: int, most: int) -> list[LogLine]:
        """Return the lines with higher ids, oldest first; of many the last ones."""
        return _last_of((line for line in reversed(self._copy(self._lines)) if line.id > number), most)

    def errors_after(self, number: int, most: int) -> list[ErrorEntry]:
        """Return the errors that came, or came again, after the one with this number, oldest first."""
        return _last_of(
            (error for error in reversed(self._copy(self._errors)) if error.number > number), most
        )

    def _copy(self, kept: deque[Any]) -> list[Any]:
        with self._guard:  # another thread may log meanwhile
            return list(kept)


class RecordForwarder(RecordReader):
    """Keeps the records of a frontend process until they are sent to the first one; of too many the last ones."""

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self._kept: deque[tuple[LogLine, ErrorEntry | None]] = deque(maxlen=max_lines)

    def _keep(self, line: LogLine, error: ErrorEntry | None) -> None:
        self._kept.append((line, error))

    def take(self) -> list[tuple[LogLine, ErrorEntry | None]]:
        """Return what came since the last call."""
        found = []
        while self._kept:
            found.append(self._kept.popleft())
        return found


def _last_of(newest_first: Iterator[Any], most: int) -> list[Any]:
    found = list(itertools.islice(newest_first, most))
    found.reverse()
    return found


def _equal(one: ErrorEntry, other: ErrorEntry) -> bool:
    """Whether two errors of a model are the same: a load that is tried again is logged shortened, without its traceback."""
    if one.version != other.version:
        return False
    shortened = not other.traceback and " characters left out ... " in other.message
    return one.message == other.message or (shortened and one.message[:50] == other.message[:50])


def _read_record(record: logging.LogRecord) -> tuple[LogLine, ErrorEntry | None]:
    event = record.msg
    if not isinstance(event, Event):
        return _make_line(record, record.getMessage(), _detail_of("", record)), None
    facts = event.facts
    detail = _detail_of(event.detail, record)
    line = _make_line(
        record,
        _message_of(event),
        detail,
        logger=_fact(facts, "logger"),  # that of a model
        model=_fact(facts, "model"),
        request_id=_fact(facts, "request_id") or _fact(facts, "request"),
    )
    is_error = record.levelno >= logging.ERROR and event.name != _OF_MODELS
    # A state that has changed, whose reason was logged before.
    repeated = event.name == "model failed" and "reason" not in facts
    return line, _error_of(event, line, detail) if is_error and not repeated else None


def _error_of(event: Event, line: LogLine, detail: str) -> ErrorEntry:
    facts = event.facts
    reason = _fact(facts, "reason")
    if not reason:
        message = _message_of(event)
    elif event.name == "prediction failed":
        message = reason
    else:
        message = f"{event.name.removesuffix(' again')}: {reason}"
    left_out = facts.get("left_out", 0)  # of the same model, which the log has no lines for
    return ErrorEntry(
        0,
        0,
        line.time,
        line.model,
        _clean(_fact(facts, "version"), MAX_NAME),
        line.request_id,
        _clean(" ".join(message.split()), MAX_MESSAGE),
        _clean(detail, MAX_TRACEBACK),
        1 + (left_out if isinstance(left_out, int) else 0),
    )


def _make_line(
    record: logging.LogRecord,
    message: str,
    detail: str,
    *,
    logger: str = "",
    model: str = "",
    request_id: str = "",
) -> LogLine:
    text = _clean(f"{message}\n{detail.rstrip()}" if detail else message, MAX_MESSAGE)
    names = (record.levelname, logger or record.name or "", model, request_id)
    level, logger, model, request_id = (_clean(name, MAX_NAME) for name in names)
    return LogLine(0, record.created, level, logger, model, request_id, text)


def _message_of(event: Event) -> str:
    """Return the event with its facts; of what a model says, the text alone."""
    if event.text:
        return event.text
    return " ".join([event.name, *(f"{name}={format_fact(value)}" for name, value in event.facts.items())])


def _detail_of(detail: str, record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        raised = "".join(traceback.format_exception(*record.exc_info))
        return f"{detail}\n{raised}" if detail else raised
    return detail


def _fact(facts: dict[str, Any], name: str) -> str:
    value = facts.get(name)
    return "" if value is None else to_text(value)


def _clean(text: str, most: int) -> str:
    """Return a text of bounded length that UTF-8 can hold."""
    text = truncate_text(text, most)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def as_documents(entries: Sequence[LogLine | ErrorEntry]) -> list[dict[str, Any]]:
    """Return lines or errors as JSON has them for pages."""
    return [
        {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "number"}
        for entry in entries
    ]

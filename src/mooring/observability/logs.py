"""Log lines on stderr, event first and then facts: ``INFO  model ready model=digits version=1.0 seconds=3.2``.

One event is one line. Text of several lines (a traceback) follows it, indented, so that no text from outside can be
taken for a log line.
"""

import json
import logging
import sys
from typing import Any, TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_INDENT = "    "
# Characters of one fact or detail at most: an exception in a model may carry megabytes of text.
MAX_CHARACTERS = 65_536


class Logger:
    """The log of one module. The event is a constant text; what varies goes into the facts.

    ``detail`` is text of many lines that belongs to the event.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, /, *, detail: str = "", **facts: Any) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):
            self._write(logging.DEBUG, event, facts, detail)

    def info(self, event: str, /, *, detail: str = "", **facts: Any) -> None:
        if self._logger.isEnabledFor(logging.INFO):
            self._write(logging.INFO, event, facts, detail)

    def warning(self, event: str, /, *, detail: str = "", **facts: Any) -> None:
        if self._logger.isEnabledFor(logging.WARNING):
            self._write(logging.WARNING, event, facts, detail)

    def error(
        self, event: str, /, *, detail: str = "", exc_info: BaseException | None = None, **facts: Any
    ) -> None:
        """Log an error; with ``exc_info``, its traceback follows."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._write(logging.ERROR, event, facts, detail, exc_info)

    def exception(self, event: str, /, **facts: Any) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self.error(event, exc_info=sys.exception(), **facts)

    def _write(
        self,
        level: int,
        event: str,
        facts: dict[str, Any],
        detail: str,
        exc_info: BaseException | None = None,
    ) -> None:
        line = " ".join([event, *(f"{name}={format_fact(value)}" for name, value in facts.items())])
        text = f"{line}\n{truncate_text(detail)}" if detail else line
        self._logger.log(level, "%s", text, exc_info=exc_info)


class Throttle:
    """A rate limit of lines and bytes per second, so that a flood of one kind of event hides nothing else."""

    __slots__ = (
        "_bytes_passed",
        "_lines_passed",
        "_max_bytes",
        "_max_lines",
        "_second",
        "bytes_left_out",
        "left_out",
    )

    def __init__(self, max_lines: int, max_bytes: int = 1 << 20) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._second = 0
        self._lines_passed = 0
        self._bytes_passed = 0
        self.left_out = self.bytes_left_out = 0

    def allow_line(self, now: float, size: int = 0) -> bool:
        """Return whether to log one more line, of ``size`` bytes. Refused ones count in ``left_out`` and
        ``bytes_left_out`` until ``reset``.

        >>> throttle = Throttle(1)
        >>> [throttle.allow_line(5.0), throttle.allow_line(5.1), throttle.allow_line(6.0)], throttle.left_out
        ([True, False, True], 1)
        """
        if int(now) != self._second:
            self._second, self._lines_passed, self._bytes_passed = int(now), 0, 0
        if self._lines_passed < self._max_lines and self._bytes_passed + size <= self._max_bytes:
            self._lines_passed += 1
            self._bytes_passed += size
            return True
        self.left_out += 1
        self.bytes_left_out += size
        return False

    def reset(self) -> None:
        """Set the counts of refused lines to 0, after they have been reported."""
        self.left_out = self.bytes_left_out = 0


def get_logger(name: str) -> Logger:
    """Return the log of the module ``name``. ``setup_logging`` configures it, once, at the start."""
    return Logger(name)


def setup_logging(level: str) -> None:
    """Send the log of this process to stderr: the server's from ``level`` up, other libraries' from warnings up."""
    handler = _Stream()
    handler.setFormatter(_Lines("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mooring").setLevel(LEVELS[level])


class _Stream(logging.StreamHandler[TextIO]):
    """Drops lines that cannot be written: a full disk must neither stop the server nor fail its end."""

    def __init__(self) -> None:
        super().__init__(_open_stderr())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name logging gave it
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _open_stderr() -> TextIO:
    """Return standard error with a buffer apart from ``sys.stderr``, whose unwritten rest would fail the exit."""
    try:
        return open(sys.stderr.fileno(), "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    except (OSError, ValueError):  # no real file, as under a test that captures it
        return sys.stderr


def format_fact(value: object) -> str:
    """Return the text of a fact's value: bare if it is one plain word, else quoted, with line ends escaped."""
    text = truncate_text(str(value))
    if not text.isprintable():
        return json.dumps(text)
    if not text or " " in text or "=" in text or '"' in text:
        return json.dumps(text, ensure_ascii=False)
    return text


def truncate_text(text: str, max_lines: int = MAX_CHARACTERS) -> str:
    """Return a text cut to about so many characters, with a note of how many are missing in the middle.

    >>> truncate_text("a" * 10 + "z" * 10, 8)
    'aaaa ... 12 characters left out ... zzzz'
    """
    if len(text) <= max_lines:
        return text
    half = max_lines // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


class _Lines(logging.Formatter):
    """Formats the first line of a record as it is, and all further ones indented; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).splitlines()
        return "\n".join([_escape_controls(first), *(_INDENT + _escape_controls(line) for line in more)])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name logging gave it
        plain = record.levelname
        record.levelname = f"{plain:<5}" if plain != "WARNING" else "WARN "
        try:
            return super().formatMessage(record)
        finally:
            record.levelname = plain


def _escape_controls(line: str) -> str:
    """Return a line with its control characters escaped, which could move a terminal's cursor or change its colors."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() or sign == "\t" else ascii(sign)[1:-1] for sign in line)

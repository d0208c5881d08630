"""Log lines on stderr, event first and then facts: ``INFO  model ready model=digits version=1.0 seconds=3.2``.

One event is one line. What has several (a traceback) follows it, indented, so that no text from outside can pass
for a line of ours.
"""

import json
import logging
import sys
from typing import Any, TextIO

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_INDENT = "    "
# Characters of one fact, or of a detail: an exception of a model's may carry megabytes of text.
LONGEST = 65_536


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
        """With ``exc_info``, its traceback follows."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._write(logging.ERROR, event, facts, detail, exc_info)

    def exception(self, event: str, /, **facts: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self.error(event, exc_info=sys.exception(), **facts)

    def _write(
        self,
        level: int,
        event: str,
        facts: dict[str, Any],
        detail: str,
        exc_info: BaseException | None = None,
    ) -> None:
        line = " ".join([event, *(f"{name}={shown(value)}" for name, value in facts.items())])
        text = f"{line}\n{shortened(detail)}" if detail else line
        self._logger.log(level, "%s", text, exc_info=exc_info)


class Throttle:
    """Lets so many lines and bytes a second through, so that a flood of one kind of event drowns nothing else."""

    __slots__ = ("_bytes", "_most", "_most_bytes", "_second", "_seen", "bytes_left_out", "left_out")

    def __init__(self, most: int, most_bytes: int = 1 << 20) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._second = 0
        self._seen = 0
        self._bytes = 0
        self.left_out = self.bytes_left_out = 0

    def admits(self, now: float, size: int = 0) -> bool:
        """Whether to log one more, of ``size`` bytes. What is refused counts in ``left_out`` and ``bytes_left_out``,
        which whoever reports them sets to 0 (``reset``).

        >>> throttle = Throttle(1)
        >>> [throttle.admits(5.0), throttle.admits(5.1), throttle.admits(6.0)], throttle.left_out
        ([True, False, True], 1)
        """
        if int(now) != self._second:
            self._second, self._seen, self._bytes = int(now), 0, 0
        if self._seen < self._most and self._bytes + size <= self._most_bytes:
            self._seen += 1
            self._bytes += size
            return True
        self.left_out += 1
        self.bytes_left_out += size
        return False

    def reset(self) -> None:
        """What was left out has been reported."""
        self.left_out = self.bytes_left_out = 0


def get_logger(name: str) -> Logger:
    """The log of the module ``name``. Costs nothing; set up by ``setup``, once, at start."""
    return Logger(name)


def setup(level: str) -> None:
    """Send the log of this process to stderr: ours from ``level`` up, other libraries' from warnings up."""
    handler = _Stream()
    handler.setFormatter(_Lines("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("mooring").setLevel(LEVELS[level])


class _Stream(logging.StreamHandler[TextIO]):
    """Leaves out lines that cannot be written: a full disk is no reason to serve nobody, or to end with a failure."""

    def __init__(self) -> None:
        super().__init__(_stderr())

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name logging gave it
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def _stderr() -> TextIO:
    """Standard error, buffered apart from ``sys.stderr``: the interpreter fails at its end where that has anything left
    that cannot be written.
    """
    try:
        return open(sys.stderr.fileno(), "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    except (OSError, ValueError):  # it is no file, as where tests capture it
        return sys.stderr


def shown(value: object) -> str:
    """A value as a fact shows it: bare where it is one plain word, else quoted with its line ends escaped."""
    text = shortened(str(value))
    if not text.isprintable():
        return json.dumps(text)
    if not text or " " in text or "=" in text or '"' in text:
        return json.dumps(text, ensure_ascii=False)
    return text


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of so many characters at most, with a word of how many are missing in the middle.

    >>> shortened("a" * 10 + "z" * 10, 8)
    'aaaa ... 12 characters left out ... zzzz'
    """
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


class _Lines(logging.Formatter):
    """The first line of a record as it is, everything after it indented and without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        first, *more = super().format(record).splitlines()
        return "\n".join([_visible(first), *(_INDENT + _visible(line) for line in more)])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name logging gave it
        plain = record.levelname
        record.levelname = f"{plain:<5}" if plain != "WARNING" else "WARN "
        try:
            return super().formatMessage(record)
        finally:
            record.levelname = plain


def _visible(line: str) -> str:
    """Without what would move a terminal's cursor or change its colors."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() or sign == "\t" else ascii(sign)[1:-1] for sign in line)

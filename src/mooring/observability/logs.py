"""What is logged: events with facts. Where it goes and in which form is decided in ``log_output``.

The named logs of ``LOGS`` are loggers of Python's ``logging``: whoever writes to one need not know whether there is a file
behind it.
"""

import json
import logging
import sys
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# The logs that TorchServe's configurations name: requests, what models say, the server's metrics, and those of models.
ACCESS_LOG, MODEL_LOG, TS_METRICS, MODEL_METRICS = "ACCESS_LOG", "MODEL_LOG", "TS_METRICS", "MODEL_METRICS"
LOGS = (ACCESS_LOG, MODEL_LOG, TS_METRICS, MODEL_METRICS)
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
        self._logger.log(level, Event(event, facts, detail), exc_info=exc_info)


class Event:
    """The message of one record: a constant text, the facts that vary, and a ``detail`` of many lines.

    ``text`` is what somebody else said, such as a line of a model: it is the message where a layout has a place for one.
    ``line`` is what TorchServe's files have in that place, where that is another form of the event and its facts. As text
    an event is one line of ``name=value``, and the detail after it.
    """

    __slots__ = ("detail", "facts", "line", "name", "text")

    def __init__(
        self, name: str, facts: dict[str, Any], detail: str = "", *, text: str = "", line: str = ""
    ) -> None:
        self.name = name
        self.facts = facts
        self.detail = detail
        self.text = text
        self.line = line

    def __str__(self) -> str:
        parts = [self.name, *(f"{name}={format_fact(value)}" for name, value in self.facts.items())]
        if self.text:
            parts.append(f"text={format_fact(self.text)}")
        line = " ".join(parts)
        return f"{line}\n{truncate_text(self.detail)}" if self.detail else line


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

    def take_left_out(self) -> dict[str, Any]:
        """Return the number of refused lines as a fact for the next line, and ``reset``; empty if none was refused."""
        facts = {"left_out": self.left_out} if self.left_out else {}
        self.reset()
        return facts


def get_logger(name: str) -> Logger:
    """Return the log of the module ``name``. ``log_output.setup`` configures it, once, at the start."""
    return Logger(name)


def format_fact(value: object) -> str:
    """Return the text of a fact's value: bare if it is one plain word, else quoted, with line ends escaped."""
    text = to_text(value)
    if not text.isprintable():
        return json.dumps(text)
    if not text or " " in text or "=" in text or '"' in text:
        return json.dumps(text, ensure_ascii=False)
    return text


def to_text(value: object) -> str:
    """Return a fact's value as text of bounded length; the values of a list are joined by commas."""
    return truncate_text(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def truncate_text(text: str, max_lines: int = MAX_CHARACTERS) -> str:
    """Return a text cut to about so many characters, with a note of how many are missing in the middle.

    >>> truncate_text("a" * 10 + "z" * 10, 8)
    'aaaa ... 12 characters left out ... zzzz'
    """
    if len(text) <= max_lines:
        return text
    half = max_lines // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"

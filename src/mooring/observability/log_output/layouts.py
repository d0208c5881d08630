"""The forms of a log record: our line, a JSON object, and what log4j's pattern and JSON layouts make of it.

One event is one line. Text of several lines (a traceback) follows it, indented, so that no text from outside can be
taken for a log line. Our line has the event first and then facts: ``INFO  model ready model=digits version=1.0``.
"""

import datetime as dt
import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from mooring.observability.logs import Event, truncate_text

_INDENT = "    "


def message_of(record: logging.LogRecord) -> str:
    """Return what TorchServe's layouts have as the message: of a model's line, only what the model said."""
    event = record.msg
    if isinstance(event, Event):
        return event.line or truncate_text(event.text) or str(event).partition("\n")[0]
    return record.getMessage()


def details_of(record: logging.LogRecord) -> str:
    """Return the text of many lines that belongs to the record, such as a traceback; empty without one."""
    parts = [record.msg.detail] if isinstance(record.msg, Event) and record.msg.detail else []
    if record.exc_info:
        parts.append(_FORMATTER.formatException(record.exc_info))
    return truncate_text("\n".join(parts))


def indent_lines(text: str) -> str:
    r"""Return the first line as it is, and all further ones indented; control characters are escaped.

    >>> indent_lines("one\ntwo")
    'one\n    two'
    """
    if text.isprintable():
        return text
    first, *more = text.splitlines() or [""]
    return "\n".join([_escape_controls(first), *(_INDENT + _escape_controls(line) for line in more)])


class TextLayout(logging.Formatter):
    """Our line: time, level, event, facts."""

    torchserve = False

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return indent_lines(super().format(record))

    def surround(self, record: logging.LogRecord) -> tuple[str, str] | None:
        """Return what stands before and after the message of a record."""
        plain = logging.LogRecord(record.name, record.levelno, "", 0, "", None, None)
        plain.created, plain.msecs = record.created, record.msecs
        return self.format(plain), ""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name logging gave it
        plain = record.levelname
        record.levelname = f"{plain:<5}" if plain != "WARNING" else "WARN "
        try:
            return super().formatMessage(record)
        finally:
            record.levelname = plain


class JsonLayout(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, fields, and traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        event = record.msg
        if isinstance(event, Event):
            message, fields = truncate_text(event.text) or event.name, event.facts
        else:
            message, fields = record.getMessage(), {}
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        document: dict[str, Any] = {
            "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if fields:
            document["fields"] = to_plain(fields)
        if details := details_of(record):
            document["traceback"] = details
        return encode_json(document)


def to_plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as JSON has them: numbers, booleans, null and lists of texts stay, all else is text."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return truncate_text(str(value))


def encode_json(document: Mapping[str, Any]) -> str:
    """Return a document as one line of JSON without control characters."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(document, separators=(",", ":"))


def _escape_controls(line: str) -> str:
    """Return a line with its control characters escaped, which could move a terminal's cursor or change its colors."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() or sign == "\t" else ascii(sign)[1:-1] for sign in line)


_FORMATTER = logging.Formatter()

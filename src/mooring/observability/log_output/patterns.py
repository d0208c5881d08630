"""log4j's pattern layout: ``%d{ISO8601} [%-5p] %t %c - %m%n`` and its like, compiled once to a list of pieces."""

import datetime as dt
import functools
import logging
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from mooring.observability.log_output.layouts import details_of, encode_json, indent_lines, message_of
from mooring.observability.logs import Event, to_text

TORCHSERVE_PATTERN = "%d{ISO8601} [%-5p] %t %c - %m%n"
"""What TorchServe's own configuration has for its log."""

Piece = Callable[[logging.LogRecord], str]

_LEVELS = {"WARNING": "WARN", "CRITICAL": "FATAL"}
# One conversion: its width and precision, its name, and its options in braces, which may hold patterns with braces.
_CONVERSION = re.compile(r"%(?P<width>-?0?\d*)(?:\.(?P<most>-?\d+))?(?P<name>[A-Za-z]+|%)")
_DATES = {
    "DEFAULT": "yyyy-MM-dd HH:mm:ss,SSS",
    "DEFAULT_PERIOD": "yyyy-MM-dd HH:mm:ss.SSS",
    "DEFAULT_MICROS": "yyyy-MM-dd HH:mm:ss,SSSSSS",
    "ISO8601": "yyyy-MM-dd'T'HH:mm:ss,SSS",
    "ISO8601_PERIOD": "yyyy-MM-dd'T'HH:mm:ss.SSS",
    "ISO8601_BASIC": "yyyyMMdd'T'HHmmss,SSS",
    "ISO8601_OFFSET_DATE_TIME_HH": "yyyy-MM-dd'T'HH:mm:ss,SSSX",
    "ISO8601_OFFSET_DATE_TIME_HHMM": "yyyy-MM-dd'T'HH:mm:ss,SSSXX",
    "ISO8601_OFFSET_DATE_TIME_HHCMM": "yyyy-MM-dd'T'HH:mm:ss,SSSXXX",
    "ABSOLUTE": "HH:mm:ss,SSS",
    "ABSOLUTE_PERIOD": "HH:mm:ss.SSS",
    "COMPACT": "yyyyMMddHHmmssSSS",
    "DATE": "dd MMM yyyy HH:mm:ss,SSS",
    "DATE_PERIOD": "dd MMM yyyy HH:mm:ss.SSS",
}
_DATE_LETTERS = re.compile(r"'(?:[^']|'')*'|([A-Za-z])\1*")
# SimpleDateFormat's letters by how many stand together -> strftime's.
_STRFTIME = {
    "y": "%Y", "yy": "%y", "yyy": "%Y", "yyyy": "%Y", "YYYY": "%G", "u": "%Y", "uuuu": "%Y",
    "M": "%-m", "MM": "%m", "MMM": "%b", "MMMM": "%B", "d": "%-d", "dd": "%d", "D": "%-j", "DDD": "%j",
    "H": "%-H", "HH": "%H", "h": "%-I", "hh": "%I", "k": "%-H", "kk": "%H", "m": "%-M", "mm": "%M",
    "s": "%-S", "ss": "%S", "a": "%p", "E": "%a", "EE": "%a", "EEE": "%a", "EEEE": "%A",
    "z": "%Z", "zzz": "%Z", "Z": "%z", "w": "%V", "ww": "%V",
}  # fmt: skip


class UnknownPattern(ValueError):
    """A conversion or a letter of a date that is not known; the text names it."""


class DateFormat:
    """A date in the letters of Java: ``yyyy-MM-dd'T'HH:mm:ss,SSS``, or one of log4j's names such as ISO8601.

    ``zone`` is a name such as UTC or Europe/Berlin; empty for the local time. Raises ``UnknownPattern``. Several threads may
    format at once.

    >>> DateFormat("dd-MMM", "UTC").format(0.0)
    '01-Jan'
    """

    def __init__(self, text: str, zone: str = "") -> None:
        self._zone = _find_zone(zone)
        self.text = _DATES.get(text, text)
        self._unix = {"UNIX": 1, "UNIX_MILLIS": 1000}.get(text, 0)
        self._pieces = [] if self._unix else list(self._compile(self.text))
        self._known: tuple[int, list[str | int]] = (-1, [])  # the texts of the second that was asked for last

    def format(self, moment: float) -> str:
        """Return the text for a moment in seconds since 1970."""
        if self._unix:
            return str(int(moment * self._unix))
        second, texts = self._known
        if int(moment) != second:
            second = int(moment)
            clock = dt.datetime.fromtimestamp(second, dt.UTC).astimezone(self._zone)
            self._known = (
                second,
                [piece if isinstance(piece, int) else piece(clock) for piece in self._pieces],
            )
            texts = self._known[1]
        fraction = f"{min(round((moment - second) * 1e6), 999_999):06d}000"
        return "".join([fraction[:text] if isinstance(text, int) else text for text in texts])

    def _compile(self, text: str) -> Iterator[Callable[[dt.datetime], str] | int]:
        """Yield what formats a second, and how many digits of its fraction stand between."""
        done = 0
        for match in _DATE_LETTERS.finditer(text):
            yield _constant(text[done : match.start()])
            done = match.end()
            letters = match[0]
            if letters[0] in "Sn":
                yield min(len(letters), 9)
            elif letters[0] == "'":
                yield _constant(letters[1:-1].replace("''", "'") or "'")
            elif letters[0] in "Xx":
                yield functools.partial(_format_offset, letters=letters)
            elif letters in _STRFTIME:
                yield operator.methodcaller("strftime", _STRFTIME[letters])
            else:
                raise UnknownPattern(f"'{letters}' in the date {self.text}")
        yield _constant(text[done:])


def _find_zone(name: str) -> dt.tzinfo | None:
    if not name:
        return None
    import zoneinfo  # noqa: PLC0415 - few patterns name a zone

    try:
        return dt.UTC if name in {"GMT+0", "Z"} else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise UnknownPattern(f"the time zone {name}") from error


def _constant(text: str) -> Callable[[dt.datetime], str]:
    return lambda _clock: text


def _format_offset(clock: dt.datetime, letters: str) -> str:
    offset = clock.strftime("%z")
    if letters[0] == "X" and offset == "+0000":
        return "Z"
    return {1: offset[:3], 2: offset, 3: f"{offset[:3]}:{offset[3:]}"}[min(len(letters), 3)]


class PatternLayout(logging.Formatter):
    """A layout from a pattern. A traceback follows its line, indented, unless the pattern leaves it out (``%ex{0}``).

    Conversions that are not known are kept as they are and listed in ``unknown``.

    >>> record = logging.LogRecord("a.b", logging.WARNING, "", 0, "slow", None, None)
    >>> PatternLayout("[%-5p] %c{1} - %m%n").format(record)
    '[WARN ] b - slow'
    """

    torchserve = True

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.unknown: list[str] = []
        self._writes_details = False
        # Whether all but the message depends on no more than time and logger.
        self._same_around_message = True
        # The handler ends the line; one more %n at the end would be an empty line.
        self._pieces = list(self._compile(re.sub(r"%n$", "", pattern)))
        if self._pieces.count(message_of) != 1 or self._writes_details:
            self._same_around_message = False

    def format(self, record: logging.LogRecord) -> str:
        line = indent_lines("".join([piece(record) for piece in self._pieces]))
        details = "" if self._writes_details else details_of(record)
        return line + indent_lines(f"\n{details}") if details else line

    def surround(self, record: logging.LogRecord) -> tuple[str, str] | None:
        """Return what stands before and after the message of a record; None where that depends on the message."""
        if not self._same_around_message:
            return None
        place = self._pieces.index(message_of)
        before, after = self._pieces[:place], self._pieces[place + 1 :]
        return "".join([piece(record) for piece in before]), "".join([piece(record) for piece in after])

    def _compile(self, pattern: str) -> Iterator[Piece]:
        done = 0
        while match := _CONVERSION.search(pattern, done):
            if match.start() > done:
                yield _literal(pattern[done : match.start()])
            options, done = _read_options(pattern, match.end())
            name, rest = _split_name(match["name"])
            if name == "%":
                done = match.end()
            elif rest:  # such as %msgtext: the conversion ends inside the word
                options, done = [], match.end() - len(rest)
            try:
                piece = self._find_piece(name, options)
            except UnknownPattern as error:
                self.unknown.append(str(error))
                piece = _literal(pattern[match.start() : done])
            yield _padded(piece, match["width"], match["most"])
        if done < len(pattern):
            yield _literal(pattern[done:])

    def _find_piece(self, name: str, options: list[str]) -> Piece:
        if name not in _SAME_AROUND:
            self._same_around_message = False
        if name in _PLAIN:
            return _PLAIN[name]
        option = options[0] if options else ""
        if name in {"d", "date"}:
            date = DateFormat(option or "DEFAULT", options[1] if len(options) > 1 else "")
            return lambda record: date.format(record.created)
        if name in {"c", "logger", "C", "class"}:
            return _logger_name(option)
        if name in {"X", "mdc", "MDC"}:
            return _context(option)
        if name in {"ex", "exception", "throwable", "xEx", "xException", "xThrowable", "rEx", "rException"}:
            self._writes_details = True
            return _literal("") if option in {"none", "0"} else details_of
        return self._nested_piece(name, option, options)

    def _nested_piece(self, name: str, option: str, options: list[str]) -> Piece:
        """Find a conversion that is put around a pattern."""
        if name in {"highlight", "style", "enc", "encode"}:
            inner = list(self._compile(option))
            if name in {"highlight", "style"}:  # without their colors
                return lambda record: "".join([piece(record) for piece in inner])
            return _encoded(inner, options[1] if len(options) > 1 else "HTML")
        raise UnknownPattern(f"%{name}")


def _literal(text: str) -> Piece:
    return lambda _record: text


def level_of(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelname, record.levelname)


def _thread(record: logging.LogRecord) -> str:
    return "main" if record.threadName == "MainThread" else str(record.threadName)


_PLAIN: Mapping[str, Piece] = MappingProxyType(
    {
        "%": _literal("%"),
        "n": _literal("\n"),
        **dict.fromkeys(("m", "msg", "message"), message_of),
        **dict.fromkeys(("p", "level"), level_of),
        **dict.fromkeys(("t", "tn", "thread", "threadName"), _thread),
        **dict.fromkeys(("T", "tid", "threadId"), lambda record: str(record.thread)),
        **dict.fromkeys(("r", "relative"), lambda record: f"{record.relativeCreated:.0f}"),
        **dict.fromkeys(("pid", "processId"), lambda _record: str(os.getpid())),
        **dict.fromkeys(("F", "file"), lambda record: record.filename),
        **dict.fromkeys(("L", "line"), lambda record: str(record.lineno)),
        **dict.fromkeys(("M", "method"), lambda record: record.funcName or "?"),
        **dict.fromkeys(
            ("l", "location"), lambda record: f"{record.module}({record.filename}:{record.lineno})"
        ),
        **dict.fromkeys(("x", "NDC", "marker", "markerSimpleName"), _literal("")),
    }
)
_NAMES = frozenset(
    [
        *_PLAIN, "d", "date", "c", "logger", "C", "class", "X", "mdc", "MDC", "ex", "exception", "throwable", "xEx",
        "xException", "xThrowable", "rEx", "rException", "highlight", "style", "enc", "encode", "notEmpty",
        "varsNotEmpty", "variablesNotEmpty", "replace", "equals", "equalsIgnoreCase", "maxLen", "maxLength", "K", "map",
        "MAP", "sn", "sequenceNumber", "endOfBatch", "N", "nano", "tp", "threadPriority", "fqcn", "repeat",
    ]
)  # fmt: skip


# Those that say the same of all records of a level, a thread and a logger at one moment, and the message.
_SAME_AROUND = frozenset(
    [
        "%", "m", "msg", "message", "p", "level", "t", "tn", "thread", "threadName", "T", "tid", "threadId", "pid",
        "processId", "d", "date", "c", "logger", "C", "class",
    ]
)  # fmt: skip


def _split_name(word: str) -> tuple[str, str]:
    """Split a word after ``%`` into the longest name of a conversion and what follows: ``msgtext`` is ``msg``, ``text``."""
    for length in range(len(word), 0, -1):
        if word[:length] in _NAMES:
            return word[:length], word[length:]
    return word, ""


def _read_options(pattern: str, start: int) -> tuple[list[str], int]:
    """Return the texts in the braces that begin at ``start``, and where the last of them ends."""
    options = []
    while start < len(pattern) and pattern[start] == "{":
        depth, end = 1, start + 1
        while end < len(pattern) and depth:
            depth += {"{": 1, "}": -1}.get(pattern[end], 0)
            end += 1
        options.append(pattern[start + 1 : end - 1 if not depth else end])
        start = end
    return options, start


def _padded(piece: Piece, width: str, most: str | None) -> Piece:
    """Apply ``%-5p`` and ``%.30c``: at least so wide, and cut to so many characters, of the beginning by default."""
    if not width and most is None:
        return piece
    least, limit = int(width.lstrip("-") or 0), int(most) if most is not None else None

    def format_padded(record: logging.LogRecord) -> str:
        text = piece(record)
        if limit is not None and len(text) > abs(limit):
            text = text[:-limit] if limit < 0 else text[-limit:] if limit else ""
        return text.ljust(least) if width.startswith("-") else text.rjust(least)

    return format_padded


def _logger_name(option: str) -> Piece:
    """``%c{1}`` is the last part of a logger's name, ``%c{1.}`` shortens all but the last to one letter."""
    if not option:
        return lambda record: record.name
    if re.fullmatch(r"-?\d+", option):
        parts = int(option)
        return lambda record: ".".join(record.name.split(".")[-parts:])
    if match := re.fullmatch(r"(\d+)\.[\d.*]*", option):
        letters = int(match[1])

        def shorten(record: logging.LogRecord) -> str:
            *before, last = record.name.split(".")
            return ".".join([*(part[:letters] for part in before), last])

        return shorten
    raise UnknownPattern(f"%c{{{option}}}")


def _context(option: str) -> Piece:
    """``%X{request_id}`` is a fact of the event, ``%X`` all of them."""

    def format_context(record: logging.LogRecord) -> str:
        facts = record.msg.facts if isinstance(record.msg, Event) else {}
        if not option:
            return "{" + ", ".join(f"{name}={to_text(value)}" for name, value in facts.items()) + "}"
        return to_text(facts[option]) if option in facts else ""

    return format_context


def _encoded(inner: list[Piece], form: str) -> Piece:
    if form not in {"JSON", "CRLF"}:
        raise UnknownPattern(f"%enc with {form}")

    def encode(record: logging.LogRecord) -> str:
        text = "".join([piece(record) for piece in inner])
        if form == "JSON":
            return encode_json({"": text})[5:-2]
        return text.replace("\r", "\\r").replace("\n", "\\n")

    return encode

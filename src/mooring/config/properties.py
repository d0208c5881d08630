"""Java's .properties format, as TorchServe reads its config.properties: text in, a dict of texts out, and back."""

import re
from collections.abc import Iterator, Mapping

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_NAMES = {sign: name for name, sign in _ESCAPES.items()}
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # Java writes what lies beyond 16 bits as two escapes
_VARIABLE = re.compile(r"\$\$(\w+)\$\$")


def parse_properties(text: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    r"""Parse a .properties file; the last of two equal keys wins.

    ``$$NAME$$`` in a value is replaced from ``environ``; a name that is not there stays as it is written.

    >>> parse_properties("# where\nstore = /models\\\n    /all\nkey: $$HOME$$", {"HOME": "/root"})
    {'store': '/models/all', 'key': '/root'}
    """
    known = environ or {}
    found = {}
    for _, line in _logical_lines(text):
        key, value = _split_pair(line)
        value = _unescape(value)
        found[_unescape(key)] = _VARIABLE.sub(lambda match: known.get(match[1], match[0]), value)
    return found


def find_lines(text: str) -> dict[str, int]:
    r"""Return the number of the line on which each key's value begins, counted from 1.

    >>> find_lines("# where\nstore = /models\\\n    /all\nkey: 1")
    {'store': 2, 'key': 4}
    """
    return {_unescape(_split_pair(line)[0]): number for number, line in _logical_lines(text)}


def format_properties(values: Mapping[str, str]) -> str:
    r"""A .properties file that says this. ASCII only, so that every reader of the format takes it for the same.

    >>> format_properties({"store": "/models", "a key": "1\n=2"})
    'store=/models\na\\ key=1\\n\\=2\n'
    """
    return "".join(f"{_escape(key)}={_escape(value, inside=' ')}\n" for key, value in values.items())


def _escape(text: str, *, inside: str = "") -> str:
    """Put a backslash before every sign that the format reads otherwise. ``inside`` signs stay bare behind the first."""
    written = ""
    for place, sign in enumerate(text):
        if sign in inside and place:
            written += sign
        elif sign in " =:#!\\":
            written += f"\\{sign}"
        elif sign in _NAMES:
            written += f"\\{_NAMES[sign]}"
        elif " " < sign < "\x7f":
            written += sign
        else:
            written += "".join(f"\\u{unit:04x}" for unit in _escape_utf16(sign))
    return written


def _escape_utf16(sign: str) -> Iterator[int]:
    code = ord(sign)
    if code < 0x10000:
        yield code
    else:
        yield from (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines without comments and blank ones, with continuations joined, and the number of the first.

    A comment is never continued.
    """
    pending, first = "", 0
    # Not splitlines: Java ends a line at CR, LF or both, and at nothing else (no form feed, no U+2028).
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        line = raw.lstrip(" \t\f")
        if not pending:
            first = number
            if not line or line[0] in "#!":
                continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            pending += line[:-1]
            continue
        yield first, pending + line
        pending = ""
    if pending:
        yield first, pending


def _split_pair(line: str) -> tuple[str, str]:
    """Split a line at the first unescaped ``=``, ``:`` or white space, with the white space around it."""
    end = 0
    while end < len(line) and line[end] not in "=: \t\f":
        end += 2 if line[end] == "\\" else 1
    key, rest = line[:end], line[end:].lstrip(" \t\f")
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(" \t\f")
    return key, rest


def _unescape(text: str) -> str:
    r"""Resolve ``\t``, ``\uXXXX`` and the like; a backslash before anything else just vanishes, as in Java."""
    if "\\" not in text:
        return text
    plain = re.sub(r"\\(u[0-9a-fA-F]{4}|.|$)", _resolve_escape, text, flags=re.DOTALL)
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), plain)


def _resolve_escape(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) == 5:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)

"""Java's .properties format, as TorchServe reads its config.properties: text in, a dict of texts out."""

import re
from collections.abc import Iterator, Mapping

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_VARIABLE = re.compile(r"\$\$(\w+)\$\$")


def parse_properties(text: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    r"""The keys and values of a .properties file; the last of two equal keys wins.

    ``$$NAME$$`` in a value is replaced from ``environ``; a name that is not there stays as it is written.

    >>> parse_properties("# where\nstore = /models\\\n    /all\nkey: $$HOME$$", {"HOME": "/root"})
    {'store': '/models/all', 'key': '/root'}
    """
    known = environ or {}
    found = {}
    for line in _logical_lines(text):
        key, value = _split(line)
        value = _unescape(value)
        found[_unescape(key)] = _VARIABLE.sub(lambda match: known.get(match[1], match[0]), value)
    return found


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments and blank ones, continuations joined. A comment is never continued."""
    pending = ""
    # Not splitlines: Java ends a line at CR, LF or both, and at nothing else (no form feed, no U+2028).
    for raw in re.split(r"\r\n|\n|\r", text):
        line = raw.lstrip(" \t\f")
        if not pending and (not line or line[0] in "#!"):
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            pending += line[:-1]
            continue
        yield pending + line
        pending = ""
    if pending:
        yield pending


def _split(line: str) -> tuple[str, str]:
    """Key and value: parted by the first unescaped ``=``, ``:`` or white space, and white space around it."""
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
    return re.sub(r"\\(u[0-9a-fA-F]{4}|.|$)", _resolve, text, flags=re.DOTALL)


def _resolve(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) == 5:
        return chr(int(escape[1:], 16))
    return _ESCAPES.get(escape, escape)

"""Protobuf's text format, as far as model configurations use it: fields, messages, lists, strings, numbers, words.

    name: "mnist"
    inputs [ { name: "image" datatype: "FP32" shape: [28, 28] } ]   # a list, or the field once per element

A message becomes a dict of lists: text alone does not tell a repeated field from a single one.
"""

import re
from typing import Any

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?))
      | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)
      | (?P<sign>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?",
}  # fmt: skip
# A byte by its octal or hexadecimal number, as protobuf's printers write what is not ASCII, or a sign.
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))")
_CLOSING = {"{": "}", "<": ">"}
_MAX_DEPTH = 50

Message = dict[str, list[Any]]


def parse_textproto(text: str) -> Message:
    """Parse a message. Raises ``ValueError``, which names the line at fault."""
    return _Parser(text).parse_message("", 0)


class _Parser:
    """A parser by recursive descent with one token of look-ahead: ``_kind`` and ``_token``."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._kind = ""
        self._token = ""
        self._advance()

    def parse_message(self, closing: str, depth: int) -> Message:
        """Parse fields up to the ``closing`` sign, or without one up to the end of the text."""
        if depth > _MAX_DEPTH:
            raise self._error("it is nested too deep")
        fields: Message = {}
        while self._kind and (self._kind, self._token) != ("sign", closing):
            name = self._expect("word")
            fields.setdefault(name, []).extend(self._parse_values(depth))
            if self._token in (",", ";") and self._kind == "sign":
                self._advance()
        if closing and not self._kind:
            raise self._error(f"expected '{closing}'")
        return fields

    def _parse_values(self, depth: int) -> list[Any]:
        colon = self._accept(":")
        if not self._accept("["):
            return [self._parse_value(depth, colon=colon)]
        values: list[Any] = []
        while not self._accept("]"):
            values.append(self._parse_value(depth, colon=True))
            if not self._accept(",") and (self._kind, self._token) != ("sign", "]"):
                raise self._error("expected ',' or ']'")
        return values

    def _parse_value(self, depth: int, *, colon: bool) -> Any:
        kind, token = self._kind, self._token
        if kind == "sign" and token in _CLOSING:
            self._advance()
            inner = self.parse_message(_CLOSING[token], depth + 1)
            self._advance()
            return inner
        if not colon or kind not in ("string", "number", "word"):
            raise self._error("expected a value" if colon else "expected ':'")
        if kind == "string":
            return self._parse_strings()
        self._advance()
        if kind == "number":
            return _parse_number(token)
        return {"true": True, "false": False}.get(token, token)

    def _parse_strings(self) -> str:
        """Parse strings that follow one another as one, as in C."""
        found = b""
        error = self._error("a string is not UTF-8")
        while self._kind == "string":
            found += _ESCAPE.sub(self._unescape, self._token[1:-1].encode())
            self._advance()
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise error from None

    def _unescape(self, match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, sign = match.groups(b"")
        if octal or hexadecimal:
            number = int(octal, 8) if octal else int(hexadecimal, 16)
            if number < 256:
                return bytes([number])
        text = sign.decode(errors="replace")
        if text not in _ESCAPES:
            raise self._error(f"unknown escape '{match[0].decode(errors='replace')}'")
        return _ESCAPES[text].encode()

    def _expect(self, kind: str) -> str:
        if self._kind != kind:
            raise self._error("expected the name of a field")
        token = self._token
        self._advance()
        return token

    def _accept(self, sign: str) -> bool:
        if self._kind == "sign" and self._token == sign:
            self._advance()
            return True
        return False

    def _advance(self) -> None:
        """Go to the next token; its kind is empty at the end of the text."""
        while self._position < len(self._text):
            match = _TOKEN.match(self._text, self._position)
            if match is None:
                raise self._error(f"unexpected {self._text[self._position]!r}")
            self._position = match.end()
            if match.lastgroup != "skip":
                self._kind, self._token = str(match.lastgroup), match[0]
                return
        self._kind = self._token = ""

    def _error(self, reason: str) -> ValueError:
        line = self._text.count("\n", 0, self._position) + 1
        return ValueError(f"line {line}: {reason}{f' near {self._token[:40]!r}' if self._token else ''}")


def _parse_number(token: str) -> int | float:
    if "x" in token.lower():
        return int(token, 16)
    try:
        return int(token)
    except ValueError:
        return float(token.rstrip("fF"))

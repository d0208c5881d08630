"""The doctor's findings, each about one place, and the report of them."""

import enum
from collections.abc import Iterable
from pathlib import Path

import msgspec


class Verdict(enum.StrEnum):
    """Whether something runs here, behaves differently, or needs a change."""

    RUNS = "runs"
    DIFFERS = "differs"
    CHANGE = "change"


class Finding(msgspec.Struct, frozen=True):
    """One fact about one place. ``where`` is a file below the examined folder, with its line if one is at fault.

    A file in an archive is named behind it: ``store/bell.mar/handler.py:3``.
    """

    verdict: Verdict
    where: str
    what: str
    suggestion: str = ""


class Report(msgspec.Struct, frozen=True):
    """All findings, by place."""

    examined: str
    findings: list[Finding]

    @property
    def needs_change(self) -> bool:
        """Return whether any finding needs a change."""
        return any(each.verdict is Verdict.CHANGE for each in self.findings)

    def count(self, verdict: Verdict) -> int:
        """Return the number of findings with this verdict."""
        return sum(each.verdict is verdict for each in self.findings)


def make_report(examined: Path, findings: Iterable[Finding]) -> Report:
    """Return the report of these findings, safe to print: names may come from untrusted archives."""
    clean = [
        Finding(each.verdict, printable(each.where), printable(each.what), printable(each.suggestion))
        for each in findings
    ]
    return Report(printable(str(examined)), clean)


def printable(text: str) -> str:
    r"""Return a text with control characters escaped, which every encoding can hold.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def runs(where: str, what: str) -> Finding:
    return Finding(Verdict.RUNS, where, what)


def differs(where: str, what: str, suggestion: str = "") -> Finding:
    return Finding(Verdict.DIFFERS, where, what, suggestion)


def change(where: str, what: str, suggestion: str) -> Finding:
    return Finding(Verdict.CHANGE, where, what, suggestion)


def line_of(text: str, key: str, after: str) -> int:
    """Return the line (from 1) on which a key is set, the last if there are several; 0 if there is none.

    ``after`` holds the characters that may follow a key.
    """
    found = 0
    for number, line in enumerate(text.splitlines(), 1):
        rest = line.strip().removeprefix(key)
        if rest != line.strip() and (not rest or rest[0] in after):
            found = number
    return found


def at(where: str, line: int) -> str:
    """Return a place with its line, if it has one."""
    return f"{where}:{line}" if line else where

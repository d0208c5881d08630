"""Finds the handler of a request target.

Patterns are paths whose segments may hold one ``{name}`` (``/v1/models/{model_name}:predict``); a last segment
``{name*}`` takes the rest of the path, slashes and all. Literal text wins over a name, a longer literal over a
shorter one, and anything over the rest.
"""

import re
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote

from mooring.web.exchange import Exchange
from mooring.web.http1_format import ORIGIN

_HOLE = re.compile(r"\{(\w+)(\*)?\}")
# Targets that are remembered. A client that varies the query can only make the router as slow as without a memory.
_REMEMBERED = 4_096
_LONGEST = 256

Handler = Callable[[Exchange, "Match"], None]


class Route(NamedTuple):
    """A pattern and its handler, for every method."""

    pattern: str
    handler: Handler


class Match:
    """What a target says, shared by all requests that have it. ``path`` and ``params`` are percent-decoded."""

    def __init__(self, route: Route, path: str, query: bytes, params: dict[str, str]) -> None:
        self.route = route
        self.handler = route.handler
        self.path = path
        self.query = query
        self.params = params

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The parts of the path between slashes."""
        return tuple(self.path.strip("/").split("/"))


class _Segment:
    """One part of a pattern between slashes: text, or text around a name."""

    def __init__(self, text: str) -> None:
        hole = _HOLE.search(text)
        self.literal = text if hole is None else ""
        self.name = "" if hole is None else hole[1]
        self.before, self.after = (text, "") if hole is None else (text[: hole.start()], text[hole.end() :])
        self.rest = hole is not None and hole[2] is not None
        # What sorts first is tried first.
        self.rank = (self.rest, hole is not None, -len(self.before) - len(self.after))

    def match(self, part: str) -> str | None:
        """Return what the name stands for in ``part``, empty for text; None if the part does not fit."""
        if not self.name:
            return "" if part == self.literal else None
        inner = len(part) - len(self.before) - len(self.after)
        fits = inner > 0 and part.startswith(self.before) and part.endswith(self.after)
        return part[len(self.before) : len(part) - len(self.after)] if fits else None


class _Pattern:
    """A route's pattern, cut at its slashes."""

    def __init__(self, route: Route) -> None:
        self.route = route
        self.segments = [_Segment(text) for text in route.pattern.split("/")[1:]]
        self.rank = [segment.rank for segment in self.segments]
        if any(segment.rest for segment in self.segments[:-1]):
            raise ValueError(f"{route.pattern!r}: only the last segment can take the rest")

    def params(self, parts: list[str]) -> dict[str, str] | None:
        """Return what the names stand for in a path; None if it does not fit."""
        found: dict[str, str] = {}
        if self.segments[-1].rest:
            last = len(self.segments) - 1
            parts = [*parts[:last], "/".join(parts[last:])]
        if len(parts) != len(self.segments):
            return None
        for segment, part in zip(self.segments, parts, strict=True):
            value = segment.match(part)
            if value is None:
                return None
            if segment.name:
                found[segment.name] = value
        return found


class Router:
    """Finds the match of a target, in one lookup where the same target was asked for before."""

    def __init__(self) -> None:
        self._patterns: list[_Pattern] = []
        self._found: dict[bytes, Match] = {}

    def add(self, route: Route) -> None:
        """Mount a route. Raises ``ValueError`` for a pattern that is mounted already or makes no sense."""
        if not route.pattern.startswith("/"):
            raise ValueError(f"{route.pattern!r} does not start with a slash")
        if any(route.pattern == known.route.pattern for known in self._patterns):
            raise ValueError(f"{route.pattern!r} is mounted already")
        self._patterns = sorted([*self._patterns, _Pattern(route)], key=lambda each: each.rank)
        self._found.clear()

    def find(self, target: bytes) -> Match | None:
        """Return the match of a raw request target; None if no pattern fits, whatever the method."""
        match = self._found.get(target)
        if match is None:
            match = self._search(target)
            if match is not None and len(target) <= _LONGEST:
                if len(self._found) >= _REMEMBERED:
                    self._found.clear()
                self._found[target] = match
        return match

    def _search(self, target: bytes) -> Match | None:
        origin = ORIGIN.match(target)
        path, _, query = (target[origin.end() :] if origin else target).partition(b"#")[0].partition(b"?")
        text = path.decode("latin-1") or ("/" if origin else "")
        # Java's split drops trailing empty parts, so clients of TorchServe may end a path with a slash.
        tries = [text, text[:-1]] if len(text) > 1 and text.endswith("/") else [text]
        for each in tries:
            if not each.startswith("/"):
                return None
            # Split before decoding: an escaped slash belongs to its segment.
            parts = [unquote(part, encoding="utf-8", errors="replace") for part in each.split("/")[1:]]
            for pattern in self._patterns:
                params = pattern.params(parts)
                if params is not None:
                    return Match(pattern.route, "/" + "/".join(parts), query, params)
        return None

"""Where the time of a call went, as the server tells it; and how an RPC's trailing metadata is read, for both kinds of clients."""

import re
from collections.abc import Sequence
from typing import Any

ASKING = ("server-timing", "1")
"""The header, or the metadata, that asks for it."""

_METRIC = re.compile(r'([^\s,;="]+)((?:;(?:[^,;"]|"[^"]*")*)*)')
# No more digits than a number may have that Python reads; and none within the text of a description.
_DURATION = re.compile(r';\s*dur="?([0-9]{1,15}(?:\.[0-9]+)?)(?![0-9])')
_ROWS = re.compile(r';\s*desc="?([0-9]{1,15}) rows?\b')
_DESCRIPTION = re.compile(r';\s*desc="[^"]*"')


class Timing(dict[str, float]):
    """Milliseconds by the name of the metric; ``rows`` are those of the model's call, None where the server does not say.

    The names are those of the header Server-Timing: queue, batch, model, encode, total and cache, and those of nodes, as
    ``scale.model``.
    """

    def __init__(self, milliseconds: dict[str, float], rows: int | None = None) -> None:
        super().__init__(milliseconds)
        self.rows = rows

    def __repr__(self) -> str:
        return f"Timing({dict.__repr__(self)}, rows={self.rows})"

    def to_text(self) -> str:
        """Return it as a line for people."""
        rows = "" if self.rows is None else f", {self.rows} row{'' if self.rows == 1 else 's'} in the call"
        return ", ".join(f"{name} {milliseconds:g} ms" for name, milliseconds in self.items()) + rows


def parse_timing(text: str) -> Timing | None:
    """Read the value of a header Server-Timing; None for one without a duration.

    >>> parse_timing('batch;dur=0.4;desc="8 rows", model;dur=11.9, total;dur=13')
    Timing({'batch': 0.4, 'model': 11.9, 'total': 13.0}, rows=8)
    >>> parse_timing("miss")
    """
    found: dict[str, float] = {}
    rows = None
    for name, parameters in _METRIC.findall(text):
        duration = _DURATION.search(_DESCRIPTION.sub("", parameters))
        if duration is not None:
            found[name] = float(duration[1])
        if name == "batch" and (described := _ROWS.search(parameters)) is not None:
            rows = int(described[1])
    return Timing(found, rows) if found else None


class AsyncTimedRpc:
    """A unary RPC whose trailing metadata has a timing."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def ask(self, message: bytes, timeout: float, metadata: Sequence[Any]) -> tuple[bytes, str]:
        """Return the answer, and what the server says of its time."""
        call = self._call(message, timeout=timeout, metadata=(*metadata, ASKING))
        answer: bytes = await call
        return answer, _timing_in(await call.trailing_metadata())


class TimedRpc:
    """The same for code without asyncio."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def ask(self, message: bytes, timeout: float, metadata: Sequence[Any]) -> tuple[bytes, str]:
        """Return the answer, and what the server says of its time."""
        answer, call = self._call.with_call(message, timeout=timeout, metadata=(*metadata, ASKING))
        return answer, _timing_in(call.trailing_metadata())


def _timing_in(metadata: Any) -> str:
    return ", ".join(str(value) for name, value in metadata or () if name == ASKING[0])

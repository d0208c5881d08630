"""Where the time of a request went: what the header ``Server-Timing`` and gRPC's trailing metadata of that name say.

    total    from the moment when the process with the client's connection has the whole request, until it writes the head
             of the answer; in a trailer, or over gRPC, until the answer has ended
    queue    from the request's arrival in the queue of its version until it leaves for the worker that answers it; a try
             on a worker that died is in it
    batch    from there until the model is called: the way to the worker, calls of the same message before this one, reading
             the request, joining it with others. Its description has the rows of the call
    model    from the beginning of the model's call to its end; of several calls for one request from the first to the last,
             of a stream to the piece sent last
    encode   from there until the answer is written: splitting and encoding outputs, the way back, the head
    cache    the look into the response cache, which had the answer: no model was called

Reading a request in the server is part of ``total`` alone. The parts never count a moment twice, so their sum is not above
``total``: where a request is split over several calls, or a gRPC stream has several requests, a moment counts as ``model``
while any of their calls runs, else as ``batch``, else as ``queue``. Nodes of chains, ensembles and workflows have
metrics of their own, as ``NODE.model``; nodes that ran at the same time may add up to more than ``total``.

All moments are in seconds on CLOCK_MONOTONIC (``time.monotonic``). That clock is common to all processes of a machine: what
a worker notes can be compared with what the server notes, and nothing is converted.
"""

import time
from collections.abc import Container, Iterable
from urllib.parse import quote

import msgspec

CallSpan = tuple[float, float, int, int]
"""What a worker tells of a request: begin and end of the model's call, its rows, and of how many calls they are."""

HEADER = b"server-timing"
"""The header, and the key of gRPC's metadata, that asks for timings with the value 1, and that has them in the answer."""

# Calls that are kept apart, before they are added up: a request may be split into thousands.
_MAX_CALLS = 64
# Bytes of all metrics: clients of gRPC take 8 KB of metadata by default. Nodes that do not fit are left out.
_MAX_BYTES = 4096
# What a token of HTTP may hold beside letters and digits (RFC 9110, 5.6.2). A point parts the names of nested nodes.
_TOKEN = "!#$&'*+-.^_`|~"  # noqa: S105 - no secret


class TimedCall(msgspec.Struct, array_like=True):
    """One request to the worker of a version. ``calls`` is 0 for one whose model was not called, or does not tell."""

    arrived: float
    left: float
    begin: float
    end: float
    rows: int = 0
    calls: int = 0


class Parts(msgspec.Struct, array_like=True):
    """Seconds of each part, with the rows and the number of the calls that they are of."""

    queue: float = 0.0
    batch: float = 0.0
    model: float = 0.0
    encode: float = 0.0
    rows: int = 0
    calls: int = 0


class RequestTiming(msgspec.Struct, array_like=True, eq=False):
    """What is known of one request, or of one node of a graph. Made only for requests that ask for it.

    ``began`` is on the monotonic clock, and so is ``ended``, which is 0 until it is known. ``added`` are the parts of what was
    before ``since``, and ``counted`` is when the last call began whose rows are in them. ``cache`` is in seconds, None where
    no answer was in the cache. It belongs to the server, which passes it between its processes; a worker only sees that
    there is one.
    """

    began: float = msgspec.field(default_factory=time.monotonic)
    ended: float = 0.0
    cache: float | None = None
    calls: dict[int, TimedCall] = {}
    nodes: dict[str, "RequestTiming"] = {}
    added: Parts = msgspec.field(default_factory=Parts)
    since: float = 0.0
    waited: bool = False
    counted: float = -1.0

    def note_call(self, key: int, arrived: float, left: float, span: CallSpan) -> None:
        """Note the call of a model. ``key`` tells requests to workers apart; a later call with the same one replaces it."""
        if len(self.calls) >= _MAX_CALLS and key not in self.calls:
            self._add_up(max(call.end for call in self.calls.values()))
        begin, end, rows, count = span
        self.calls[key] = TimedCall(arrived, left, max(begin, left), max(end, begin, left), rows, count)
        self.waited = True

    def note_wait(self, key: int, arrived: float, left: float) -> None:
        """Note a request that waited until ``left`` and then got an error, unless its call is known."""
        if key not in self.calls:
            self.note_call(key, arrived, left, (left, left, 0, 0))

    def node(self, name: str) -> "RequestTiming":
        """Return the timing of a node of this name; it is made where there is none yet."""
        return self.nodes.setdefault(name, RequestTiming())

    def absorb(self, other: "RequestTiming") -> None:
        """Add what another request to the same call took, which has ended. Moments that both were busy count once."""
        now = other.ended or time.monotonic()
        self._add_up(now)
        self.calls = other.calls
        self._add_up(now)
        mine, more = self.added, other.added
        self.added = Parts(
            mine.queue + more.queue,
            mine.batch + more.batch,
            mine.model + more.model,
            mine.encode + more.encode,
            mine.rows + more.rows,
            mine.calls + more.calls,
        )
        self.waited = self.waited or other.waited
        if other.cache is not None:
            self.cache = (self.cache or 0.0) + other.cache
        for name, node in other.nodes.items():
            self.node(name).absorb(node)

    def follow(self, other: "RequestTiming") -> None:
        """Take over what another process knows of this request, which has answered it or a part of it."""
        self.calls, self.nodes, self.added, self.since = other.calls, other.nodes, other.added, other.since
        self.counted = other.counted
        self.cache, self.waited = other.cache, other.waited

    def shift(self, seconds: float) -> None:
        """Move all moments by so many seconds: they are of another machine, whose clock began at another time."""
        for call in self.calls.values():
            call.arrived, call.left = call.arrived + seconds, call.left + seconds
            call.begin, call.end = call.begin + seconds, call.end + seconds
        self.began += seconds
        self.ended = self.ended and self.ended + seconds
        self.since = self.since and self.since + seconds
        self.counted = self.counted if self.counted < 0 else self.counted + seconds
        for node in self.nodes.values():
            node.shift(seconds)

    def measure(self, now: float) -> Parts:
        """Return the parts until ``now``, or until it ended."""
        now = self.ended or now
        calls, since, added = list(self.calls.values()), self.since, self.added
        model = _covered(((call.begin, call.end) for call in calls), since, now)
        batch = _covered(((call.left, call.end) for call in calls), since, now)
        queue = _covered(((call.arrived, call.end) for call in calls), since, now)
        whole = _covered(((call.arrived, now) for call in calls if call.calls), since, now)
        # Requests that shared a call began it at the same moment; it counts once.
        told = {call.begin: call for call in calls if call.calls and call.begin != self.counted}.values()
        return Parts(
            added.queue + queue - batch,
            added.batch + batch - model,
            added.model + model,
            added.encode + max(whole - queue, 0.0),
            added.rows + sum(call.rows for call in told),
            added.calls + sum(call.calls for call in told),
        )

    def to_text(self) -> str:
        """Return all metrics, until now, as the value of a header: milliseconds with at most 3 decimals."""
        now = time.monotonic()
        metrics, spent = self.own_metrics("", now)
        total = max(_microseconds(now - self.began), spent)
        last = f"total;dur={_milliseconds(total)}"
        room = _MAX_BYTES - sum(len(metric) + 2 for metric in metrics) - len(last)
        for metric in self.node_metrics("", now):
            room -= len(metric) + 2
            if room < 0:
                break
            metrics.append(metric)
        return ", ".join([*metrics, last])

    def to_early_text(self) -> str:
        """Return what is known before the first piece of a stream: how long it waited, and the way to the model."""
        return ", ".join(self.own_metrics("", time.monotonic())[0][:2])

    def own_metrics(self, prefix: str, now: float) -> tuple[list[str], int]:
        """Return the metrics of the parts until ``now``, and the microseconds of all of them."""
        parts, spent = self.measure(now), 0
        metrics: list[str] = []

        def add(name: str, seconds: float, description: str = "") -> None:
            nonlocal spent
            duration = _microseconds(seconds)
            spent += duration
            metrics.append(f"{prefix}{name};dur={_milliseconds(duration)}{description}")

        if self.waited:
            add("queue", parts.queue)
        if parts.calls:
            rows = f"{parts.rows} row" if parts.rows == 1 else f"{parts.rows} rows"
            rows += f" in {parts.calls} calls" if parts.calls > 1 else ""
            add("batch", parts.batch, f';desc="{rows}"')
            add("model", parts.model)
            add("encode", parts.encode)
        if self.cache is not None:
            add("cache", self.cache, ';desc="hit"')
        return metrics, spent

    def node_metrics(self, prefix: str, now: float) -> Iterable[str]:
        """Yield the metrics of the nodes, and of theirs."""
        for name, node in self.nodes.items():
            inner = f"{prefix}{quote(name, safe=_TOKEN)}."
            yield from node.own_metrics(inner, now)[0]
            yield from node.node_metrics(inner, now)

    def _add_up(self, now: float) -> None:
        """Add the calls to what was before, so that they need no memory."""
        if self.calls:
            ended, self.ended = self.ended, 0.0
            self.added = self.measure(now)
            self.ended = ended
            self.since = max(self.since, now)
            self.counted = max(
                (call.begin for call in self.calls.values() if call.calls), default=self.counted
            )
            self.calls = {}


def asks_for_timing(value: bytes | None) -> bool:
    """Whether the value of the header asks for timings.

    >>> asks_for_timing(b"1"), asks_for_timing(b"0"), asks_for_timing(None)
    (True, False, False)
    """
    return value is not None and value.strip() == b"1"


def node_name(name: str, taken: Container[str]) -> str:
    """Return a name for one more node: a model may come twice in a chain.

    >>> node_name("scale", {"scale", "scale#2"})
    'scale#3'
    """
    count, unique = 1, name
    while unique in taken:
        count += 1
        unique = f"{name}#{count}"
    return unique


def _covered(intervals: Iterable[tuple[float, float]], since: float, until: float) -> float:
    """Return the seconds between ``since`` and ``until`` that lie in at least one of the intervals.

    >>> _covered([(1.0, 3.0), (2.0, 4.0), (6.0, 9.0)], 0.0, 8.0)
    5.0
    """
    covered, end = 0.0, since
    for begin, stop in sorted(intervals):
        last = min(stop, until)
        if last > end:
            covered += last - max(begin, end)
            end = last
    return covered


def _microseconds(seconds: float) -> int:
    """Return whole microseconds, rounded down: so the parts' sum never passes that of the total."""
    return max(int(seconds * 1e6 + 0.001), 0)  # differences of moments are a little off


def _milliseconds(microseconds: int) -> str:
    """Return milliseconds with as many of 3 decimals as are needed.

    >>> _milliseconds(1200), _milliseconds(7), _milliseconds(3000)
    ('1.2', '0.007', '3')
    """
    whole, rest = divmod(microseconds, 1000)
    return f"{whole}.{rest:03d}".rstrip("0").rstrip(".")

"""What may differ from one run to the next, and nothing else: the one table of what recordings leave out.

A rule is a pattern of bytes and what stands in its place. Rules see a head, a body, or a gRPC message, never pieces
of one. A body that a rule has changed no longer has the length that its head names: the length is left out too, after
it has been checked.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from tritonclient.grpc import service_pb2


class Rule(NamedTuple):
    """``what`` differs between runs, found by ``pattern``; a recording has ``put`` in its place."""

    what: str
    pattern: re.Pattern[bytes]
    put: bytes | Callable[[re.Match[bytes]], bytes]


def _number_after(*keys: str) -> re.Pattern[bytes]:
    """A number behind one of these keys in JSON, quoted or not, in whatever space the writer leaves."""
    return re.compile(rb'("(?:%s)"\s*:\s*"?)-?[\d.]+' % "|".join(keys).encode())


def _text_after(*keys: str) -> re.Pattern[bytes]:
    """A text behind one of these keys in JSON."""
    return re.compile(rb'("(?:%s)"\s*:\s*")[^"]+' % "|".join(keys).encode())


_UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_KEPT = rb"\g<1>"

RULES = [
    Rule("ids that the server makes", re.compile(_UUID), b"<id>"),
    Rule("dates and times", re.compile(rb"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"), b"<time>"),
    Rule("when something happened", _number_after("last_inference", "time_ns"), _KEPT + b"<time>"),
    Rule("ports", re.compile(rb"127\.0\.0\.1:\d+"), b"127.0.0.1:<port>"),
    Rule("process ids", _number_after("pid"), _KEPT + b"<pid>"),
    Rule("process ids in names", re.compile(rb"mooring_exchanges_\d+"), b"mooring_exchanges_<pid>"),
    Rule("temporary folders", re.compile(rb"(?:/[\w.-]+)+/exchanges-\w+"), b"<folder>"),
    Rule("temporary folders of the server", re.compile(rb"(?:/[\w.-]+)+/mooring-\w+(?:/files/[0-9a-f]{32})?"), b"<folder>"),
    Rule("length of a page of metrics", re.compile(rb"(?s)(text/plain; version=0\.0\.4.*?\r\ncontent-length: )\d+"), _KEPT + b"<length>"),
    Rule("memory of a process", _number_after("memoryUsage"), _KEPT + b"<bytes>"),
    Rule("measured durations", _number_after("ns"), _KEPT + b"<duration>"),
]  # fmt: skip

_LENGTH = re.compile(rb"(?i)(\r\ncontent-length: )(\d+)")


def masked(data: bytes) -> bytes:
    """``data`` without what differs between runs."""
    for rule in RULES:
        data = rule.pattern.sub(rule.put, data)
    return data


def masked_response(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Head and body of an HTTP response without what differs between runs, the body's length included."""
    kept = masked(body)
    if kept != body:
        named = _LENGTH.search(head)
        if named and int(named[2]) == len(body):
            head = _LENGTH.sub(rb"\1<length of the body>", head)
    return masked(head), kept


def masked_message(path: str, message: bytes) -> bytes:
    """A gRPC message without what differs between runs; the two kinds in which that changes lengths are written anew."""
    if path.endswith(("/TraceSetting", "/LogSettings")):  # maps, in an order of their own
        settings = getattr(service_pb2, f"{path.rpartition('/')[2]}Response").FromString(message)
        return settings.SerializeToString(deterministic=True)
    if path.endswith("/ModelStatistics"):
        statistics = service_pb2.ModelStatisticsResponse.FromString(message)
        for model in statistics.model_stats:
            model.last_inference = min(model.last_inference, 1)
            for each in _durations(model):
                each.ns = min(each.ns, 1)
        return statistics.SerializeToString(deterministic=True)
    if ".ManagementAPIsService/" in path and message[:1] == b"\x0a":
        size, start = _varint(message, 1)
        if start + size == len(message):
            return b"\x0a<length>" + masked(message[start:])
    return masked(message)


def _durations(model: service_pb2.ModelStatistics):
    for parts in (model.inference_stats, *model.batch_stats):
        for field, value in parts.ListFields():
            if field.message_type is not None:
                yield value


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    value = shift = 0
    while True:
        byte = data[start]
        value |= (byte & 0x7F) << shift
        start, shift = start + 1, shift + 7
        if byte < 0x80:
            return value, start

"""What may differ from one run to the next, and nothing else: the one table of what recordings leave out.

A rule is a pattern of bytes and what stands in its place. Rules see a head, a body, or a gRPC message, never pieces
of one. A body that a rule has changed no longer has the length that its head names: the length is left out too, after
it has been checked.
"""

import re
import zlib
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
    Rule("ids of workers, in the order of their starts", re.compile(rb'("id": ")9\d{3}(?=")'), _KEPT + b"<worker>"),
    Rule("dates and times", re.compile(rb"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"), b"<time>"),
    Rule("when something happened", _number_after("last_inference", "time_ns"), _KEPT + b"<time>"),
    Rule("ports", re.compile(rb"127\.0\.0\.1:\d+"), b"127.0.0.1:<port>"),
    Rule("names of machines", re.compile(rb'((?:Hostname|hostname)[=:]"?)[\w.-]+'), _KEPT + b"<machine>"),
    Rule("process ids", _number_after("pid"), _KEPT + b"<pid>"),
    Rule("process ids in names", re.compile(rb"mooring_exchanges_\d+"), b"mooring_exchanges_<pid>"),
    Rule("temporary folders", re.compile(rb"(?:/[\w.-]+)+/exchanges-\w+"), b"<folder>"),
    Rule("temporary folders of the server", re.compile(rb"(?:/[\w.-]+)+/mooring-\w+(?:/files/[0-9a-f]{32})?"), b"<folder>"),
    Rule("length of a page of metrics", re.compile(rb"(?s)(text/plain; version=0\.0\.4.*?\r\ncontent-length: )\d+"), _KEPT + b"<length>"),
    Rule("memory of a process", _number_after("memoryUsage"), _KEPT + b"<bytes>"),
    Rule("measured durations", _number_after("ns"), _KEPT + b"<duration>"),
]  # fmt: skip

# Compressed bodies are kept inflated: how well they are compressed depends on the zlib of the machine.
_ENCODING = re.compile(rb"(?i)\r\ncontent-encoding: (?:gzip|deflate)")
_LENGTH = re.compile(rb"(?i)(\r\ncontent-length: )(\d+)")


def masked(data: bytes) -> bytes:
    """``data`` without what differs between runs."""
    for rule in RULES:
        data = rule.pattern.sub(rule.put, data)
    return data


def masked_response(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Head and body of an HTTP response without what differs between runs, the body's length included."""
    encoding = _ENCODING.search(head)
    plain = zlib.decompress(body, 47) if encoding and body else body
    kept = masked(plain)
    if kept != body:
        named = _LENGTH.search(head)
        if named and int(named[2]) == len(body):
            head = _LENGTH.sub(rb"\1<length of the body>", head)
    return masked(head), kept


def masked_message(path: str, message: bytes) -> bytes:
    """A gRPC message without what differs between runs: numbers and texts in it, and the order of maps.

    Where a text becomes shorter by that, the lengths before it change: of a message that begins with a text, as
    TorchServe's do, the length is left out, and the index is written anew.
    """
    method = path.rpartition("/")[2]
    if method in _WRITTEN_ANEW:
        kind, settle = _WRITTEN_ANEW[method]
        document = kind.FromString(message)
        settle(document)
        return document.SerializeToString(deterministic=True)
    kept = masked(message)
    if kept != message and message[:1] == b"\x0a":
        start = _varint_end(message, 1)
        return b"\x0a<length>" + masked(message[start:])
    return kept


def _settle_statistics(response: service_pb2.ModelStatisticsResponse) -> None:
    for model in response.model_stats:
        model.last_inference = min(model.last_inference, 1)
        for parts in (model.inference_stats, *model.batch_stats):
            for field, value in parts.ListFields():
                if field.message_type is not None:
                    value.ns = min(value.ns, 1)


def _settle_index(response: service_pb2.RepositoryIndexResponse) -> None:
    for model in response.models:
        model.reason = masked(model.reason.encode()).decode()


def _leave(_response: object) -> None:
    """Nothing in it differs but the order of its map."""


_WRITTEN_ANEW = {
    "ModelStatistics": (service_pb2.ModelStatisticsResponse, _settle_statistics),
    "RepositoryIndex": (service_pb2.RepositoryIndexResponse, _settle_index),
    "TraceSetting": (service_pb2.TraceSettingResponse, _leave),
    "LogSettings": (service_pb2.LogSettingsResponse, _leave),
}


def _varint_end(data: bytes, start: int) -> int:
    while data[start] >= 0x80:
        start += 1
    return start + 1

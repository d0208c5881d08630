"""TorchServe's own layouts of log4j for the lines of metrics: JSONPatternLayout and QLogLayout."""

import json
import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from mooring.observability.log_output.layouts import indent_lines, message_of


class MetricLine(NamedTuple):
    """A metric as its line says it: ``HandlerTime.Milliseconds:2.5|#ModelName:m,Level:Model|#hostname:h,timestamp:1``."""

    name: str
    unit: str
    value: str
    dimensions: list[tuple[str, str]]
    more: dict[str, str]


def parse_metric(line: str) -> MetricLine | None:
    """Return the metric of a line; None for a line of another form.

    >>> parse_metric("Requests2XX.Count:1|#Level:Host|#hostname:h,timestamp:5").dimensions
    [('Level', 'Host')]
    """
    head, *parts = line.split("|#")
    name, _, value = head.rpartition(":")
    if not parts or not name or " " in name:
        return None
    name, _, unit = name.rpartition(".")
    pairs = [[each.partition(":")[::2] for each in part.split(",") if each] for part in parts]
    return MetricLine(name, unit, value, pairs[0], dict(pairs[-1]) if len(pairs) > 1 else {})


class JsonMetricLayout(logging.Formatter):
    """A JSON object per metric; other records are their message."""

    def format(self, record: logging.LogRecord) -> str:
        message = message_of(record)
        metric = parse_metric(message)
        if metric is None:
            return indent_lines(message)
        document = {
            "MetricName": metric.name,
            "Value": metric.value,
            "Unit": metric.unit,
            "Dimensions": [{"Name": name, "Value": value} for name, value in metric.dimensions],
            "HostName": metric.more.get("hostname", ""),
            **({"RequestId": metric.more["requestID"]} if "requestID" in metric.more else {}),
            "Timestamp": metric.more.get("timestamp", ""),
        }
        return json.dumps(document, indent=2)


class QLogLayout(logging.Formatter):
    """Lines of ``name=value`` per metric, which ``EOE`` ends; other records are their message.

    The environment names the program and the marketplace.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__()
        self._program = environ.get("MXNETMODELSERVER_PROGRAM") or "MXNetModelServer"
        realm = environ.get("REALM")
        self._marketplace = f"{self._program}:{environ.get('DOMAIN') or 'Unknown'}:{realm}" if realm else ""

    def format(self, record: logging.LogRecord) -> str:
        message = message_of(record)
        metric = parse_metric(message)
        if metric is None:
            return indent_lines(message)
        dimensions = "".join(f" {name}|{value} " for name, value in metric.dimensions)
        lines = [
            f"HostName={metric.more.get('hostname', '')}",
            *([f"RequestId={metric.more['requestID']}"] if "requestID" in metric.more else []),
            *([f"Marketplace={self._marketplace}"] if self._marketplace else []),
            f"StartTime={metric.more.get('timestamp') or int(time.time())}",
            f"Program={self._program}",
            f"Metrics={metric.name}={metric.value} {metric.unit}{dimensions}",
            "EOE",
        ]
        return "\n".join(lines)

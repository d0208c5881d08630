"""Metrics as lines, in TorchServe's form: ``HandlerTime.ms:2.5|#ModelName:m,Level:Model|#hostname:h,requestID:r,timestamp:1``.

What a request or a worker brings is written at once, what the machine does at intervals.
"""

import socket
import time
from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric

from mooring.observability.log_output.line_writer import LineWriter
from mooring.observability.logs import MODEL_METRICS, TS_METRICS
from mooring.observability.records import Record

_HOST = "Level:Host"


class MetricsLog:
    """Writes the lines. ``host_families`` returns the metrics of the machine.

    ``by_model`` is whether TorchServe's three counters by model are among the lines.
    """

    def __init__(
        self, writer: LineWriter, host_families: Callable[[], Iterable[Metric]], *, by_model: bool = True
    ) -> None:
        self._writer = writer
        self._host_families = host_families
        self._by_model = by_model
        self._host = socket.gethostname()
        self._loaded: dict[str, float] = {}

    def write_response(self, status: int) -> None:
        """Write that a call over HTTP was answered with this status."""
        first = 2 if 200 <= status < 300 else 4 if 400 <= status < 500 else 5
        self._writer.add(TS_METRICS, (f"Requests{first}XX.Count:1.0|#{_HOST}{self._end()}",))

    def write_request(self, model: str, version: str, latency: float, queue: float) -> None:
        """Write what a request for a model took, in seconds. ``version`` is what its URL named, or ``default``."""
        end = self._end()
        queued = f"QueueTime.Milliseconds:{queue * 1000:.3f}|#{_HOST}{end}"
        if not self._by_model:
            self._writer.add(TS_METRICS, (queued,))
            return
        of_model = f"|#model_name:{model},model_version:{version}{end}"
        self._writer.add(
            TS_METRICS,
            (
                f"ts_inference_requests_total.Count:1.0{of_model}",
                f"ts_inference_latency_microseconds.Microseconds:{latency * 1e6:.3f}{of_model}",
                f"ts_queue_latency_microseconds.Microseconds:{queue * 1e6:.3f}{of_model}",
                queued,
            ),
        )

    def write_overhead(self, seconds: float) -> None:
        """Write how long a message to a worker and its answers took, beyond the time of the model."""
        self._writer.add(
            TS_METRICS, (f"WorkerThreadTime.Milliseconds:{seconds * 1000:.3f}|#{_HOST}{self._end()}",)
        )

    def write_loads(self, load_times: Iterable[tuple[str, float]]) -> None:
        """Write the seconds that workers took to load their models, of those that were not written before."""
        current = dict(load_times)
        end = self._end()
        lines = tuple(
            f"WorkerLoadTime.Milliseconds:{seconds * 1000:.1f}|#WorkerName:{worker},{_HOST}{end}"
            for worker, seconds in current.items()
            if self._loaded.get(worker) != seconds
        )
        self._loaded = current
        if lines:
            self._writer.add(TS_METRICS, lines)

    def write_host(self) -> None:
        """Write the metrics of the machine."""
        lines = []
        for family in self._host_families():
            unit = family.documentation.rpartition("unit: ")[2]
            for sample in family.samples:
                labels = ",".join(
                    f"{name}:{text}" for name, text in sample.labels.items() if name != "Hostname"
                )
                lines.append(f"{sample.name}.{unit}:{float(sample.value)}|#{labels}{self._end()}")
        if lines:
            self._writer.add(TS_METRICS, tuple(lines))

    def record_values(self, records: Sequence[Record]) -> None:
        """Write the values that a model recorded."""
        host, second = self._host, int(time.time())
        lines = []
        for record in records:
            dimensions = ",".join([f"{name}:{value}" for name, value in record.dimensions.items()])
            end = (
                f"|#{dimensions}|#hostname:{host},requestID:{record.request_id or 'null'},timestamp:{second}"
            )
            lines += [f"{record.name}.{record.unit}:{value}{end}" for value in record.values]
        if lines:
            self._writer.add(MODEL_METRICS, tuple(lines))

    def _end(self) -> str:
        return f"|#hostname:{self._host},timestamp:{int(time.time())}"

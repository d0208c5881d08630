"""Statistics that report each request, where there is an access log or metrics are lines."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from mooring.observability.call_log import CallLog
from mooring.observability.calls import ModelCall
from mooring.observability.metrics_log import MetricsLog
from mooring.observability.statistics import DEFAULT_VERSION, ModelStatistics


class ObservedStatistics(ModelStatistics):
    """The statistics of a version that writes ``lines``, and tells the log of ``calls`` what each request took.

    The answers to a message come in the order of the calls of the model that gave them, so that each request finds the
    call that it shared. ``load_times`` has those of all workers.
    """

    __slots__ = ("_batches", "_calls_of_clients", "_lines", "_load_times", "_rows_left")
    observes_each = True

    def __init__(
        self,
        name: str,
        version: str,
        calls: CallLog,
        lines: MetricsLog | None,
        load_times: Callable[[], Iterable[tuple[str, float]]],
    ) -> None:
        super().__init__(name, version)
        self._calls_of_clients = calls
        self._lines = lines
        self._load_times = load_times
        self._batches: deque[tuple[int, float]] = deque()
        self._rows_left = 0

    def observe_request(
        self, latency: float, queue: float, ok: bool, defaulted: bool = False, rows: int = 1
    ) -> None:
        super().observe_request(latency, queue, ok, defaulted)
        self._calls_of_clients.model_call = ModelCall(queue, rows, *self._shared_call(rows))
        self._write_request(latency, queue, defaulted)

    def _write_request(self, latency: float, queue: float, defaulted: bool) -> None:
        if self._lines is not None:
            version = DEFAULT_VERSION if defaulted else self.version
            self._lines.write_request(self.name, version, latency, queue)

    def observe_run(self, latency: float, ok: bool, defaulted: bool) -> None:
        super().observe_run(latency, ok, defaulted)
        # The line of the call says what its last model took.
        self._write_request(latency, 0.0, defaulted)

    def observe_batches(self, batches: Sequence[tuple[int, float, int]]) -> None:
        super().observe_batches(batches)
        self._batches = deque((rows, seconds) for rows, seconds, _ in batches)
        self._rows_left = batches[0][0] if batches else 0

    def observe_overhead(self, seconds: float) -> None:
        super().observe_overhead(seconds)
        if self._lines is not None:
            self._lines.write_overhead(seconds)

    def note_load(self) -> None:
        if self._lines is not None:
            self._lines.write_loads(self._load_times())

    def _shared_call(self, rows: int) -> tuple[int, float]:
        """Return rows and seconds of the call that had these rows of a request; zeros where that is not known."""
        if not self._batches:
            return 0, 0.0
        shared = self._batches[0]
        self._rows_left -= rows
        if self._rows_left <= 0:
            self._batches.popleft()
            self._rows_left = self._batches[0][0] if self._batches else 0
        return shared

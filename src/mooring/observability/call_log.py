"""The access log, and the metrics that are lines: what is written of each call of a client when it has ended."""

import time

from mooring.observability.calls import CLIENT_GONE, GRPC, ModelCall, ObservedCall
from mooring.observability.log_output.line_writer import LineWriter
from mooring.observability.logs import ACCESS_LOG
from mooring.observability.metrics_log import MetricsLog


class CallLog:
    """Begins calls, and writes their lines when they end: to the access log with ``access``, and to the ``metrics``.

    ``model_call`` is that of the request which the engine is passing to its caller now.
    """

    def __init__(self, writer: LineWriter, *, access: bool, metrics: MetricsLog | None) -> None:
        self.model_call: ModelCall | None = None
        self._writer = writer
        self._access = access
        self._metrics = metrics

    def begin(self, client: str, method: str, target: bytes, protocol: str) -> ObservedCall:
        """Begin a call, which was received just now."""
        return ObservedCall(client, method, target, protocol, time.monotonic(), self.write)

    def write(self, call: ObservedCall) -> None:
        """Write the lines of a call that has ended."""
        if self._access:
            self._writer.add(ACCESS_LOG, call)
        if self._metrics is not None and call.method != GRPC and call.status != CLIENT_GONE:
            self._metrics.write_response(call.status)

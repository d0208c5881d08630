"""When the model was called for the requests of one batch, in a worker: what it tells the server of requests that ask for timings."""

import time
from collections.abc import Iterable, Sequence
from contextvars import ContextVar

from mooring.core.requests import InferenceRequest
from mooring.core.timing import CallSpan

_Span = list[float]  # begin, end (0 while the call runs), rows, calls


class CallTimes:
    """The calls of the model for the requests of one batch.

    How this works: the worker puts one into ``CURRENT`` while a batch runs in which a request asks for timings, and a
    backend notes there when it calls the model, and for which requests. With ``whole`` the backend notes nothing
    (``Backend.notes_calls``), and the whole batch counts as the call.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._spans: dict[int, _Span] = {}  # by identity: requests cannot be compared fast
        self._began = time.monotonic()

    def begin_call(self, requests: Iterable[InferenceRequest], rows: int) -> list[_Span]:
        """Note that the model is called with so many rows of these requests; return what ``end_call`` takes."""
        now = time.monotonic()
        begun = []
        for request in {id(request): request for request in requests}.values():
            span = self._spans.setdefault(id(request), [now, 0.0, 0, 0])
            span[1], span[2], span[3] = 0.0, span[2] + rows, span[3] + 1
            begun.append(span)
        return begun

    def note_step(self, request: InferenceRequest, began: float, rows: int) -> None:
        """Note a step of a model that goes step by step: all steps of a request are one call, of its largest step's rows."""
        span = self._spans.setdefault(id(request), [began, 0.0, 0, 1])
        span[1], span[2] = time.monotonic(), max(span[2], rows)

    def note_piece(self, request: InferenceRequest) -> CallSpan:
        """Note that a piece of a stream leaves: the call has come so far."""
        span = self._spans.get(id(request))
        if span is None:
            return self._began, time.monotonic(), request.rows, 1
        span[1] = time.monotonic()
        return _to_span(span)

    def span_of(self, request: InferenceRequest, rows: int) -> CallSpan | None:
        """Return the calls for a request whose outcome is there, of a batch of so many rows; None where there was none."""
        span = self._spans.get(id(request))
        if span is not None:
            span[1] = span[1] or time.monotonic()  # the call raised
            return _to_span(span)
        return (self._began, time.monotonic(), rows, 1) if self._whole else None


CURRENT: ContextVar[CallTimes | None] = ContextVar("call_times", default=None)
"""The times of the batch that runs here; None, and nothing to do, where no request of it asks for them."""


def end_call(begun: Sequence[_Span]) -> None:
    """Note that the call of ``begin_call`` has ended."""
    now = time.monotonic()
    for span in begun:
        span[1] = now


def _to_span(span: _Span) -> CallSpan:
    return span[0], span[1], int(span[2]), int(span[3])

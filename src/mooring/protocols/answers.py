"""From what the service says of a request to the bytes of its response."""

import msgspec

from mooring.core.buffers import Payload
from mooring.core.errors import MooringError
from mooring.core.requests import InferenceResponse, ResponseHead
from mooring.core.service import Outcome
from mooring.core.tensors import release
from mooring.observability.logs import get_logger
from mooring.protocols import status as statuses
from mooring.protocols.responses import FIXED, Responses
from mooring.protocols.status import Refusal, Target
from mooring.web.http1 import Exchange, header_lines

log = get_logger(__name__)

# What a handler may not set: HTTP's framing is ours, and so is whatever TorchServe overwrites.
_OURS = frozenset(
    (
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",  # codespell:ignore
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
) | {"x-request-id", *(name.lower() for name, _ in FIXED)}

_STREAM = b"ts_stream_next: true\r\n"


def payload_of(outcome: InferenceResponse) -> Payload:
    """The body of an answer in ``Form.BODY``; no output is an empty body."""
    outputs = outcome.outputs
    if not outputs or not outputs[0].data:
        return b""
    payload: Payload = outputs[0].data[0]
    return payload


class _Progress(msgspec.Struct, kw_only=True, eq=False):
    _started: bool = False
    _over: bool = False


class Answer(_Progress, eq=False):
    """The response to one request: ``done`` is what the service calls.

    Whole answers take one write; an answer in pieces is a chunked response. What goes wrong before the first piece is
    an error response; after it the connection is ended, since nothing else tells the client that pieces are missing.
    """

    # A struct: there is one for every request, and it is made in a third of the time of a plain class.
    _responses: Responses
    _exchange: Exchange
    _id: str
    _target: Target

    def done(self, outcome: Outcome) -> None:
        """The service's word on the request; never raises."""
        try:
            if self._over:
                self._release_outputs(outcome)
            elif type(outcome) is not InferenceResponse:
                assert isinstance(outcome, MooringError)
                self._send_refusal(outcome)
            elif outcome.final and not self._started:
                self._over, self._exchange.on_abandoned = True, None  # as ``_end``
                self._send_whole(outcome)
            else:
                if outcome.final:
                    self._mark_over()
                self._send_piece(outcome)
        except Exception as error:  # the protocol edge: an engine has no use for our faults
            self._send_fault(error)
            self._release_outputs(outcome)

    def _mark_over(self) -> None:
        self._over = True
        # The ticket holds ``done`` and so this answer: a circle, which would wait for the garbage collector.
        self._exchange.on_abandoned = None

    def _send_whole(self, outcome: InferenceResponse) -> None:
        head = outcome.head
        responses = self._responses
        if head is None or not (head.headers or head.status or head.reason):
            outputs = outcome.outputs
            payload = outputs[0].data[0] if outputs and outputs[0].data else b""
            responses.send_answer(
                self._exchange, self._id, "" if head is None else head.content_type, payload
            )
        else:
            status, lines, reason = self._build_head(head)
            responses.counter.count(status)
            self._exchange.respond(status, payload_of(outcome), lines, reason=reason)

    def _send_piece(self, outcome: InferenceResponse) -> None:
        if not self._started:
            status, lines, reason = self._build_head(outcome.head or ResponseHead())
            self._started = True
            self._responses.counter.count(status)
            self._exchange.start(status, lines + _STREAM, reason=reason)
        if outcome.final:
            self._exchange.finish(payload_of(outcome))
        else:
            self._exchange.send(payload_of(outcome))

    def _build_head(self, head: ResponseHead) -> tuple[int, bytes, str]:
        """Status, header lines and reason phrase. Raises ``ValueError`` for what would break the response apart."""
        status = head.status or 200
        if not 200 <= status <= 999:
            raise ValueError(f"the model set the status {status}, which no answer can have")
        if not head.reason.isprintable():
            raise ValueError(
                f"the model set the reason phrase {head.reason!r}, which no status line can hold"
            )
        content_type = head.content_type
        kept: dict[str, tuple[str, str]] = {}
        for name, value in head.headers:
            lower = name.lower()
            if lower == "content-type":
                content_type = content_type or value
            elif lower not in _OURS and lower not in self._responses.reserved:
                kept[lower] = (name, value)
        reason = head.reason if head.reason.isascii() else ""
        lines = self._responses.build_head(self._id, content_type) + header_lines(kept.values())
        return status, lines, reason or statuses.phrase(status)

    def _release_outputs(self, outcome: Outcome) -> None:
        if isinstance(outcome, InferenceResponse):
            release(outcome.outputs)

    def _send_refusal(self, error: MooringError) -> None:
        self._mark_over()
        if self._started:
            kind = type(error).__name__
            log.error(
                "stream broken off",
                model=self._target.model,
                request=self._id,
                kind=kind,
                reason=error.message,
            )
            self._exchange.abort()
            return
        self._responses.send_refusal(self._exchange, self._refusal_for(error), request_id=self._id)

    def _refusal_for(self, error: MooringError) -> Refusal:
        return statuses.torchserve(error, self._target)

    def _send_fault(self, error: Exception) -> None:
        log.error("answer failed", exc_info=error, model=self._target.model, request=self._id)
        self._cancel_request()
        self._responses.send_fault(self._exchange, error, request_id=self._id)

    def _cancel_request(self) -> None:
        """Tell the service that nobody waits for more."""
        cancel = self._exchange.on_abandoned
        self._mark_over()
        if cancel is not None:
            cancel()

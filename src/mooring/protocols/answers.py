"""HTTP responses made from the outcomes of requests."""

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

# Headers that a handler may not set: those of HTTP's framing, and those that TorchServe overwrites.
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


def read_payload(outcome: InferenceResponse) -> Payload:
    """Return the body of an answer in ``Form.BODY``; it is empty if there is no output."""
    outputs = outcome.outputs
    if not outputs or not outputs[0].data:
        return b""
    payload: Payload = outputs[0].data[0]
    return payload


class _Progress(msgspec.Struct, kw_only=True, eq=False):
    _started: bool = False
    _over: bool = False


class Answer(_Progress, eq=False):
    """The response to one request. The service calls ``done`` with its outcomes.

    How this works: an answer in one outcome is one write. An answer in several is a chunked response with a chunk
    for each. An error before the first piece is an error response; after it the connection is aborted, because
    nothing else can tell the client that pieces are missing. Subclasses override how a whole answer, a piece and a
    refusal are written.
    """

    # A struct: one is made for every request, in a third of the time of a plain class.
    _responses: Responses
    _exchange: Exchange
    _id: str
    _target: Target

    def done(self, outcome: Outcome) -> None:
        """Write an outcome of the request; never raises."""
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
        except Exception as error:  # the protocol edge: the engine cannot handle errors of a response
            self._send_fault(error)
            self._release_outputs(outcome)

    def _mark_over(self) -> None:
        self._over = True
        # The ticket holds ``done`` and so this answer: a reference cycle, which only the garbage collector would free.
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
            self._exchange.respond(status, read_payload(outcome), lines, reason=reason)

    def _send_piece(self, outcome: InferenceResponse) -> None:
        if not self._started:
            status, lines, reason = self._build_head(outcome.head or ResponseHead())
            self._started = True
            self._responses.counter.count(status)
            self._exchange.start(status, lines + _STREAM, reason=reason)
        if outcome.final:
            self._exchange.finish(read_payload(outcome))
        else:
            self._exchange.send(read_payload(outcome))

    def _build_head(self, head: ResponseHead) -> tuple[int, bytes, str]:
        """Return status, header lines and reason phrase. Raises ``ValueError`` for values that no HTTP head can hold."""
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
            elif lower not in _OURS and lower not in self._responses.reserved_headers:
                kept[lower] = (name, value)
        reason = head.reason if head.reason.isascii() else ""
        lines = self._responses.build_head(self._id, content_type) + header_lines(kept.values())
        return status, lines, reason or statuses.reason_phrase(status)

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
        return statuses.torchserve(error, self._target, self._responses.faults)

    def _send_fault(self, error: Exception) -> None:
        log.error("answer failed", exc_info=error, model=self._target.model, request=self._id)
        self._cancel_request()
        self._responses.send_fault(self._exchange, error, request_id=self._id)

    def _cancel_request(self) -> None:
        """Cancel the request: no further outcome is wanted."""
        cancel = self._exchange.on_abandoned
        self._mark_over()
        if cancel is not None:
            cancel()

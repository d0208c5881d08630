"""AMD's websocket ``/models/infer``: a message is a v2 infer request with its model's name, a reply is bare data.

A reply does not name its request, so replies leave in the order of the requests. A message that is no request closes
the connection with 1003 when its turn comes. The error of a request is sent as its reply.
"""

import asyncio
from collections import deque

import msgspec

from mooring.codecs.protobuf_tensors import ContentsLayout
from mooring.codecs.tensor_json import decode_json
from mooring.codecs.v2_json import decode_request
from mooring.core.buffers import LARGE, Buffer, view_of
from mooring.core.errors import InvalidInput, ModelNotFound
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.service import InferenceService, Outcome, Ticket
from mooring.core.tensors import release
from mooring.observability.calls import CURRENT
from mooring.observability.logs import get_logger
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.origins import Sites, is_cross_site
from mooring.protocols.responses import Responses
from mooring.protocols.scheduling import read_schedule
from mooring.protocols.status import Refusal, Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match
from mooring.web.websocket import GOING_AWAY, UNSUPPORTED_DATA, HandshakeRefused, WebSocket, upgrade

log = get_logger(__name__)

# Requests of one connection that are unanswered before reading pauses.
_MAX_PENDING = 16


class InferenceSocket:
    """The endpoint. With ``any_origin`` pages of all sites may use it, else those of ``trusted_origins`` (lower case)."""

    def __init__(
        self,
        service: InferenceService,
        responses: Responses,
        *,
        any_origin: bool = False,
        trusted_origins: frozenset[bytes] = frozenset(),
    ) -> None:
        self._service = service
        self._responses = responses
        self._any_origin = any_origin
        self._sites = Sites(origins=trusted_origins)

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoint of the handshake; OpenAPI cannot describe a websocket."""
        return [Endpoint("/models/infer", self.upgrade_socket, Access.INFERENCE, methods=frozenset({"GET"}))]

    def upgrade_socket(self, exchange: Exchange, match: Match) -> None:
        """Answer the handshake: 101 and a session, or a refusal."""
        try:
            if not self._any_origin and is_cross_site(exchange, self._sites):
                raise HandshakeRefused(403, "a page of another site asks")
            upgrade(exchange, lambda socket: InferenceSession(socket, self._service))
        except HandshakeRefused as refused:
            kind = "BadRequestException" if refused.status == 400 else "UpgradeRefusedException"
            refusal = Refusal(refused.status, kind, refused.message, refused.message, refused.head)
            self._responses.send_refusal(exchange, refusal)


class _PendingRequest:
    """One request: the replies that wait for their turn, and how it ends."""

    __slots__ = ("close_reason", "done", "replies", "ticket")

    def __init__(self) -> None:
        self.replies: deque[bytes] = deque()
        self.close_reason = ""  # the reason, where it ends the connection
        self.done = False
        self.ticket: Ticket | None = None

    def refuse(self, error: "_NotARequest | InvalidInput") -> None:
        """Close the connection for a message that is no request; send the error of a request as its reply."""
        if isinstance(error, _NotARequest):
            self.close_reason = str(error)
        else:
            self.replies.append(error.message.encode())
        self.done = True


class InferenceSession:
    """The requests of one connection, answered in order."""

    def __init__(self, socket: WebSocket, service: InferenceService) -> None:
        self._socket = socket
        self._service = service
        self._pending: deque[_PendingRequest] = deque()
        self._decode_tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._call = CURRENT.get()  # of the handshake, where calls are observed: it ends with the connection

    def on_message(self, message: bytes) -> None:
        """Submit one request. Messages after one that closes the connection are ignored."""
        if self._draining or (self._pending and self._pending[-1].close_reason):
            return
        if len(message) > LARGE:
            self._decode_in_thread(message)
            return
        pending = _PendingRequest()
        self._pending.append(pending)
        try:
            self._submit_request(pending, self._decode_request(_read_model_name(message), message))
        except (_NotARequest, InvalidInput) as error:
            pending.refuse(error)
        self._flush_replies()

    def _decode_in_thread(self, message: bytes) -> None:
        """Submit a large request: a thread finds its model's name, and a worker decodes the rest."""
        pending = _PendingRequest()
        self._pending.append(pending)

        async def work() -> None:
            try:
                model = await asyncio.to_thread(_read_model_name, message)
                if pending in self._pending:
                    self._submit_request(
                        pending, self._undecoded_request(self._resolve_model(model), message)
                    )
            except (_NotARequest, InvalidInput) as error:
                pending.refuse(error)
            self._flush_replies()

        task = asyncio.get_running_loop().create_task(work())
        self._decode_tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._decode_tasks.discard)
        self._flush_replies()

    def drain(self) -> None:
        """Answer the requests that are there, then close."""
        self._draining = True
        self._flush_replies()

    def on_closed(self) -> None:
        """Cancel the requests that are unanswered: the client is gone."""
        for pending in self._pending:
            if pending.ticket is not None and not pending.done:
                pending.ticket.cancel()
        self._pending.clear()
        if self._call is not None:
            self._call.end()

    def _resolve_model(self, model: str) -> str:
        """Return the name under which a model is loaded. Raises ``_NotARequest``."""
        try:
            self._service.ready(model)
        except ModelNotFound:
            # AMD's server lower-cases every name in these messages.
            model = model.lower()
            self._require_model(model)
        return model

    def _decode_request(self, name: str, message: bytes) -> InferenceRequest:
        model = self._resolve_model(name)
        body = decode_request(message, lenient=True)
        schedule = read_schedule(body.parameters)
        return InferenceRequest(
            model,
            "",
            body.id,
            body.inputs,
            parameters=schedule.parameters,
            deadline=schedule.deadline,
            priority=schedule.priority,
            layout=ContentsLayout.BARE,
        )

    def _undecoded_request(self, model: str, message: bytes) -> InferenceRequest:
        # A buffer travels uncopied, however large it is.
        body = UndecodedBody(BodyKind.V2, Buffer(memoryview(message)))
        return InferenceRequest(model, "", "", [], layout=ContentsLayout.BARE, body=body)

    def _require_model(self, model: str) -> None:
        try:
            self._service.ready(model)
        except ModelNotFound:
            raise _NotARequest(f"Worker {model} not found") from None

    def _submit_request(self, pending: _PendingRequest, request: InferenceRequest) -> None:
        target = Target(request.model)

        def deliver(outcome: Outcome) -> None:
            try:
                self._deliver(pending, outcome, target)
            except Exception:  # the protocol edge: an engine has no use for our faults
                log.exception("reply failed", model=request.model)
                self._socket.close()

        token = CURRENT.set(self._call)
        try:
            ticket = self._service.submit(request, deliver)
        finally:
            CURRENT.reset(token)
        if not pending.done:
            pending.ticket = ticket

    def _deliver(self, pending: _PendingRequest, outcome: Outcome, target: Target) -> None:
        if isinstance(outcome, InferenceResponse):
            if outcome.outputs:
                pending.replies.append(_first_output_bytes(outcome))
            release(outcome.outputs)
            pending.done = outcome.final
        else:
            pending.replies.append(kserve_v2(outcome, target).message.encode())
            pending.done = True
        if pending.done:
            pending.ticket = None  # it holds ``deliver``, which holds ``pending``: a reference cycle
        self._flush_replies()

    def _flush_replies(self) -> None:
        """Send the replies of all requests whose turn has come."""
        while self._pending:
            pending = self._pending[0]
            while pending.replies:
                self._socket.send(pending.replies.popleft())
            if pending.close_reason:
                self._pending.clear()
                self._socket.end(UNSUPPORTED_DATA, pending.close_reason)
                return
            if not pending.done:
                break
            self._pending.popleft()
        if self._draining and not self._pending:
            self._socket.end(GOING_AWAY)
        else:
            self._socket.hold(len(self._pending) >= _MAX_PENDING)


class _NotARequest(Exception):
    """A message is no request; the text is the reason in the close frame."""


class _ModelField(msgspec.Struct):
    model: str


_model_decoder = msgspec.json.Decoder(_ModelField)


def _read_model_name(message: bytes) -> str:
    try:
        return _model_decoder.decode(message).model  # fast: all other keys are skipped
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        document = decode_json(message)  # accepts NaN, as every other JSON route does
    except InvalidInput:
        raise _NotARequest("No JSON could be parsed in the request") from None
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, str):
        raise _NotARequest("No model found in request")
    return model


def _first_output_bytes(outcome: InferenceResponse) -> bytes:
    """Return the bytes of the first output, without its datatype and shape."""
    data = outcome.outputs[0].data
    return b"".join([view_of(each) for each in (data if isinstance(data, list) else [data])])

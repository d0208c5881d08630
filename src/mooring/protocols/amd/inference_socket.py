"""AMD's websocket ``/models/infer``: a message is an infer request with its model's name, the replies are bare data.

No reply says which request it is for, so they leave in the order of the requests. What makes no sense as a request
ends the connection with 1003 when its turn comes; what goes wrong with a request is a reply in its place.
"""

import asyncio
from collections import deque

import msgspec

from mooring.codecs.protobuf_tensors import Layout
from mooring.codecs.tensor_json import decode
from mooring.codecs.v2_json import decode_request
from mooring.core.buffers import LARGE, Buffer, view_of
from mooring.core.errors import InvalidInput, ModelNotFound
from mooring.core.requests import BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.service import InferenceService, Outcome, Ticket
from mooring.core.tensors import release
from mooring.observability.logs import get_logger
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.origins import from_elsewhere
from mooring.protocols.responses import Responses
from mooring.protocols.scheduling import read_schedule
from mooring.protocols.status import Refusal, Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match
from mooring.web.websocket import GOING_AWAY, UNSUPPORTED_DATA, HandshakeRefused, WebSocket, upgrade

log = get_logger(__name__)

# Requests of one connection that are under way before its next one is read.
_AT_ONCE = 16


class InferenceSocket:
    """The endpoint. A page of another site may only use it if it is ``named``, or where ``any_origin`` says so."""

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
        self._trusted_origins = trusted_origins

    def endpoints(self) -> list[Endpoint]:
        """One path; OpenAPI has no words for it."""
        return [Endpoint("/models/infer", self.open, Access.INFERENCE, methods=frozenset({"GET"}))]

    def open(self, exchange: Exchange, match: Match) -> None:
        """Take the handshake up."""
        try:
            if not self._any_origin and from_elsewhere(
                exchange, loopback=False, trusted_origins=self._trusted_origins
            ):
                raise HandshakeRefused(403, "a page of another site asks")
            upgrade(exchange, lambda socket: InferenceConversation(socket, self._service))
        except HandshakeRefused as refused:
            kind = "BadRequestException" if refused.status == 400 else "UpgradeRefusedException"
            refusal = Refusal(refused.status, kind, refused.message, refused.message, refused.head)
            self._responses.send_refusal(exchange, refusal)


class _Turn:
    """One request: what is to be sent of its answer, and how it ends."""

    __slots__ = ("closing", "done", "replies", "ticket")

    def __init__(self) -> None:
        self.replies: deque[bytes] = deque()
        self.closing = ""  # the reason, where it ends the connection
        self.done = False
        self.ticket: Ticket | None = None

    def refuse(self, error: "_Senseless | InvalidInput") -> None:
        """End the connection for what is no request; say what is wrong with one in its reply."""
        if isinstance(error, _Senseless):
            self.closing = str(error)
        else:
            self.replies.append(error.message.encode())
        self.done = True


class InferenceConversation:
    """One client's requests, in order."""

    def __init__(self, socket: WebSocket, service: InferenceService) -> None:
        self._socket = socket
        self._service = service
        self._turns: deque[_Turn] = deque()
        self._reading: set[asyncio.Task[None]] = set()
        self._retiring = False

    def on_message(self, message: bytes) -> None:
        """One request; nothing that comes after what ends the connection."""
        if self._retiring or (self._turns and self._turns[-1].closing):
            return
        if len(message) > LARGE:
            self._hear_later(message)
            return
        turn = _Turn()
        self._turns.append(turn)
        try:
            self._submit(turn, self._request(_model_of(message), message))
        except (_Senseless, InvalidInput) as error:
            turn.refuse(error)
        self._flush()

    def _hear_later(self, message: bytes) -> None:
        """A large request: its model is looked for in a thread, and all else that it says is for a worker to read."""
        turn = _Turn()
        self._turns.append(turn)

        async def work() -> None:
            try:
                model = await asyncio.to_thread(_model_of, message)
                if turn in self._turns:
                    self._submit(turn, self._unread(self._known(model), message))
            except (_Senseless, InvalidInput) as error:
                turn.refuse(error)
            self._flush()

        task = asyncio.get_running_loop().create_task(work())
        self._reading.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._reading.discard)
        self._flush()

    def drain(self) -> None:
        """Answer what was asked, then close."""
        self._retiring = True
        self._flush()

    def on_closed(self) -> None:
        """Nobody waits for the rest."""
        for turn in self._turns:
            if turn.ticket is not None and not turn.done:
                turn.ticket.cancel()
        self._turns.clear()

    def _known(self, model: str) -> str:
        """The name under which a model is there. Raises ``_Senseless``."""
        try:
            self._service.ready(model)
        except ModelNotFound:
            # AMD's server lowers every name it hears here.
            model = model.lower()
            self._require(model)
        return model

    def _request(self, named: str, message: bytes) -> InferenceRequest:
        model = self._known(named)
        body = decode_request(message)
        plan = read_schedule(body.parameters)
        return InferenceRequest(
            model,
            "",
            body.id,
            body.inputs,
            parameters=plan.parameters,
            deadline=plan.deadline,
            priority=plan.priority,
            layout=Layout.BARE,
        )

    def _unread(self, model: str, message: bytes) -> InferenceRequest:
        # A buffer travels uncopied, however large it is.
        body = UndecodedBody(BodyKind.V2, Buffer(memoryview(message)))
        return InferenceRequest(model, "", "", [], layout=Layout.BARE, body=body)

    def _require(self, model: str) -> None:
        try:
            self._service.ready(model)
        except ModelNotFound:
            raise _Senseless(f"Worker {model} not found") from None

    def _submit(self, turn: _Turn, request: InferenceRequest) -> None:
        asked = Target(request.model)

        def done(outcome: Outcome) -> None:
            try:
                self._take(turn, outcome, asked)
            except Exception:  # the protocol edge: an engine has no use for our faults
                log.exception("reply failed", model=request.model)
                self._socket.close()

        ticket = self._service.submit(request, done)
        if not turn.done:
            turn.ticket = ticket

    def _take(self, turn: _Turn, outcome: Outcome, asked: Target) -> None:
        if isinstance(outcome, InferenceResponse):
            if outcome.outputs:
                turn.replies.append(_bare(outcome))
            release(outcome.outputs)
            turn.done = outcome.final
        else:
            turn.replies.append(kserve_v2(outcome, asked).message.encode())
            turn.done = True
        if turn.done:
            turn.ticket = None  # it holds ``done``, and that this turn: a circle
        self._flush()

    def _flush(self) -> None:
        """Send what is due, as far as requests are answered in order."""
        while self._turns:
            turn = self._turns[0]
            while turn.replies:
                self._socket.send(turn.replies.popleft())
            if turn.closing:
                self._turns.clear()
                self._socket.end(UNSUPPORTED_DATA, turn.closing)
                return
            if not turn.done:
                break
            self._turns.popleft()
        if self._retiring and not self._turns:
            self._socket.end(GOING_AWAY)
        else:
            self._socket.hold(len(self._turns) >= _AT_ONCE)


class _Senseless(Exception):
    """Not a request; the text is the reason that the client is given."""


class _Named(msgspec.Struct):
    model: str


_named = msgspec.json.Decoder(_Named)


def _model_of(message: bytes) -> str:
    try:
        return _named.decode(message).model  # quick: what else there is is only passed over
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        document = decode(message)  # reads NaN, too, as everywhere else
    except InvalidInput:
        raise _Senseless("No JSON could be parsed in the request") from None
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, str):
        raise _Senseless("No model found in request")
    return model


def _bare(outcome: InferenceResponse) -> bytes:
    """The bytes of the first output, and nothing of what they are."""
    data = outcome.outputs[0].data
    return b"".join([view_of(each) for each in (data if isinstance(data, list) else [data])])

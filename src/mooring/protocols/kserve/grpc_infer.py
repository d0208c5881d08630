"""Inference over gRPC: ModelInfer, one request and one answer, and ModelStreamInfer, any number of either.

``Inference`` decodes requests and encodes answers for both.
"""

import asyncio
import copy
from collections.abc import Callable, Mapping

import msgspec

from mooring.codecs import protobuf
from mooring.codecs.protobuf_tensors import RAW_LAYOUT, TYPED_LAYOUT, ContentsLayout, Part, Regions
from mooring.codecs.v2_json import names_region
from mooring.core.buffers import Allocator, Buffer, Payload
from mooring.core.errors import ElsewhereOnly, InvalidInput, ModelNotReady, MooringError, Unsupported
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.service import InferenceService, Outcome, Ticket
from mooring.core.tensors import RequestValue, release, share_payload
from mooring.core.timing import RequestTiming
from mooring.observability.logs import get_logger
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.grpc_errors import internal_error_text, to_status_error
from mooring.protocols.grpc_relay import CallRelay, relay_unary
from mooring.protocols.kserve.shared_memory import SharedMemory, elsewhere_only
from mooring.protocols.missing_model import prefer_not_found
from mooring.protocols.responses import RequestIds
from mooring.protocols.scheduling import read_schedule
from mooring.protocols.status import Target
from mooring.web.grpc.rpc import Rpc, StreamingRpc, UnaryRpc
from mooring.web.grpc.status import Status, StatusError

log = get_logger(__name__)

# Triton's words, which its clients look for.
_DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"
_EMPTY_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"
# Requests of one stream that are not answered yet, and answers that the client has not taken: above this many no
# further request is read.
_MAX_PENDING = 256


class DecodedRequest(msgspec.Struct, gc=False):
    """A request as the service takes it, and what its client expects of the answer.

    ``id`` is the client's own, empty where it gave none. With ``empty_final`` a streamed answer has a last message
    without outputs.
    """

    request: InferenceRequest
    layout: ContentsLayout
    id: str
    empty_final: bool

    @property
    def target(self) -> Target:
        """Return the model and version that an error names."""
        return Target(self.request.model, self.request.version)


class Inference:
    """What ModelInfer and ModelStreamInfer share: the service, and how its requests and answers look on the wire.

    A frontend process has no ``memory`` but a ``relay``: the first process answers messages that name a region of it.
    """

    def __init__(
        self,
        service: InferenceService,
        allocator: Allocator,
        *,
        memory: SharedMemory | None = None,
        dialect: Dialect = V2,
        relay: CallRelay | None = None,
    ) -> None:
        self.service = service
        self.dialect = dialect
        self.relay = relay
        self.typed_outputs = dialect.typed_outputs
        self._allocator = allocator
        self._memory = memory
        self._read_region: Regions | None = memory.read if memory is not None else None
        if relay is not None:
            self._read_region = elsewhere_only
        self._new_id = RequestIds().new_id
        self._streams: set[_Stream] = set()

    def with_typed_outputs(self) -> "Inference":
        """Return the same, but that it answers typed contents with typed contents."""
        inference = copy.copy(self)
        inference.typed_outputs = True
        return inference

    def infer(self, call: UnaryRpc) -> None:
        """Answer one request, without a task. A client that goes away takes its request with it."""
        message, relay = call.take_message(), self.relay
        if relay is None:
            decoded = self.read(message, call)
        else:
            read = self.read_or_keep(message, call)
            if isinstance(read, bytes):
                relay_unary(relay, call, read)
                return
            decoded = read
        answer = _Answer(self, decoded, call)
        ticket = self.service.submit(answer.decoded.request, answer.done)
        if answer.over:
            if answer.withdrawn:
                ticket.cancel()
        else:
            answer.ticket, call.on_cancelled = ticket, answer.cancel

    async def stream(self, call: StreamingRpc) -> None:
        """Serve a stream until the client has sent its last request and got its last answer."""
        stream = _Stream(self, call)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    def leave(self) -> None:
        """Read no further requests, since the server stops; those that were read are answered."""
        for stream in list(self._streams):
            stream.leave()

    def read_or_keep(self, message: Payload, call: Rpc) -> DecodedRequest | bytes:
        """Decode a message; or return it as it is, where only the first process can answer it.

        Takes the message over. Raises ``MooringError``.
        """
        if self.relay is None:
            return self.read(message, call)
        message, kept = share_payload(message, 2)
        try:
            return self.read(message, call)
        except ElsewhereOnly:
            return bytes(kept)
        finally:
            if isinstance(kept, Buffer):
                kept.release()

    def read(self, message: Payload, call: Rpc) -> DecodedRequest:
        """Decode a message, which is taken over. Raises ``MooringError``."""
        timing = call.timing  # taken first: an error has it, too
        try:
            request, layout = protobuf.decode_request(
                message, self._allocator, self._read_region, lenient=self.dialect.lenient
            )
        except InvalidInput as error:
            raise prefer_not_found(self.service, error, Target(error.model, error.version)) from None
        if self.relay is not None and names_region(request.outputs):
            release(request.inputs)
            raise ElsewhereOnly("an output is to go to shared memory")
        if layout is TYPED_LAYOUT and not self.typed_outputs:
            layout = RAW_LAYOUT
        request.layout = layout
        decoded = DecodedRequest(request, layout, request.id, False)
        request.id = request.id or call.request_id or self._new_id()
        request.deadline = call.deadline
        request.headers = call.custom_metadata
        request.timing = timing
        if request.parameters:
            try:
                _apply_schedule(decoded, request.parameters)
            except InvalidInput:
                release(request.inputs)
                raise
        return decoded

    def write(
        self, decoded: DecodedRequest, response: InferenceResponse
    ) -> tuple[list[Part], Callable[[], None]]:
        """Return the parts of an answer, and what to call when they are sent.

        Raises ``InvalidInput`` for an output that does not fit its place in shared memory.
        """
        outputs = response.outputs
        try:
            self._prepare_response(decoded, response)
            return protobuf.encode_response(response, decoded.layout), lambda: release(outputs)
        except BaseException:
            release(outputs)
            raise

    def write_piece(self, decoded: DecodedRequest, response: InferenceResponse) -> bytes:
        """Return an answer, or a piece of one, as a message of a stream. Raises as ``write``."""
        try:
            self._prepare_response(decoded, response)
            response.parameters = {**(response.parameters or {}), _FINAL: response.final}
            return protobuf.encode_piece(response, decoded.layout)
        finally:
            release(response.outputs)

    def _prepare_response(self, decoded: DecodedRequest, response: InferenceResponse) -> None:
        """Give an answer the id that its client knows, and put what belongs in shared memory there."""
        if decoded.id or response.head is None or not response.head.with_id:
            response.id = decoded.id
        if self._memory is not None:
            self._memory.store(response.outputs)
        self.dialect.set_model_name(response, decoded.target)
        if self.dialect.byte_shapes:
            for tensor in response.tensors:
                if tensor.datatype == "BYTES" and not tensor.packed and tensor.data and len(tensor.data) == 1:
                    tensor.shape = [len(tensor.data[0])]


def _apply_schedule(decoded: DecodedRequest, parameters: dict[str, RequestValue]) -> None:
    """Move the server's own parameters (deadline, priority, empty final) to the request. Raises ``InvalidInput``."""
    request = decoded.request
    decoded.empty_final = parameters.pop(_EMPTY_FINAL, False) is True
    _refuse_reserved(parameters)
    schedule = read_schedule(parameters, request.deadline)
    request.parameters, request.priority = schedule.parameters, schedule.priority
    request.deadline = schedule.deadline


def _refuse_reserved(parameters: Mapping[str, RequestValue]) -> None:
    for name in parameters:
        if name.startswith("triton_"):
            raise InvalidInput(
                f"parameter '{name}' of the request cannot be set: keys that start with triton_ are reserved"
            )


class _Answer:
    """The one answer to a call. A model that streams may give it as a piece, but only one."""

    __slots__ = ("_call", "_inference", "_piece", "decoded", "over", "ticket", "withdrawn")

    def __init__(self, inference: Inference, decoded: DecodedRequest, call: UnaryRpc) -> None:
        self.decoded = decoded
        self.ticket: Ticket | None = None
        self.over = self.withdrawn = False
        self._inference = inference
        self._call = call
        self._piece: InferenceResponse | None = None

    def cancel(self) -> None:
        """Give the request up: its client waits no longer."""
        if not self.over:
            self.over = True
            self._drop_piece()
            if self.ticket is not None:
                self.ticket.cancel()

    def done(self, outcome: Outcome) -> None:
        """Take an outcome from the service; never raises."""
        if self.over:
            _release_outcome(outcome)
        elif isinstance(outcome, MooringError):
            self._refuse(outcome)
        elif not outcome.final and self._piece is None:
            self._piece = outcome
        elif self._piece is None:
            if outcome.outputs:
                self._send(outcome)
            else:
                self._refuse(
                    Unsupported(f"{_DECOUPLED}: it gave no response to the request; use ModelStreamInfer")
                )
        elif outcome.final and not outcome.outputs:
            piece, self._piece = self._piece, None
            self._send(piece)
        else:
            _release_outcome(outcome)
            self._withdraw()

    def _withdraw(self) -> None:
        self.withdrawn = True
        self._refuse(
            Unsupported(f"{_DECOUPLED}: it gives more than one response to a request; use ModelStreamInfer")
        )
        if self.ticket is not None:
            self.ticket.cancel()

    def _send(self, response: InferenceResponse) -> None:
        self.over = True
        try:
            self._call.respond(*self._inference.write(self.decoded, response))
        except MooringError as error:
            self._refuse(error)
        except Exception as error:  # the protocol edge: an engine has no use for our faults
            log.exception("request failed", model=self.decoded.request.model, request=self.decoded.request.id)
            self._call.end(Status.INTERNAL, internal_error_text(error))

    def _refuse(self, error: MooringError) -> None:
        self.over = True
        self._drop_piece()
        status_error = to_status_error(error, self.decoded.target, self._inference.dialect)
        self._call.end(status_error.status, str(status_error), retry_after=status_error.retry_after)

    def _drop_piece(self) -> None:
        piece, self._piece = self._piece, None
        if piece is not None:
            _release_outcome(piece)


def _release_outcome(outcome: Outcome) -> None:
    if isinstance(outcome, InferenceResponse):
        release(outcome.outputs)


class _Stream:
    """One call of ModelStreamInfer. Answers come as they are ready, whatever the order of the requests."""

    def __init__(self, inference: Inference, call: StreamingRpc) -> None:
        self.inference = inference
        self._call = call
        self._answers: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._pending: set[_StreamedRequest] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._reader: asyncio.Task[None] | None = None
        self._leaving = False
        # Triton's clients ask for this: the first error ends the call, as a status of its own and not as a message.
        self._ends_at_error = call.header(b"triton_grpc_error") == b"true"
        self._failure: StatusError | None = None

    async def run(self) -> None:
        """Return when the client has every answer."""
        self._reader = asyncio.ensure_future(self._read())
        try:
            while (answer := await self._answers.get()) is not None:
                await self._call.write_message(answer)
                self._update_room()
        finally:
            if self._reader is not None:
                self._reader.cancel()
            for request in self._pending:
                request.withdraw()
        if self._failure is not None:
            raise self._failure
        if self._leaving:
            raise ModelNotReady("the server is stopping")

    def leave(self) -> None:
        """Read no further request."""
        self._leaving = True
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self) -> None:
        try:
            while (message := await self._call.read_message()) is not None:
                self._submit(message)
                self._update_room()
                await self._room.wait()
        finally:
            self._reader = None
            self._finish()

    def _submit(self, message: Payload) -> None:
        request = _StreamedRequest(self)
        self._pending.add(request)
        request.begin(message, self._call)

    def _update_room(self) -> None:
        if len(self._pending) + self._answers.qsize() < _MAX_PENDING:
            self._room.set()
        else:
            self._room.clear()

    def send(self, answer: bytes) -> None:
        """Send an answer, after those before it."""
        self._answers.put_nowait(answer)

    def fail(self, error: StatusError) -> bool:
        """End the call with an error after the answers before it; return whether the client has asked for that."""
        if self._ends_at_error and self._failure is None:
            self._failure = error
            self._answers.put_nowait(None)
        return self._ends_at_error

    def add_timing(self, timing: RequestTiming) -> None:
        """Add what a request took that has its last answer."""
        if self._call.timing is not None:
            self._call.timing.absorb(timing)

    def remove(self, request: "_StreamedRequest") -> None:
        """Forget a request that has its last answer."""
        self._pending.discard(request)
        self._update_room()
        self._finish()

    def _finish(self) -> None:
        if self._reader is None and not self._pending:
            self._answers.put_nowait(None)


class _StreamedRequest:
    """One request of a stream, from its message to its last answer."""

    __slots__ = ("_decoded", "_over", "_stream", "_ticket")

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._decoded = DecodedRequest(InferenceRequest("", "", "", []), ContentsLayout.RAW, "", False)
        self._ticket: Ticket | None = None
        self._over = False

    def begin(self, message: Payload, call: Rpc) -> None:
        """Read the message and send the request on its way."""
        inference = self._stream.inference
        try:
            decoded = inference.read_or_keep(message, call)
            if isinstance(decoded, bytes):
                assert inference.relay is not None
                self._ticket = inference.relay(call, decoded, self._stream.send, self._end_relayed)
                return
            if decoded.request.timing is not None:
                decoded.request.timing = RequestTiming()  # its own, of the call's
            self._decoded = decoded
            self._ticket = inference.service.submit(self._decoded.request, self.done)
        except MooringError as error:
            self._refuse(error)
        except Exception as error:  # the protocol edge: the stream and its other requests live on
            self._report_fault(error)

    def withdraw(self) -> None:
        """Give the request up: its client waits no longer."""
        self._over = True
        if self._ticket is not None:
            self._ticket.cancel()

    def done(self, outcome: Outcome) -> None:
        """Take an outcome from the service; never raises."""
        if self._over:
            _release_outcome(outcome)
            return
        try:
            if isinstance(outcome, MooringError):
                self._refuse(outcome)
            else:
                self._send_answer(outcome)
        except MooringError as error:
            self._refuse(error)
        except Exception as error:  # the protocol edge: an engine has no use for our faults
            self._report_fault(error)

    def _end_relayed(self, status: Status, text: str) -> None:
        """End with the status of the first process, which has sent its messages."""
        if self._over:
            return
        if status is Status.OK:
            self._end()
        else:
            self._send_failure(StatusError(status, text))

    def _send_answer(self, outcome: InferenceResponse) -> None:
        final = outcome.final
        # An empty final response is only for clients that requested it.
        if outcome.outputs or not final or self._decoded.empty_final:
            self._stream.send(self._stream.inference.write_piece(self._decoded, outcome))
        if final:
            self._end()

    def _refuse(self, error: MooringError) -> None:
        self._send_failure(to_status_error(error, self._decoded.target, self._stream.inference.dialect))

    def _report_fault(self, error: Exception) -> None:
        log.error(
            "request failed",
            exc_info=error,
            model=self._decoded.request.model,
            request=self._decoded.request.id,
        )
        self._send_failure(StatusError(Status.INTERNAL, internal_error_text(error)))

    def _send_failure(self, error: StatusError) -> None:
        if not self._stream.fail(error):
            failure = InferenceResponse(
                [], {_FINAL: True}, model=self._decoded.request.model, id=self._decoded.id
            )
            self._stream.send(protobuf.encode_piece(failure, error=str(error)))
        if self._ticket is not None:
            self._ticket.cancel()
        self._end()

    def _end(self) -> None:
        self._over = True
        self._ticket = None
        if self._decoded.request.timing is not None:
            self._stream.add_timing(self._decoded.request.timing)
        self._stream.remove(self)

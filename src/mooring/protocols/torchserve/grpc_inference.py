"""TorchServe's inference service over gRPC: the same inputs for handlers and the same bytes for clients as over HTTP.

Three faults of TorchServe are not kept: StreamPredictions works for plain handlers, Predictions returns all pieces of a
streamed answer, and a client's mistake is not INTERNAL.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from mooring.codecs.predictions import Part, PredictionMessage, decode_prediction, encode_prediction
from mooring.codecs.proto import torchserve_inference_pb2 as pb
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload
from mooring.core.errors import InvalidInput, ModelNotReady, MooringError
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import InferenceService, Outcome, Ticket
from mooring.core.tensors import Tensor, release
from mooring.core.timing import RequestTiming
from mooring.protocols.answers import read_payload
from mooring.protocols.grpc_errors import status_error
from mooring.protocols.grpc_messages import StoppableReader, read_bytes, sync_handler
from mooring.protocols.grpc_server import Service, StreamingMethod, UnaryMethod
from mooring.protocols.responses import RequestIds
from mooring.protocols.status import (
    HIDDEN,
    FaultWords,
    Refusal,
    Target,
    grpc_torchserve,
    java_class,
    torchserve,
)
from mooring.tokens import Access
from mooring.web.grpc.rpc import Rpc, StreamingRpc, UnaryRpc
from mooring.web.grpc.status import Status, StatusError

NAME = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
# Unanswered steps of one stream, above which no further one is read.
_MAX_PENDING = 256
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class TorchServeInferenceRpcs:
    """The handlers of the service."""

    def __init__(
        self,
        service: InferenceService,
        allocator: Allocator,
        headers: SequenceHeaders = TORCHSERVE_HEADERS,
        *,
        faults: FaultWords = HIDDEN,
    ) -> None:
        self._service = service
        self._faults = faults
        self._allocator = allocator
        self._names = headers
        self._sequence = frozenset(name.encode() for name in headers.lower)
        self._new_id = RequestIds().new_id
        self._reader = StoppableReader()

    def service(self) -> Service:
        """Return the service to mount."""
        return Service(
            NAME,
            {
                "Ping": UnaryMethod(Access.OPEN, sync_handler(pb.PingRequest, self.ping)),
                "Predictions": UnaryMethod(Access.INFERENCE, self.predict),
            },
            {
                "StreamPredictions": StreamingMethod(Access.INFERENCE, self.stream),
                "StreamPredictions2": StreamingMethod(Access.INFERENCE, self.converse),
            },
            self._reader.stop,
        )

    def ping(self, _message: pb.PingRequest) -> pb.TorchServeHealthResponse:
        """Answer "Healthy" if every default version has all its workers, else "Unhealthy"; the status is always OK."""
        state = "Healthy" if self._service.healthy() else "Unhealthy"
        return pb.TorchServeHealthResponse(health=f'{{\n  "status": "{state}"\n}}')

    def predict(self, call: UnaryRpc) -> None:
        """Answer one request with one message, a streamed answer joined. No task is started."""
        message = decode_prediction(call.take_message())
        try:
            request = self._build_request(message, call)
        except MooringError as error:
            raise _to_status_error(error, message, self._faults) from None
        answer = UnaryAnswer(message, call, self._faults)
        ticket = self._service.submit(request, answer.deliver)
        if not answer.over:
            answer.ticket, call.on_cancelled = ticket, answer.cancel

    async def stream(self, call: StreamingRpc) -> None:
        """Answer one request with a message for every piece of the answer."""
        data = await read_bytes(call)
        message = decode_prediction(data or b"")
        try:
            prediction = self._start_prediction(message, call)
            try:
                while (piece := await prediction.next_piece()) is not None:
                    await call.write_message(_to_response(message, piece).SerializeToString())
            finally:
                prediction.close()
        except MooringError as error:
            raise _to_status_error(error, message, self._faults) from None

    async def converse(self, call: StreamingRpc) -> None:
        """Answer the steps of many sequences at once; those of one sequence run one after the other.

        An error of a step is sent in its answer, and the stream goes on.
        """
        conversation = SequenceStream(call, self._answer_step)
        try:
            while (data := await self._reader.read_bytes(call)) is not None:
                await conversation.add_step(decode_prediction(data))
            await conversation.wait_for_answers()
        finally:
            conversation.close()
        if self._reader.stopping:
            raise ModelNotReady("the server is stopping")

    async def _answer_step(self, message: PredictionMessage, call: Rpc) -> pb.PredictionResponse:
        try:
            if not message.sequence_id:
                raise MooringError("Parameter sequenceId is required.")
            return await self._answer_whole(message, call)
        except MooringError as error:
            return _to_error_response(error, message, self._faults)

    async def _answer_whole(self, message: PredictionMessage, call: Rpc) -> pb.PredictionResponse:
        request = self._build_request(message, call)
        if request.timing is not None:
            request.timing = RequestTiming()  # its own, of the call's
        prediction = Prediction(self._service, request)
        try:
            answer = _to_response(message, await prediction.read_whole())
        finally:
            if request.timing is not None and call.timing is not None:
                call.timing.absorb(request.timing)
        if prediction.sequence:
            answer.sequence_id = prediction.sequence
        return answer

    def _start_prediction(self, message: PredictionMessage, call: Rpc) -> "Prediction":
        return Prediction(self._service, self._build_request(message, call))

    def _build_request(self, message: PredictionMessage, call: Rpc) -> InferenceRequest:
        timing = call.timing  # taken first: an error has it, too
        tensors = [
            Tensor(name, "BYTES", [1], [self._move_to_arena(value)], {"content_type": ""})
            for name, value in message.inputs.items()
        ]
        if not message.model_name:
            release(tensors)
            raise InvalidInput("Parameter model_name is required.")
        return InferenceRequest(
            message.model_name,
            message.model_version,
            call.request_id or self._new_id(),
            tensors,
            form=Form.BODY,
            deadline=call.deadline,
            headers=self._build_headers(message, call),
            timing=timing,
        )

    def _build_headers(self, message: PredictionMessage, call: Rpc) -> list[tuple[bytes, bytes]]:
        """Return the call's metadata with the sequence's id in the header that handlers read.

        The id comes from the message only; the start and the end of a sequence come from the metadata only.
        """
        headers = [field for field in call.custom_metadata if field[0] not in self._sequence]
        if not message.sequence_id:
            return headers
        headers.append((self._names.id.encode(), message.sequence_id.encode()))
        for name in (self._names.start, self._names.end):
            value = call.header(name.lower().encode())
            if value is not None:
                headers.append((name.encode(), value))
        return headers

    def _move_to_arena(self, value: Payload) -> Payload:
        if isinstance(value, Buffer) or len(value) <= LARGE:
            return value
        buffer = self._allocator.allocate(len(value))
        buffer.view[:] = value
        return buffer


AnswerStep = Callable[[PredictionMessage, StreamingRpc], Awaitable[pb.PredictionResponse]]


class SequenceStream:
    """The steps of one stream: a task for every sequence with unanswered steps, which answers them in order."""

    def __init__(self, call: StreamingRpc, answer: AnswerStep) -> None:
        self._call = call
        self._to_response = answer
        self._steps: dict[str, deque[PredictionMessage]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._free_slots = asyncio.Semaphore(_MAX_PENDING)
        self._write_lock = asyncio.Lock()
        self._fault: BaseException | None = None

    async def add_step(self, message: PredictionMessage) -> None:
        """Queue a step; wait while too many are unanswered. Raises the error that ended the stream."""
        await self._free_slots.acquire()
        if self._fault is not None:
            raise self._fault
        sequence = message.sequence_id or ""
        steps = self._steps.get(sequence)
        if steps is not None:
            steps.append(message)
            return
        self._steps[sequence] = deque([message])
        task = asyncio.ensure_future(self._run_sequence(sequence))
        self._tasks.add(task)
        task.add_done_callback(self._on_sequence_end)

    async def wait_for_answers(self) -> None:
        """Return when every step is answered. Raises the error that ended the stream."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Cancel all steps: the stream is over."""
        for task in self._tasks:
            task.cancel()

    def _on_sequence_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self._free_slots.release()

    async def _run_sequence(self, sequence: str) -> None:
        steps = self._steps[sequence]
        while steps:
            answer = await self._to_response(steps.popleft(), self._call)
            async with self._write_lock:  # gRPC takes one message at a time
                await self._call.write_message(answer.SerializeToString())
            self._free_slots.release()
        del self._steps[sequence]


class UnaryAnswer:
    """The answer to a unary call, joined from all outcomes of the request."""

    __slots__ = ("_call", "_faults", "_message", "_outcomes", "over", "ticket")

    def __init__(self, message: PredictionMessage, call: UnaryRpc, faults: FaultWords) -> None:
        self._message = message
        self._faults = faults
        self._call = call
        self._outcomes: list[InferenceResponse] = []
        self.ticket: Ticket | None = None
        self.over = False

    def cancel(self) -> None:
        """Cancel the request: the client is gone."""
        if not self.over:
            self.over = True
            self._release_outcomes()
            if self.ticket is not None:
                self.ticket.cancel()

    def deliver(self, outcome: Outcome) -> None:
        """Take an outcome of the request; never raises."""
        if self.over:
            if isinstance(outcome, InferenceResponse):
                release(outcome.outputs)
        elif isinstance(outcome, MooringError):
            self.over = True
            self._release_outcomes()
            error = _to_status_error(outcome, self._message, self._faults)
            self._call.end(error.status, str(error))
        else:
            self._outcomes.append(outcome)
            if outcome.final:
                self.over = True
                self._respond()

    def _respond(self) -> None:
        sequence = self._message.sequence_id
        pieces: list[Part] = []
        for outcome in self._outcomes:
            payload = read_payload(outcome)
            pieces.append(payload.view if isinstance(payload, Buffer) else payload)
            if outcome.parameters:
                sequence = str(outcome.parameters.get("sequence_id") or "") or sequence
        self._call.respond(encode_prediction(pieces, sequence), self._release_outcomes)

    def _release_outcomes(self) -> None:
        for outcome in self._outcomes:
            release(outcome.outputs)
        self._outcomes = []


class Prediction:
    """A submitted request and its outcomes so far. A caller of ``next_piece`` must ``close`` it."""

    __slots__ = ("_has_pieces", "_outcomes", "_over", "_ticket", "sequence")

    def __init__(self, service: InferenceService, request: InferenceRequest) -> None:
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self._over = self._has_pieces = False
        self.sequence = ""  # the id of its sequence, as the service returned it
        self._ticket = service.submit(request, self._outcomes.put_nowait)

    async def next_piece(self) -> bytes | None:
        """Return the answer or its next piece; None after the last. Raises the request's ``MooringError``."""
        if self._over:
            return None
        outcome = await self._outcomes.get()
        if isinstance(outcome, MooringError):
            self._over = True
            raise outcome
        self._over = outcome.final
        if outcome.parameters:
            self.sequence = str(outcome.parameters.get("sequence_id", ""))
        payload = read_payload(outcome)
        piece = bytes(payload.view) if isinstance(payload, Buffer) else payload
        release(outcome.outputs)
        if outcome.final and self._has_pieces and not piece:
            return None  # an empty last outcome only marks the end of the stream
        self._has_pieces = True
        return piece

    async def read_whole(self) -> bytes:
        """Return all pieces of the answer joined, and close. Raises like ``next_piece``."""
        pieces = []
        try:
            while (piece := await self.next_piece()) is not None:
                pieces.append(piece)
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Cancel the request if it is unanswered, and release its outcomes."""
        if not self._over:
            self._ticket.cancel()
        while not self._outcomes.empty():
            outcome = self._outcomes.get_nowait()
            if isinstance(outcome, InferenceResponse):
                release(outcome.outputs)


def _to_response(message: PredictionMessage, prediction: bytes) -> pb.PredictionResponse:
    answer = pb.PredictionResponse(prediction=prediction)
    if message.sequence_id is not None:
        answer.sequence_id = message.sequence_id
    return answer


def _refusal_of(error: MooringError, message: PredictionMessage, faults: FaultWords) -> Refusal:
    return torchserve(error, Target(message.model_name, message.model_version), faults)


def _to_status_error(error: MooringError, message: PredictionMessage, faults: FaultWords) -> StatusError:
    return status_error(*grpc_torchserve(_refusal_of(error, message, faults)))


def _to_error_response(
    error: MooringError, message: PredictionMessage, faults: FaultWords
) -> pb.PredictionResponse:
    """Return an error as the answer of a step; the stream goes on."""
    refusal = _refusal_of(error, message, faults)
    code, _ = grpc_torchserve(refusal)
    answer = _to_response(message, b"")
    answer.status.code = Status[code]
    answer.status.message = f"{refusal.message}\n{refusal.error}" if refusal.error else refusal.message
    info = pb.ErrorInfo(reason=java_class(refusal))
    answer.status.details.add(type_url=_ERROR_INFO, value=info.SerializeToString())
    return answer

"""TorchServe's inference service over gRPC: the same rows for the handler and the same bytes for the client as over HTTP.

Its faults are not kept: a plain handler may be asked for a stream, all pieces of a streamed answer count, and what is
the caller's mistake is not called INTERNAL.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from mooring.codecs.predictions import Part, PredictionAsked, decode_asked, encode_prediction
from mooring.codecs.proto import torchserve_inference_pb2 as pb
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload
from mooring.core.errors import InvalidInput, ModelNotReady, MooringError
from mooring.core.options import TORCHSERVE_HEADERS, SequenceHeaders
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import InferenceService, Outcome, Ticket
from mooring.core.tensors import Tensor, release
from mooring.protocols.answers import payload_of
from mooring.protocols.grpc_errors import status_error
from mooring.protocols.grpc_messages import StoppableReader, read_bytes, sync_handler
from mooring.protocols.grpc_server import Service, StreamingMethod, UnaryMethod
from mooring.protocols.responses import RequestIds
from mooring.protocols.status import Target, grpc_torchserve, java_class, torchserve
from mooring.tokens import Access
from mooring.web.grpc.rpc import Rpc, StreamingRpc, UnaryRpc
from mooring.web.grpc.status import Status, StatusError

NAME = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
# Steps of one stream that are not answered yet: above this many no further one is read.
_MOST_PENDING = 256
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class TorchServeInferenceRpcs:
    """The methods of the service."""

    def __init__(
        self, service: InferenceService, allocator: Allocator, headers: SequenceHeaders = TORCHSERVE_HEADERS
    ) -> None:
        self._service = service
        self._allocator = allocator
        self._names = headers
        self._sequence = frozenset(name.encode() for name in headers.lower)
        self._new_id = RequestIds().new
        self._reader = StoppableReader()

    def service(self) -> Service:
        """What the server mounts."""
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

    def ping(self, _asked: pb.PingRequest) -> pb.TorchServeHealthResponse:
        """Whether every default version has its workers: as a text, and never as a status."""
        state = "Healthy" if self._service.healthy() else "Unhealthy"
        return pb.TorchServeHealthResponse(health=f'{{\n  "status": "{state}"\n}}')

    def predict(self, call: UnaryRpc) -> None:
        """One request, one answer, and no task: a streamed one whole."""
        asked = decode_asked(call.take_message())
        try:
            request = self._request(asked, call)
        except MooringError as error:
            raise _to_status_error(error, asked) from None
        answer = WholeAnswer(asked, call)
        ticket = self._service.submit(request, answer.done)
        if not answer.over:
            answer.ticket, call.on_cancelled = ticket, answer.cancel

    async def stream(self, call: StreamingRpc) -> None:
        """One request, and its answer piece by piece."""
        message = await read_bytes(call)
        asked = decode_asked(message or b"")
        try:
            prediction = self._ask(asked, call)
            try:
                while (piece := await prediction.next()) is not None:
                    await call.write_message(_answer(asked, piece).SerializeToString())
            finally:
                prediction.close()
        except MooringError as error:
            raise _to_status_error(error, asked) from None

    async def converse(self, call: StreamingRpc) -> None:
        """The steps of many sequences at once; of one sequence each is asked when the one before it is answered.

        What goes wrong with a step is said in its answer, and the next one is read.
        """
        conversation = Conversation(call, self._step)
        try:
            while (message := await self._reader.read_bytes(call)) is not None:
                await conversation.take(decode_asked(message))
            await conversation.finish()
        finally:
            conversation.close()
        if self._reader.stopping:
            raise ModelNotReady("the server is stopping")

    async def _step(self, asked: PredictionAsked, call: Rpc) -> pb.PredictionResponse:
        try:
            if not asked.sequence_id:
                raise MooringError("Parameter sequenceId is required.")
            return await self._whole(asked, call)
        except MooringError as error:
            return _refusal(error, asked)

    async def _whole(self, asked: PredictionAsked, call: Rpc) -> pb.PredictionResponse:
        prediction = self._ask(asked, call)
        answer = _answer(asked, await prediction.whole())
        if prediction.sequence:
            answer.sequence_id = prediction.sequence
        return answer

    def _ask(self, asked: PredictionAsked, call: Rpc) -> "Prediction":
        return Prediction(self._service, self._request(asked, call))

    def _request(self, asked: PredictionAsked, call: Rpc) -> InferenceRequest:
        tensors = [
            Tensor(name, "BYTES", [1], [self._kept(value)], {"content_type": ""})
            for name, value in asked.inputs.items()
        ]
        if not asked.model_name:
            release(tensors)
            raise InvalidInput("Parameter model_name is required.")
        return InferenceRequest(
            asked.model_name,
            asked.model_version,
            call.request_id or self._new_id(),
            tensors,
            form=Form.BODY,
            deadline=call.deadline,
            headers=self._headers(asked, call),
        )

    def _headers(self, asked: PredictionAsked, call: Rpc) -> list[tuple[bytes, bytes]]:
        """The call's metadata, and the sequence's id as handlers read it, which only a message can name.

        That it starts or ends can only be said in the metadata.
        """
        headers = [field for field in call.custom_metadata if field[0] not in self._sequence]
        if not asked.sequence_id:
            return headers
        headers.append((self._names.id.encode(), asked.sequence_id.encode()))
        for name in (self._names.start, self._names.end):
            value = call.header(name.lower().encode())
            if value is not None:
                headers.append((name.encode(), value))
        return headers

    def _kept(self, value: Payload) -> Payload:
        if isinstance(value, Buffer) or len(value) <= LARGE:
            return value
        buffer = self._allocator.allocate(len(value))
        buffer.view[:] = value
        return buffer


Answering = Callable[[PredictionAsked, StreamingRpc], Awaitable[pb.PredictionResponse]]


class Conversation:
    """The steps of one stream: a task for every sequence that has any, and its steps in line."""

    def __init__(self, call: StreamingRpc, answer: Answering) -> None:
        self._call = call
        self._answer = answer
        self._lines: dict[str, deque[PredictionAsked]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_MOST_PENDING)
        self._writing = asyncio.Lock()
        self._fault: BaseException | None = None

    async def take(self, asked: PredictionAsked) -> None:
        """Take a step in; wait while too many are unanswered. Raises what went wrong with the stream."""
        await self._room.acquire()
        if self._fault is not None:
            raise self._fault
        sequence = asked.sequence_id or ""
        line = self._lines.get(sequence)
        if line is not None:
            line.append(asked)
            return
        self._lines[sequence] = deque([asked])
        task = asyncio.ensure_future(self._work_off(sequence))
        self._tasks.add(task)
        task.add_done_callback(self._worked_off)

    async def finish(self) -> None:
        """Return when every step has its answer. Raises what went wrong with the stream."""
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Nobody hears the answers any more."""
        for task in self._tasks:
            task.cancel()

    def _worked_off(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = fault
            self._room.release()

    async def _work_off(self, sequence: str) -> None:
        line = self._lines[sequence]
        while line:
            answer = await self._answer(line.popleft(), self._call)
            async with self._writing:  # gRPC takes one message at a time
                await self._call.write_message(answer.SerializeToString())
            self._room.release()
        del self._lines[sequence]


class WholeAnswer:
    """The one answer to a call, out of all pieces that come."""

    __slots__ = ("_asked", "_call", "_outcomes", "over", "ticket")

    def __init__(self, asked: PredictionAsked, call: UnaryRpc) -> None:
        self._asked = asked
        self._call = call
        self._outcomes: list[InferenceResponse] = []
        self.ticket: Ticket | None = None
        self.over = False

    def cancel(self) -> None:
        """Nobody waits any more."""
        if not self.over:
            self.over = True
            self._release()
            if self.ticket is not None:
                self.ticket.cancel()

    def done(self, outcome: Outcome) -> None:
        """What the service says; never raises."""
        if self.over:
            if isinstance(outcome, InferenceResponse):
                release(outcome.outputs)
        elif isinstance(outcome, MooringError):
            self.over = True
            self._release()
            error = _to_status_error(outcome, self._asked)
            self._call.end(error.status, str(error))
        else:
            self._outcomes.append(outcome)
            if outcome.final:
                self.over = True
                self._respond()

    def _respond(self) -> None:
        sequence = self._asked.sequence_id
        pieces: list[Part] = []
        for outcome in self._outcomes:
            payload = payload_of(outcome)
            pieces.append(payload.view if isinstance(payload, Buffer) else payload)
            if outcome.parameters:
                sequence = str(outcome.parameters.get("sequence_id") or "") or sequence
        self._call.respond(encode_prediction(pieces, sequence), self._release)

    def _release(self) -> None:
        for outcome in self._outcomes:
            release(outcome.outputs)
        self._outcomes = []


class Prediction:
    """A request on its way, and what has come of it so far. Whoever asks for pieces must ``close`` it."""

    __slots__ = ("_outcomes", "_over", "_streamed", "_ticket", "sequence")

    def __init__(self, service: InferenceService, request: InferenceRequest) -> None:
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self._over = self._streamed = False
        self.sequence = ""  # what the service calls the sequence it belongs to
        self._ticket = service.submit(request, self._outcomes.put_nowait)

    async def next(self) -> bytes | None:
        """The answer, or the next piece of it; None after the last. Raises what the service says instead."""
        if self._over:
            return None
        outcome = await self._outcomes.get()
        if isinstance(outcome, MooringError):
            self._over = True
            raise outcome
        self._over = outcome.final
        if outcome.parameters:
            self.sequence = str(outcome.parameters.get("sequence_id", ""))
        payload = payload_of(outcome)
        piece = bytes(payload.view) if isinstance(payload, Buffer) else payload
        release(outcome.outputs)
        if outcome.final and self._streamed and not piece:
            return None  # it only says that there is no more
        self._streamed = True
        return piece

    async def whole(self) -> bytes:
        """All pieces of the answer together. Closes; raises as ``next``."""
        pieces = []
        try:
            while (piece := await self.next()) is not None:
                pieces.append(piece)
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """Nobody asks for more."""
        if not self._over:
            self._ticket.cancel()
        while not self._outcomes.empty():
            outcome = self._outcomes.get_nowait()
            if isinstance(outcome, InferenceResponse):
                release(outcome.outputs)


def _answer(asked: PredictionAsked, prediction: bytes) -> pb.PredictionResponse:
    answer = pb.PredictionResponse(prediction=prediction)
    if asked.sequence_id is not None:
        answer.sequence_id = asked.sequence_id
    return answer


def _to_status_error(error: MooringError, asked: PredictionAsked) -> StatusError:
    return status_error(*grpc_torchserve(torchserve(error, Target(asked.model_name, asked.model_version))))


def _refusal(error: MooringError, asked: PredictionAsked) -> pb.PredictionResponse:
    """An error as an answer of a stream that goes on."""
    refusal = torchserve(error, Target(asked.model_name, asked.model_version))
    code, _ = grpc_torchserve(refusal)
    answer = _answer(asked, b"")
    answer.status.code = Status[code]
    answer.status.message = f"{refusal.message}\n{refusal.error}" if refusal.error else refusal.message
    info = pb.ErrorInfo(reason=java_class(refusal))
    answer.status.details.add(type_url=_INFO, value=info.SerializeToString())
    return answer

"""TorchServe's inference service over gRPC: the same rows for the handler and the same bytes for the client as over HTTP.

Its faults are not kept: a plain handler may be asked for a stream, all pieces of a streamed answer count, and what is
the caller's mistake is not called INTERNAL.
"""

import asyncio
import time
from typing import NoReturn

import grpc

from mooring.codecs.proto import torchserve_inference_pb2 as pb
from mooring.core.buffers import LARGE, Allocator, Buffer, Payload
from mooring.core.errors import InvalidInput, ModelNotReady, MooringError
from mooring.core.requests import Form, InferenceRequest, InferenceResponse
from mooring.core.service import InferenceService, Outcome
from mooring.core.tensors import Tensor, release
from mooring.protocols.answers import payload_of
from mooring.protocols.grpc_messages import answering, read
from mooring.protocols.grpc_server import Context, Method, Questions, Service, end, receive
from mooring.protocols.responses import RequestIds
from mooring.protocols.status import Asked, grpc_torchserve, java_class, torchserve
from mooring.tokens import Access

NAME = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
# As handlers read it, whichever way it came.
_SEQUENCE = b"ts_request_sequence_id"
_INFO = "type.googleapis.com/google.rpc.ErrorInfo"


class TorchServeInferenceRpcs:
    """The methods of the service."""

    def __init__(self, service: InferenceService, allocator: Allocator) -> None:
        self._service = service
        self._allocator = allocator
        self._new_id = RequestIds().new
        self._questions = Questions()

    def service(self) -> Service:
        """What the server mounts."""
        return Service(
            NAME,
            {
                "Ping": Method(Access.OPEN, answering(pb.PingRequest, self.ping)),
                "Predictions": Method(Access.INFERENCE, self.predict),
            },
            {
                "StreamPredictions": Method(Access.INFERENCE, self.stream),
                "StreamPredictions2": Method(Access.INFERENCE, self.converse),
            },
            self._questions.leave,
        )

    def ping(self, _asked: pb.PingRequest) -> pb.TorchServeHealthResponse:
        """Whether every default version has its workers: as a text, and never as a status."""
        state = "Healthy" if self._service.healthy() else "Unhealthy"
        return pb.TorchServeHealthResponse(health=f'{{\n  "status": "{state}"\n}}')

    async def predict(self, message: bytes, context: Context) -> bytes:
        """One request, one answer: a streamed one whole."""
        asked = read(pb.PredictionsRequest, message)
        try:
            answer = await self._whole(asked, context)
        except MooringError as error:
            await _refuse(context, error, asked)
        return answer.SerializeToString()

    async def stream(self, context: Context) -> None:
        """One request, and its answer piece by piece."""
        message = await receive(context)
        asked = read(pb.PredictionsRequest, message or b"")
        try:
            prediction = self._ask(asked, context)
            try:
                while (piece := await prediction.next()) is not None:
                    await context.write(_answer(asked, piece).SerializeToString())
            finally:
                prediction.close()
        except MooringError as error:
            await _refuse(context, error, asked)

    async def converse(self, context: Context) -> None:
        """The steps of sequences, one after the other: each is asked when the one before it has been answered.

        What goes wrong with a step is said in its answer, and the next one is read.
        """
        while (message := await self._questions.next(context)) is not None:
            asked = read(pb.PredictionsRequest, message)
            try:
                if not asked.sequence_id:
                    raise MooringError("Parameter sequenceId is required.")
                answer = await self._whole(asked, context)
            except MooringError as error:
                answer = _refusal(error, asked)
            await context.write(answer.SerializeToString())
        if self._questions.leaving:
            raise ModelNotReady("the server is stopping")

    async def _whole(self, asked: pb.PredictionsRequest, context: Context) -> pb.PredictionResponse:
        return _answer(asked, await self._ask(asked, context).whole())

    def _ask(self, asked: pb.PredictionsRequest, context: Context) -> "Prediction":
        if not asked.model_name:
            raise InvalidInput("Parameter model_name is required.")
        left = context.time_remaining()
        request = InferenceRequest(
            asked.model_name,
            asked.model_version,
            self._new_id(),
            [
                Tensor(name, "BYTES", [1], [self._kept(value)], {"content_type": ""})
                for name, value in asked.input.items()
            ],
            Form.BODY,
            deadline=None if left is None else time.monotonic() + left,
            headers=[(_SEQUENCE, asked.sequence_id.encode())] if asked.sequence_id else [],
        )
        return Prediction(self._service, request)

    def _kept(self, value: bytes) -> Payload:
        if len(value) <= LARGE:
            return value
        buffer = self._allocator.allocate(len(value))
        buffer.view[:] = value
        return buffer


class Prediction:
    """A request on its way, and what has come of it so far. Whoever asks for pieces must ``close`` it."""

    __slots__ = ("_outcomes", "_over", "_streamed", "_ticket")

    def __init__(self, service: InferenceService, request: InferenceRequest) -> None:
        self._outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self._over = self._streamed = False
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


def _answer(asked: pb.PredictionsRequest, prediction: bytes) -> pb.PredictionResponse:
    answer = pb.PredictionResponse(prediction=prediction)
    if asked.HasField("sequence_id"):
        answer.sequence_id = asked.sequence_id
    return answer


async def _refuse(context: Context, error: MooringError, asked: pb.PredictionsRequest) -> NoReturn:
    refusal = torchserve(error, Asked(asked.model_name, asked.model_version))
    await end(context, *grpc_torchserve(refusal))


def _refusal(error: MooringError, asked: pb.PredictionsRequest) -> pb.PredictionResponse:
    """An error as an answer of a stream that goes on."""
    refusal = torchserve(error, Asked(asked.model_name, asked.model_version))
    code, _ = grpc_torchserve(refusal)
    answer = _answer(asked, b"")
    answer.status.code = grpc.StatusCode[code].value[0]
    answer.status.message = refusal.message
    info = pb.ErrorInfo(reason=java_class(refusal))
    answer.status.details.add(type_url=_INFO, value=info.SerializeToString())
    return answer

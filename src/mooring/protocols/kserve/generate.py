"""The generate extension: any JSON object in, one out, or a stream of them as server-sent events.

Keys of the request that are names of inputs are tensors; every other key, and what is in ``parameters``, is a
parameter. A body with an ``inputs`` array is an infer request, as MLServer's clients send it to the same paths.
"""

import math

import orjson

from mooring.codecs.generate import (
    INFER_FORM,
    GenerateBody,
    decode_generate,
    pop_body_form,
)
from mooring.codecs.packed import with_plain_data
from mooring.codecs.tensor_json import encode_json
from mooring.codecs.v2_json import JSON_ONLY, encode_response
from mooring.core.buffers import LARGE, Buffer, Payload, view_of
from mooring.core.errors import InvalidInput, ModelFailed, MooringError
from mooring.core.requests import SERVER, BodyKind, InferenceRequest, InferenceResponse, UndecodedBody
from mooring.core.service import InferenceService
from mooring.core.tensors import JsonOutput, Output, release
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.kserve.bodies import Bodies
from mooring.protocols.kserve.v2 import MODEL, VERSION, WRITING, V2Answer, target_of
from mooring.protocols.missing_model import prefer_not_found
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.scheduling import read_deadline, read_schedule
from mooring.protocols.status import Target
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_EVENTS = "text/event-stream; charset=utf-8"


class _AnswerWriter:
    """Writes responses as objects of generate, or as v2 responses to a v2 request."""

    def __init__(self, request_id: str, target: Target, dialect: Dialect, *, null: bool) -> None:
        self._request_id = request_id
        self._target = target
        self._dialect = dialect
        self._null = null
        self._body: GenerateBody | None = None  # None where a worker reads it

    def read(self, body: GenerateBody) -> None:
        """Keep the decoded body. Of a body that a worker decodes, each response carries the form instead."""
        self._body = body

    def document(self, response: InferenceResponse) -> bytes:
        """Return the JSON of a response, whose memory is released."""
        form = pop_body_form(response)
        if self._body is not None:
            client_id, v2 = self._body.id, self._body.v2
        else:
            # What the server called a request without an id is not for its client.
            client_id, v2 = "" if response.id == self._request_id else response.id, form == INFER_FORM
        response.id = client_id
        self._dialect.set_model_name(response, self._target)
        try:
            if v2:
                pieces, _ = encode_response(response, JSON_ONLY, null=self._null)
                return b"".join(map(view_of, pieces))
            head = {"id": client_id} if client_id else {}
            head |= {"model_name": response.model, "model_version": response.version}
            outputs = b"".join(
                [
                    b"," + orjson.dumps(each.name) + b":" + _encode_value(each, self._null)
                    for each in response.outputs
                ]
            )
            return orjson.dumps(head)[:-1] + outputs + b"}"
        finally:
            release(response.outputs)


def _encode_value(tensor: Output, null: bool) -> bytes:
    if (
        tensor.parameters is not None
        and tensor.parameters.get("content_type") == JSON
        and math.prod(tensor.shape) == 1
    ):
        # A value that has no other form as a tensor: it goes into the document as it is.
        if type(tensor) is JsonOutput:
            return str(orjson.loads(view_of(tensor.data))[0]).encode()
        return bytes(view_of(tensor.data[0]))
    if type(tensor) is JsonOutput:
        text = bytes(view_of(tensor.data))
        return text[1:-1] if math.prod(tensor.shape) == 1 else text
    array = with_plain_data(tensor).array()
    return encode_json(array.reshape(()) if array.size == 1 else array.reshape(-1), null=null)


class GenerateAnswer(V2Answer, eq=False):
    """The one response of a model, as JSON."""

    _writer: _AnswerWriter
    _only: bytes | None = None

    def _send_whole(self, outcome: InferenceResponse) -> None:
        body = self._only
        if body is None:
            if not outcome.outputs:
                self._send_refusal(
                    InvalidInput(
                        f"model '{self._target.model}' gave no response to the request; use generate_stream"
                    )
                )
                return
            body = self._writer.document(outcome)
        elif outcome.outputs:
            self._refuse_more(outcome)
            return
        self._responses.send_body(self._exchange, body, JSON, request_id=self._id)

    def _send_piece(self, outcome: InferenceResponse) -> None:
        if self._only is None:
            self._only = self._writer.document(outcome)
        else:
            self._cancel_request()
            self._refuse_more(outcome)

    def _refuse_more(self, outcome: InferenceResponse) -> None:
        release(outcome.outputs)
        self._send_refusal(
            InvalidInput(
                f"model '{self._target.model}' gives more than one response to a request; use generate_stream"
            )
        )


class StreamAnswer(V2Answer, eq=False):
    """Every response as an event. What goes wrong in the model is an event, too, after the first or in its place."""

    _writer: _AnswerWriter

    def _send_whole(self, outcome: InferenceResponse) -> None:
        self._send_head(200)
        self._exchange.finish(_encode_event(self._writer.document(outcome)) if outcome.outputs else b"")

    def _send_piece(self, outcome: InferenceResponse) -> None:
        self._send_head(200)
        if outcome.outputs:
            self._exchange.send(_encode_event(self._writer.document(outcome)))
        if outcome.final:
            self._exchange.finish()

    def _send_refusal(self, error: MooringError) -> None:
        if not self._started and not isinstance(error, ModelFailed):
            super()._send_refusal(error)  # before the model ran: an answer like any other
            return
        self._mark_over()
        refusal = self._refusal_for(error)
        self._send_head(refusal.status)
        self._exchange.finish(_encode_event(orjson.dumps({"error": refusal.message})))

    def _send_head(self, status: int) -> None:
        if not self._started:
            self._started = True
            self._responses.counter.count(status)
            self._exchange.start(status, self._responses.build_head(self._id, _EVENTS))


def _encode_event(document: bytes) -> bytes:
    return b"data: " + document + b"\n\n"


class Generate:
    """The extension's endpoints. ``/v2`` does not list it: Triton has no name for it."""

    extensions = ()

    def __init__(
        self, service: InferenceService, responses: Responses, bodies: Bodies, *, dialect: Dialect = V2
    ) -> None:
        self._service = service
        self._responses = responses
        self._bodies = bodies
        self._dialect = dialect

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints."""
        return [
            Endpoint(
                f"{MODEL}/generate",
                self.generate,
                Access.INFERENCE,
                calls.GENERATE,
                methods=WRITING,
                infers=True,
            ),
            Endpoint(
                f"{VERSION}/generate",
                self.generate,
                Access.INFERENCE,
                calls.GENERATE_VERSION,
                methods=WRITING,
                infers=True,
            ),
            Endpoint(
                f"{MODEL}/generate_stream",
                self.stream,
                Access.INFERENCE,
                calls.GENERATE_STREAM,
                methods=WRITING,
                infers=True,
            ),
            Endpoint(
                f"{VERSION}/generate_stream",
                self.stream,
                Access.INFERENCE,
                calls.GENERATE_STREAM_VERSION,
                methods=WRITING,
                infers=True,
            ),
        ]

    def generate(self, exchange: Exchange, match: Match) -> None:
        """Answer with one response."""
        self._submit(exchange, target_of(match), GenerateAnswer)

    def stream(self, exchange: Exchange, match: Match) -> None:
        """Answer with any number of responses, each as an event when it is there."""
        self._submit(exchange, target_of(match), StreamAnswer)

    def _submit(
        self, exchange: Exchange, target: Target, kind: type[GenerateAnswer] | type[StreamAnswer]
    ) -> None:
        def submit(body: Payload) -> None:
            request_id = self._responses.read_request_id(exchange)
            null = self._responses.writes_null(exchange)
            writer = _AnswerWriter(request_id, target, self._dialect, null=null)
            if len(body) > LARGE:
                request = self._build_undecoded_request(exchange, target, body)
            else:
                request = self._decode_request(exchange, target, body, writer)
            request.id = request.id or request_id
            request.null_for_nan = null
            request.timing = exchange.timing
            answer = kind(self._responses, exchange, request_id, target, self._dialect, writer)
            exchange.on_abandoned = self._service.submit(request, answer.done).cancel

        self._bodies.take(exchange, submit, lambda error: self._send_refusal(exchange, error, target))

    def _send_refusal(self, exchange: Exchange, error: MooringError, target: Target) -> None:
        error = prefer_not_found(self._service, error, target)
        self._responses.send_refusal(exchange, self._dialect.refusal_of(error, target))

    def _build_undecoded_request(self, exchange: Exchange, target: Target, body: Payload) -> InferenceRequest:
        """Build a request whose body a worker decodes. Its parameters of time and priority are not honored then."""
        try:
            specs = self._service.metadata(*target).inputs
            deadline = read_deadline(exchange)
        except MooringError:
            _release_body(body)
            raise
        return InferenceRequest(
            target.model,
            target.version,
            "",
            [],
            deadline=deadline,
            headers=exchange.headers,
            body=UndecodedBody(BodyKind.GENERATE, body, declared=list(specs)),
        )

    def _decode_request(
        self, exchange: Exchange, target: Target, body: Payload, writer: _AnswerWriter
    ) -> InferenceRequest:
        try:
            decoded = decode_generate(body, lambda: self._service.metadata(*target).inputs)
        finally:
            _release_body(body)
        writer.read(decoded)
        try:
            plan = read_schedule(decoded.parameters, read_deadline(exchange))
        except InvalidInput:
            release(decoded.inputs)
            raise
        return InferenceRequest(
            target.model,
            target.version,
            decoded.id,
            decoded.inputs,
            parameters=plan.parameters,
            outputs=decoded.outputs,
            deadline=plan.deadline,
            headers=exchange.headers,
            priority=plan.priority,
            json_writer=SERVER,
        )


def _release_body(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()

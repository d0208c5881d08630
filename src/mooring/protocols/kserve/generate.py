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
from mooring.protocols.status import Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_EVENTS = "text/event-stream; charset=utf-8"


class _Written:
    """How a response is written: as the object of generate, or where the request was v2's, as v2's."""

    def __init__(self, request_id: str, asked: Target, dialect: Dialect, *, null: bool) -> None:
        self._request_id = request_id
        self._target = asked
        self._dialect = dialect
        self._null = null
        self._body: GenerateBody | None = None  # None where a worker reads it

    def read(self, body: GenerateBody) -> None:
        """Answer this body; of one that a worker reads each response says what it needs to."""
        self._body = body

    def document(self, response: InferenceResponse) -> bytes:
        """The JSON of a response, whose memory is given back."""
        form = pop_body_form(response)
        if self._body is not None:
            given, v2 = self._body.id, self._body.v2
        else:
            # What the server called a request without an id is not for its client.
            given, v2 = "" if response.id == self._request_id else response.id, form == INFER_FORM
        response.id = given
        self._dialect.set_model_name(response, self._target)
        try:
            if v2:
                pieces, _ = encode_response(response, JSON_ONLY, null=self._null)
                return b"".join(map(view_of, pieces))
            head = {"id": given} if given else {}
            head |= {"model_name": response.model, "model_version": response.version}
            outputs = b"".join(
                [
                    b"," + orjson.dumps(each.name) + b":" + _value(each, self._null)
                    for each in response.outputs
                ]
            )
            return orjson.dumps(head)[:-1] + outputs + b"}"
        finally:
            release(response.outputs)


def _value(tensor: Output, null: bool) -> bytes:
    if type(tensor) is JsonOutput:
        text = bytes(view_of(tensor.data))
        return text[1:-1] if math.prod(tensor.shape) == 1 else text
    array = with_plain_data(tensor).array()
    return encode_json(array.reshape(()) if array.size == 1 else array.reshape(-1), null=null)


class GenerateAnswer(V2Answer, eq=False):
    """The one response of a model, as JSON."""

    _written: _Written
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
            body = self._written.document(outcome)
        elif outcome.outputs:
            self._refuse_more(outcome)
            return
        self._responses.send_body(self._exchange, body, JSON, request_id=self._id)

    def _send_piece(self, outcome: InferenceResponse) -> None:
        if self._only is None:
            self._only = self._written.document(outcome)
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

    _written: _Written

    def _send_whole(self, outcome: InferenceResponse) -> None:
        self._begin(200)
        self._exchange.finish(_event(self._written.document(outcome)) if outcome.outputs else b"")

    def _send_piece(self, outcome: InferenceResponse) -> None:
        self._begin(200)
        if outcome.outputs:
            self._exchange.send(_event(self._written.document(outcome)))
        if outcome.final:
            self._exchange.finish()

    def _send_refusal(self, error: MooringError) -> None:
        if not self._started and not isinstance(error, ModelFailed):
            super()._send_refusal(error)  # before the model ran: an answer like any other
            return
        self._mark_over()
        refusal = self._refusal_for(error)
        self._begin(refusal.status)
        self._exchange.finish(_event(orjson.dumps({"error": refusal.message})))

    def _begin(self, status: int) -> None:
        if not self._started:
            self._started = True
            self._responses.counter.count(status)
            self._exchange.start(status, self._responses.build_head(self._id, _EVENTS))


def _event(document: bytes) -> bytes:
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
        """Everything mounted."""
        return [
            Endpoint(f"{MODEL}/generate", self.generate, Access.INFERENCE, calls.GENERATE, methods=WRITING),
            Endpoint(
                f"{VERSION}/generate",
                self.generate,
                Access.INFERENCE,
                calls.GENERATE_VERSION,
                methods=WRITING,
            ),
            Endpoint(
                f"{MODEL}/generate_stream",
                self.stream,
                Access.INFERENCE,
                calls.GENERATE_STREAM,
                methods=WRITING,
            ),
            Endpoint(
                f"{VERSION}/generate_stream",
                self.stream,
                Access.INFERENCE,
                calls.GENERATE_STREAM_VERSION,
                methods=WRITING,
            ),
        ]

    def generate(self, exchange: Exchange, match: Match) -> None:
        """One response."""
        self._ask(exchange, target_of(match), GenerateAnswer)

    def stream(self, exchange: Exchange, match: Match) -> None:
        """Any number of responses, each when it is there."""
        self._ask(exchange, target_of(match), StreamAnswer)

    def _ask(
        self, exchange: Exchange, asked: Target, kind: type[GenerateAnswer] | type[StreamAnswer]
    ) -> None:
        def taken(body: Payload) -> None:
            request_id = self._responses.read_request_id(exchange)
            null = self._responses.writes_null(exchange)
            written = _Written(request_id, asked, self._dialect, null=null)
            if len(body) > LARGE:
                request = self._unread(exchange, asked, body)
            else:
                request = self._request(exchange, asked, body, written)
            request.id = request.id or request_id
            request.null_for_nan = null
            answer = kind(self._responses, exchange, request_id, asked, self._dialect, written)
            exchange.on_abandoned = self._service.submit(request, answer.done).cancel

        self._bodies.take(exchange, taken, lambda error: self._send_refusal(exchange, error, asked))

    def _send_refusal(self, exchange: Exchange, error: MooringError, asked: Target) -> None:
        error = prefer_not_found(self._service, error, asked)
        self._responses.send_refusal(
            exchange, self._dialect.override_refusal(error, asked) or kserve_v2(error, asked)
        )

    def _unread(self, exchange: Exchange, asked: Target, body: Payload) -> InferenceRequest:
        """A request whose body is for a worker to read. What it says of time and priority comes too late then."""
        try:
            specs = self._service.metadata(*asked).inputs
            deadline = read_deadline(exchange)
        except MooringError:
            _give_back(body)
            raise
        return InferenceRequest(
            asked.model,
            asked.version,
            "",
            [],
            deadline=deadline,
            headers=exchange.headers,
            body=UndecodedBody(BodyKind.GENERATE, body, declared=list(specs)),
        )

    def _request(
        self, exchange: Exchange, asked: Target, body: Payload, written: _Written
    ) -> InferenceRequest:
        try:
            found = decode_generate(body, lambda: self._service.metadata(*asked).inputs)
        finally:
            _give_back(body)
        written.read(found)
        try:
            plan = read_schedule(found.parameters, read_deadline(exchange))
        except InvalidInput:
            release(found.inputs)
            raise
        return InferenceRequest(
            asked.model,
            asked.version,
            found.id,
            found.inputs,
            parameters=plan.parameters,
            outputs=found.outputs,
            deadline=plan.deadline,
            headers=exchange.headers,
            priority=plan.priority,
            json_writer=SERVER,
        )


def _give_back(body: Payload) -> None:
    if isinstance(body, Buffer):
        body.release()

"""KServe's v1 protocol: instances in, predictions or explanations out, whichever model is behind it.

The content type of a request is ignored: KServe's own examples send JSON as curl's default, a form.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from mooring.codecs.instances import split_instances
from mooring.codecs.packed import join_predictions
from mooring.core.buffers import LARGE, Payload
from mooring.core.errors import InvalidInput, ModelNotReady, MooringError, Unsupported
from mooring.core.requests import (
    INSTANCES,
    BodyKind,
    InferenceRequest,
    InferenceResponse,
    Operation,
    ResponseHead,
    UndecodedBody,
)
from mooring.core.service import InferenceService
from mooring.core.tensors import Tensor, release
from mooring.protocols.answers import Answer
from mooring.protocols.endpoints import Body, CallForm, Endpoint
from mooring.protocols.endpoints import Operation as Call
from mooring.protocols.kserve import cloudevents
from mooring.protocols.missing_model import prefer_not_found
from mooring.protocols.openapi import MODEL_ERRORS, TEXT, object_schema
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.scheduling import TIMEOUT_HEADER, read_deadline
from mooring.protocols.status import Refusal, Target, kserve_v1
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})
_KEYS = {Operation.INFER: b'{"predictions":[', Operation.EXPLAIN: b'{"explanations":['}


def _decode_small(body: Payload) -> tuple[list[Tensor], UndecodedBody | None]:
    """Decode the inputs of a small body; a large one is returned undecoded, for a worker. Raises ``InvalidInput``."""
    if len(body) > LARGE:
        # Half a millisecond of JSON here would be half a millisecond for every client.
        return [], UndecodedBody(BodyKind.V1, body)
    instances = split_instances(bytes(body))
    return [Tensor("instances", "BYTES", [len(instances)], instances)], None


class _InstancesAnswer(Answer, eq=False):
    """A v1 answer: the elements that came back, in a list under the operation's key; an event answers an event."""

    _key: bytes
    _event: bool

    def _send_whole(self, outcome: InferenceResponse) -> None:
        elements = outcome.outputs[0].data if outcome.outputs else []
        if len(elements) == 1 and type(elements[0]) is bytes:
            body = self._key + elements[0] + b"]}"
        elif elements:
            body = self._key + join_predictions(outcome.tensors[0]) + b"]}"
            release(outcome.outputs)
        else:
            body = self._key + b"]}"
        head = outcome.head
        if head is None and not self._event:
            self._responses.send_answer(self._exchange, self._id, JSON, body)
            return
        content_type = JSON
        event = b""
        if self._event:
            if cloudevents.is_structured(self._exchange):
                content_type = cloudevents.CONTENT_TYPE
                body = cloudevents.wrap(body, self._target.model, self._id)
            else:
                event = cloudevents.answer_lines(self._target.model, self._id)
        status, lines, reason = self._build_head(
            msgspec.structs.replace(head or ResponseHead(), content_type=content_type)
        )
        lines += event
        self._responses.counter.count(status)
        self._exchange.respond(status, body, lines, reason=reason)

    def _send_piece(self, outcome: InferenceResponse) -> None:
        # One JSON object cannot be right before its last element is: no client of v1 reads it in pieces.
        release(outcome.outputs)
        self._cancel_request()
        self._send_refusal(
            Unsupported(f"model '{self._target.model}' streams its answer, which v1 has no form for")
        )

    def _refusal_for(self, error: MooringError) -> Refusal:
        return kserve_v1(error, self._target, self._responses.faults)


class KServeV1:
    """The endpoints under ``/v1``."""

    def __init__(self, service: InferenceService, responses: Responses) -> None:
        self._service = service
        self._responses = responses

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints of the inference port. As in TorchServe, a verb may come with any method."""
        return [
            Endpoint("/v1/models", self.models, Access.INFERENCE, _MODELS, methods=_READING),
            *self.readiness(),
            Endpoint(
                "/v1/models/{model_name}:predict",
                self.predict,
                Access.INFERENCE,
                _PREDICT,
                prepare=self.prepare_prediction,
                infers=True,
            ),
            Endpoint(
                "/v1/models/{model_name}:explain", self.explain, Access.INFERENCE, _EXPLAIN, infers=True
            ),
        ]

    def readiness(self) -> list[Endpoint]:
        """Return the endpoint of readiness, which TorchServe has on the management port too."""
        return [Endpoint("/v1/models/{model_name}", self.ready, Access.OPEN, _READY, methods=_READING)]

    def models(self, exchange: Exchange, match: Match) -> None:
        """List the names of the models that are ready."""
        names = sorted(
            {
                state.name
                for state in self._service.models()
                if state.ready and state.is_default and state.listed
            }
        )
        self._responses.send_json(exchange, {"models": names})

    def ready(self, exchange: Exchange, match: Match) -> None:
        """Answer whether a model is ready."""
        target = Target(match.params["model_name"])
        try:
            self._require_ready(target)
        except MooringError as error:
            self._responses.send_refusal(exchange, kserve_v1(error, target))
        else:
            self._responses.send_json(exchange, {"name": target.model, "ready": True})

    def predict(self, exchange: Exchange, match: Match) -> None:
        """Answer with a prediction for every instance."""
        self._submit(exchange, Target(match.params["model_name"]), Operation.INFER)

    def prepare_prediction(self, exchange: Exchange, match: Match) -> Callable[[Exchange], None] | None:
        """Return the fast path for small bodies of instances; None for an event, a deadline or a large body."""
        fields = exchange.fields
        if (
            TIMEOUT_HEADER in fields
            or cloudevents.is_event(exchange)
            or int(fields[b"content-length"]) > LARGE
        ):
            return None
        target = Target(match.params["model_name"])
        model, key = target.model, _KEYS[Operation.INFER]
        responses, new_id, submit = (
            self._responses,
            self._responses.request_id_source(exchange),
            self._service.submit,
        )

        def predict(exchange: Exchange) -> None:
            try:
                instances = split_instances(bytes(exchange.body))
            except InvalidInput:
                instances = []
            if not instances:
                self.predict(exchange, match)
                return
            request_id = new_id()
            tensor = Tensor("instances", "BYTES", [len(instances)], instances)
            request = InferenceRequest(
                model, "", request_id, [tensor], form=INSTANCES, headers=exchange.headers
            )
            answer = _InstancesAnswer(responses, exchange, request_id, target, key, False)
            exchange.on_abandoned = submit(request, answer.done).cancel

        return predict

    def explain(self, exchange: Exchange, match: Match) -> None:
        """Answer with an explanation for every instance."""
        self._submit(exchange, Target(match.params["model_name"]), Operation.EXPLAIN)

    def _require_ready(self, target: Target) -> None:
        if not self._service.ready(target.model):
            raise ModelNotReady(model=target.model)

    def _submit(self, exchange: Exchange, target: Target, operation: Operation) -> None:
        responses = self._responses
        request_id = responses.read_request_id(exchange)
        try:
            deadline = read_deadline(exchange)
            cloudevents.refuse_batch(exchange)
            event = cloudevents.is_event(exchange)
            inputs, body = _decode_small(cloudevents.data_of(exchange) if event else exchange.take_body())
            answer = _InstancesAnswer(responses, exchange, request_id, target, _KEYS[operation], event)
            if body is None and inputs[0].shape == [0]:
                # No instances have no predictions: the model need not be called, but it has to be there.
                self._require_ready(target)
                answer.done(InferenceResponse([]))
                return
        except MooringError as error:
            refusal = kserve_v1(prefer_not_found(self._service, error, target), target)
            responses.send_refusal(exchange, refusal, request_id=request_id)
            return
        request = InferenceRequest(
            target.model,
            "",
            request_id,
            inputs,
            form=INSTANCES,
            operation=operation,
            deadline=deadline,
            headers=exchange.headers,
            body=body,
            timing=exchange.timing,
        )
        exchange.on_abandoned = self._service.submit(request, answer.done).cancel


def _describe_call(id_: str, description: str, key: str, form: CallForm | None = None) -> Call:
    anything: dict[str, Any] = {}
    return Call(
        id=id_,
        method="POST",
        description=description,
        body=Body(
            JSON,
            object_schema(instances={"type": "array", "items": anything}, inputs=anything),
            "The instances; or the same as inputs, as a list or in columns",
        ),
        answer=Body(
            JSON, object_schema((key,), **{key: {"type": "array", "items": anything}}), f"The {key}, in order"
        ),
        errors=(*MODEL_ERRORS, 501),
        form=form,
    )


_PREDICT = _describe_call("v1Predict", "Predict every instance of a list", "predictions", CallForm.INSTANCES)
_EXPLAIN = _describe_call("v1Explain", "Explain the prediction of every instance of a list", "explanations")
_MODELS = Call(
    id="v1Models",
    method="GET",
    description="The models that are ready",
    answer=Body(JSON, object_schema(("models",), models={"type": "array", "items": TEXT}), "Their names"),
)
_READY = Call(
    id="v1Ready",
    method="GET",
    description="Whether a model is ready",
    answer=Body(JSON, object_schema(("name", "ready"), name=TEXT, ready={"type": "boolean"}), "It is"),
    errors=(404, 500, 503),
)

"""TorchServe's inference API: which URL asks which model, and how a body becomes the rows its handler reads.

No method is checked but on ``/``: ``curl -T`` sends PUT, and whatever else is sent is a prediction too.
"""

from collections.abc import Callable

from mooring.core.buffers import LARGE
from mooring.core.errors import InvalidInput, ModelNotFound
from mooring.core.requests import BODY, INFER, InferenceRequest, Operation
from mooring.core.service import InferenceService
from mooring.core.tensors import Tensor, release
from mooring.protocols.answers import Answer
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.missing_model import prefer_not_found
from mooring.protocols.openapi import Description
from mooring.protocols.responses import JSON, Responses, pretty
from mooring.protocols.scheduling import TIMEOUT_HEADER, read_deadline
from mooring.protocols.status import NOT_FOUND, Target, torchserve
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.forms import (
    Inputs,
    is_form,
    merged,
    parameters_of,
    query_fields,
    text_field,
)
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_HEALTHY = pretty({"status": "Healthy", "health": "healthy!"})
_UNHEALTHY = pretty({"status": "Unhealthy", "health": "unhealthy"})
_ALIVE = b'{"status":"alive"}'


class TorchServeInference:
    """The endpoints of the inference port. ``description`` tells of a model when it is asked with OPTIONS."""

    def __init__(self, service: InferenceService, responses: Responses, description: Description) -> None:
        self._service = service
        self._responses = responses
        self._description = description
        self._inputs = Inputs().of

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted."""
        return [
            Endpoint("/", self.alive, Access.OPEN, calls.ALIVE, methods=frozenset({"GET", "HEAD"})),
            Endpoint("/ping", self.ping, Access.OPEN, calls.PING),
            Endpoint("/ping/{rest*}", self.ping, Access.OPEN),
            Endpoint(
                "/predictions/{model_name}",
                self.predict,
                Access.INFERENCE,
                calls.PREDICT,
                prepare=self.prepare_prediction,
            ),
            Endpoint(
                "/predictions/{model_name}/{model_version}",
                self.predict,
                Access.INFERENCE,
                calls.PREDICT_VERSION,
                prepare=self.prepare_prediction,
            ),
            Endpoint("/predictions/{model_name}/{model_version}/{rest*}", self.predict, Access.INFERENCE),
            Endpoint("/explanations/{model_name}", self.explain, Access.INFERENCE, calls.EXPLAIN),
            Endpoint(
                "/explanations/{model_name}/{model_version}",
                self.explain,
                Access.INFERENCE,
                calls.EXPLAIN_VERSION,
            ),
            Endpoint("/explanations/{model_name}/{model_version}/{rest*}", self.explain, Access.INFERENCE),
            Endpoint("/invocations", self.invoke, Access.INFERENCE, calls.INVOKE),
            Endpoint(
                "/models/{model_name}/invoke", self.predict_with_query, Access.INFERENCE, calls.INVOKE_MODEL
            ),
            # TorchServe has a route here that finds nothing, and the legacy ones must not take it.
            Endpoint("/predictions", self.not_found, Access.INFERENCE),
            Endpoint("/explanations", self.not_found, Access.INFERENCE),
            Endpoint("/predictions/{rest*}", self.predict_oddly, Access.INFERENCE),
            Endpoint("/explanations/{rest*}", self.explain_oddly, Access.INFERENCE),
            Endpoint("/{model_name}/predict", self.predict_with_query, Access.INFERENCE, calls.LEGACY),
            Endpoint(
                "/{model_name}/{model_version}/predict",
                self.predict_with_query,
                Access.INFERENCE,
                calls.LEGACY_VERSION,
            ),
        ]

    def alive(self, exchange: Exchange, match: Match) -> None:
        """KServe's liveness, on the path where TorchServe only knows OPTIONS."""
        self._responses.send_body(exchange, _ALIVE, JSON)

    def ping(self, exchange: Exchange, match: Match) -> None:
        """Whether every default version has its workers."""
        responses = self._responses
        status, body = (200, _HEALTHY) if self._service.healthy() else (500, _UNHEALTHY)
        responses.counter.count(status)
        exchange.respond(status, body, responses.build_head(responses.read_request_id(exchange), JSON))

    def not_found(self, exchange: Exchange, match: Match) -> None:
        """A collection without a model's name."""
        self._responses.send_refusal(exchange, NOT_FOUND)

    def predict(self, exchange: Exchange, match: Match) -> None:
        """A prediction; OPTIONS tells of the model instead."""
        self._ask(exchange, match, INFER)

    def prepare_prediction(self, exchange: Exchange, match: Match) -> Callable[[Exchange], None] | None:
        """The way of a small plain body that may take its time; forms and times are for each request to look at."""
        content_type = exchange.header(b"content-type")
        if (
            TIMEOUT_HEADER in exchange.fields
            or int(exchange.fields[b"content-length"]) > LARGE
            or (content_type is not None and is_form(content_type))
        ):
            return None
        params = match.params
        asked = Target(params["model_name"], params.get("model_version", ""))
        model, version = asked.model, asked.version
        parameters = parameters_of(content_type)
        responses, new_id, submit = (
            self._responses,
            self._responses.request_id_source(exchange),
            self._service.submit,
        )

        def predict(exchange: Exchange) -> None:
            request_id = new_id()
            body = Tensor("body", "BYTES", [1], [exchange.body], parameters)
            request = InferenceRequest(
                model, version, request_id, [body], form=BODY, headers=exchange.headers
            )
            answer = Answer(responses, exchange, request_id, asked)
            exchange.on_abandoned = submit(request, answer.done).cancel

        return predict

    def explain(self, exchange: Exchange, match: Match) -> None:
        """An explanation; OPTIONS tells of the model instead."""
        self._ask(exchange, match, Operation.EXPLAIN)

    def predict_oddly(self, exchange: Exchange, match: Match) -> None:
        """A prediction whose path has empty segments."""
        self._ask_oddly(exchange, match, Operation.INFER)

    def explain_oddly(self, exchange: Exchange, match: Match) -> None:
        """An explanation whose path has empty segments."""
        self._ask_oddly(exchange, match, Operation.EXPLAIN)

    def predict_with_query(self, exchange: Exchange, match: Match) -> None:
        """A prediction whose query parameters are fields too, before those of the body (the older routes only)."""
        params = match.params
        asked = Target(params["model_name"], params.get("model_version", ""))
        inputs = merged(query_fields(match.query), self._inputs_for(exchange, asked))
        self._submit(exchange, asked, inputs, Operation.INFER, "")

    def invoke(self, exchange: Exchange, match: Match) -> None:
        """SageMaker's route: the query names the model; else it is the only one; else a field of the body names it."""
        query = query_fields(match.query)
        inputs = merged(query, self._inputs(exchange))
        name = text_field(query, "model_name") or self._only_model() or text_field(inputs, "model_name")
        if not name:
            release(inputs)
            raise InvalidInput("Parameter model_name is required.")
        self._submit(exchange, Target(name), inputs, Operation.INFER, "")

    def _only_model(self) -> str:
        names = {state.name for state in self._service.models() if state.listed}
        return names.pop() if len(names) == 1 else ""

    def _ask(self, exchange: Exchange, match: Match, operation: Operation) -> None:
        params = match.params
        asked = Target(params["model_name"], params.get("model_version", ""))
        if exchange.method == "OPTIONS":
            self._describe_model(exchange, asked)
            return
        self._submit(exchange, asked, self._inputs_for(exchange, asked), operation, params.get("rest", ""))

    def _ask_oddly(self, exchange: Exchange, match: Match, operation: Operation) -> None:
        # Slashes at the end do not count in TorchServe, however many; elsewhere an empty segment is an empty name.
        model, version, path = [*match.params["rest"].rstrip("/").split("/", 2), "", ""][:3]
        asked = Target(model, version)
        self._submit(exchange, asked, self._inputs_for(exchange, asked), operation, path)

    def _inputs_for(self, exchange: Exchange, asked: Target) -> list[Tensor]:
        """The inputs in a body. Raises ``InvalidInput``, or ``ModelNotFound`` where there is no such model either."""
        try:
            return self._inputs(exchange)
        except InvalidInput as error:
            raise prefer_not_found(self._service, error, asked) from None

    def _submit(
        self, exchange: Exchange, asked: Target, inputs: list[Tensor], operation: Operation, path: str
    ) -> None:
        responses = self._responses
        request_id = responses.read_request_id(exchange)
        try:
            deadline = read_deadline(exchange)
        except InvalidInput as error:
            release(inputs)
            raise prefer_not_found(self._service, error, asked) from None
        request = InferenceRequest(
            asked.model,
            asked.version,
            request_id,
            inputs,
            form=BODY,
            operation=operation,
            deadline=deadline,
            headers=exchange.headers,
            path=path,
        )
        answer = Answer(responses, exchange, request_id, asked)
        exchange.on_abandoned = self._service.submit(request, answer.done).cancel

    def _describe_model(self, exchange: Exchange, asked: Target) -> None:
        try:
            self._service.ready(asked.model, asked.version)  # whether or not it is ready: it can be described
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve(error, asked))
        else:
            self._responses.send_body(exchange, self._description.of_model(asked.model), JSON)

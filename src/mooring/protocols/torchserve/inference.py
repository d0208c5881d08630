"""TorchServe's inference API: from URLs and bodies to requests for a model, in the form that handlers read.

Only ``/`` checks the method: ``curl -T`` sends PUT, and TorchServe takes every other method for a prediction, too.
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
from mooring.protocols.openapi import ApiDescription, loaded_metadata
from mooring.protocols.responses import JSON, Responses, to_pretty_json
from mooring.protocols.scheduling import TIMEOUT_HEADER, read_deadline
from mooring.protocols.status import NOT_FOUND, Target, torchserve
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.forms import (
    InputReader,
    body_parameters,
    is_form,
    merge_fields,
    query_fields,
    text_field,
)
from mooring.tokens import Access
from mooring.web.http1 import Exchange, header_lines
from mooring.web.routing import Match

_HEALTHY = {"status": "Healthy", "health": "healthy!"}
_UNHEALTHY = {"status": "Unhealthy", "health": "unhealthy"}
_ALIVE = b'{"status":"alive"}'


class TorchServeInference:
    """The endpoints of the inference port. ``description`` has the OpenAPI documents that OPTIONS asks for.

    ``ping_format`` is the setting of that name. ``console`` is the path to which browsers are sent that ask for ``/``, empty
    where there is none.
    """

    def __init__(
        self,
        service: InferenceService,
        responses: Responses,
        description: ApiDescription,
        *,
        ping_format: str = "both",
        console: str = "",
    ) -> None:
        self._console = console
        self._service = service
        self._responses = responses
        self._description = description
        self._read_inputs = InputReader().read_inputs
        self._pings = {
            healthy: to_pretty_json({"status": body["status"]} if ping_format == "status" else body)
            for healthy, body in ((True, _HEALTHY), (False, _UNHEALTHY))
        }

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints; those with more literal segments come before the legacy routes."""
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
                infers=True,
            ),
            Endpoint(
                "/predictions/{model_name}/{model_version}",
                self.predict,
                Access.INFERENCE,
                calls.PREDICT_VERSION,
                prepare=self.prepare_prediction,
                infers=True,
            ),
            Endpoint(
                "/predictions/{model_name}/{model_version}/{rest*}",
                self.predict,
                Access.INFERENCE,
                infers=True,
            ),
            Endpoint(
                "/explanations/{model_name}", self.explain, Access.INFERENCE, calls.EXPLAIN, infers=True
            ),
            Endpoint(
                "/explanations/{model_name}/{model_version}",
                self.explain,
                Access.INFERENCE,
                calls.EXPLAIN_VERSION,
                infers=True,
            ),
            Endpoint(
                "/explanations/{model_name}/{model_version}/{rest*}",
                self.explain,
                Access.INFERENCE,
                infers=True,
            ),
            Endpoint("/invocations", self.invoke, Access.INFERENCE, calls.INVOKE, infers=True),
            Endpoint(
                "/models/{model_name}/invoke",
                self.predict_with_query,
                Access.INFERENCE,
                calls.INVOKE_MODEL,
                infers=True,
            ),
            # TorchServe answers 404 here; without these two the legacy routes would match.
            Endpoint("/predictions", self.not_found, Access.INFERENCE),
            Endpoint("/explanations", self.not_found, Access.INFERENCE),
            Endpoint("/predictions/{rest*}", self.predict_odd_path, Access.INFERENCE, infers=True),
            Endpoint("/explanations/{rest*}", self.explain_odd_path, Access.INFERENCE, infers=True),
            Endpoint(
                "/{model_name}/predict", self.predict_with_query, Access.INFERENCE, calls.LEGACY, infers=True
            ),
            Endpoint(
                "/{model_name}/{model_version}/predict",
                self.predict_with_query,
                Access.INFERENCE,
                calls.LEGACY_VERSION,
                infers=True,
            ),
        ]

    def alive(self, exchange: Exchange, match: Match) -> None:
        """Answer KServe's liveness probe, on the path where TorchServe only knows OPTIONS; send browsers to the console."""
        responses = self._responses
        if self._console and b"text/html" in exchange.fields.get(b"accept", b""):
            responses.counter.count(302)
            location = header_lines([("location", self._console), ("vary", "Accept")])
            exchange.respond(302, b"", responses.build_head(responses.read_request_id(exchange)) + location)
        else:
            responses.send_body(exchange, _ALIVE, JSON)

    def ping(self, exchange: Exchange, match: Match) -> None:
        """Answer 200 if every default version has all its workers, else 500."""
        responses = self._responses
        healthy = self._service.healthy()
        status = 200 if healthy else 500
        responses.counter.count(status)
        exchange.respond(
            status, self._pings[healthy], responses.build_head(responses.read_request_id(exchange), JSON)
        )

    def not_found(self, exchange: Exchange, match: Match) -> None:
        """Answer 404: the path names no model."""
        self._responses.send_refusal(exchange, NOT_FOUND)

    def predict(self, exchange: Exchange, match: Match) -> None:
        """Answer with a prediction; with OPTIONS, with the OpenAPI document of the model."""
        self._answer_call(exchange, match, INFER)

    def prepare_prediction(self, exchange: Exchange, match: Match) -> Callable[[Exchange], None] | None:
        """Return the handler of further requests with this head: for plain bodies up to LARGE without a deadline.

        Forms, large bodies and deadlines go through ``predict``, because their requests differ from each other.
        """
        content_type = exchange.header(b"content-type")
        if (
            TIMEOUT_HEADER in exchange.fields
            or int(exchange.fields[b"content-length"]) > LARGE
            or (content_type is not None and is_form(content_type))
        ):
            return None
        params = match.params
        target = Target(params["model_name"], params.get("model_version", ""))
        model, version = target.model, target.version
        parameters = body_parameters(content_type)
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
            answer = Answer(responses, exchange, request_id, target)
            exchange.on_abandoned = submit(request, answer.done).cancel

        return predict

    def explain(self, exchange: Exchange, match: Match) -> None:
        """Answer with an explanation; with OPTIONS, with the OpenAPI document of the model."""
        self._answer_call(exchange, match, Operation.EXPLAIN)

    def predict_odd_path(self, exchange: Exchange, match: Match) -> None:
        """Answer with a prediction where the path has empty segments."""
        self._answer_odd_path(exchange, match, Operation.INFER)

    def explain_odd_path(self, exchange: Exchange, match: Match) -> None:
        """Answer with an explanation where the path has empty segments."""
        self._answer_odd_path(exchange, match, Operation.EXPLAIN)

    def predict_with_query(self, exchange: Exchange, match: Match) -> None:
        """Answer with a prediction whose query parameters are fields, too, before the body's (legacy routes only)."""
        params = match.params
        target = Target(params["model_name"], params.get("model_version", ""))
        inputs = merge_fields(query_fields(match.query), self._inputs_for(exchange, target))
        self._submit_request(exchange, target, inputs, Operation.INFER, "")

    def invoke(self, exchange: Exchange, match: Match) -> None:
        """Answer SageMaker's route. The model is named by the query, else it is the only one, else a field names it."""
        query = query_fields(match.query)
        inputs = merge_fields(query, self._read_inputs(exchange))
        name = text_field(query, "model_name") or self._only_model() or text_field(inputs, "model_name")
        if not name:
            release(inputs)
            raise InvalidInput("Parameter model_name is required.")
        self._submit_request(exchange, Target(name), inputs, Operation.INFER, "")

    def _only_model(self) -> str:
        names = {state.name for state in self._service.models() if state.listed}
        return names.pop() if len(names) == 1 else ""

    def _answer_call(self, exchange: Exchange, match: Match, operation: Operation) -> None:
        params = match.params
        target = Target(params["model_name"], params.get("model_version", ""))
        if exchange.method == "OPTIONS":
            self._describe_model(exchange, target)
            return
        self._submit_request(
            exchange, target, self._inputs_for(exchange, target), operation, params.get("rest", "")
        )

    def _answer_odd_path(self, exchange: Exchange, match: Match, operation: Operation) -> None:
        # TorchServe ignores slashes at the end, however many; elsewhere an empty segment is an empty name.
        model, version, path = [*match.params["rest"].rstrip("/").split("/", 2), "", ""][:3]
        target = Target(model, version)
        self._submit_request(exchange, target, self._inputs_for(exchange, target), operation, path)

    def _inputs_for(self, exchange: Exchange, target: Target) -> list[Tensor]:
        """Return the inputs in a body. Raises ``InvalidInput``, or ``ModelNotFound`` if the model does not exist, too."""
        try:
            return self._read_inputs(exchange)
        except InvalidInput as error:
            raise prefer_not_found(self._service, error, target) from None

    def _submit_request(
        self, exchange: Exchange, target: Target, inputs: list[Tensor], operation: Operation, path: str
    ) -> None:
        responses = self._responses
        request_id = responses.read_request_id(exchange)
        try:
            deadline = read_deadline(exchange)
        except InvalidInput as error:
            release(inputs)
            raise prefer_not_found(self._service, error, target) from None
        request = InferenceRequest(
            target.model,
            target.version,
            request_id,
            inputs,
            form=BODY,
            operation=operation,
            deadline=deadline,
            headers=exchange.headers,
            path=path,
            timing=exchange.timing,
        )
        answer = Answer(responses, exchange, request_id, target)
        exchange.on_abandoned = self._service.submit(request, answer.done).cancel

    def _describe_model(self, exchange: Exchange, target: Target) -> None:
        try:
            self._service.ready(
                target.model, target.version
            )  # for its ModelNotFound: a model that is not ready is described, too
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve(error, target))
        else:
            metadata = loaded_metadata(self._service, target.model, target.version)
            self._responses.send_body(
                exchange, self._description.model_document(target.model, metadata), JSON
            )

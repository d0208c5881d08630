"""TorchServe's management API: which models there are, how they do, and changing that."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelNotFound, MooringError, Unsupported
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation
from mooring.core.service import (
    InferenceService,
    ModelAdministration,
    ModelDescription,
    Outcome,
    Scaled,
    SequenceDescription,
    WorkerDescription,
)
from mooring.core.tensors import Tensor, release
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.answers import payload_of
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.openapi import Description
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.status import (
    NOT_ALLOWED,
    Target,
    torchserve,
    torchserve_default,
    torchserve_registration,
)
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.paging import page, window
from mooring.protocols.torchserve.registration import (
    MOST_WORKERS,
    number,
    registration_of,
    switch,
    texts_of,
)
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})
_ASKING = frozenset({"OPTIONS"})
_ADDING = frozenset({"POST"})
_SCALING = frozenset({"PUT"})
_REMOVING = frozenset({"DELETE"})
PROCESSING = "Processing worker updates..."
SCALING = "Workers scaling in progress..."
# TorchServe's workers are READY while they work, too.
_WORKER_STATES = {"STARTING": "LOADING", "BUSY": "READY", "ENDED": "UNLOADING"}


class TorchServeManagement:
    """The endpoints of the management port. ``model_api`` False refuses to register and unregister models."""

    def __init__(
        self,
        service: InferenceService,
        administration: ModelAdministration,
        responses: Responses,
        description: Description,
        *,
        model_api: bool = True,
    ) -> None:
        self._service = service
        self._administration = administration
        self._responses = responses
        self._description = description
        self._model_api = model_api
        self._answer_tasks = AnswerTasks(responses)

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted; other methods on these paths are not allowed."""
        endpoints = [
            Endpoint("/models", self.list, Access.MANAGEMENT, calls.LIST_MODELS, methods=_READING),
            Endpoint(
                "/models",
                self.register,
                Access.MANAGEMENT,
                calls.REGISTER_MODEL,
                methods=_ADDING,
                changes=True,
            ),
        ]
        for path, described, scaled, removed in (
            ("/models/{model_name}", calls.DESCRIBE_MODEL, calls.SCALE_MODEL, calls.UNREGISTER_MODEL),
            (
                "/models/{model_name}/{model_version}",
                calls.DESCRIBE_VERSION,
                calls.SCALE_VERSION,
                calls.UNREGISTER_VERSION,
            ),
        ):
            endpoints += [
                Endpoint(path, self.describe, Access.MANAGEMENT, described, methods=_READING),
                Endpoint(path, self.describe_calls, Access.MANAGEMENT, methods=_ASKING),
                Endpoint(path, self.scale, Access.MANAGEMENT, scaled, methods=_SCALING, changes=True),
                Endpoint(path, self.unregister, Access.MANAGEMENT, removed, methods=_REMOVING, changes=True),
            ]
        path = "/models/{model_name}/{model_version}/set-default"
        return [
            *endpoints,
            Endpoint(
                path, self.set_default, Access.MANAGEMENT, calls.SET_DEFAULT, methods=_SCALING, changes=True
            ),
            Endpoint(path, self.describe, Access.MANAGEMENT, methods=_READING),  # as TorchServe has it
        ]

    def list(self, exchange: Exchange, match: Match) -> None:
        """A page of the models, by name."""
        models = page_of(self._service, self._administration, *window(match.query))
        self._responses.send_json(exchange, models)

    def describe(self, exchange: Exchange, match: Match) -> None:
        """One version of a model, or with the version "all" every one."""
        asked = _read_target(match)
        try:
            versions = self._administration.describe(asked.model, asked.version)
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve(error, asked))
            return
        if switch(texts_of(match.query), "customized", default=False) and asked.version != "all":
            self._describe_by_handler(exchange, asked, versions[0])
        else:
            self._responses.send_json(exchange, [described(version) for version in versions])

    def _describe_by_handler(self, exchange: Exchange, asked: Target, version: ModelDescription) -> None:
        """With what the model's own ``describe_handle`` says."""
        request_id = self._responses.read_request_id(exchange)

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, InferenceResponse):
                text = bytes(view_of(payload_of(outcome)))
                release(outcome.outputs)
                if not outcome.final:
                    return
            elif isinstance(outcome, Unsupported):
                text = b""  # it has no handler that could say anything
            else:
                self._responses.send_refusal(exchange, torchserve(outcome, asked), request_id=request_id)
                return
            document = described(version, object_in(text))
            self._responses.send_json(exchange, [document], request_id=request_id)

        request = InferenceRequest(
            version.name,
            version.version,
            request_id,
            [Tensor("body", "BYTES", [1], [b""])],
            form=Form.BODY,
            operation=Operation.DESCRIBE,
        )
        exchange.on_abandoned = self._service.submit(request, done).cancel

    def register(self, exchange: Exchange, match: Match) -> None:
        """Add a model from the store or from where one may fetch it."""
        if not self._model_api:
            self._responses.send_refusal(exchange, NOT_ALLOWED)
            return
        registration, wait = registration_of(exchange, match.query)

        async def register() -> None:
            scaled = await self._administration.register(registration, wait=wait)
            if wait or not scaled.workers:
                self._say(exchange, registered(scaled))
            else:
                self._say(exchange, PROCESSING, 202)

        self._answer_tasks.start(
            exchange,
            register(),
            lambda error: self._responses.send_refusal(
                exchange, torchserve_registration(error, registration.url)
            ),
        )

    def scale(self, exchange: Exchange, match: Match) -> None:
        """Change how many workers a version has."""
        asked, query = _read_target(match), texts_of(match.query)
        least, most = workers_of(query)
        wait = switch(query, "synchronous", default=False)

        async def scale() -> None:
            scaled = await self._administration.scale(*asked, least=least, most=most, wait=wait)
            if not wait:
                self._say(exchange, PROCESSING, 202)
            elif scaled.done:
                self._say(exchange, scaled_to(scaled, asked))
            else:
                self._say(exchange, SCALING, 206)

        self._answer_tasks.start(exchange, scale(), self._refuses(exchange, asked))

    def unregister(self, exchange: Exchange, match: Match) -> None:
        """Take a version away; answered when its last request is."""
        if not self._model_api:
            self._responses.send_refusal(exchange, NOT_ALLOWED)
            return
        asked = _read_target(match)

        async def unregister() -> None:
            await self._administration.unregister(*asked)
            self._say(exchange, unregistered(asked))

        self._answer_tasks.start(exchange, unregister(), self._refuses(exchange, asked))

    def set_default(self, exchange: Exchange, match: Match) -> None:
        """Let a version answer who names none."""
        asked = _read_target(match)
        try:
            self._administration.set_default(*asked)
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve_default(error, asked))
        else:
            self._say(exchange, made_default(asked))

    def _say(self, exchange: Exchange, status: str, code: int = 200) -> None:
        self._responses.send_json(exchange, {"status": status}, status=code)

    def _refuses(self, exchange: Exchange, asked: Target) -> Callable[[MooringError], None]:
        return lambda error: self._responses.send_refusal(exchange, torchserve(error, asked))

    def describe_calls(self, exchange: Exchange, match: Match) -> None:
        """The OpenAPI document of a model that is there."""
        asked = _read_target(match)
        try:
            self._administration.describe(asked.model, asked.version)
        except ModelNotFound as error:
            self._responses.send_refusal(exchange, torchserve(error, asked))
        else:
            self._responses.send_body(exchange, self._description.of_model(asked.model), JSON)


def _read_target(match: Match) -> Target:
    return Target(match.params["model_name"], match.params.get("model_version", ""))


def page_of(
    service: InferenceService, administration: ModelAdministration, limit: int, first: int
) -> dict[str, Any]:
    """So many of the models by name, from the one of this number on."""
    names = sorted({state.name for state in service.models() if state.listed})
    return page(
        "models",
        names,
        limit,
        first,
        lambda name: {"modelName": name, "modelUrl": administration.describe(name)[0].url},
    )


def workers_of(query: Mapping[str, str]) -> tuple[int, int]:
    """The least and the most workers that a client asks for. Raises ``InvalidInput``."""
    least = number(query, "min_worker", 1)
    most = number(query, "max_worker", least)
    if least < 0:  # TorchServe answers 500 and leaves the model without a usable worker
        raise InvalidInput("min_worker cannot be less than 0.")
    if most < least:
        raise InvalidInput("max_worker cannot be less than min_worker.")
    if most > MOST_WORKERS:
        raise InvalidInput(f"max_worker cannot be more than {MOST_WORKERS}.")
    return least, most


def registered(scaled: Scaled) -> str:
    """What a client hears of a registration that is done."""
    hint = "" if scaled.workers else ". Use scale workers API to add workers for the model."
    who = f'Model "{scaled.name}" Version: {scaled.version}'
    return f"{who} registered with {scaled.workers} initial workers{hint}"


def scaled_to(scaled: Scaled, asked: Target) -> str:
    """What a client hears of a scaling that is done."""
    version = f", version: {asked.version}" if asked.version else ""
    return f"Workers scaled to {scaled.workers} for model: {asked.model}{version}"


def unregistered(asked: Target) -> str:
    """What a client hears of a model that is gone."""
    return f'Model "{asked.model}" unregistered'


def made_default(asked: Target) -> str:
    """What a client hears of a new default version."""
    return f'Default version successfully updated for model "{asked.model}" to "{asked.version}"'


def object_in(text: bytes) -> object:
    """What a handler says of itself; what is no JSON says nothing."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}


def described(model: ModelDescription, metadata: object = None) -> dict[str, Any]:
    """A version as TorchServe describes it, key by key in its order; what only we can tell comes last."""
    document: dict[str, Any] = {
        "modelName": model.name,
        "modelVersion": model.version,
        "modelUrl": model.url,
        "runtime": model.runtime,
        "minWorkers": model.min_workers,
        "maxWorkers": model.max_workers,
        "batchSize": model.batch_size,
        "maxBatchDelay": round(model.max_delay * 1000),
        "responseTimeout": round(model.response_timeout),
        "startupTimeout": round(model.startup_timeout),
        "maxRetryTimeoutInSec": round(model.retry_timeout),
        "clientTimeoutInMills": round(model.client_timeout * 1000),
        "parallelType": "",
        "parallelLevel": 0,
        "deviceType": "cpu",
        "continuousBatching": model.stepwise,
        "useJobTicket": model.job_ticket,
        "useVenv": model.use_venv,
        **_stateful(model.sequences),
        "loadedAtStartup": model.loaded_at_startup,
        "workers": [_worker(worker) for worker in model.workers],
        "jobQueueStatus": {
            "remainingCapacity": max(model.queue_size - model.pending, 0),
            "pendingRequests": model.pending,
        },
    }
    if metadata is not None:
        document["customizedMetadata"] = metadata
    document |= {"state": model.state, "defaultVersion": model.is_default}
    if model.joining is not None:
        document["batching"] = {
            "joined": model.joining.joined,
            "state": model.joining.state,
            "reason": model.joining.reason,
        }
    if model.default_rule:
        document["defaultVersionRule"] = model.default_rule
    if model.version_policy is not None:
        document["versionPolicy"] = str(model.version_policy)
    if model.scaled_to_zero:
        document |= {"scaledToZero": True, "startSeconds": round(model.start_seconds, 3)}
    if model.reason:
        document["reason"] = model.reason
    if model.detail:
        document["detail"] = model.detail
    return document


def _stateful(sequences: SequenceDescription | None) -> dict[str, Any]:
    found = sequences or SequenceDescription(1, 1, 0, 0)
    return {
        "stateful": sequences is not None,
        "sequenceMaxIdleMSec": round(found.max_idle * 1000),
        "sequenceTimeoutMSec": round(found.timeout * 1000),
        "maxNumSequence": found.most,
        "maxSequenceJobQueueSize": found.waiting,
    }


def _worker(worker: WorkerDescription) -> dict[str, Any]:
    started = datetime.fromtimestamp(worker.started, UTC).isoformat(timespec="milliseconds")
    return {
        "id": worker.id,
        "startTime": started.replace("+00:00", "Z"),
        "status": _WORKER_STATES.get(worker.state, worker.state),
        "memoryUsage": worker.memory,
        "pid": worker.pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }

"""TorchServe's management API: list, describe, register, scale and unregister models."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from mooring.core.buffers import view_of
from mooring.core.errors import InvalidInput, ModelNotFound, MooringError, Unsupported
from mooring.core.options import Parallel
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
from mooring.protocols.answers import read_payload
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.openapi import ApiDescription, loaded_metadata
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.status import (
    NOT_ALLOWED,
    Target,
    torchserve,
    torchserve_default,
    torchserve_registration,
)
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.paging import build_page, read_page_range
from mooring.protocols.torchserve.registration import (
    MAX_WORKERS,
    bool_parameter,
    int_parameter,
    parse_query,
    read_registration,
)
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_GET_OR_HEAD = frozenset({"GET", "HEAD"})
_OPTIONS = frozenset({"OPTIONS"})
_POST = frozenset({"POST"})
_PUT = frozenset({"PUT"})
_DELETE = frozenset({"DELETE"})
PROCESSING = "Processing worker updates..."
SCALING = "Workers scaling in progress..."
# A worker of TorchServe is READY while it is busy, too.
_WORKER_STATES = {"STARTING": "LOADING", "BUSY": "READY", "ENDED": "UNLOADING"}


class TorchServeManagement:
    """The endpoints of the management port. ``model_api`` False refuses to register and unregister models."""

    def __init__(
        self,
        service: InferenceService,
        administration: ModelAdministration,
        responses: Responses,
        description: ApiDescription,
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
        """Return the endpoints; other methods on their paths are answered 405."""
        endpoints = [
            Endpoint("/models", self.list_models, Access.MANAGEMENT, calls.LIST_MODELS, methods=_GET_OR_HEAD),
            Endpoint(
                "/models",
                self.register_model,
                Access.MANAGEMENT,
                calls.REGISTER_MODEL,
                methods=_POST,
                changes=True,
            ),
        ]
        for path, describe, scale, unregister in (
            ("/models/{model_name}", calls.DESCRIBE_MODEL, calls.SCALE_MODEL, calls.UNREGISTER_MODEL),
            (
                "/models/{model_name}/{model_version}",
                calls.DESCRIBE_VERSION,
                calls.SCALE_VERSION,
                calls.UNREGISTER_VERSION,
            ),
        ):
            endpoints += [
                Endpoint(path, self.describe_model, Access.MANAGEMENT, describe, methods=_GET_OR_HEAD),
                Endpoint(path, self.describe_api, Access.MANAGEMENT, methods=_OPTIONS),
                Endpoint(path, self.scale_workers, Access.MANAGEMENT, scale, methods=_PUT, changes=True),
                Endpoint(
                    path, self.unregister_model, Access.MANAGEMENT, unregister, methods=_DELETE, changes=True
                ),
            ]
        path = "/models/{model_name}/{model_version}/set-default"
        return [
            *endpoints,
            Endpoint(
                path, self.set_default, Access.MANAGEMENT, calls.SET_DEFAULT, methods=_PUT, changes=True
            ),
            Endpoint(
                path, self.describe_model, Access.MANAGEMENT, methods=_GET_OR_HEAD
            ),  # as TorchServe has it
        ]

    def list_models(self, exchange: Exchange, match: Match) -> None:
        """Answer with a page of the models, by name."""
        limit, first = read_page_range(match.query)

        async def list_models() -> None:
            self._responses.send_json(
                exchange, await models_page(self._service, self._administration, limit, first)
            )

        self._answer_tasks.start(exchange, list_models(), self._refusal_sender(exchange, Target("")))

    def describe_model(self, exchange: Exchange, match: Match) -> None:
        """Answer with the description of one version of a model, or of all with the version "all"."""
        target = _read_target(match)
        customized = bool_parameter(parse_query(match.query), "customized", default=False)

        async def describe() -> None:
            versions = await self._administration.describe(target.model, target.version)
            if customized and target.version != "all":
                self._describe_by_handler(exchange, target, versions[0])
            else:
                self._responses.send_json(exchange, [version_document(version) for version in versions])

        self._answer_tasks.start(exchange, describe(), self._refusal_sender(exchange, target))

    def _describe_by_handler(self, exchange: Exchange, target: Target, version: ModelDescription) -> None:
        """Answer with the description of a version and the output of its handler's ``describe_handle``."""
        request_id = self._responses.read_request_id(exchange)

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, InferenceResponse):
                text = bytes(view_of(read_payload(outcome)))
                release(outcome.outputs)
                if not outcome.final:
                    return
            elif isinstance(outcome, Unsupported):
                text = b""  # the model has no handler
            else:
                refusal = torchserve(outcome, target, self._responses.faults)
                self._responses.send_refusal(exchange, refusal, request_id=request_id)
                return
            document = version_document(version, parse_metadata(text))
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

    def register_model(self, exchange: Exchange, match: Match) -> None:
        """Register a model from the store or an allowed URL."""
        if not self._model_api:
            self._responses.send_refusal(exchange, NOT_ALLOWED)
            return
        registration, wait = read_registration(exchange, match.query)

        async def register() -> None:
            scaled = await self._administration.register(registration, wait=wait)
            if wait or not scaled.workers:
                self._send_status(exchange, registration_text(scaled))
            else:
                self._send_status(exchange, PROCESSING, 202)

        self._answer_tasks.start(
            exchange,
            register(),
            lambda error: self._responses.send_refusal(
                exchange, torchserve_registration(error, registration.url)
            ),
        )

    def scale_workers(self, exchange: Exchange, match: Match) -> None:
        """Change the number of workers of a version."""
        target, query = _read_target(match), parse_query(match.query)
        least, most = read_worker_range(query)
        wait = bool_parameter(query, "synchronous", default=False)

        async def scale() -> None:
            scaled = await self._administration.scale(*target, least=least, most=most, wait=wait)
            if not wait:
                self._send_status(exchange, PROCESSING, 202)
            elif scaled.done:
                self._send_status(exchange, scaling_text(scaled, target))
            else:
                self._send_status(exchange, SCALING, 206)

        self._answer_tasks.start(exchange, scale(), self._refusal_sender(exchange, target))

    def unregister_model(self, exchange: Exchange, match: Match) -> None:
        """Unregister a version and answer after its last request is answered."""
        if not self._model_api:
            self._responses.send_refusal(exchange, NOT_ALLOWED)
            return
        target = _read_target(match)

        async def unregister() -> None:
            await self._administration.unregister(*target)
            self._send_status(exchange, unregistration_text(target))

        self._answer_tasks.start(exchange, unregister(), self._refusal_sender(exchange, target))

    def set_default(self, exchange: Exchange, match: Match) -> None:
        """Make a version the default."""
        target = _read_target(match)

        async def set_default() -> None:
            await self._administration.set_default(*target)
            self._send_status(exchange, default_text(target))

        def refuse(error: MooringError) -> None:
            missing = isinstance(error, ModelNotFound)
            refusal = torchserve_default(error, target) if missing else torchserve(error, target)
            self._responses.send_refusal(exchange, refusal)

        self._answer_tasks.start(exchange, set_default(), refuse)

    def _send_status(self, exchange: Exchange, status: str, code: int = 200) -> None:
        self._responses.send_json(exchange, {"status": status}, status=code)

    def _refusal_sender(self, exchange: Exchange, target: Target) -> Callable[[MooringError], None]:
        return lambda error: self._responses.send_refusal(exchange, torchserve(error, target))

    def describe_api(self, exchange: Exchange, match: Match) -> None:
        """Answer with the OpenAPI document of a registered model."""
        target = _read_target(match)

        async def describe() -> None:
            await self._administration.describe(target.model, target.version)
            metadata = loaded_metadata(self._service, target.model, target.version)
            self._responses.send_body(
                exchange, self._description.model_document(target.model, metadata), JSON
            )

        self._answer_tasks.start(exchange, describe(), self._refusal_sender(exchange, target))


def _read_target(match: Match) -> Target:
    return Target(match.params["model_name"], match.params.get("model_version", ""))


async def models_page(
    service: InferenceService, administration: ModelAdministration, limit: int, first: int
) -> dict[str, Any]:
    """Return a page of the models' names and URLs: up to ``limit`` from index ``first`` on."""
    names = sorted({state.name for state in service.models() if state.listed})

    async def find_url(name: str) -> str:
        try:
            return (await administration.describe(name))[0].url
        except ModelNotFound:  # it was unregistered meanwhile
            return ""

    shown = names[first : first + limit]
    urls = dict(zip(shown, await asyncio.gather(*map(find_url, shown)), strict=True))
    return build_page("models", names, limit, first, lambda name: {"modelName": name, "modelUrl": urls[name]})


def read_worker_range(query: Mapping[str, str]) -> tuple[int, int]:
    """Return ``min_worker`` and ``max_worker``. Raises ``InvalidInput``."""
    least = int_parameter(query, "min_worker", 1)
    most = int_parameter(query, "max_worker", least)
    if least < 0:  # TorchServe answers 500 here and leaves the model without a usable worker
        raise InvalidInput("min_worker cannot be less than 0.")
    if most < least:
        raise InvalidInput("max_worker cannot be less than min_worker.")
    if most > MAX_WORKERS:
        raise InvalidInput(f"max_worker cannot be more than {MAX_WORKERS}.")
    return least, most


def registration_text(scaled: Scaled) -> str:
    """Return TorchServe's text for a completed registration."""
    hint = "" if scaled.workers else ". Use scale workers API to add workers for the model."
    who = f'Model "{scaled.name}" Version: {scaled.version}'
    return f"{who} registered with {scaled.workers} initial workers{hint}"


def scaling_text(scaled: Scaled, target: Target) -> str:
    """Return TorchServe's text for a completed change of workers."""
    version = f", version: {target.version}" if target.version else ""
    return f"Workers scaled to {scaled.workers} for model: {target.model}{version}"


def unregistration_text(target: Target) -> str:
    """Return TorchServe's text for an unregistered model."""
    return f'Model "{target.model}" unregistered'


def default_text(target: Target) -> str:
    """Return TorchServe's text for a new default version."""
    return f'Default version successfully updated for model "{target.model}" to "{target.version}"'


def parse_metadata(text: bytes) -> object:
    """Return a handler's own description; an empty object if it is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}


def _parallel_document(parallel: Parallel | None) -> dict[str, Any]:
    if parallel is None:
        return {"parallelType": "", "parallelLevel": 0, "deviceType": "cpu"}
    document = {
        "parallelType": parallel.type.value,
        "parallelLevel": parallel.level,
        "deviceType": parallel.device_type or "cpu",
    }
    return document | ({"deviceIds": parallel.devices} if parallel.devices else {})


def version_document(model: ModelDescription, metadata: object = None) -> dict[str, Any]:
    """Return a version's description: TorchServe's keys in their order, then those that only this server has."""
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
        **_parallel_document(model.parallel),
        "continuousBatching": model.stepwise,
        "useJobTicket": model.job_ticket,
        "useVenv": model.use_venv,
        **_sequence_document(model.sequences),
        "loadedAtStartup": model.loaded_at_startup,
        "workers": [_worker_document(worker) for worker in model.workers],
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


def _sequence_document(sequences: SequenceDescription | None) -> dict[str, Any]:
    description = sequences or SequenceDescription(1, 1, 0, 0)
    return {
        "stateful": sequences is not None,
        "sequenceMaxIdleMSec": round(description.max_idle * 1000),
        "sequenceTimeoutMSec": round(description.timeout * 1000),
        "maxNumSequence": description.most,
        "maxSequenceJobQueueSize": description.waiting,
    }


def _worker_document(worker: WorkerDescription) -> dict[str, Any]:
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

"""TorchServe's management API, as far as it looks: which models there are and how they do."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from mooring.core.errors import ModelNotFound
from mooring.core.service import InferenceService, ModelAdministration, ModelDescription, WorkerDescription
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.openapi import Description
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.status import Asked, torchserve
from mooring.protocols.torchserve import operations as calls
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})
_ASKING = frozenset({"OPTIONS"})
_PAGE = 100
# TorchServe's workers are READY while they work, too.
_WORKER_STATES = {"STARTING": "LOADING", "BUSY": "READY", "ENDED": "UNLOADING"}


class TorchServeManagement:
    """The endpoints of the management port that change nothing."""

    def __init__(
        self,
        service: InferenceService,
        administration: ModelAdministration,
        responses: Responses,
        description: Description,
    ) -> None:
        self._service = service
        self._administration = administration
        self._responses = responses
        self._description = description

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted; other methods on these paths are not allowed."""
        return [
            Endpoint("/models", self.list, calls.LIST_MODELS, methods=_READING),
            Endpoint("/models/{model_name}", self.describe, calls.DESCRIBE_MODEL, methods=_READING),
            Endpoint("/models/{model_name}", self.describe_calls, methods=_ASKING),
            Endpoint(
                "/models/{model_name}/{model_version}",
                self.describe,
                calls.DESCRIBE_VERSION,
                methods=_READING,
            ),
            Endpoint("/models/{model_name}/{model_version}", self.describe_calls, methods=_ASKING),
        ]

    def list(self, exchange: Exchange, match: Match) -> None:
        """A page of the models, by name."""
        query = parse_qs(match.query.decode("latin-1"))
        names = sorted({state.name for state in self._service.models()})
        limit = _number(query, "limit", _PAGE, lambda value: 0 <= value <= _PAGE)
        first = _number(query, "next_page_token", 0, lambda value: value >= 0)
        page: dict[str, Any] = {}
        # TorchServe's pages: the token comes first, and comes even when the last page is exactly full.
        if first + limit <= len(names):
            page["nextPageToken"] = str(first + limit)
        page["models"] = [
            {"modelName": name, "modelUrl": self._administration.describe(name)[0].url}
            for name in names[first : first + limit]
        ]
        self._responses.json(exchange, page)

    def describe(self, exchange: Exchange, match: Match) -> None:
        """One version of a model, or with the version "all" every one."""
        asked = Asked(match.params["model_name"], match.params.get("model_version", ""))
        try:
            versions = self._administration.describe(asked.model, asked.version)
        except ModelNotFound as error:
            self._responses.refuse(exchange, torchserve(error, asked))
        else:
            self._responses.json(exchange, [described(version) for version in versions])

    def describe_calls(self, exchange: Exchange, match: Match) -> None:
        """The OpenAPI document of a model that is there."""
        asked = Asked(match.params["model_name"], match.params.get("model_version", ""))
        try:
            self._administration.describe(asked.model, asked.version)
        except ModelNotFound as error:
            self._responses.refuse(exchange, torchserve(error, asked))
        else:
            self._responses.body(exchange, self._description.of_model(asked.model), JSON)


def _number(query: dict[str, list[str]], name: str, default: int, fits: Callable[[int], bool]) -> int:
    # What is no number, or out of range, is the default: TorchServe refuses no page.
    try:
        value = int(query[name][-1])
    except (KeyError, ValueError):
        return default
    return value if fits(value) else default


def described(model: ModelDescription) -> dict[str, Any]:
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
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": False,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 1,
        "maxSequenceJobQueueSize": 1,
        "loadedAtStartup": model.loaded_at_startup,
        "workers": [_worker(worker) for worker in model.workers],
        "jobQueueStatus": {
            "remainingCapacity": max(model.queue_size - model.pending, 0),
            "pendingRequests": model.pending,
        },
        "state": model.state,
        "defaultVersion": model.is_default,
    }
    if model.reason:
        document["reason"] = model.reason
    if model.detail:
        document["detail"] = model.detail
    return document


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

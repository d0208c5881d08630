"""What a version was loaded with, and what it has done since: the configuration and statistics extensions."""

from collections.abc import Callable, Sequence
from typing import Any

from mooring.core.errors import MooringError
from mooring.core.service import Duration, ModelAdministration, ModelUsage, ResponseUsage
from mooring.protocols.answer_tasks import AnswerTasks
from mooring.protocols.dialect import V2, Dialect
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target
from mooring.repository.triton_document import config_document
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})


class Statistics:
    """The endpoints of both."""

    extensions = ("model_configuration", "statistics")

    def __init__(
        self, administration: ModelAdministration, responses: Responses, *, dialect: Dialect = V2
    ) -> None:
        self._administration = administration
        self._responses = responses
        self._dialect = dialect
        self._answer_tasks = AnswerTasks(responses)

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted."""
        model = "/v2/models/{model_name}"
        version = f"{model}/versions/{{model_version}}"
        return [
            Endpoint(f"{model}/config", self.config, Access.INFERENCE, calls.CONFIG, methods=_READING),
            Endpoint(
                f"{version}/config", self.config, Access.INFERENCE, calls.CONFIG_VERSION, methods=_READING
            ),
            Endpoint(
                "/v2/models/stats", self.usage, Access.INFERENCE, calls.ALL_STATISTICS, methods=_READING
            ),
            Endpoint(f"{model}/stats", self.usage, Access.INFERENCE, calls.STATISTICS, methods=_READING),
            Endpoint(
                f"{version}/stats", self.usage, Access.INFERENCE, calls.STATISTICS_VERSION, methods=_READING
            ),
        ]

    def config(self, exchange: Exchange, match: Match) -> None:
        """Answer with the configuration of a version."""
        target = _read_target(match)

        async def answer() -> None:
            self._responses.send_json(exchange, config_document(await self._administration.config(*target)))

        self._answer_tasks.start(exchange, answer(), self._refusal_sender(exchange, target))

    def usage(self, exchange: Exchange, match: Match) -> None:
        """Answer with the statistics of one version, of one model, or of all models."""
        target = _read_target(match)

        async def answer() -> None:
            self._responses.send_json(exchange, usage_document(await self._administration.usage(*target)))

        self._answer_tasks.start(exchange, answer(), self._refusal_sender(exchange, target))

    def _refusal_sender(self, exchange: Exchange, target: Target) -> Callable[[MooringError], None]:
        return lambda error: self._responses.send_refusal(exchange, self._dialect.refusal_of(error, target))


def _read_target(match: Match) -> Target:
    return Target(match.params.get("model_name", ""), match.params.get("model_version", ""))


def usage_document(usages: Sequence[ModelUsage]) -> dict[str, Any]:
    """Return statistics as Triton's clients read them."""
    return {"model_stats": [_model_statistics(usage) for usage in usages]}


def _model_statistics(usage: ModelUsage) -> dict[str, Any]:
    return {
        "name": usage.name,
        "version": usage.version,
        "last_inference": usage.last_inference,
        "inference_count": usage.inferences,
        "execution_count": usage.executions,
        "inference_stats": {
            "success": _duration_document(usage.success),
            "fail": _duration_document(usage.fail),
            "queue": _duration_document(usage.queue),
            **_compute_times(usage.infer),
            "cache_hit": _duration_document(usage.cache_hit),
            "cache_miss": _duration_document(usage.cache_miss),
        },
        "response_stats": {str(index): _response_times(each) for index, each in enumerate(usage.responses)},
        "batch_stats": [
            {"batch_size": batch.batch_size, **_compute_times(batch.infer)} for batch in usage.batches
        ],
        "memory_usage": [],
    }


def _response_times(usage: ResponseUsage) -> dict[str, Any]:
    success = _duration_document(usage.success)
    return {
        "compute_infer": success,
        "compute_output": {"count": usage.success.count, "ns": 0},
        "success": success,
        "fail": _duration_document(usage.fail),
        "empty_response": _duration_document(usage.empty),
        "cancel": {"count": 0, "ns": 0},
    }


def _compute_times(infer: Duration) -> dict[str, Any]:
    # Joining and splitting a batch is part of the model's call here; it is not measured by itself.
    nothing = {"count": infer.count, "ns": 0}
    return {"compute_input": nothing, "compute_infer": _duration_document(infer), "compute_output": nothing}


def _duration_document(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}

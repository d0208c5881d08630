"""What a version was loaded with, and what it has done since: the configuration and statistics extensions."""

from collections.abc import Mapping, Sequence
from typing import Any

from mooring.core.errors import MooringError
from mooring.core.service import (
    Duration,
    JoiningState,
    ModelAdministration,
    ModelConfig,
    ModelUsage,
    SequenceDescription,
)
from mooring.core.tensors import TensorSpec
from mooring.core.versions import VersionPolicy
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.kserve import operations as calls
from mooring.protocols.responses import Responses
from mooring.protocols.status import Target, kserve_v2
from mooring.tokens import Access
from mooring.web.http1 import Exchange
from mooring.web.routing import Match

_READING = frozenset({"GET", "HEAD"})
_NEVER = {"count": 0, "ns": 0}


class Statistics:
    """The endpoints of both."""

    extensions = ("model_configuration", "statistics")

    def __init__(self, administration: ModelAdministration, responses: Responses) -> None:
        self._administration = administration
        self._responses = responses

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
        try:
            config = self._administration.config(*target)
        except MooringError as error:
            self._responses.send_refusal(exchange, kserve_v2(error, target))
        else:
            self._responses.send_json(exchange, config_document(config))

    def usage(self, exchange: Exchange, match: Match) -> None:
        """Answer with the statistics of one version, of one model, or of all models."""
        target = _read_target(match)
        try:
            usage = self._administration.usage(*target)
        except MooringError as error:
            self._responses.send_refusal(exchange, kserve_v2(error, target))
        else:
            self._responses.send_json(exchange, usage_document(usage))


def _read_target(match: Match) -> Target:
    return Target(match.params.get("model_name", ""), match.params.get("model_version", ""))


# Triton's names for what runs a model.
_BACKENDS: Mapping[str, str] = {"onnx": "onnxruntime", "function": "python"}


def config_document(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration as Triton's clients read it: what its owner wrote for Triton, completed by what holds now.

    Shapes are without the batch dimension where there is one.
    """
    declared, joining = config.declared, config.joining
    unbatched = joining is not None and joining.state in (JoiningState.APART, JoiningState.NO_BATCH)
    batched = _has_batch(config) and not unbatched
    document: dict[str, Any] = {
        **declared,
        "name": config.name,
        "platform": config.platform,
        "backend": _BACKENDS.get(config.backend, config.backend),
        "version_policy": _version_policy(config.version_policy),
        "max_batch_size": config.max_batch_size if batched else 0,
        "input": [
            {
                "format": "FORMAT_NONE",
                **_declared_entry(declared, "input", spec),
                **_tensor_document(spec, batched),
            }
            | ({"optional": True} if spec.optional else {})
            for spec in config.inputs
        ],
        "output": [
            {**_declared_entry(declared, "output", spec), **_tensor_document(spec, batched)}
            for spec in config.outputs
        ],
        "instance_group": _instance_groups(config),
        "parameters": {
            name: {"string_value": _parameter_text(value)} for name, value in config.parameters.items()
        },
        "model_transaction_policy": {"decoupled": config.decoupled},
    }
    if joining is not None:
        document["parameters"]["batching"] = {"string_value": f"{joining.state}: {joining.reason}"}
    if config.sequences is not None:
        document.setdefault("sequence_batching", _sequence_batching(config.sequences))
    elif (config.max_batch_size > 1 and not unbatched) or "dynamic_batching" in declared:
        document["dynamic_batching"] = {
            "preferred_batch_size": [config.max_batch_size],
            **declared.get("dynamic_batching", {}),
            "max_queue_delay_microseconds": round(config.delay * 1e6),
        }
    return document


def _version_policy(policy: VersionPolicy) -> dict[str, Any]:
    if policy.latest:
        return {"latest": {"num_versions": policy.latest}}
    return {"specific": {"versions": list(policy.specific)}} if policy.specific else {"all": {}}


def _has_batch(config: ModelConfig) -> bool:
    if "max_batch_size" in config.declared:
        return bool(config.declared["max_batch_size"])
    return config.max_batch_size > 1 and all(
        spec.shape[:1] == [-1] for spec in (*config.inputs, *config.outputs) if not spec.optional
    )


def _declared_entry(declared: Mapping[str, Any], kind: str, spec: TensorSpec) -> Mapping[str, Any]:
    """Return the owner's entry for an input or output; empty if there is none."""
    return next((each for each in declared.get(kind, ()) if each.get("name") == spec.name), {})


def _instance_groups(config: ModelConfig) -> list[dict[str, Any]]:
    """Return the declared groups, or one group of all workers where their number has changed since."""
    written: list[dict[str, Any]] = config.declared.get("instance_group", [])
    active = [each for each in written if not each.get("passive", False)]
    if active and sum(each.get("count", 1) or 1 for each in active) == config.instances:
        return [{"name": f"{config.name}_{index}", "count": 1, **each} for index, each in enumerate(written)]
    return [{"name": config.name, "kind": "KIND_CPU", "count": config.instances, "gpus": [], "profile": []}]


_FALSE_TRUE = {"INT32": ("int32_false_true", [0, 1]), "FP32": ("fp32_false_true", [0, 1]),
               "BOOL": ("bool_false_true", [False, True])}  # fmt: skip


def _sequence_batching(sequences: SequenceDescription) -> dict[str, Any]:
    return {
        "oldest": {"max_candidate_sequences": sequences.most},
        "max_sequence_idle_microseconds": round(sequences.max_idle * 1e6),
        "control_input": [
            {"name": name, "control": [_control_document(kind, datatype)]}
            for name, kind, datatype in sequences.controls
        ],
    }


def _control_document(kind: str, datatype: str) -> dict[str, Any]:
    if kind == "ID":
        return {
            "kind": "CONTROL_SEQUENCE_CORRID",
            "data_type": f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}",
        }
    key, values = _FALSE_TRUE[datatype]
    return {"kind": f"CONTROL_SEQUENCE_{kind}", key: values}


def _tensor_document(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    # An input with a default has no batch dimension where its file gives it none.
    first = 1 if batched and not (spec.optional and spec.shape[:1] != [-1]) else 0
    document = {"name": spec.name, "data_type": f"TYPE_{datatype or 'INVALID'}", "dims": spec.shape[first:]}
    return document if spec.reshape is None else document | {"reshape": {"shape": spec.reshape[first:]}}


def _parameter_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


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
            "cache_hit": _NEVER,
            "cache_miss": _NEVER,
        },
        "response_stats": {},
        "batch_stats": [
            {"batch_size": batch.batch_size, **_compute_times(batch.infer)} for batch in usage.batches
        ],
        "memory_usage": [],
    }


def _compute_times(infer: Duration) -> dict[str, Any]:
    # Joining and splitting a batch is part of the model's call here; it is not measured by itself.
    nothing = {"count": infer.count, "ns": 0}
    return {"compute_input": nothing, "compute_infer": _duration_document(infer), "compute_output": nothing}


def _duration_document(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": duration.ns}

"""A version's configuration in Triton's form, complete: what its owner wrote for Triton, and what holds now.

REST, gRPC and the models of Triton's Python backend show the same document.
"""

from collections.abc import Mapping
from typing import Any

from mooring.core.service import Joining, JoiningState, ModelConfig, SequenceDescription
from mooring.core.tensors import TensorSpec
from mooring.core.versions import VersionPolicy
from mooring.repository.platforms import SUFFIXES
from mooring.repository.spec import ModelSpec
from mooring.repository.triton import DEFAULT_SEQUENCE_IDLE
from mooring.repository.triton_schema import ENUMS, MESSAGES, Key, Verdict

# Triton's names for what runs a model.
_BACKENDS: Mapping[str, str] = {
    "onnx": "onnxruntime",
    "function": "python",
    "triton_python": "python",
    "ensemble": "",
}
_EMPTY: Mapping[str, object] = {"bool": False, "string": "", "float": 0.0}


def describe_config(
    spec: ModelSpec,
    *,
    inputs: list[TensorSpec] | None = None,
    outputs: list[TensorSpec] | None = None,
    platform: str = "",
    joining: Joining | None = None,
) -> ModelConfig:
    """Describe the configuration of a version. ``inputs`` and ``outputs`` are those of its file, where it is known."""
    return ModelConfig(
        name=spec.name,
        version=spec.version,
        platform=platform or spec.platform,
        backend=spec.backend,
        max_batch_size=spec.batching.max_batch_size,
        inputs=spec.inputs if inputs is None else inputs,
        outputs=spec.outputs if outputs is None else outputs,
        instances=spec.scaling.min_workers,
        delay=spec.batching.max_delay,
        parameters=spec.parameters,
        sequences=describe_sequences(spec),
        joining=joining,
        version_policy=spec.version_policy or VersionPolicy(),
        decoupled=spec.decoupled,
        file_name=spec.entry if spec.backend in SUFFIXES and ":" not in spec.entry else "",
        declared=spec.triton or _ensemble_scheduling(spec),
    )


def _ensemble_scheduling(spec: ModelSpec) -> dict[str, Any]:
    """The steps of an ensemble that is not configured for Triton, as Triton would have them; empty for other models."""
    if spec.ensemble is None:
        return {}
    steps = [
        {
            "model_name": step.model,
            "model_version": int(step.version or -1),
            "input_map": step.inputs,
            "output_map": step.outputs,
        }
        for step in spec.ensemble.steps
    ]
    return {"ensemble_scheduling": {"step": steps, "max_inflight_requests": spec.ensemble.max_inflight}}


def describe_sequences(spec: ModelSpec) -> SequenceDescription | None:
    """Describe the sequences of a version; None where it keeps no state."""
    sequence = spec.sequence
    if not sequence.enabled:
        return None
    controls = [(each.name, each.kind.name, each.datatype) for each in sequence.controls]
    most = sequence.max_sequences or sequence.max_per_worker * spec.scaling.max_workers
    return SequenceDescription(
        most, sequence.max_queued_steps, sequence.max_idle, sequence.timeout, controls, sequence.direct
    )


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
        "default_model_filename": declared.get("default_model_filename") or config.file_name,
        "parameters": {
            name: {"string_value": _parameter_text(value)} for name, value in config.parameters.items()
        },
        "model_transaction_policy": {"decoupled": config.decoupled},
    }
    if joining is not None:
        document["parameters"]["batching"] = {"string_value": f"{joining.state}: {joining.reason}"}
    if "sequence_batching" in declared:
        document["sequence_batching"] = _complete_sequences(declared["sequence_batching"], config)
    elif config.sequences is not None:
        document["sequence_batching"] = _sequence_batching(config.sequences)
    elif config.backend != "ensemble" and (
        (config.max_batch_size > 1 and not unbatched) or "dynamic_batching" in declared
    ):
        document["dynamic_batching"] = {
            "preferred_batch_size": [config.max_batch_size],
            **declared.get("dynamic_batching", {}),
            "max_queue_delay_microseconds": round(config.delay * 1e6),
        }
    return _fill_in(document, "ModelConfig")


def _fill_in(values: Mapping[str, Any], message: str) -> dict[str, Any]:
    """Return a message in its own order, with the default of every key that is left out, as Triton writes JSON.

    Messages that are left out and keys that exclude each other stay out, and so do those that a load would refuse.
    """
    filled: dict[str, Any] = {}
    for name, key in MESSAGES[message].items():
        if name in values:
            filled[name] = _fill_in_value(key, values[name])
        elif key.keyed or key.many:
            if key.type not in MESSAGES or key.verdict is not Verdict.REFUSED:
                filled[name] = {} if key.keyed else []
        elif not key.choice and key.type not in MESSAGES:
            filled[name] = ENUMS[key.type][0] if key.type in ENUMS else _EMPTY.get(key.type, 0)
    return filled


def _fill_in_value(key: Key, value: Any) -> Any:
    if key.type not in MESSAGES:
        return value
    if key.keyed:
        return {name: _fill_in(each, key.type) for name, each in value.items()}
    if key.many:
        return [_fill_in(each, key.type) for each in value]
    return _fill_in(value, key.type)


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
    if config.backend == "ensemble":  # which has no workers
        return []
    written: list[dict[str, Any]] = config.declared.get("instance_group", [])
    active = [each for each in written if not each.get("passive", False)]
    if active and sum(each.get("count", 1) or 1 for each in active) == config.instances:
        return [{"name": f"{config.name}_{index}", "count": 1, **each} for index, each in enumerate(written)]
    return [{"name": config.name, "kind": "KIND_CPU", "count": config.instances, "gpus": [], "profile": []}]


_FALSE_TRUE = {"INT32": ("int32_false_true", [0, 1]), "FP32": ("fp32_false_true", [0, 1]),
               "BOOL": ("bool_false_true", [False, True])}  # fmt: skip


def _complete_sequences(declared: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Return what the owner wrote of sequences with the defaults that Triton shows."""
    idle = declared.get("max_sequence_idle_microseconds") or DEFAULT_SEQUENCE_IDLE
    document = {**declared, "max_sequence_idle_microseconds": idle}
    if "oldest" in declared and not declared["oldest"].get("preferred_batch_size"):
        sizes = [config.max_batch_size] if _has_batch(config) else []
        document["oldest"] = {**declared["oldest"], "preferred_batch_size": sizes}
    return document


def _sequence_batching(sequences: SequenceDescription) -> dict[str, Any]:
    return {
        **({"direct": {}} if sequences.direct else {"oldest": {"max_candidate_sequences": sequences.most}}),
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

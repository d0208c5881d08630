"""Triton's config.pbtxt in the form of our own config, as far as its keys have a meaning here.

max_batch_size: 8              above 0 every shape gets a batch dimension in front, as Triton's clients send it
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ 1 ] label_filename: "labels.txt" } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 } ]
version_policy { latest { num_versions: 1 } }     as where nothing is said
sequence_batching { oldest { max_candidate_sequences: 8 } max_sequence_idle_microseconds: 5000000 }
default_model_filename: "net.onnx"
model_warmup [ { name: "one" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } } ]
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mooring.core.versions import VersionPolicy
from mooring.repository.textproto import Message

_OWN = frozenset(
    {
        "input",
        "output",
        "dynamic_batching",
        "instance_group",
        "model_warmup",
        "sequence_batching",
        "default_model_filename",
        "version_policy",
    }
)

# They tune what has no counterpart here, or say what is so anyway.
WITHOUT_EFFECT = frozenset(
    {
        "cc_model_filenames",
        "metric_tags",
        "model_metrics",
        "model_operations",
        "model_transaction_policy",
        "optimization",
        "response_cache",
        "runtime",
    }
)
_Count = Annotated[int, Meta(ge=1, lt=1 << 32)]
_Versions = Annotated[list[Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]], Meta(min_length=1)]

# Microseconds after which Triton ends a sequence that nobody goes on with, where nothing is said.
_USUAL_IDLE = 1_000_000
_CONTROLS = {
    "CONTROL_SEQUENCE_START": "start",
    "CONTROL_SEQUENCE_END": "end",
    "CONTROL_SEQUENCE_READY": "ready",
    "CONTROL_SEQUENCE_CORRID": "id",
}
_FLAGS = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
_RENAMED = {"TYPE_STRING": "BYTES"}


def is_amd(message: Message) -> bool:
    """Whether a text proto is in AMD's form, or ours; every other is taken for Triton's."""
    return bool({"inputs", "outputs", "versions"} & message.keys())


def is_triton(message: Message) -> bool:
    """Whether it is meant for Triton; AMD's text proto has ``inputs`` where Triton's has ``input``."""
    return not {"inputs", "outputs"} & message.keys() and bool(
        (_OWN | WITHOUT_EFFECT) & message.keys()
        or {"onnxruntime_onnx", "pytorch_libtorch"} & set(_texts(message, "platform"))
        or "onnxruntime" in _texts(message, "backend")
    )


def from_triton(message: Message) -> Message:
    """The message with our keys for Triton's. Raises ``ValueError`` for what cannot be served as it is meant."""
    if "ensemble_scheduling" in message:
        raise ValueError("ensemble_scheduling is not served")
    table = {
        key: values
        for key, values in message.items()
        if key not in _OWN | WITHOUT_EFFECT | {"max_batch_size"}
    }
    table["batching"] = [{"mode": ["concat"]}]
    if "version_policy" in message:
        table["version_policy"] = [_version_policy(message)]
    rows = _number(message, "max_batch_size", 0)
    if rows or "max_batch_size" in message or "input" in message:
        table["max_batch_size"] = [max(1, rows)]
    for key in ("input", "output"):
        if key in message:
            table[key + "s"] = [_tensor(each, batched=rows > 0) for each in _messages(message, key)]
    labels = [name for each in _messages(message, "output") for name in each.get("label_filename", [])]
    if labels:
        table["labels"] = labels[-1:]
    if "default_model_filename" in message:
        table["entry"] = message["default_model_filename"]
    for each in _messages(message, "dynamic_batching"):
        delay = _number(each, "max_queue_delay_microseconds", 0)
        table["batching"] = [{"mode": ["concat"], "max_delay_ms": [delay / 1000]}]
    for each in _messages(message, "sequence_batching"):
        table["sequences"] = [_sequences(each, rows)]
        for oldest in _messages(each, "oldest"):
            delay = _number(oldest, "max_queue_delay_microseconds", 0)
            table["batching"] = [{"mode": ["concat"], "max_delay_ms": [delay / 1000]}]
    warmup = [_warmup(each) for each in _messages(message, "model_warmup")]
    if warmup:
        table["warmup"] = [warmup]
    groups = _messages(message, "instance_group")
    if groups:
        count = sum(_number(each, "count", 1) for each in groups)
        table["workers"] = [{"min": [count], "max": [max(1, count)]}]
    return table


def policy_of(policy: Mapping[str, Mapping[str, Any]]) -> VersionPolicy:
    """Which versions a version_policy serves, one of ``latest { num_versions }``, ``specific { versions }`` and ``all { }``.

    Raises ``ValueError``.
    """
    if len(policy) > 1:
        raise ValueError(f"expected one of latest, specific and all, got {', '.join(sorted(policy))}")
    fields = {"latest": {"num_versions"}, "specific": {"versions"}, "all": set()}
    for key, message in policy.items():
        if key not in fields:
            raise ValueError(f"unknown key '{key}'; known are latest, specific, all")
        for each in message.keys() - fields[key]:
            raise ValueError(f"{key}: unknown key '{each}'; known are {', '.join(fields[key]) or 'none'}")
        if key == "specific":
            return VersionPolicy(
                specific=tuple(msgspec.convert(message.get("versions"), _Versions, strict=False))
            )
        if key == "all":
            return VersionPolicy()
        return VersionPolicy(latest=msgspec.convert(message.get("num_versions", 1), _Count, strict=False))
    return VersionPolicy(latest=1)


def _version_policy(message: Message) -> Message:
    """The policy in the form of our own config. Raises ``ValueError``."""
    said = (_messages(message, "version_policy") or [{}])[-1]
    plain = {
        key: {
            inner: values if inner == "versions" else _last(each, inner, None)
            for each in _messages(said, key)[-1:]
            for inner, values in each.items()
        }
        for key in said
    }
    try:
        policy = policy_of(plain)
    except ValueError as error:
        raise ValueError(f"version_policy: {error}") from None
    if policy.latest:
        return {"latest": [policy.latest]}
    return {"specific": list(policy.specific)} if policy.specific else {"all": [True]}


def _warmup(warmup: Message) -> dict[str, Any]:
    """A warm-up request; a ``batch_size`` above 0 is a dimension in front of every shape, as in requests."""
    rows = _number(warmup, "batch_size", 0)
    inputs = []
    for entry in _messages(warmup, "inputs"):
        for value in _messages(entry, "value"):
            datatype = str(_last(value, "data_type", "TYPE_INVALID"))
            dims = value.get("dims", [])
            kind = "random" if _last(value, "random_data", default=False) is True else "zero"
            inputs.append(
                {
                    "name": _last(entry, "key", ""),
                    "datatype": _RENAMED.get(datatype, datatype.removeprefix("TYPE_")),
                    "shape": [rows, *dims] if rows else dims,
                    "data": _last(value, "input_data_file", kind),
                }
            )
    return {
        "name": _last(warmup, "name", ""),
        "count": max(1, _number(warmup, "count", 1)),
        "inputs": inputs,
    }


def _sequences(batching: Message, rows: int) -> dict[str, Any]:
    """How sequences share the instances. Raises ``ValueError`` where a model counts on what is not kept here."""
    for key in ("state", "iterative_sequence"):
        if key in batching and batching[key] != [False]:
            raise ValueError(f"sequence_batching.{key} is not served: the model must keep its state itself")
    oldest = _messages(batching, "oldest")
    if not oldest and rows > 1:
        raise ValueError(
            "sequence_batching: the direct strategy gives a sequence a place in the batch of its own, which is not "
            "kept here; set max_batch_size to 1, or choose oldest where the model goes by the CORRID input"
        )
    candidates = _number(oldest[-1], "max_candidate_sequences", 0) if oldest else 1
    idle = _number(batching, "max_sequence_idle_microseconds", 0) or _USUAL_IDLE
    return {
        "per_worker": candidates,
        "max_idle": idle / 1e6,
        "controls": [
            _control(name, control)
            for each in _messages(batching, "control_input")
            for name in each.get("name", [])[-1:]
            for control in _messages(each, "control")
        ],
    }


def _control(name: Any, control: Message) -> dict[str, Any]:
    kind = str(_last(control, "kind", "CONTROL_SEQUENCE_START"))
    if kind not in _CONTROLS:
        raise ValueError(f"control_input '{name}': unknown kind {kind}; known are {', '.join(_CONTROLS)}")
    found: dict[str, Any] = {"name": name, "kind": _CONTROLS[kind]}
    for key, datatype in _FLAGS.items():
        if key in control:
            values = [float(value) for value in control[key]]
            return found | {"datatype": datatype, "values": values or [0.0, 1.0]}
    datatype = str(_last(control, "data_type", "TYPE_INT32"))
    return found | {"datatype": _RENAMED.get(datatype, datatype.removeprefix("TYPE_"))}


def _tensor(tensor: Message, *, batched: bool) -> dict[str, list[Any]]:
    datatype = str(_last(tensor, "data_type", "")) or "none"
    shape = tensor.get("dims", [])
    return {
        "name": tensor.get("name", [""]),
        "datatype": [_RENAMED.get(datatype, datatype.removeprefix("TYPE_"))],
        "shape": [-1, *shape] if batched else shape,
    }


def _messages(message: Message, key: str) -> list[Message]:
    values = message.get(key, [])
    for each in values:
        if not isinstance(each, dict):
            raise ValueError(f"{key}: expected a message in braces, got {each!r}")  # noqa: TRY004 - a fault of the text
    return values


def _last(message: Message, key: str, default: Any) -> Any:
    values = message.get(key) or [default]
    return values[-1]


def _number(message: Message, key: str, default: int) -> int:
    found = _last(message, key, default)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ValueError(f"{key}: expected a whole number from 0, got {found!r}")
    return found


def _texts(message: Message, key: str) -> list[str]:
    return [value for value in message.get(key, []) if isinstance(value, str)]

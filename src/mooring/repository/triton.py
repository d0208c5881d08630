"""Triton's config.pbtxt in the form of our own config, as far as its keys have a meaning here.

max_batch_size: 8              above 0 every shape gets a batch dimension in front, as Triton's clients send it
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ 1 ] label_filename: "labels.txt" } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 } ]
default_model_filename: "net.onnx"
"""

from typing import Any

from mooring.repository.textproto import Message

_OWN = frozenset({"input", "output", "dynamic_batching", "instance_group", "default_model_filename"})

# They tune what has no counterpart here, or say what is so anyway.
WITHOUT_EFFECT = frozenset(
    {
        "cc_model_filenames",
        "metric_tags",
        "model_metrics",
        "model_operations",
        "model_transaction_policy",
        "model_warmup",
        "optimization",
        "response_cache",
        "runtime",
        "version_policy",
    }
)
_RENAMED = {"TYPE_STRING": "BYTES"}


def is_triton(message: Message) -> bool:
    """Whether it is meant for Triton; AMD's text proto has ``inputs`` where Triton's has ``input``."""
    return not {"inputs", "outputs"} & message.keys() and bool(
        (_OWN | WITHOUT_EFFECT) & message.keys()
        or {"onnxruntime_onnx", "pytorch_libtorch"} & set(_texts(message, "platform"))
        or "onnxruntime" in _texts(message, "backend")
    )


def from_triton(message: Message) -> Message:
    """The message with our keys for Triton's. Raises ``ValueError`` for what cannot be served as it is meant."""
    for key in ("ensemble_scheduling", "sequence_batching"):
        if key in message:
            raise ValueError(f"{key} is not served")
    table = {
        key: values
        for key, values in message.items()
        if key not in _OWN | WITHOUT_EFFECT | {"max_batch_size"}
    }
    table["batching"] = [{"mode": ["concat"]}]
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
    groups = _messages(message, "instance_group")
    if groups:
        count = sum(_number(each, "count", 1) for each in groups)
        table["workers"] = [{"min": [count], "max": [max(1, count)]}]
    return table


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

"""Triton's config.pbtxt translated into our own keys, for every key that the schema says is served.

max_batch_size: 8              above 0 every shape gets a batch dimension in front, as Triton's clients send it
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ 1 ] label_filename: "labels.txt" } ]
dynamic_batching { max_queue_delay_microseconds: 100 default_queue_policy { max_queue_size: 16 } }
instance_group [ { count: 2 } ]
version_policy { latest { num_versions: 1 } }     the default
ensemble_scheduling { step [ { model_name: "m" model_version: -1 input_map { key: "x" value: "X" } output_map { ... } } ] }
sequence_batching { oldest { max_candidate_sequences: 8 } max_sequence_idle_microseconds: 5000000 }
default_model_filename: "net.onnx"
model_warmup [ { name: "one" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } } ]
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mooring.core.versions import VersionPolicy
from mooring.repository.textproto import Message
from mooring.repository.triton_config import TritonConfig, is_key

# Keys that AMD's text proto and ours have, too.
_SHARED = frozenset({"name", "platform", "backend", "max_batch_size", "parameters"})
_PLATFORMS = frozenset({"onnxruntime_onnx", "pytorch_libtorch"})
_BACKENDS = frozenset({"onnxruntime", "pytorch", "python"})
# Microseconds after which Triton ends a sequence that nobody goes on with, where nothing is said.
DEFAULT_SEQUENCE_IDLE = 1_000_000
_CONTROLS = {
    "CONTROL_SEQUENCE_START": "start",
    "CONTROL_SEQUENCE_END": "end",
    "CONTROL_SEQUENCE_READY": "ready",
    "CONTROL_SEQUENCE_CORRID": "id",
}
_FLAGS = {"int32_false_true": "INT32", "fp32_false_true": "FP32", "bool_false_true": "BOOL"}
_MICROSECONDS = 1e6
# Above this nobody counts what waits: all whole numbers below it are the same in JSON.
_MAX_CAPACITY = 1 << 53


def is_amd(message: Message) -> bool:
    """Whether a text proto is in AMD's form, or in ours."""
    return bool({"inputs", "outputs", "versions"} & message.keys())


def has_keys_of_its_own(message: Message) -> bool:
    """Whether a text proto has keys that Triton alone knows."""
    return any(is_key(name) and name not in _SHARED | {"version_policy"} for name in message)


def is_triton(message: Message) -> bool:
    """Whether a text proto is meant for Triton; AMD's has ``inputs`` where Triton's has ``input``."""
    return not {"inputs", "outputs"} & message.keys() and (
        any(is_key(name) and name not in _SHARED for name in message)
        or bool(_PLATFORMS & set(_text_values(message, "platform")))
        or bool(_BACKENDS & set(_text_values(message, "backend")))
    )


def declaration_table(config: TritonConfig, *, batched: bool | None = None) -> dict[str, Any]:
    """Translate a configuration into a table of our own keys. Raises ``ValueError`` for what cannot be served as meant.

    ``batched`` says whether there is a batch dimension where the configuration does not.
    """
    rows = config.get("max_batch_size", 0)
    if rows < 0:
        raise ValueError(f"max_batch_size: expected a whole number from 0, got {rows}")
    has_batch = rows > 0 if batched is None or "max_batch_size" in config else batched
    table: dict[str, Any] = {name: config[name] for name in ("name", "platform", "backend") if name in config}
    table["batching"] = {"mode": "concat"}
    if "version_policy" in config:
        table["version_policy"] = _version_policy_table(parse_version_policy(config["version_policy"]))
    if "max_batch_size" in config or ("input" in config and batched is None):
        table["max_batch_size"] = max(1, rows)
    for key in ("input", "output"):
        if key in config:
            table[key + "s"] = [_tensor_table(each, key, batched=has_batch) for each in config[key]]
    if "parameters" in config:
        table["parameters"] = {
            name: value.get("string_value", "") for name, value in config["parameters"].items()
        }
    if config.get("default_model_filename"):
        table["entry"] = config["default_model_filename"]
    if "model_transaction_policy" in config:
        table["decoupled"] = config["model_transaction_policy"].get("decoupled", False)
    if "response_cache" in config:
        table["response_cache"] = config["response_cache"].get("enable", False)
    if "ensemble_scheduling" in config:
        table["ensemble"] = _ensemble_table(config["ensemble_scheduling"])
    table |= _scheduling_tables(config)
    if config.get("model_warmup"):
        table["warmup"] = [_warmup_table(each) for each in config["model_warmup"]]
    if config.get("instance_group"):
        count = _worker_count(config["instance_group"])
        table["workers"] = {"min": count, "max": count}
    return table


def is_iterative(config: Mapping[str, Any]) -> bool:
    """Whether every request is a sequence by itself, which the model has called again until it is answered."""
    batching = config.get("sequence_batching", {})
    return bool(batching.get("iterative_sequence") or batching.get("generative_sequence"))


def parse_version_policy(policy: Mapping[str, Any]) -> VersionPolicy:
    """Parse a version_policy. Raises ``ValueError`` where it serves no version."""
    if "all" in policy:
        return VersionPolicy()
    if "specific" in policy:
        versions = policy["specific"].get("versions", [])
        if not versions or min(versions) < 0:
            raise ValueError(
                f"version_policy.specific.versions: expected the numbers of versions, got {versions}"
            )
        return VersionPolicy(specific=tuple(versions))
    count = policy.get("latest", {}).get("num_versions", 1)
    if not count:
        raise ValueError("version_policy.latest.num_versions: expected a whole number from 1, got 0")
    return VersionPolicy(latest=count)


def _version_policy_table(policy: VersionPolicy) -> dict[str, Any]:
    if policy.latest:
        return {"latest": policy.latest}
    return {"specific": list(policy.specific)} if policy.specific else {"all": True}


def _scheduling_tables(config: TritonConfig) -> dict[str, Any]:
    """The tables for how requests wait, and for how long."""
    table: dict[str, Any] = {}
    if "dynamic_batching" in config:
        batching = config["dynamic_batching"]
        delay = batching.get("max_queue_delay_microseconds", 0)
        table |= _queue_tables(batching)
        table["batching"] = {"mode": "concat", "max_delay_ms": delay / 1000}
    elif is_iterative(config):
        if any(config["sequence_batching"].get(key) for key in ("control_input", "state")):
            raise ValueError(
                "sequence_batching: a model with iterative_sequence gets no control_input and no state here; its requests "
                "have the flag of a start and a correlation id"
            )
    elif "sequence_batching" in config:
        batching = config["sequence_batching"]
        table["sequences"] = _sequences_table(batching)
        strategy = batching.get("oldest") or batching.get("direct") or {}
        delay = strategy.get("max_queue_delay_microseconds", 0)
        table["batching"] = {"mode": "concat", "max_delay_ms": delay / 1000, "exact_delay": True}
    return table


def _queue_tables(batching: Mapping[str, Any]) -> dict[str, Any]:
    """The table entries for the queue's size and policy."""
    levels = batching.get("priority_levels", 0)
    own = batching.get("default_queue_policy", {})
    others = batching.get("priority_queue_policy", {})
    places = _queue_capacity(levels, own, list(others.values()))
    table: dict[str, Any] = {"queue_size": places} if places else {}
    policy = _wait_policy_table(own)
    if not levels:
        policy["queue_size"] = 0  # the queue's own size says it
    table["queue_policy"] = {
        **policy,
        "priority_levels": levels,
        "default_priority_level": batching.get("default_priority_level", 0),
        "preserve_ordering": batching.get("preserve_ordering", False),
        "by_priority": {level: _wait_policy_table(each) for level, each in others.items()},
    }
    return table


def _queue_capacity(levels: int, own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> int:
    """Count the requests that may wait in all priorities together; 0 where one priority has no bound.

    Levels are not gone through one by one: a configuration may say that there are 2^64.
    """
    rest = max(max(levels, 1) - len(others), 0)
    sizes = [each.get("max_queue_size", 0) for each in others]
    if rest:
        sizes.append(own.get("max_queue_size", 0) * rest)
    return min(sum(sizes), _MAX_CAPACITY) if all(sizes) else 0


def _wait_policy_table(policy: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "queue_size": policy.get("max_queue_size", 0),
        "timeout": policy.get("default_timeout_microseconds", 0) / _MICROSECONDS,
        "timeout_action": policy.get("timeout_action", "REJECT").lower(),
    }


def _worker_count(groups: Sequence[Mapping[str, Any]]) -> int:
    """Count the instances of all groups that get requests. Raises ``ValueError`` where there is none."""
    for index, each in enumerate(groups):
        if each.get("count", 1) < 0:
            raise ValueError(
                f"instance_group[{index}].count: expected a whole number from 0, got {each['count']}"
            )
    active = [each for each in groups if not each.get("passive", False)]
    if not active:
        raise ValueError("instance_group: all are passive, so that the model would have no worker")
    return sum(each.get("count", 1) or 1 for each in active)


def _ensemble_table(scheduling: Mapping[str, Any]) -> dict[str, Any]:
    steps = [
        {
            "model": each.get("model_name", ""),
            # Left out it is 0 to protobuf, which nobody means as a version.
            "version": each.get("model_version", -1),
            "inputs": each.get("input_map", {}),
            "outputs": each.get("output_map", {}),
        }
        for each in scheduling.get("step", [])
    ]
    return {"steps": steps, "max_inflight_requests": scheduling.get("max_inflight_requests", 0)}


def _warmup_table(warmup: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a warm-up request; a ``batch_size`` above 0 is a dimension in front of every shape, as in requests."""
    rows = warmup.get("batch_size", 0)
    inputs = []
    for name, value in warmup.get("inputs", {}).items():
        kind = "random" if value.get("random_data") else "zero"
        dims = value.get("dims", [])
        inputs.append(
            {
                "name": name,
                "datatype": _v2_datatype(value.get("data_type", "TYPE_INVALID")),
                "shape": [rows, *dims] if rows else dims,
                "data": value.get("input_data_file", kind),
            }
        )
    return {"name": warmup.get("name", ""), "count": warmup.get("count", 1) or 1, "inputs": inputs}


def _sequences_table(batching: Mapping[str, Any]) -> dict[str, Any]:
    """The table for how sequences share the instances; direct is the strategy where none is named."""
    idle = batching.get("max_sequence_idle_microseconds", 0) or DEFAULT_SEQUENCE_IDLE
    oldest = batching.get("oldest")
    table: dict[str, Any] = {
        "max_idle": idle / _MICROSECONDS,
        "controls": [
            _control_table(each.get("name", ""), control)
            for each in batching.get("control_input", [])
            for control in each.get("control", [])
        ],
        "states": [_state_table(each) for each in batching.get("state", [])],
    }
    if oldest is None:
        fill = batching.get("direct", {}).get("minimum_slot_utilization", 0.0)
        if not 0 <= fill <= 1:
            raise ValueError(
                f"sequence_batching.direct.minimum_slot_utilization: expected a number from 0 to 1, got {fill}"
            )
        return table | {"strategy": "direct", "minimum_slot_utilization": fill}
    return table | {
        "per_worker": oldest.get("max_candidate_sequences", 0),
        "preferred_batch_size": oldest.get("preferred_batch_size", []),
    }


def _state_table(state: Mapping[str, Any]) -> dict[str, Any]:
    """The table of an implicit state. Raises ``ValueError`` where its initial state is not that of such a tensor."""
    where = f"sequence_batching: state '{state.get('input_name', '')}'"
    if "data_type" not in state:
        raise ValueError(f"{where}: data_type is missing")
    table: dict[str, Any] = {
        "input": state.get("input_name", ""),
        "output": state.get("output_name", ""),
        "datatype": _v2_datatype(state["data_type"]),
        "shape": _check_sizes(state.get("dims", []), f"{where}: dims"),
    }
    initial = state.get("initial_state", [])
    if not initial:
        return table
    if len(initial) > 1:
        raise ValueError(
            f"{where}: initial_state must contain exactly one or zero element, and has {len(initial)}"
        )
    (first,) = initial
    if first.get("data_type", "TYPE_INVALID") != state["data_type"]:
        raise ValueError(f"{where}: the data type of initial_state is not that of the state")
    if "zero_data" not in first and "data_file" not in first:
        raise ValueError(f"{where}: initial_state has neither zero_data nor data_file")
    dims = first.get("dims", [])
    if any(size < 1 for size in dims):
        raise ValueError(f"{where}: initial_state has the dims {dims}; every size must be from 1")
    return table | {"initial": first.get("data_file", "zero"), "initial_shape": dims}


def _control_table(name: str, control: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "kind": _CONTROLS[control.get("kind", "CONTROL_SEQUENCE_START")]}
    # Of a configuration as it is shown, which has every key, the one with values counts.
    keys = [key for key in _FLAGS if control.get(key)] or [key for key in _FLAGS if key in control]
    if keys and found["kind"] != "id":
        values = [float(value) for value in control[keys[0]]]
        return found | {"datatype": _FLAGS[keys[0]], "values": values or [0.0, 1.0]}
    return found | {"datatype": _v2_datatype(control.get("data_type", "TYPE_INT32"))}


def _tensor_table(tensor: Mapping[str, Any], kind: str, *, batched: bool) -> dict[str, Any]:
    name = tensor.get("name", "")
    what = f"{kind} '{name}'"
    if "data_type" not in tensor:
        raise ValueError(f"{what}: data_type is missing")
    dims = _check_sizes(tensor.get("dims", []), f"{what}: dims")
    front = [-1] if batched else []
    table = {"name": name, "datatype": _v2_datatype(tensor["data_type"]), "shape": front + dims}
    if "reshape" in tensor:
        shape = _check_sizes(tensor["reshape"].get("shape", []), f"{what}: reshape.shape")
        table["reshape"] = front + shape
    if "optional" in tensor:
        table["optional"] = tensor["optional"]
    if tensor.get("label_filename"):
        table["labels"] = tensor["label_filename"]
    return table


def _check_sizes(sizes: list[int], what: str) -> list[int]:
    for size in sizes:
        if size < 1 and size != -1:
            raise ValueError(f"{what}: expected sizes from 1, or -1 for any size, got {size}")
    return sizes


def _v2_datatype(name: str) -> str:
    return "BYTES" if name == "TYPE_STRING" else name.removeprefix("TYPE_")


def _text_values(message: Message, key: str) -> list[str]:
    return [value for value in message.get(key, []) if isinstance(value, str)]

"""A model's configuration as ``pb_utils`` has it: read by functions, and completed in ``auto_complete_config``."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from mooring.backends.triton_python.host import HOST

_INPUT_KEYS = ("name", "data_type", "dims", "optional")
_OUTPUT_KEYS = ("name", "data_type", "dims")
_SCHEDULERS = ("sequence_batching", "ensemble_scheduling")


def get_model_dir() -> str:
    """Return the folder of the version of the model in this process."""
    return HOST.folder


def get_input_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the configuration of an input; None where there is none of that name."""
    return _find_entry(model_config.get("input", ()), name)


def get_output_config_by_name(model_config: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the configuration of an output; None where there is none of that name."""
    return _find_entry(model_config.get("output", ()), name)


def using_decoupled_model_transaction_policy(model_config: Mapping[str, Any]) -> bool:
    """Whether a request may have any number of responses."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def _find_entry(entries: Collection[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((each for each in entries if each.get("name") == name), None)


class ModelConfig:
    """A configuration that the model's code completes. What the model's owner wrote must not be contradicted."""

    def __init__(self, model_config: str) -> None:
        self._config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        """The configuration, in Triton's form."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set the most rows of a call. Raises ``ValueError`` where the configuration allows more."""
        declared = self._config.get("max_batch_size", 0)
        if declared > max_batch_size:
            raise ValueError(
                f"{self._where()}: max_batch_size is {declared} in the configuration, and auto_complete_config sets "
                f"{max_batch_size}"
            )
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Have requests joined in a call. Raises ``ValueError`` where the configuration schedules them otherwise."""
        for name in _SCHEDULERS:
            if name in self._config:
                raise ValueError(
                    f"{self._where()}: the configuration has {name}, and auto_complete_config sets dynamic_batching"
                )
        self._config.setdefault("dynamic_batching", {})

    def add_input(self, input: dict[str, Any]) -> None:  # noqa: A002 - Triton's name
        """Add an input with name, data_type and dims, and optional.

        Raises ``ValueError`` for other keys, for one that is missing, and where the configuration says otherwise.
        """
        self._add("input", input, _INPUT_KEYS)

    def add_output(self, output: dict[str, Any]) -> None:
        """Add an output with name, data_type and dims. Raises ``ValueError`` as ``add_input``."""
        self._add("output", output, _OUTPUT_KEYS)

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, Any]) -> None:
        """Set ``decoupled``. Raises ``ValueError`` for other keys, and where the configuration says otherwise."""
        for key in transaction_policy_dict:
            if key != "decoupled":
                raise ValueError(f"{self._where()}: model_transaction_policy has no key '{key}'")
        wanted = bool(transaction_policy_dict.get("decoupled", False))
        policy = self._config.get("model_transaction_policy")
        if policy and policy.get("decoupled", False) and not wanted:
            raise ValueError(
                f"{self._where()}: decoupled is true in the configuration, and auto_complete_config sets false"
            )
        self._config["model_transaction_policy"] = {"decoupled": wanted}

    def _add(self, kind: str, entry: Mapping[str, Any], keys: Collection[str]) -> None:
        where = f"{self._where()}, {kind} '{entry.get('name', '')}'"
        for key in entry:
            if key not in keys:
                raise ValueError(f"{where}: unknown key '{key}'; known are {', '.join(keys)}")
        for key in _OUTPUT_KEYS:
            if key not in entry:
                raise ValueError(f"{where}: auto_complete_config gives no '{key}'")
        entries = self._config.setdefault(kind, [])
        declared = _find_entry(entries, entry["name"])
        if declared is None:
            entries.append(dict(entry))
            return
        if declared.get("data_type", "TYPE_INVALID") not in ("TYPE_INVALID", entry["data_type"]):
            raise ValueError(
                f"{where}: the configuration has it as {declared['data_type']}, auto_complete_config as "
                f"{entry['data_type']}"
            )
        if declared.get("dims") and list(declared["dims"]) != list(entry["dims"]):
            raise ValueError(
                f"{where}: the configuration has dims {declared['dims']}, auto_complete_config {entry['dims']}"
            )
        declared.update(entry)

    def _where(self) -> str:
        return f"model '{self._config.get('name', '')}'"

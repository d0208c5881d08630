"""The settings that a command gives to every node server, as a file. Runs in ``mooring serve --cluster``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mooring.config.setting_groups import text_of
from mooring.config.settings import DEFAULTS, SETTINGS, Config, ConfigError, Secret
from mooring.config.sources.origins import DEFAULT, Origins

# What the command itself does: which models the cluster serves, and which cluster that is.
_OF_THE_COMMAND = frozenset(
    {
        "targets", "host", "port", "models", "startup_models", "require_models", "keep_going", "exit_on_error",
        "repository_load_existing", "repository_polling", "cluster", "cluster_name", "cluster_nodes",
        "cluster_state", "cluster_dir", "cluster_idle_timeout", "cluster_socket",
    }
)  # fmt: skip
# What makes no sense where the files of all models come from the cluster.
_REFUSED = (
    "reload",
    "repository_monitoring",
    "model_snapshot",
    "snapshot_folder",
    "workflow_store",
    "log_file",
    "log_folder",
)


def open_to_others(config: Config, origins: Origins) -> Config:
    """The settings with inference at all addresses of a node, where the user has named no host: a cluster is asked from other machines."""
    opened = {
        name: msgspec.structs.replace(getattr(config, name), host="0.0.0.0")  # noqa: S104 - as is said in the guide
        for name in ("inference_address", "grpc_address")
        if origins.of(name) == DEFAULT or origins.of(name).startswith("port: ")
    }
    return msgspec.structs.replace(config, **opened)


def encode_node_settings(config: Config) -> str:
    """Return the settings of a node server as TOML: all that are not at their defaults. Paths are made absolute.

    Raises ``ConfigError`` for what a cluster cannot have, and for a secret that stands in no file of its own: every node must have
    it, and it would lie in their settings.
    """
    for name in _REFUSED:
        if getattr(config, name) != getattr(DEFAULTS, name):
            raise ConfigError(f"{name} is for one machine: leave it out with cluster")
    found = "".join(f"{name} = {_toml(name, value)}\n" for name, value in _changed(config))
    # Clients load from them, at nodes that have them. What the cluster serves comes from the controller alone.
    return found + ("repository_load_existing = false\n" if config.model_repository else "")


def _changed(config: Config) -> Iterator[tuple[str, Any]]:
    for name in SETTINGS:
        value = getattr(config, name)
        if name in _OF_THE_COMMAND or value == getattr(DEFAULTS, name):
            continue
        if isinstance(value, Secret):
            hint = (
                f"name a file that every node has, as {name}_file"
                if f"{name}_file" in SETTINGS
                else "use PEM files"
            )
            raise ConfigError(
                f"{name} is a secret, and secrets are not sent to the nodes of a cluster: {hint}"
            )
        yield name, value


def _toml(name: str, value: Any) -> str:
    if isinstance(value, Path):
        value = str(value.absolute())
    elif isinstance(value, tuple):
        value = [str(each.absolute()) if isinstance(each, Path) else each for each in value]
    elif not isinstance(value, bool | int | float):
        value = text_of(name, value)
    return msgspec.json.encode(value).decode()

"""The settings of a start: flags win over the environment, the environment over the file, the file over the defaults.

A setting has one name: ``job_queue_size`` in a file, ``MOORING_JOB_QUEUE_SIZE`` in the environment and
``--job-queue-size`` as a flag. Nothing reads the environment after this.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from mooring.config.properties import parse_properties
from mooring.config.settings import SETTINGS, SHORT_FLAGS, Address, Config, ConfigError, Secret
from mooring.config.sources.origins import Origins, in_environment, in_properties, in_toml, in_variables
from mooring.config.sources.ports import can_listen, place_listeners
from mooring.config.sources.torchserve import read_properties, read_variables
from mooring.config.sources.values import parse_setting, suggest_name
from mooring.config.torchserve_keys import CONFIG_FILE, log_config_file

PREFIX = "MOORING_"
_OF_SERVICE = re.compile(r"(tcp|udp|sctp)://")
PROPERTIES = (".properties", ".cfg")
"""How the names of files in TorchServe's format end: its configurations, and its snapshots."""


def load_config(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str | Path | None = None,
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    warn: Callable[[str], object] = lambda _line: None,
    origins: Origins | None = None,
) -> Config:
    """Load the settings of this start. ``flags`` holds only what the user gave, by the settings' names.

    ``defaults`` are a command's own, in the settings' own types, where they differ from those of ``Config``.

    ``file`` is our TOML, or TorchServe's properties where its name ends so; ``MOORING_CONFIG`` names one when it is
    None. ``warn`` gets a line for what is accepted without effect, ``origins`` where each setting was set. Raises
    ``ConfigError``.
    """
    origins = origins or Origins()
    chosen: dict[str, Any] = {}
    origins.apply_defaults(chosen, defaults)
    file = file or environ.get(f"{PREFIX}CONFIG")
    if file:
        found, places = _read_file(Path(file), environ, warn)
        origins.apply(chosen, found, places)
    origins.apply(chosen, _read_environment(environ, warn), in_environment(PREFIX))
    given = {name: parse_setting(name, value, _flag_name(name)) for name, value in flags.items()}
    origins.apply_flags(chosen, given, _flag_name)
    origins.apply(chosen, read_variables(environ, chosen), in_variables(environ))
    placed = place_listeners(chosen, can_listen)
    origins.note_placed(placed)
    config = _with_grpc_tls(Config(**chosen | placed))
    with_log = _with_log_config(config, warn)
    if with_log is not config:
        origins.note_read_from("vmargs", "log_config")
    _check_management(with_log)
    return with_log


def _read_file(
    path: Path, environ: Mapping[str, str], warn: Callable[[str], object]
) -> tuple[dict[str, Any], Callable[[str], str]]:
    """Return the settings in a file, and a function that returns where one of them stands."""
    try:
        text = path.read_bytes()
        if path.suffix in PROPERTIES:
            # Files for Java are Latin-1; bytes that are not UTF-8 stay what they are, so that paths still match.
            decoded = text.decode("utf-8", "surrogateescape")
            found = parse_properties(decoded, environ)
            chosen = _secrets_of_snapshot(found, environ, warn) | read_properties(path, found, warn)
            return _with_file_of_secrets(path, chosen), in_properties(path, decoded)
        table = tomllib.loads(text.decode())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {_lower_first(str(error))}") from error
    for name in table:
        if name not in SETTINGS:
            raise ConfigError(f"{path}: unknown setting '{name}'{suggest_name(name, SETTINGS)}")
    chosen = {
        name: parse_setting(name, value, f"{path}: {name}", strict=True) for name, value in table.items()
    }
    return _with_file_of_secrets(path, chosen), in_toml(path, text.decode())


def _with_file_of_secrets(path: Path, chosen: dict[str, Any]) -> dict[str, Any]:
    """Note in each secret the file that it was read from."""
    place = str(path.absolute())
    return {
        name: Secret(value.text, value.file or place) if isinstance(value, Secret) else value
        for name, value in chosen.items()
    }


def _secrets_of_snapshot(
    snapshot: Mapping[str, str], environ: Mapping[str, str], warn: Callable[[str], object]
) -> dict[str, Any]:
    """Read the secrets that a snapshot does not repeat from the file that it names."""
    file = snapshot.get(CONFIG_FILE)
    if "model_snapshot" not in snapshot or file is None or Path(file).suffix == ".cfg":
        return {}
    try:
        found, _ = _read_file(Path(file), environ, lambda _line: None)
    except ConfigError as error:
        warn(f"the secrets that the snapshot leaves in its file are not there: {error}")
        return {}
    return {name: value for name, value in found.items() if isinstance(value, Secret)}


def _read_environment(environ: Mapping[str, str], warn: Callable[[str], object]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for variable, value in environ.items():
        name = variable.removeprefix(PREFIX).lower()
        # Kubernetes sets MOORING_PORT=tcp://10.0.0.1:8080 and the like for a service that is called mooring.
        if (
            not variable.startswith(PREFIX)
            or name == "config"
            or (name == "port" and _OF_SERVICE.match(value))
        ):
            continue
        if name in SETTINGS:
            chosen[name] = parse_setting(name, value, variable)
        # Not an error: more of Kubernetes' variables begin so.
        elif hint := suggest_name(name, SETTINGS, lambda known: f"{PREFIX}{known.upper()}"):
            warn(f"unknown variable {variable}{hint}")
    return chosen


def _with_grpc_tls(config: Config) -> Config:
    """Mark gRPC's addresses as secure where ``enable_grpc_ssl`` is set; a unix socket needs no TLS."""
    if not config.enable_grpc_ssl:
        return config
    names = ("grpc_address", "second_grpc_address", "grpc_management_address")
    addresses = {name: getattr(config, name) for name in names}
    secured = {
        name: msgspec.structs.replace(address, secure=not address.path)
        for name, address in addresses.items()
        if address is not None
    }
    return msgspec.structs.replace(config, **secured)


def _with_log_config(config: Config, warn: Callable[[str], object]) -> Config:
    """Take the log configuration that ``vmargs`` name, where no other is given. Java's log4j goes on without one, too."""
    file = log_config_file(config.vmargs)
    if not file or config.log_config is not None:
        return config
    if not Path(file).is_file():
        warn(f"vmargs: no log configuration '{file}', so the default one is used")
        return config
    return msgspec.structs.replace(config, log_config=Path(file))


def _check_management(config: Config) -> None:
    """Refuse an open management address: only ``insecure`` allows other machines without a token or a certificate."""
    for name in ("management_address", "grpc_management_address"):
        address: Address = getattr(config, name)
        if not config.guarded(address):
            raise ConfigError(
                f"{name} {address} can be reached from other machines, where anybody could manage"
                " the models: give a loopback address, or ask for a token (management_token_file,"
                " MOORING_MANAGEMENT_TOKEN or token_authorization = on) or for certificates (client_ca_file),"
                " or set insecure = true (--insecure) to allow it"
            )


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _flag_name(name: str) -> str:
    return SHORT_FLAGS.get(name, f"--{name.replace('_', '-')}")

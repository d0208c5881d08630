"""Settings under the names of TorchServe's keys: in its files and its variables, and back."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from mooring.config.settings import (
    DEFAULTS,
    SETTINGS,
    Address,
    Config,
    Snapshot,
    encode_snapshot,
    is_secret,
    to_torchserve_models,
)
from mooring.config.sources.values import parse_setting, suggest_name
from mooring.config.torchserve_keys import (
    ADDRESSES,
    CONFIG_FILE,
    MILLISECONDS,
    SAME,
    WRITTEN,
    is_effective,
    known_keys,
    no_effect_reason,
)

_TORCHSERVE = "TS_"

TORCHSERVE_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        # This machine's own users are trusted; TorchServe asks them for tokens, too.
        "token_authorization": "elsewhere",
        "unauthorized_status": 400,
        # Its clients know this status and one text.
        "failed_prediction_status": 503,
        "show_errors": False,
        # It serves what it can, and says in its log what it cannot.
        "require_models": False,
        "access_log": True,
        # TorchServe's default, log, and what most set next.
        "metrics_mode": "both",
    }
)
"""What a start under TorchServe's command has in place of our defaults."""


def read_variables(environ: Mapping[str, str], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Read TorchServe's variables, where the settings so far (``chosen``) let them count."""
    found: dict[str, str] = {}
    if chosen.get("enable_envvars_config"):
        for key in known_keys():
            for variable in (f"{_TORCHSERVE}{key.upper()}", key.upper()):
                if variable.startswith(_TORCHSERVE) and variable in environ:
                    found[key] = environ[variable]
    if chosen.get("use_env_allowed_urls") and f"{_TORCHSERVE}ALLOWED_URLS" in environ:
        found["allowed_urls"] = environ[f"{_TORCHSERVE}ALLOWED_URLS"]
    return _settings_of_keys(found, name_variable, chosen)


def name_variable(key: str) -> str:
    """Return the variable of TorchServe's that stands for a key of its file."""
    return f"{_TORCHSERVE}{key.upper().removeprefix(_TORCHSERVE)}"


def find_key(setting: str, given: Container[str]) -> str:
    """Return the key among those ``given`` that a setting was read from; empty where there is none."""
    keys = [key for key, name in (*SAME.items(), *MILLISECONDS.items()) if name == setting]
    keys += [key for pair, name in ADDRESSES.items() if name == setting for key in reversed(pair)]
    keys += {"vmargs": ["vmargs"], "token_authorization": ["disable_token_authorization"]}.get(setting, [])
    return next((key for key in keys if key in given), "")


def read_properties(path: Path, found: Mapping[str, str], warn: Callable[[str], object]) -> dict[str, Any]:
    """Read the keys of a file. ``warn`` gets a line for keys without effect here and one for unknown keys."""
    known = known_keys()
    idle = {
        key: no_effect_reason(key, value)
        for key, value in found.items()
        if key in known and not is_effective(key)
    }
    reasons = [f"{key} ({why})" for key, why in idle.items() if why]
    if reasons:
        warn(f"{path}: not applicable here: {', '.join(reasons)}")
    unknown = [
        f"{key}{suggest_name(key, dict.fromkeys(known))}" for key in found if key not in known | WRITTEN
    ]
    if unknown:
        warn(f"{path}: no keys of TorchServe's: {', '.join(unknown)}")
    return _settings_of_keys(found, lambda key: f"{path}: {key}", {})


def _settings_of_keys(
    found: Mapping[str, str], where: Callable[[str], str], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Translate TorchServe's keys into settings. ``before`` has the half of an address that ``found`` lacks."""
    chosen = {name: parse_setting(name, found[key], where(key)) for key, name in SAME.items() if key in found}
    for key, name in MILLISECONDS.items():
        if key in found:
            chosen[name] = parse_setting(name, found[key], where(key)) / 1000
    if kept := [word for word in found.get("vmargs", "").split() if word.startswith("-D")]:
        chosen["vmargs"] = " ".join(kept)  # the rest has no effect, and is named so
    if "disable_token_authorization" in found:  # True says both: no tokens, and that the user wants it so
        chosen["token_authorization"] = "off" if chosen["insecure"] else "on"
    for (host, port), name in ADDRESSES.items():
        if host in found or port in found:
            default = before.get(name, getattr(DEFAULTS, name))
            place = found.get(host, default.host)
            text = f"{f'[{place}]' if ':' in place else place}:{found.get(port, default.port)}"
            chosen[name] = parse_setting(name, text, where(f"{host} and _port"))
    return chosen


def to_properties(config: Config) -> dict[str, str]:
    """Translate settings into TorchServe's keys, as its file has them. Settings at their defaults are left out.

    Secrets are left out, too: the file that holds them is named in their place.
    """
    written = {
        key: _format_value(getattr(config, name))
        for key, name in SAME.items()
        if getattr(config, name) != getattr(DEFAULTS, name) and not is_secret(name)
    }
    if file := next(filter(None, (getattr(config, name).file for name in filter(is_secret, SETTINGS))), ""):
        written[CONFIG_FILE] = file
    # Whoever reads the file again is not to lose them, and gets "elsewhere" by default under TorchServe's command.
    if config.generates_tokens and (config.insecure or config.token_authorization == "on"):  # noqa: S105
        written["disable_token_authorization"] = "false"  # noqa: S105 - a switch, and no password
    if config.vmargs:
        written["vmargs"] = config.vmargs
    for key, name in MILLISECONDS.items():
        if seconds := getattr(config, name):
            written[key] = f"{seconds * 1000:.0f}"
    for (host, port), name in ADDRESSES.items():
        address: Address = getattr(config, name)
        if address != getattr(DEFAULTS, name) and not address.path:
            written |= {host: address.host, port: str(address.port)}
    return written


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, Path):
        return str(value.absolute())  # who starts from it again may do so elsewhere
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, dict):
        return msgspec.json.encode(to_torchserve_models(value)).decode()
    return encode_snapshot(value) if isinstance(value, Snapshot) else str(value)

"""Keyword arguments of ``mooring.serve`` as flags of ``mooring serve``: pure rules."""

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mooring.config.settings import SETTINGS, Address, ConfigError, is_list, is_secret, is_switch
from mooring.config.sources.loading import PREFIX
from mooring.config.sources.values import parse_setting

_NO_SETTING = "targets"  # which are an argument of their own


def to_flags(settings: Mapping[str, Any]) -> list[str]:
    """Return the flags of ``mooring serve`` that say the same; None counts as not given, and secrets are left out.

    Raises ``ConfigError`` for a value that the setting cannot have.

    >>> to_flags({"job_queue_size": 5, "access_log": True, "models": ["a", "b"], "log_level": None})
    ['--job-queue-size=5', '--access-log', '--models=a', '--models=b']
    """
    flags: list[str] = []
    for name, value in _given(settings):
        flag = f"--{name.replace('_', '-')}"
        if is_secret(name):
            continue
        if is_switch(name):
            on = parse_setting(name, value, name)
            flags.append(flag if on else f"--no-{flag.removeprefix('--')}")
        elif is_list(name) and not isinstance(value, str):
            flags += [f"{flag}={each}" for each in value]
        else:
            flags.append(f"{flag}={value if isinstance(value, str) else _to_text(value)}")
    return flags


def to_variables(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the secrets among the settings as environment variables: everybody on the machine sees flags."""
    return {f"{PREFIX}{name.upper()}": str(value) for name, value in _given(settings) if is_secret(name)}


def check_names(settings: Mapping[str, Any], others: Iterable[str]) -> None:
    """Raise ``TypeError`` for a name that is not a setting; ``others`` are arguments beside the settings."""
    known = [*others, *(name for name in SETTINGS if name != _NO_SETTING)]
    for name in settings:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise TypeError(f"serve() got an unexpected keyword argument '{name}'{hint}")


def to_plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are given, each as a file of settings has it."""
    return {name: _to_plain(value) for name, value in settings.items() if value is not None}


def _given(settings: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in to_plain(settings).items():
        parse_setting(name, value, name)
        yield name, value


def _to_plain(value: Any) -> Any:
    """Return a value as a file of settings has it: paths and addresses as text."""
    if isinstance(value, Path | Address):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_plain(each) for each in value]
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return value


def _to_text(value: Any) -> str:
    if isinstance(value, dict):
        try:
            return json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{value!r} cannot be written as JSON: {error}") from None
    return str(value)

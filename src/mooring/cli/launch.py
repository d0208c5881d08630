"""From the flags of a command to a running server: what ``serve`` and ``torchserve`` share."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mooring.config import SETTINGS, Config, ConfigError, is_secret
from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger, setup
from mooring.sources.loading import PREFIX, load_config

if TYPE_CHECKING:
    from mooring.core.service import ModelState

log = get_logger(__name__)


def launch(
    flags: Mapping[str, Any],
    file: str | None,
    warnings: Iterable[str] = (),
    *,
    up: str = "Mooring is up.",
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> NoReturn:
    """Serve until the server ends, then leave with its exit status. A user's mistake is one line and status 1."""
    from mooring.cli.greeting import greet

    heard = list(warnings)
    config = configured(flags, file, heard, defaults=defaults)
    sys.exit(served(config, heard, lambda listening, models: greet(listening, models, up=up)))


def configured(
    flags: Mapping[str, Any],
    file: str | None,
    heard: list[str],
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """The settings of this start; ``heard`` gets what is to be said of them. A mistake ends the command."""
    try:
        config = load_config(flags, os.environ, file, defaults=defaults, warn=heard.append)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    for name in filter(is_secret, SETTINGS):  # workers run users' code, and inherit the environment
        os.environ.pop(f"{PREFIX}{name.upper()}", None)
    return config


def served(
    config: Config, heard: Iterable[str], started: "Callable[[Config, Sequence[ModelState]], None]"
) -> int:
    """Serve until the server ends; its exit status. What it cannot start with ends the command."""
    setup(config.log_level)
    for warning in heard:
        log.warning(warning)

    from mooring.server import run

    try:
        return run(config, started=started)
    except (MooringError, ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options the user gave; click has None or an empty tuple for the others."""
    return {name: value for name, value in values.items() if value is not None and value != ()}

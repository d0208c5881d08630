"""From the flags of a command to a running server: what ``serve`` and ``torchserve`` share."""

import os
import sys
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import click

from mooring.config import PREFIX, SETTINGS, ConfigError, is_secret, load_config
from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger, setup

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
    heard = list(warnings)
    try:
        config = load_config(flags, os.environ, file, defaults=defaults, warn=heard.append)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    for name in filter(is_secret, SETTINGS):
        os.environ.pop(
            f"{PREFIX}{name.upper()}", None
        )  # workers run users' code, and inherit the environment
    setup(config.log_level)
    for warning in heard:
        log.warning(warning)

    from mooring.cli.greeting import greet
    from mooring.server import run

    try:
        status = run(config, started=lambda models: greet(config, models, up=up))
    except (MooringError, ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(status)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options the user gave; click has None or an empty tuple for the others."""
    return {name: value for name, value in values.items() if value is not None and value != ()}

"""From the flags of a command to a running server: what ``serve`` and ``torchserve`` share."""

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mooring.config.settings import SETTINGS, Config, ConfigError, is_secret
from mooring.config.sources.loading import PREFIX, load_config
from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger, setup_logging
from mooring.signals import exit_on_signal

if TYPE_CHECKING:
    from mooring.core.service import ModelState
    from mooring.workers.library_process import LibraryProcess

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
    config = configured(flags, file, heard, defaults=defaults)
    sys.exit(served(config, heard, greets(up)))


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
    setup_logging(config.log_level)
    exit_on_signal()
    for warning in heard:
        log.warning(warning)

    try:
        with ExitStack() as stack:
            return _prepared(config, stack)(started=started)
    except (MooringError, ConfigError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _prepared(config: Config, stack: ExitStack) -> Callable[..., int]:
    """``mooring.server.server.run`` for these settings. Imported bit by bit: what takes longest has begun before the next is."""
    gc.disable()  # all that an import makes stays
    try:
        from mooring.workers.libraries import start_libraries

        libraries = start_libraries(config, _first())
        stack.callback(libraries.close)

        from mooring.server.startup import Startup

        startup = Startup(config, stack, libraries)
        startup.find()

        from mooring.server.server import run

        return functools.partial(run, config, startup)
    finally:
        gc.enable()


def _first() -> "LibraryProcess | None":
    """What this command line has begun before it was read, if it has."""
    context = click.get_current_context(silent=True)
    first: LibraryProcess | None = context.obj if context is not None else None
    return first


def greets(up: str) -> "Callable[[Config, Sequence[ModelState]], None]":
    """What prints the greeting, imported when it is time for it."""

    def started(listening: Config, models: "Sequence[ModelState]") -> None:
        from mooring.cli.greeting import greet

        greet(listening, models, up=up)

    return started


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options the user gave; click has None or an empty tuple for the others."""
    return {name: value for name, value in values.items() if value is not None and value != ()}

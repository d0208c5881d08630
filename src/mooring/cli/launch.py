"""Starts a server from the flags of a command, for each of the commands that start one."""

import functools
import gc
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from mooring.cli import Begun
from mooring.cli.memory_defaults import fit_to_memory
from mooring.cli.pid_file import find_temporary_folder
from mooring.cli.service_manager import report_ready
from mooring.config.settings import SETTINGS, Config, ConfigError, is_secret
from mooring.config.sources.loading import PREFIX, load_config
from mooring.config.sources.origins import Origins
from mooring.core.errors import MooringError
from mooring.hardware import usable_memory
from mooring.observability.log_output.setup import add_reader, setup_logging
from mooring.observability.logs import get_logger, truncate_text
from mooring.observability.recent import RecentRecords
from mooring.signals import exit_on_signal

if TYPE_CHECKING:
    from mooring.cli.start_view import StartView
    from mooring.core.example_requests import ExampleRequest
    from mooring.core.service import ModelState
    from mooring.server.reservation import Reservation
    from mooring.server.server import Started

log = get_logger(__name__)


def launch(
    flags: Mapping[str, Any],
    file: str | None,
    warnings: Iterable[str] = (),
    *,
    up: str = "Mooring is up.",
    defaults: Mapping[str, Any] = MappingProxyType({}),
    origins: Origins | None = None,
) -> NoReturn:
    """Serve until the server ends, then exit with its status. A user's mistake is reported in one line, status 1."""
    warnings = list(warnings)
    origins = origins or Origins()
    config = read_config(flags, file, warnings, origins, defaults=defaults)
    if config.cluster:
        from mooring.cli.cluster_serve import serve_on_cluster

        for warning in warnings:
            click.echo(warning, err=True)
        sys.exit(serve_on_cluster(config, origins))
    from mooring.cli.start_view import StartView

    view = StartView(up)
    sys.exit(serve_until_stopped(config, warnings, view.started, origins, view=view))


def read_config(
    flags: Mapping[str, Any],
    file: str | None,
    warnings: list[str],
    origins: Origins,
    *,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Config:
    """Return the settings of this start, and add warnings about them and where each was set.

    Raises ``ClickException`` for a mistake.
    """
    try:
        config = load_config(
            flags, os.environ, file, defaults=defaults, warn=warnings.append, origins=origins
        )
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if config.temporary_folder is None:
        find_temporary_folder()
    for name in filter(is_secret, SETTINGS):  # workers run users' code, and inherit the environment
        os.environ.pop(f"{PREFIX}{name.upper()}", None)
    return config


def serve_until_stopped(
    config: Config,
    warnings: Iterable[str],
    started: "Started",
    origins: Origins,
    *,
    view: "StartView | None" = None,
    address_flags: Mapping[str, str] = MappingProxyType({}),
    while_serving: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Serve until the server ends; return its exit status. Raises ``ClickException`` if it cannot start.

    ``origins`` says where each setting was set.
    ``address_flags`` says for each setting of an address how this command's user chooses another one. ``while_serving`` is
    entered once the addresses are bound: what it writes is not written by a start that cannot have them. ``view`` shows how
    far the start is; ``started`` shows that it is done.
    """
    warnings = [*warnings]
    config = fit_to_memory(config, usable_memory(), origins, warnings)
    try:
        warnings += setup_logging(config)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    recent = RecentRecords()
    if config.console:
        add_reader(recent)
    exit_on_signal()
    for warning in warnings:
        log.warning(warning)

    def report_started(
        listening: Config, models: "Sequence[ModelState]", example: "ExampleRequest | None"
    ) -> None:
        started(listening, models, example)
        report_ready(sum(each.ready and each.listed for each in models))
        caller = find_begun().caller
        if caller is not None:
            caller.report_start(listening, models)

    try:
        with ExitStack() as stack:
            _check_device(config)
            reservation = _reserve_addresses(config, address_flags, stack)
            stack.enter_context(while_serving())
            if view is not None:
                view.begin(reservation.listening)
            return _prepare_server(config, reservation, recent, origins, stack)(
                started=report_started, view=view
            )
    except (MooringError, ConfigError, OSError) as error:
        raise _report_failure(config, error) from error


class _LoggedError(click.ClickException):
    """A mistake that standard error has as an event of the log."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Show nothing more."""


def _report_failure(config: Config, error: Exception) -> click.ClickException:
    """Write why there is no server to a log that is not text on standard error; return the exception that says it there."""
    detail = error.detail if isinstance(error, MooringError) else ""
    on_stderr = config.log_file is None and config.log_folder is None and config.log_config is None
    if on_stderr and config.log_format != "json":
        if detail:
            click.echo(truncate_text(detail.rstrip("\n")), err=True)
        return click.ClickException(str(error))
    log.error("server not started", reason=error, detail=detail)
    return _LoggedError(str(error)) if on_stderr else click.ClickException(str(error))


def _check_device(config: Config) -> None:
    """Raise ``ConfigError`` where GPUs are asked for that are not there. Other servers are spared the look for them."""
    if config.device not in ("", "cpu"):
        from mooring.hardware import find_devices
        from mooring.workers.environment import check_device

        check_device(config.device, os.environ, find_devices())


def _reserve_addresses(config: Config, flags: Mapping[str, str], stack: ExitStack) -> "Reservation":
    """Bind every address, before any library is imported for a server that cannot have them. Raises ``OSError``."""
    from mooring.server.reservation import Reservation

    reservation = Reservation(config, flags)
    reservation.reserve()
    stack.callback(reservation.close)
    return reservation


def _prepare_server(
    config: Config, reservation: "Reservation", recent: RecentRecords, origins: Origins, stack: ExitStack
) -> Callable[..., int]:
    """``mooring.server.server.run`` for these settings. Imported bit by bit: what takes longest has begun before the next is."""
    gc.disable()  # objects made by imports are never garbage
    try:
        from mooring.workers.libraries import start_libraries

        libraries = start_libraries(config, find_begun().libraries)
        stack.callback(libraries.close)

        from mooring.server.startup import Startup

        startup = Startup(config, stack, libraries, reservation, recent, origins)
        startup.find()

        from mooring.server.server import run

        return functools.partial(run, config, startup)
    finally:
        gc.enable()


def find_begun() -> Begun:
    """Return what was begun before the command line was read."""
    context = click.get_current_context(silent=True)
    begun = context.find_object(Begun) if context is not None else None
    return begun or Begun()


def greeting_printer(up: str) -> "Started":
    """Return a function that prints the greeting, which is imported only then."""

    def started(listening: Config, models: "Sequence[ModelState]", example: "ExampleRequest | None") -> None:
        from mooring.cli.greeting import print_greeting

        print_greeting(listening, models, example, up=up)

    return started


def drop_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave; click has None or an empty tuple for the others."""
    return {name: value for name, value in values.items() if value is not None and value != ()}

"""``mooring torchserve``: TorchServe's own flags, so that its start and stop commands go on working."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mooring import __version__
from mooring.cli.background import Ready
from mooring.cli.background import start as start_in_background
from mooring.cli.kserve_pod import (
    MODELS,
    POD_DEFAULTS,
    explain_envelope,
    is_mounted,
    read_pod_variables,
    wait_for_folder,
)
from mooring.cli.launch import drop_unset, find_begun, greeting_printer, read_config, serve_until_stopped
from mooring.cli.pid_file import AlreadyServing, hold_pid_file, running_process_id
from mooring.cli.standard_streams import print_line
from mooring.cli.stopping import stop_server
from mooring.config.settings import Config
from mooring.config.sources.origins import Origins
from mooring.config.sources.torchserve import TORCHSERVE_DEFAULTS
from mooring.config.torchserve_keys import log_config_file

if TYPE_CHECKING:
    from mooring.core.example_requests import ExampleRequest
    from mooring.core.service import ModelState
    from mooring.server.server import Started

# The file that TorchServe reads if none is named.
_DEFAULT_FILE = "config.properties"
# How its users choose another address.
_ADDRESS_KEYS: Mapping[str, str] = {
    "inference_address": "inference_address in config.properties",
    "second_inference_address": "MOORING_SECOND_INFERENCE_ADDRESS",
    "management_address": "management_address in config.properties",
    "metrics_address": "metrics_address in config.properties",
    "grpc_address": "grpc_inference_port in config.properties",
    "second_grpc_address": "MOORING_SECOND_GRPC_ADDRESS",
    "grpc_management_address": "grpc_management_port in config.properties",
}
_UP = "Model server started."  # the line that scripts wait for


class _ManyModels(click.Command):
    """Lets ``--models a.mar b=b.mar`` take every word up to the next flag, which click's options cannot."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        inside = False
        for word in args:
            if word.startswith("-"):
                inside = word.partition("=")[0] == "--models"
            elif inside and spread[-1] != "--models":
                spread.append("--models")
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_ManyModels, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    "0.12.0", "--version", "-v", message=f"TorchServe Version is %(version)s (Mooring {__version__})"
)
@click.option("--start", is_flag=True, help="start the server, as the command does without it, too")
@click.option("--stop", is_flag=True, help="stop the server, and return when it is gone")
@click.option("--foreground", is_flag=True, help="do not go to the background; log to the terminal")
@click.option("--ts-config", metavar="FILE", help="config.properties to read; TS_CONFIG_FILE names another")
@click.option("--model-store", metavar="DIR", help="folder with model archives")
@click.option("--models", multiple=True, metavar="MODEL...", help="all, or ARCHIVE or NAME=ARCHIVE")
@click.option(
    "--no-config-snapshots",
    "--ncs",
    is_flag=True,
    help="write no snapshots of what is served, and start from none",
)
@click.option(
    "--disable-token-auth",
    "--dt",
    is_flag=True,
    help="ask for no tokens: anybody who reaches the management address may manage models",
)
@click.option(
    "--enable-model-api",
    is_flag=True,
    help="let models be registered and unregistered; on anyway where only this machine can",
)
@click.option(
    "--workflow-store", metavar="DIR", help="folder with workflow archives; the model store by default"
)
@click.option(
    "--log-config", metavar="FILE", help="a configuration of log4j, which says what is logged where"
)
@click.option("--cpp-log-config", metavar="FILE", help="without effect")
@click.option("--plugins-path", "--ppath", metavar="PATH", help="without effect")
@click.option(
    "--install-aliases",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="write the commands torchserve, torch-model-archiver and torch-workflow-archiver into a folder, and do nothing else",
)
@click.option("--force", is_flag=True, help="with --install-aliases: replace other programs of these names")
def torchserve(
    *,
    install_aliases: Path | None,
    force: bool,
    start: bool,
    stop: bool,
    foreground: bool,
    ts_config: str | None,
    no_config_snapshots: bool,
    disable_token_auth: bool,
    enable_model_api: bool,
    log_config: str | None,
    cpp_log_config: str | None,
    plugins_path: str | None,
    **stores: Any,
) -> None:
    """Start as TorchServe would, from its flags and its config.properties, or stop what was started so."""
    if install_aliases is not None:
        from mooring.cli.aliases import install_aliases as install

        install(install_aliases, force=force)
        return
    if start and stop:
        raise click.UsageError("give --start or --stop, not both")
    if stop:
        stop_server()
        return
    flags = drop_unset(
        {
            "insecure": disable_token_auth or None,
            "token_authorization": "off" if disable_token_auth else None,
            "enable_model_api": enable_model_api or None,
            "log_config": log_config or _find_log_config(),
            **stores,
        }
    )
    if log_config is not None and not Path(log_config).is_file():
        raise click.ClickException(f"--log-config file not found: {log_config}")
    in_pod = _wait_for_pod(ts_config, stores.get("model_store"))
    ignored = drop_unset({"--cpp-log-config": cpp_log_config, "--plugins-path": plugins_path})
    warnings = [f"not applicable here: {', '.join(ignored)}"] if ignored else []
    logs = Path(os.environ.get("LOG_LOCATION") or "logs")
    if running_process_id() is not None:
        _refuse_second()
    origins = Origins("mooring torchserve")
    config = _read_torchserve_config(
        flags, ts_config, warnings, logs, origins, snapshots=not no_config_snapshots, in_pod=in_pod
    )
    if foreground or in_pod or find_begun().serves_here:
        sys.exit(_serve(config, warnings, greeting_printer(_UP), origins))
    where = "" if config.log_config is not None else f"; the log is also in {logs / 'ts_log.log'}"
    print_line(f"Starting in the background{where}", err=True)
    if greeting := start_in_background(lambda ready: _serve_in_background(config, warnings, origins, ready)):
        print_line(greeting)


def _serve_in_background(config: Config, warnings: Sequence[str], origins: Origins, ready: Ready) -> int:
    from mooring.cli.greeting import format_greeting, log_greeting

    def started(listening: Config, models: "Sequence[ModelState]", example: "ExampleRequest | None") -> None:
        if listening.log_format == "json":
            log_greeting(listening, up=_UP)
            ready("")
        else:
            ready("\n".join(format_greeting(listening, models, example, up=_UP)))

    return _serve(config, warnings, started, origins)


def _serve(config: Config, warnings: Sequence[str], started: "Started", origins: Origins) -> int:
    return serve_until_stopped(
        config, warnings, started, origins, address_flags=_ADDRESS_KEYS, while_serving=hold_pid_file
    )


def _refuse_second() -> None:
    click.echo(AlreadyServing().format_message())  # where TorchServe prints it
    sys.exit(1)


def _read_torchserve_config(
    flags: dict[str, Any],
    file_name: str | None,
    warnings: list[str],
    logs: Path,
    origins: Origins,
    *,
    snapshots: bool,
    in_pod: bool,
) -> Config:
    """Return the settings from the flags and a file: the named one, else the last snapshot; ``in_pod`` of a pod of KServe's."""
    snapshot_folder = logs / "config" if snapshots else None
    defaults = {
        **TORCHSERVE_DEFAULTS,
        "snapshot_folder": snapshot_folder,
        "log_format": "torchserve",
        "log_folder": logs,
        "metrics_folder": Path(os.environ.get("METRICS_LOCATION") or "logs"),
        "temporary_folder": _temporary_folder(),
    }
    if in_pod:
        defaults |= POD_DEFAULTS
        warnings += read_pod_variables(os.environ)
        file_name = file_name or os.environ.get("CONFIG_PATH")
    file = _find_config_file(file_name, snapshot_folder)
    config = read_config(flags, file, warnings, origins, defaults=defaults)
    if in_pod:
        warnings += explain_envelope(os.environ, config)
    for name in ("model_store", "workflow_store"):
        folder = getattr(config, name)
        if folder is not None and not folder.is_dir():
            raise click.ClickException(f"--{name.replace('_', '-')} directory not found: {folder}")
    if config.model_store is None:
        raise click.ClickException("Missing mandatory parameter --model-store")
    if not config.grpc_max_request_size:
        # TorchServe's gRPC takes no larger messages either, and sends any.
        config = msgspec.structs.replace(config, grpc_max_request_size=config.max_request_size)
    if config.model_snapshot is not None and config.models:
        warnings.append(
            "--models and load_models are ignored, but for workflows: the models of the snapshot are served"
        )
    return config


def _wait_for_pod(*named: str | None) -> bool:
    """Return whether the models are where KServe mounts them, once that folder is there."""
    in_pod = any(map(is_mounted, (*named, os.environ.get("TS_CONFIG_FILE"))))
    if in_pod:
        wait_for_folder(Path(MODELS))
    return in_pod


def _find_config_file(file_name: str | None, snapshot_folder: Path | None) -> str | None:
    file = os.environ.get("TS_CONFIG_FILE") or file_name
    if file is not None:
        if not Path(file).is_file():
            raise click.ClickException(f"--ts-config file not found: {file}")
        return file
    from mooring.repository.snapshot import newest_snapshot

    last = newest_snapshot(snapshot_folder) if snapshot_folder is not None else None
    if last is not None:
        hint = "--no-config-snapshots starts without"
        print_line(f"Going on with what was served last, from {last}; {hint}", err=True)
        return str(last)
    return _DEFAULT_FILE if Path(_DEFAULT_FILE).is_file() else None


def _find_log_config() -> str | None:
    """Return the log configuration that Java's own variables name, if it is there."""
    options = (os.environ.get(name, "") for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS"))
    file = os.environ.get("LOG4J_CONFIGURATION_FILE") or log_config_file(" ".join(options))
    return file if file and Path(file).is_file() else None


def _temporary_folder() -> Path | None:
    """Return the folder for temporary files that TEMP names, which replaces TMPDIR."""
    folder = os.environ.get("TEMP")
    if folder is None or Path(folder).is_dir():
        return Path(folder) if folder else None
    raise click.ClickException(f"TEMP: no folder '{folder}'")

"""``mooring torchserve``: TorchServe's own flags, so that its start commands go on working."""

import os
from pathlib import Path
from typing import Any

import click

from mooring import __version__
from mooring.cli.launch import given, launch
from mooring.config import TORCHSERVE_DEFAULTS

# Where TorchServe looks when nobody names a file.
_DEFAULT_FILE = "config.properties"


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
@click.option("--start", is_flag=True, help="start the server")
@click.option("--stop", is_flag=True, help="not supported yet")
@click.option("--foreground", is_flag=True, help="stay in the foreground, as this server always does for now")
@click.option("--ts-config", metavar="FILE", help="config.properties to read; TS_CONFIG_FILE names another")
@click.option("--model-store", metavar="DIR", help="folder with model archives")
@click.option("--models", multiple=True, metavar="MODEL...", help="all, or ARCHIVE or NAME=ARCHIVE")
@click.option("--ncs", "--no-config-snapshots", is_flag=True, expose_value=False, help="as it is here anyway")
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
@click.option("--log-config", metavar="FILE", help="without effect")
@click.option("--cpp-log-config", metavar="FILE", help="without effect")
@click.option("--plugins-path", "--ppath", metavar="PATH", help="without effect")
def torchserve(
    *,
    start: bool,
    stop: bool,
    foreground: bool,
    ts_config: str | None,
    model_store: str | None,
    models: tuple[str, ...],
    workflow_store: str | None,
    disable_token_auth: bool,
    enable_model_api: bool,
    **rest: Any,
) -> None:
    """Start as TorchServe would, from its flags and its config.properties."""
    if stop:
        raise click.ClickException("--stop is not supported yet: end the server with Ctrl-C or SIGTERM")
    if not start:
        raise click.UsageError("give --start")
    if model_store is not None and not Path(model_store).is_dir():
        raise click.ClickException(f"--model-store directory not found: {model_store}")
    if workflow_store is not None and not Path(workflow_store).is_dir():
        raise click.ClickException(f"--workflow-store directory not found: {workflow_store}")
    flags = given(
        {
            "model_store": model_store,
            "models": models,
            "workflow_store": workflow_store,
            "insecure": disable_token_auth or None,
            "token_authorization": "off" if disable_token_auth else None,
            "enable_model_api": enable_model_api or None,
        }
    )
    warnings = _warnings(rest, foreground=foreground)
    # The line that scripts wait for.
    launch(flags, _file(ts_config), warnings, up="Model server started.", defaults=TORCHSERVE_DEFAULTS)


def _file(named: str | None) -> str | None:
    file = os.environ.get("TS_CONFIG_FILE") or named
    if file is None and Path(_DEFAULT_FILE).is_file():
        return _DEFAULT_FILE
    if file is not None and not Path(file).is_file():
        raise click.ClickException(f"--ts-config file not found: {file}")
    return file


def _warnings(rest: dict[str, Any], *, foreground: bool) -> list[str]:
    idle = [f"--{name.replace('_', '-')}" for name, value in rest.items() if value]
    warnings = [f"without effect here: {', '.join(idle)}"] if idle else []
    if not foreground:
        warnings.append("staying in the foreground: starting in the background is not supported yet")
    return warnings

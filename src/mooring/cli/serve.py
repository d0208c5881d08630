"""``mooring serve``: every setting of ``Config`` as a flag."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from mooring.cli.launch import drop_unset, launch
from mooring.config.settings import SETTINGS, Config, is_list, is_secret, is_switch

# What uvicorn and others call it, beside the setting's own name.
_SHORT_FLAGS: Mapping[str, tuple[str, ...]] = {"default_workers_per_model": ("--workers",)}


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per setting that is no secret, so that flag, key and variable cannot drift apart."""
    defaults = Config()
    for name in reversed([name for name in SETTINGS if name != "targets" and not is_secret(name)]):
        flag = name.replace("_", "-")
        declaration = f"--{flag}/--no-{flag}" if is_switch(name) else f"--{flag}"
        default = getattr(defaults, name)
        default_text = (
            f" [{str(default).lower() if is_switch(name) else default}]"
            if default not in (None, "", (), {})
            else ""
        )
        option = click.option(
            *_SHORT_FLAGS.get(name, ()),
            declaration,
            name,
            default=None,
            multiple=is_list(name),
            metavar=None if is_switch(name) else "VALUE",
            help=SETTINGS[name] + default_text,
        )
        command = option(command)
    return command


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option(
    "--config", "file", metavar="FILE", help="settings as TOML, or as TorchServe's config.properties"
)
@_settings_options
def serve(file: str | None, **flags: Any) -> None:
    """Serve models until interrupted.

    TARGET is FILE.mar, FILE.py:function or the folder of a model. Every option can also stand in the file, as
    job_queue_size, or in the environment, as MOORING_JOB_QUEUE_SIZE.
    """
    launch(drop_unset(flags), file)

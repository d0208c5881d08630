"""``mooring serve``: every setting of ``Config`` as a flag."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from mooring.cli.help import GroupedCommand
from mooring.cli.launch import drop_unset, launch
from mooring.config.setting_groups import GROUPS, USUAL, choices_of, word_of
from mooring.config.settings import DEFAULTS, SETTINGS, SHORT_FLAGS, is_list, is_secret, is_switch

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Serve(GroupedCommand):
    groups: Mapping[str, Sequence[str]] = {**GROUPS, USUAL: (*GROUPS[USUAL], "file")}


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per setting that is no secret, so that flag, key and variable cannot drift apart."""
    for name in reversed([name for name in SETTINGS if name != "targets" and not is_secret(name)]):
        flag = name.replace("_", "-")
        option = click.option(
            *([SHORT_FLAGS[name]] if name in SHORT_FLAGS else []),
            f"--{flag}/--no-{flag}" if is_switch(name) else f"--{flag}",
            name,
            default=None,
            multiple=is_list(name),
            metavar=None if is_switch(name) else word_of(name),
            help=SETTINGS[name].replace(", true or false", "") + _default_text(name),
            shell_complete=_complete_value,
        )
        command = option(command)
    return command


def _default_text(name: str) -> str:
    default = getattr(DEFAULTS, name)
    if default in (None, "", (), {}):
        return ""
    if is_switch(name):
        return " [on]" if default else " [off]"
    if isinstance(default, float):
        return f" [{default:g}]"
    return f" [{str(default).removeprefix('http://') if name.startswith('grpc') else default}]"


def _complete_value(
    _context: click.Context, parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    """Complete a setting's value in a shell: by its choices, or with files or folders."""
    from click.shell_completion import CompletionItem

    assert parameter.name is not None
    word = word_of(parameter.name)
    if word in ("FILE", "FOLDER"):
        return [CompletionItem(incomplete, type="file" if word == "FILE" else "dir")]
    return [CompletionItem(each) for each in choices_of(parameter.name) if each.startswith(incomplete)]


def _complete_file(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


@click.command(cls=_Serve)
@click.argument("targets", nargs=-1, metavar="[TARGET]...", shell_complete=_complete_file)
@click.option(
    "--config", "file", metavar="FILE", help="settings as TOML, or as TorchServe's config.properties",
    shell_complete=_complete_file,
)  # fmt: skip
@_settings_options
def serve(file: str | None, **flags: Any) -> None:
    """Serve models until interrupted.

    \b
    TARGET is what to serve, NAME= in front gives it a name:
      app.py:double        a function or class of a Python file
      app:double           the same by the name of its module, pkg.mod:NAME too
      app.py               its Model or infer, or its only function or class
      model.onnx           a model file: .onnx, .pt2 or .pt (TorchScript)
      digits.mar           an archive of TorchServe's
      FOLDER               a model's folder: config.toml, handler.py, model.py or a model file
      https://HOST/m.mar   an archive or model file, where --allowed-urls names the address

    Every option can also stand in the file, as job_queue_size = 200, or in the environment, as
    MOORING_JOB_QUEUE_SIZE=200. With --port, management, metrics and gRPC take the ports after it; --host moves inference
    alone, since whoever reaches the management port manages the models: it needs a token to be opened to other machines.
    """  # noqa: D301 - a backspace, which tells click to keep the lines
    if "" in flags["targets"]:
        raise click.ClickException(
            "a TARGET is empty, as an unset variable makes it: give a file, FILE.py:NAME, a folder or a URL"
        )
    launch(drop_unset(flags), file)

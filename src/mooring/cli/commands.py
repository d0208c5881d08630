"""The subcommands of ``mooring``: one file each, imported at its first use."""

import importlib
from collections.abc import Mapping

import click

from mooring import __version__
from mooring.cli.help import WIDTH, CommandGroup

_COMMANDS: Mapping[str, str] = {
    "serve": "mooring.cli.serve:serve",
    "torchserve": "mooring.cli.torchserve:torchserve",
    "kserve": "mooring.cli.kserve:kserve",
    "amdinfer-server": "mooring.cli.amdinfer_server:amdinfer_server",
    "tritonserver": "mooring.cli.tritonserver:tritonserver",
    "init": "mooring.cli.init:init",
    "archive": "mooring.cli.archive:archive",
    "containerize": "mooring.cli.containerize:containerize",
    "infer": "mooring.cli.infer:infer",
    "cluster": "mooring.cli.cluster:cluster",
    "models": "mooring.cli.models:models",
    "doctor": "mooring.cli.doctor:doctor",
    "completion": "mooring.cli.completion:completion",
    "help": "mooring.cli.help_command:show_help",
    "version": "mooring.cli.help_command:show_version",
}


class _Commands(CommandGroup):
    """Subcommands by name, each imported at its first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = _COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, _, attribute = where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.command(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}
)
@click.version_option(__version__, "--version", "-v", prog_name="mooring", message="%(prog)s %(version)s")
def commands() -> None:
    """Serve models of any kind to clients of any serving protocol."""

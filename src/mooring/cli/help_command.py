"""``mooring help`` and ``mooring version``, for those who try these words first."""

from collections.abc import Sequence

import click

from mooring import __version__


@click.command("help", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1)
@click.pass_context
def show_help(context: click.Context, command: Sequence[str]) -> None:
    """Show the help of mooring, or of COMMAND, as --help does."""
    root = context.find_root()
    root.command.main([*command, "--help"], prog_name=root.info_name)


@click.command("version")
def show_version() -> None:
    """Print the version."""
    click.echo(f"mooring {__version__}")

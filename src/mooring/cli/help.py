"""How commands are shown: options in groups, lists of commands that are not cut, and the name that may have been meant."""

import difflib
from collections.abc import Mapping, Sequence

import click

WIDTH = 110  # columns at most, where the terminal has them


class GroupedCommand(click.Command):
    """A command whose help shows its options in ``groups``: heading -> the options' names, in this order."""

    groups: Mapping[str, Sequence[str]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group, and one for the options that are in none."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        records = {option.name: option.get_help_record(ctx) for option in options}
        grouped = {name for names in self.groups.values() for name in names}
        rest = [name for name in records if name not in grouped]
        for heading, names in {**self.groups, "Other": rest}.items():
            rows = [row for name in names if (row := records.get(name)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=34)


class CommandGroup(click.Group):
    """A command with subcommands: its help shows the whole first sentence of each, an unknown name the nearest one."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _first_sentence(self.get_command(ctx, name))) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (
            not args[0].startswith("-")
            and self.get_command(ctx, args[0]) is None
            and not ctx.resilient_parsing
        ):
            ctx.fail(f"no such command '{args[0]}'{_suggest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"


def _first_sentence(command: click.Command | None) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split()) if command is not None else ""
    return text.partition(". ")[0].removesuffix(".")

"""Every command of ``mooring`` with its arguments and options, as Markdown for the documentation site."""

import re
from collections.abc import Iterator, Mapping, Sequence

import click

from mooring.cli.commands import commands
from mooring.cli.help import GroupedCommand

_PARAGRAPHS = re.compile(r"\n\s*\n")
_VERBATIM = "\b"  # click's mark of a paragraph whose lines stay as they are


def describe_commands() -> str:
    """A section for each command and each of its subcommands, in the order of ``mooring --help``."""
    root = click.Context(commands, info_name="mooring", terminal_width=100)
    return "\n".join(_describe_all(commands, root))


def _describe_all(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield from _describe(command, inner)
        if isinstance(command, click.Group):
            yield from _describe_all(command, inner)


def _describe(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield from map(_paragraph, _PARAGRAPHS.split((command.help or "").strip()))
    for heading, names in _groups(command, context).items():
        rows = [row for name in names if (row := _option(command, context, name)) is not None]
        if rows:
            yield f"**{heading}**\n\n| option | what |\n| --- | --- |"
            yield "\n".join(rows) + "\n"


def _paragraph(text: str) -> str:
    if text.lstrip(" ").startswith(_VERBATIM):
        lines = text.partition("\n")[2]
        return f"```text\n{_without_indent(lines)}\n```\n"
    return _escape(" ".join(text.split())) + "\n"


def _without_indent(text: str) -> str:
    lines = text.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:].rstrip() for line in lines)


def _groups(command: click.Command, context: click.Context) -> Mapping[str, Sequence[str]]:
    """The command's own groups of options, and one for those that are in none: heading -> names."""
    names = [each.name or "" for each in command.get_params(context) if isinstance(each, click.Option)]
    groups = command.groups if isinstance(command, GroupedCommand) else {}
    grouped = {name for group in groups.values() for name in group}
    return {**groups, "Other" if groups else "Options": [name for name in names if name not in grouped]}


def _option(command: click.Command, context: click.Context, name: str) -> str | None:
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    option = next((each for each in options if each.name == name), None)
    record = option.get_help_record(context) if option is not None else None
    if record is None:
        return None
    flags, text = record
    return f"| `{_cell(flags)}` | {_escape(_cell(text))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _escape(text: str) -> str:
    """A text whose signs are no Markdown, but for what stands between backquotes."""
    parts = text.split("`")
    escaped = [re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    quoted = parts[1::2]
    return "".join(
        part for pair in zip(escaped, [f"`{each}`" for each in quoted] + [""], strict=True) for part in pair
    )

"""``mooring doctor``: what of an installation of another server runs here, and what has to be changed."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mooring.doctor.findings import Report

_COLORS = {"runs": "green", "differs": "yellow", "change": "red"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("target", metavar="DIR|TARGET")
@click.option("--json", "as_json", is_flag=True, help="write the findings as JSON")
def doctor(target: str, as_json: bool) -> None:
    """Say what of DIR runs as it is, what behaves differently and what needs a change.

    DIR is an installation of TorchServe, a repository of MLServer, Triton or AMD's server, one archive, or a folder with
    models of your own. A TARGET of mooring serve, such as app.py:Model, is judged, too. No code of theirs is run. The exit
    status is 1 where something needs a change.
    """
    from mooring.core.errors import ModelNotFound
    from mooring.doctor.examination import examine_place, examine_target

    try:
        report = examine_place(Path(target)) if Path(target).exists() else examine_target(target)
    except ModelNotFound as error:
        raise click.BadParameter(error.message, param_hint="DIR|TARGET") from error
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show(report)
    sys.exit(1 if report.needs_change else 0)


def _show(report: "Report") -> None:
    counts = {verdict: report.count(verdict) for verdict in type(report.findings[0].verdict)}
    runs, differs, change = counts.values()
    summary = ", ".join(
        (
            f"{runs} {'runs as it is' if runs == 1 else 'run as they are'}",
            f"{differs} {'behaves' if differs == 1 else 'behave'} differently",
            f"{change} {'needs' if change == 1 else 'need'} a change",
        )
    )
    if not sys.stdout.isatty():
        for each in report.findings:
            click.echo(f"{each.verdict.value:8}{each.where}: {each.what}")
            if each.suggestion:
                click.echo(f"{'':8}-> {each.suggestion}")
        click.echo(summary)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=report.examined, title_justify="left")
    for name in ("", "WHERE", "WHAT", "WHAT TO DO"):
        table.add_column(name, overflow="fold")
    for each in report.findings:
        verdict = Text(each.verdict.value, style=_COLORS[each.verdict.value])
        table.add_row(verdict, Text(each.where), Text(each.what), Text(each.suggestion))
    console = Console(highlight=False)
    console.print(table)
    console.print(Text(summary))

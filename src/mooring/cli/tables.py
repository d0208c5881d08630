"""Rows for a person: a table where stdout is a terminal, plain columns for whatever reads it otherwise."""

import sys
from collections.abc import Sequence


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their heads."""
    if not sys.stdout.isatty():
        print("\n".join(columns([head, *rows])), flush=True)  # noqa: T201 - a command speaks to its user
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(name)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose cells stand under each other, two spaces apart.

    >>> columns([["NAME", "STATE"], ["digits", "READY"]])
    ['NAME    STATE', 'digits  READY']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]

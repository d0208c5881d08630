"""Prints rows: as a table on a terminal, as plain columns elsewhere."""

import sys
from collections.abc import Sequence


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a row of headings."""
    if not sys.stdout.isatty():
        print("\n".join(align_columns([head, *rows])), flush=True)  # noqa: T201 - a command speaks to its user
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


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the cells in aligned columns, two spaces apart.

    >>> align_columns([["NAME", "STATE"], ["digits", "READY"]])
    ['NAME    STATE', 'digits  READY']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]

"""Write the tables of docs/guide-settings.md, guide-errors.md and guide-triton.md from the code they describe.

tests/test_docs.py fails when they are not what this writes.
"""

from collections.abc import Iterable
from pathlib import Path

from mooring.config.setting_groups import GROUPS
from mooring.config.settings import SETTINGS, Config, is_switch
from mooring.core.errors import MooringError
from mooring.protocols.status import Target, grpc_v2, kserve_v1, kserve_v2, torchserve
from mooring.repository.triton_schema import PARAMETERS, SERVED_PARAMETERS, documented_keys

DOCS = Path(__file__).parent.parent / "docs"


def settings() -> list[str]:
    """A table for every group of settings, with a row for each."""
    lines = []
    for group, names in GROUPS.items():
        lines += [f"## {group}", "", "| setting | default | what |", "| --- | --- | --- |"]
        lines += [_row(f"`{name}`", _default(name), SETTINGS[name]) for name in names]
        lines.append("")
    return lines


def errors() -> list[str]:
    """A row for every class of errors: what happened, and what each protocol calls it."""
    asked = Target("model", "1")
    rows = []
    for name, kind in MooringError.kinds.items():
        error = kind("text")
        statuses = [called(error, asked).status for called in (torchserve, kserve_v1, kserve_v2)]
        happened = (kind.__doc__ or "").partition("\n")[0].removesuffix(".").replace("``", "`")
        rows.append(_row(f"`{name}`", happened, *statuses, grpc_v2(error, asked)[0]))
    return rows


def with_table(text: str, rows: Iterable[str]) -> str:
    """A document with these rows in its first table, or with these tables and their headings in the place of its own."""
    lines, rows = text.splitlines(), [*rows]
    headings = {row for row in rows if row.startswith("## ")}
    if headings:
        first = lines.index(rows[0])
        ours = headings | {""}
        last = next(n for n in range(first, len(lines)) if lines[n] not in ours and lines[n][0] != "|")
        return "\n".join([*lines[:first], *rows, *lines[last:]]) + "\n"
    begin = next(index for index, line in enumerate(lines) if line.startswith("| ---")) + 1
    end = next(index for index in range(begin, len(lines)) if not lines[index].startswith("|"))
    return "\n".join([*lines[:begin], *rows, *lines[end:]]) + "\n"


def triton_keys() -> list[str]:
    """A row for every key of Triton's configuration that decides something: what becomes of it, and why."""
    keys = [_row(f"`{path}`", key.verdict.value, key.note) for path, key in documented_keys()]
    named = (("served", SERVED_PARAMETERS), ("tunes", PARAMETERS))
    return keys + [
        _row(f"`parameters['{name}']`", verdict, note)
        for verdict, notes in named
        for name, note in notes.items()
    ]


TABLES = {
    DOCS / "guide-settings.md": settings,
    DOCS / "guide-errors.md": errors,
    DOCS / "guide-triton.md": triton_keys,
}


def _default(name: str) -> str:
    default = getattr(Config(), name)
    if name in ("grpc_address", "grpc_management_address"):  # named without a scheme
        return f"`{default.host}:{default.port}`"
    if is_switch(name) and default is not None:
        return str(default).lower()
    return f"`{default}`" if default not in (None, (), {}, "") else ""


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write them."""
    for file, rows in TABLES.items():
        file.write_text(with_table(file.read_text(), rows()))


if __name__ == "__main__":
    main()

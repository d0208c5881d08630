"""Lines of the suite as text, and as the tables of docs/RELIABILITY.md."""

import json
from collections.abc import Sequence
from pathlib import Path

from stage import Line

DOCUMENT = Path(__file__).parents[2] / "docs/RELIABILITY.md"
_COLUMNS = (
    "case",
    "sent",
    "right",
    "honest errors",
    "broken off",
    "lost",
    "hung, doubled, wrong",
    "recovery",
    "",
)


def told(line: Line) -> str:
    """For a terminal."""
    if line.skipped:
        return f"skip  {line.server:10} {line.case}: {line.skipped}"
    recovery = "" if line.recovery is None else f" recovery {line.recovery:.2f} s"
    counts = (
        f"sent {line.sent} right {line.right} honest {line.honest} broken {line.broken} lost {line.lost}"
        f" hung {line.hung} doubled {line.doubled} wrong {line.wrong}"
    )
    text = f"{'ok  ' if line.sound else 'FAIL'}  {line.server:10} {line.case}: {counts}{recovery}; {'; '.join(line.notes)}"
    return f"{text}\n      {line.failed}" if line.failed else text


def write(results: Path) -> None:
    """Put a run's tables into the document."""
    run = json.loads(results.read_text())
    lines = [Line(**line) for line in run["lines"]]
    facts = run["run"]
    ours = [line for line in lines if line.server == "Mooring"]
    peers = {line.case: line for line in lines if line.server != "Mooring" and not line.skipped}
    skipped = {line.case: line.skipped for line in lines if line.skipped and line.server == "Mooring"}
    text = DOCUMENT.read_text()
    for name, shown in (("cases", False), ("cluster", True)):
        rows = [_row(line) for line in ours if not line.skipped and _is_of_cluster(line.case) == shown]
        left_out = {case: why for case, why in skipped.items() if _is_of_cluster(case) == shown}
        text = _between(text, name, [*_table(rows), *_left_out(left_out)])
    rows = [
        cells for line in ours if line.case in peers for cells in (_beside(line), _beside(peers[line.case]))
    ]
    text = _between(text, "compared", _compared(rows))
    machine = (
        f"Run of {facts['seconds']} s on {facts['cpus']} cores, {facts['system']}, Python {facts['python']};"
        f" load average at its end {facts['load_average']}."
    )
    DOCUMENT.write_text(_between(text, "run", [machine]))


def _is_of_cluster(case: str) -> bool:
    return case.startswith(("cluster: ", "Ray cluster: "))


def _row(line: Line) -> Sequence[str]:
    others = f"{line.hung}, {line.doubled}, {line.wrong}"
    return (
        line.case, f"{line.sent:,}", f"{line.right:,}", f"{line.honest:,}", f"{line.broken:,}", str(line.lost), others,
        _seconds(line), "; ".join(line.notes),
    )  # fmt: skip


def _beside(line: Line) -> Sequence[str]:
    return (
        line.case, line.server, f"{line.sent:,}", f"{line.right:,}", f"{line.honest:,}", str(line.lost),
        f"{line.hung}, {line.doubled}, {line.wrong}", _seconds(line), "; ".join(line.notes) or line.failed[:80],
    )  # fmt: skip


def _seconds(line: Line) -> str:
    return "" if line.recovery is None else f"{line.recovery:.2f} s"


def _table(rows, columns: Sequence[str] = _COLUMNS) -> list[str]:
    head = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    return [*head, *(f"| {' | '.join(cells)} |" for cells in rows)]


def _compared(rows) -> list[str]:
    if not rows:
        return ["TorchServe was not installed where this was run."]
    columns = ("case", "server", "sent", "right", "errors", "lost", "hung, doubled, wrong", "recovery", "")
    return _table(rows, columns)


def _left_out(skipped) -> list[str]:
    return ["", *(f"- Skipped: {case}: {why}" for case, why in skipped.items())] if skipped else []


def _between(text: str, name: str, lines: Sequence[str]) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = text.partition(begin)
    return "\n".join([f"{head}{begin}", *lines, f"{end}{rest.partition(end)[2]}"])

"""Write the tables of docs/comparison.md from a recorded run of ``make bench-peers`` (benchmarks/results/*-peers.md).

tests/docs/test_comparison.py fails when they are not what this writes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "comparison.md"
RESULTS = max((ROOT / "benchmarks" / "results").glob("*-peers.md"))  # the latest

# Heading of a column -> how the names of a server's variants begin in the results.
SERVERS = {
    "Mooring": "mooring",
    "Triton": "tritonserver",
    "PyTriton": "pytriton",
    "TorchServe": "torchserve",
    "KServe": "kserve",
    "MLServer": "mlserver",
    "LitServe": "litserve",
    "BentoML": "bentoml",
    "FastAPI": "fastapi",
}
# What was asked -> the case of the results.
SPEED = {
    "one number plus one, each server's own JSON, 64 clients": "echo, c=64",
    "the same over v2, 64 clients": "echo v2, c=64",
    "the same over gRPC, 16 clients": "gRPC echo, c=16",
    "a JSON tensor of 150,528 numbers to its sum, 8 clients": "total JSON, c=8",
    "602 KB in binary, given back, 8 clients": "identity binary, c=8",
    "602 KB over gRPC, given back, 8 clients": "gRPC identity, c=8",
    "the length of 100 KB in a form, 16 clients": "length form, c=16",
    "ResNet-18 from TorchScript, 8 clients": "resnet18, c=8",
    "a small transformer, 32 clients": "transformer, c=32",
}
SLOWEST = {
    "one number plus one, 64 clients": "echo, c=64",
    "the same over v2, 64 clients": "echo v2, c=64",
    "ResNet-18, 1 client": "resnet18, c=1",
    "ResNet-18, 8 clients": "resnet18, c=8",
    "ResNet-18, 32 clients": "resnet18, c=32",
    "a small transformer, 32 clients": "transformer, c=32",
}
LIFE = "Start, memory, kill -9"
AIMS = "Against the aims"

Row = Mapping[str, str]


def read_tables(text: str) -> dict[str, list[Row]]:
    """The tables of the results by their headings: a dictionary by the column's heading for each row."""
    tables: dict[str, list[Row]] = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line] for line in lines]
        if cells:
            tables[section.partition("\n")[0]] = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return tables


def variants(rows: Sequence[Row], server: str) -> list[Row]:
    """The rows of a server: with batches, over gRPC, of several processes. ONNX is another model, and left out."""
    begin = SERVERS[server]
    return [row for row in rows if row["server"].partition(",")[0] == begin and "ONNX" not in row["server"]]


def speed_table(tables: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Requests per second, of each server's fastest variant."""
    return _matrix(tables, SPEED, "req/s", max)


def latency_table(tables: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Milliseconds within which 99 of 100 requests were answered, of each server's best variant."""
    return _matrix(tables, SLOWEST, "p99 ms", min)


def life_table(tables: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """Start, memory, and what clients saw of a killed worker."""
    yield from _head(
        [
            "",
            "start, s",
            "memory, MB",
            "of two workers, MB",
            "errors, one worker",
            "back after, s",
            "errors, two workers",
            "hung",
        ]
    )
    columns = (
        "start s",
        "PSS MB, 1 worker",
        "2 workers",
        "errors, 1 worker",
        "back after s",
        "errors, 2 workers",
        "hung",
    )
    for server, begin in SERVERS.items():
        row = next(row for row in tables[LIFE] if row["server"] == begin)
        yield _row([server, *(_number(row[column]) for column in columns)])


def limits(tables: Mapping[str, Sequence[Row]]) -> str:
    """What the networks reach in processes without a server, as they come and optimized."""
    rates = {
        (network, kind): _number(row["req/s"])
        for network, case in (("ResNet-18", "resnet18, c=8"), ("the transformer", "transformer, c=32"))
        for kind in ("torch", "optimized")
        for row in tables[case]
        if row["server"].startswith(f"no server, {kind}")
    }
    return "; ".join(
        f"{network}: {rates[network, 'torch']} as it comes, {rates[network, 'optimized']} optimized"
        for network in ("ResNet-18", "the transformer")
    )


def missed_table(tables: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    """The aims that were missed."""
    yield from _head(["what", "aim", "reached"])
    yield from (
        _row([row["about"], row["aim"], row["reached"]]) for row in tables[AIMS] if row["met"] == "no"
    )


def run(text: str) -> str:
    """When, on which machine and with which versions it was measured, as sentences."""
    lines = {name: value for name, _, value in (line.partition(": ") for line in text.splitlines()) if value}
    time = next(line for line in text.splitlines() if line.startswith("Measured from"))
    aims = read_tables(text)[AIMS]
    met, judged = sum(row["met"] == "yes" for row in aims), sum(bool(row["met"]) for row in aims)
    return f"{time} Machine: {lines['Machine']} Versions of the others: {lines['Peers']} {met} of {judged} aims were met."


def with_tables(page: str, results: str) -> str:
    """The page with the tables of these results between its marks."""
    tables = read_tables(results)
    parts = {
        "run": run(results),
        "speed": "\n".join(speed_table(tables)),
        "limits": f"Requests per second without a server: {limits(tables)}.",
        "latency": "\n".join(latency_table(tables)),
        "life": "\n".join(life_table(tables)),
        "missed": "\n".join(missed_table(tables)),
    }
    for name, text in parts.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _old, end, after = rest.partition(f"<!-- end of {name} -->")
        page = f"{before}{begin}{text}\n{end}{after}"
    return page


def _matrix(
    tables: Mapping[str, Sequence[Row]], cases: Mapping[str, str], column: str, best: Callable[..., str]
) -> Iterator[str]:
    yield from _head(["", *SERVERS])
    for what, case in cases.items():
        found = [[row[column] for row in variants(tables[case], server) if row[column]] for server in SERVERS]
        yield _row([what, *(_number(best(values, key=float)) if values else "" for values in found)])


def _number(text: str) -> str:
    """A figure as the results have it, with its thousands set apart."""
    whole = text.isdigit() and len(text) > 3
    return f"{int(text):,}" if whole else text


def _head(cells: Sequence[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write them."""
    PAGE.write_text(
        with_tables(PAGE.read_text(encoding="utf-8"), RESULTS.read_text(encoding="utf-8")), encoding="utf-8"
    )


if __name__ == "__main__":
    main()

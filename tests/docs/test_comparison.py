"""The comparison with other servers says what the recorded run says, and each claim has a test."""

import re
import runpy

from docs_kit import ROOT

compare_peers = runpy.run_path(str(ROOT / "scripts" / "compare_peers.py"))
PAGE = compare_peers["PAGE"].read_text()
RESULTS = compare_peers["RESULTS"]


def test_the_figures_are_those_of_the_latest_recorded_run():
    assert compare_peers["with_tables"](PAGE, RESULTS.read_text()) == PAGE, "run scripts/compare_peers.py"
    assert f"`{RESULTS.relative_to(ROOT)}`" in PAGE


def test_a_server_has_the_figure_of_its_best_variant():
    tables = compare_peers["read_tables"](RESULTS.read_text())
    rows = compare_peers["variants"](tables["resnet18, c=8"], "KServe")
    assert [row["server"] for row in rows] == ["kserve, gRPC", "kserve"]
    (line,) = (line for line in PAGE.splitlines() if line.startswith("| ResNet-18 from TorchScript"))
    columns = [cell.strip() for cell in line.split("|")[2:-1]]
    assert columns[list(compare_peers["SERVERS"]).index("KServe")] == rows[0]["req/s"]


def test_what_was_missed_is_said():
    missed = [
        row
        for row in compare_peers["read_tables"](RESULTS.read_text())["Against the aims"]
        if row["met"] == "no"
    ]
    section = PAGE.partition("## What was missed")[2].partition("\n## ")[0]
    assert len(missed) == 10
    assert all(row["reached"] in section for row in missed)


def test_each_claim_is_shown_by_a_test():
    section = PAGE.partition("## What Mooring does")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 12
    for claim, shown, _others in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", shown)
        assert files, claim
        assert [file for file in files if "def test_" not in (ROOT / file).read_text()] == [], claim

"""The record of the comparison: it survives an interruption, and claims no more than was measured."""

from dataclasses import asdict
from pathlib import Path

from lifecycle import MEGABYTE, Kill, Life
from peer_report import Record, Result, format_lives, format_results

TRITON = Result("echo v2", "tritonserver", 64, 20_000.0, 3e-3, 4e-3, 70e-6)
OURS = Result("echo v2", "mooring", 64, 70_000.0, 1e-3, 2e-3, 20e-6)
LIFE = Life("mooring", 1.0, 300.0 * MEGABYTE, 340.0 * MEGABYTE, Kill(8, 0, 0.3), Kill())


def cells_of(table: str) -> dict[str, list[str]]:
    """The cells of each row by its first."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line]
    return {row[0]: row for row in rows}


def test_an_entry_that_was_cut_off_is_dropped_and_the_others_are_kept(tmp_path: Path):
    file = tmp_path / "day-peers.jsonl"
    first = Record(tmp_path, "day", resume=False)
    first.add(step="first")
    first.add(step="second")
    file.write_bytes(file.read_bytes()[:-5])
    again = Record(tmp_path, "day", resume=True)
    again.add(step="third")
    steps = ("first", "second", "third")
    assert [again.has(step) for step in steps] == [True, False, True]
    assert [Record(tmp_path, "day", resume=True).has(step) for step in steps] == [True, False, True]


def test_a_run_that_does_not_resume_forgets_the_last(tmp_path: Path):
    Record(tmp_path, "day", resume=False).add(step="first")
    assert not Record(tmp_path, "day", resume=False).has("first")


def test_a_resumed_record_has_what_was_found_before_and_says_so(tmp_path: Path):
    first = Record(tmp_path, "day", resume=True)
    first.add(conditions="3 repetitions. Peers: none.")
    first.add(step="echo v2, c=64", results=[asdict(TRITON), asdict(OURS)])
    assert "runs" not in first.format().splitlines()[0]
    second = Record(tmp_path, "day", resume=True)
    second.add(conditions="3 repetitions. Peers: none.")
    second.add(step="life mooring", lives=[asdict(LIFE), asdict(Life("bare script, torch", 0.8))])
    second.add(failure="kserve, echo v2: wrong answer")
    text = (tmp_path / "day-peers.md").read_text()
    assert "in 2 runs." in text
    assert text.count("3 repetitions. Peers: none.") == 1
    assert "kserve, echo v2: wrong answer" in text
    assert second.results() == [TRITON, OURS]
    assert second.lives() == [LIFE, Life("bare script, torch", 0.8)]


def test_servers_stand_in_order_of_their_rate_beside_ours():
    rows = cells_of(format_results([TRITON, OURS]))
    assert list(rows)[-2:] == ["mooring", "tritonserver"]
    assert rows["tritonserver"] == ["tritonserver", "20000", "3.00", "4.00", "70", "3.50 x", "", ""]


def test_our_server_is_compared_with_the_best_limit_of_its_own_engine():
    results = [
        Result("resnet18", "mooring", 8, 60.0, 0.1, engine="torch", noisy=True),
        Result("resnet18", "mooring, ONNX", 8, 66.0, 0.1, engine="onnx"),
        Result("resnet18", "fastapi", 8, 50.0, 0.1, errors=2),
        Result("resnet18", "no server, torch, 2 x 4 rows", 8, 50.0, 0.1, engine="torch"),
        Result("resnet18", "no server, optimized, 2 x 4 rows", 8, 80.0, 0.1, engine="torch"),
        Result("resnet18", "no server, onnx, 2 x 4 rows", 8, 88.0, 0.1, engine="onnx"),
    ]
    rows = cells_of(format_results(results))
    assert rows["mooring"][6:] == ["75%", "noisy"]
    assert rows["mooring, ONNX"][6:] == ["75%", ""]
    assert rows["fastapi"][6:] == ["", "2 errors"]


def test_a_server_that_did_not_come_back_is_not_said_to_be_back():
    gone = Life("mooring", 1.0, alone=Kill(9, 1), pair=Kill(0, 1))
    assert cells_of(format_lives([gone]))["mooring"][6:] == ["9", "not in 15", "0", "2"]
    assert cells_of(format_lives([LIFE]))["mooring"][3:8] == ["300", "340", "40", "8", "0.30"]


def test_a_start_stands_beside_the_script_of_its_own_engine():
    scripts = [Life("bare script, torch", 0.8), Life("bare script, onnx", 0.2, engine="onnx")]
    onnx = Life("mooring, ONNX", 0.3, alone=Kill(), pair=Kill(), engine="onnx")
    rows = cells_of(format_lives([*scripts, LIFE, onnx]))
    assert rows["mooring"][2] == "1.25 x"
    assert rows["mooring, ONNX"][2] == "1.50 x"
    assert rows["bare script, torch"][3:] == [""] * 7

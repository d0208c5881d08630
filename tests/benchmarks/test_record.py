"""The record of the comparison: it survives an interruption, and claims no more than was measured."""

from dataclasses import asdict
from pathlib import Path

import pytest
from aims import (
    AIMS,
    Run,
    aims_table,
    back_within,
    faster,
    no_errors_of_two,
    of_limit,
    over_floor,
    second_worker,
    sooner,
)
from journal import Journal
from lifecycle import MEGABYTE, Killed, Life
from peer_record import Record
from standings import FLOOR, Line, life_table

TRITON = Line("echo v2", "tritonserver", 64, 20_000.0, 3e-3, 4e-3, 70e-6)
OURS = Line("echo v2", "mooring", 64, 70_000.0, 1e-3, 2e-3, 20e-6)
LIFE = Life("mooring", 1.0, 300.0 * MEGABYTE, 340.0 * MEGABYTE, Killed(8, 0, 0.3), Killed())


def test_an_entry_that_was_cut_off_is_dropped_and_the_others_are_kept(tmp_path: Path):
    file = tmp_path / "run.jsonl"
    journal = Journal(file)
    journal.add({"step": "first"})
    journal.add({"step": "second"})
    file.write_bytes(file.read_bytes()[:-5])
    again = Journal(file, go_on=True)
    again.add({"step": "third"})
    assert [entry["step"] for entry in again.entries] == ["first", "third"]
    assert Journal(file, go_on=True).entries == again.entries


def test_a_run_that_does_not_go_on_forgets_the_last(tmp_path: Path):
    Journal(tmp_path / "run.jsonl").add({"step": "first"})
    assert Journal(tmp_path / "run.jsonl").entries == []


def test_a_record_that_goes_on_has_what_was_found_before_and_says_so(tmp_path: Path):
    first = Record(tmp_path, "day", go_on=True)
    first.sit("3 repetitions of 2 s", "Peers: none.")
    first.add("echo v2, c=64", {"lines": [asdict(TRITON), asdict(OURS)]})
    assert "in one sitting" in first.text()
    second = Record(tmp_path, "day", go_on=True)
    assert second.has("echo v2, c=64")
    assert not second.has("life mooring")
    second.sit("3 repetitions of 2 s", "Peers: none.")
    second.add("life mooring", {"lives": [asdict(LIFE)]})
    text = (tmp_path / "day-peers.md").read_text()
    assert "in 2 sittings" in text
    assert "| tritonserver |" in text
    assert "3.50 x" in text
    assert second.lines() == [TRITON, OURS]
    assert second.lives() == [LIFE]


def test_an_aim_that_was_not_measured_is_not_met():
    for aim in AIMS:
        assert aim.judge(Run([], [])) is None
    rows = aims_table([], []).splitlines()[4:]
    assert len(rows) == len(AIMS)
    for row in rows:
        assert [cell.strip() for cell in row.split("|")][-3:-1] == ["not measured", "no"]


def test_an_answer_that_failed_meets_no_aim():
    failed = Line("echo v2", "mooring", 64, 70_000.0, 1e-3, errors=1)
    assert faster("echo v2", 64, 3.0, "tritonserver").judge(Run([failed, TRITON], [])) is None


@pytest.mark.parametrize(("times", "met"), [(3.0, True), (3.5, True), (3.6, False)])
def test_a_rate_is_compared_with_the_best_setting_of_a_peer(times, met):
    slower = Line("echo v2", "tritonserver, other", 64, 100.0, 1.0)
    shown = faster("echo v2", 64, times, "tritonserver").judge(Run([slower, TRITON, OURS], []))
    assert (shown.figure, shown.met) == ("3.50 x tritonserver", met)


def test_a_time_is_compared_with_every_peer_and_with_no_floor():
    floor = Line("echo v2", FLOOR, 64, 90_000.0, 1e-5)
    aim = sooner("p50", "echo v2", 64)
    assert aim.judge(Run([OURS, TRITON, floor], [])).met
    quicker = Line("echo v2", "fastapi", 64, 10.0, 0.5e-3)
    assert not aim.judge(Run([OURS, TRITON, floor, quicker], [])).met


def test_cpu_is_compared_with_the_floor_of_the_same_run():
    ours = Line("echo", "mooring", 64, 1.0, 1.0, cpu=20e-6)
    aim = over_floor("echo", 64, 2.1)
    assert aim.judge(Run([ours], [])) is None
    assert aim.judge(Run([ours, Line("echo", FLOOR, 64, 1.0, 1.0, cpu=10e-6)], [])).met
    assert not aim.judge(Run([ours, Line("echo", FLOOR, 64, 1.0, 1.0, cpu=9e-6)], [])).met


def test_the_limit_is_that_of_the_own_engine():
    lines = [
        Line("resnet18", "mooring", 8, 96.0, 0.1, engine="torch", noisy=True),
        Line("resnet18", "no server, torch, 2 x 4 rows", 8, 100.0, 0.1, engine="torch"),
        Line("resnet18", "no server, onnx, 2 x 4 rows", 8, 150.0, 0.1, engine="onnx"),
    ]
    shown = of_limit("resnet18", 8, 0.97).judge(Run(lines, []))
    assert (shown.figure, shown.met, shown.noisy) == ("96.0% of the limit", False, True)


def test_a_server_that_did_not_come_back_is_not_said_to_be_back():
    gone = Life("mooring", 1.0, alone=Killed(9), pair=Killed())
    shown = back_within(0.5).judge(Run([], [gone]))
    assert (shown.figure, shown.met) == ("not in 15 s", False)
    assert "not in 15" in life_table([gone])
    assert back_within(0.5).judge(Run([], [LIFE])).met


def test_a_hung_client_is_an_error():
    hung = Life("mooring", 1.0, alone=Killed(), pair=Killed(0, 1, 0.1))
    assert no_errors_of_two().judge(Run([], [LIFE])).met
    assert not no_errors_of_two().judge(Run([], [hung])).met


def test_the_second_worker_is_charged_with_what_it_adds():
    assert second_worker(40.0).judge(Run([], [LIFE])).met
    assert not second_worker(39.0).judge(Run([], [LIFE])).met


def test_a_start_stands_beside_the_script_of_its_own_engine():
    scripts = [Life("bare script, torch", 0.8), Life("bare script, onnx", 0.2, engine="onnx")]
    onnx = Life("mooring, ONNX", 0.3, alone=Killed(), pair=Killed(), engine="onnx")
    rows = {
        cells[1].strip(): cells[3].strip()
        for row in life_table([*scripts, LIFE, onnx]).splitlines()
        if len(cells := row.split("|")) > 3
    }
    assert rows["mooring"] == "1.25 x"
    assert rows["mooring, ONNX"] == "1.50 x"

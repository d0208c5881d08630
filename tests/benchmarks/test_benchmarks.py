"""The benchmark itself: what it counts is there, and what is wrong is never timed."""

from pathlib import Path

import load
import pytest
from google.protobuf.message import DecodeError
from measuring import MAX_FOREIGN_SHARE, Sample, WaitBudget, median
from report import Row, format_loads, format_starts
from run import check_answer, fetch_answer, parse_options
from starting import Figure
from targets import BareFront, BareGrpc
from workloads import Body, make_groups

SAMPLE = Sample(
    rps=1000.0, p50=1e-3, p99=2e-3, front=20e-6, workers=10e-6, errors=0, foreign=0.0, client=1e-6
)


@pytest.fixture(scope="module")
def front():
    with BareFront() as target:
        target.wait_for_answer("/small", b"", {})
        yield target


def test_bare_front_reads_whatever_comes_and_answers(front):
    assert front.post("/small", b"x" * 700_000, {}) == (200, b'{"x":2.0}')
    assert front.post("/large", b"x" * 700_000, {}) == (200, bytes(700_000))


def test_own_client_counts_what_it_asked(front, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(load, "WRK", None)
    body = tmp_path / "body"
    body.write_bytes(b"x" * 300_000)
    outcome = load.run_load(front.port, "/large", body, {"X-Is": "a, b: c"}, 4, 0.3)
    assert outcome.requests > 10
    assert outcome.errors == 0
    assert 0.0 < outcome.p50 <= outcome.p99 < 1.0
    assert outcome.client_cpu > 0.0


@pytest.mark.skipif(load.WRK is None, reason="wrk is not installed")
def test_slope_of_the_answers_is_their_rate(front, tmp_path: Path):
    body = tmp_path / "body"
    body.write_bytes(b"x" * 300_000)
    outcome = load.run_load(front.port, "/large", body, {}, 4, 1.0, steady=True)
    assert outcome.rate == pytest.approx(outcome.requests / outcome.seconds, rel=0.3)
    assert outcome.rate != outcome.requests / outcome.seconds


def test_server_is_charged_for_the_load(front, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(load, "WRK", None)
    body = tmp_path / "body"
    body.write_bytes(b"x" * 600_000)
    before, _ = front.cpu()
    load.run_load(front.port, "/large", body, {"X-Is": "a, b: c"}, 4, 0.3)
    after, workers = front.cpu()
    assert after > before
    assert workers == 0.0


def test_wrong_answer_is_never_timed(front):
    for group in make_groups():
        for workload in group.workloads:
            if workload.body.grpc:
                continue  # the next test's
            if workload.path.startswith("/predictions/") and workload.name.startswith("echo"):
                check_answer(front, workload)  # the fixed answer is right for these
            else:
                with pytest.raises((RuntimeError, KeyError)):
                    check_answer(front, workload)


def test_wrong_message_is_never_timed():
    with BareGrpc() as target:
        small, large = (
            fetch_answer(target, f"/bare/{size}", Body("", b"x" * 70_000, grpc=True))
            for size in ("small", "large")
        )
    assert len(small) < 100
    assert large == b"x" * 70_000
    for workload in (each for group in make_groups() for each in group.workloads if each.body.grpc):
        for answer in (small, workload.body.content):
            with pytest.raises((ValueError, DecodeError)):
                workload.is_right(answer)


def test_own_grpc_client_counts_calls_and_failures(tmp_path: Path):
    message = tmp_path / "message"
    message.write_bytes(b"x" * 5_000_000)  # above the default limit of a message
    with BareGrpc() as target:
        fetch_answer(target, "/bare/small", Body("", b"", grpc=True))
        outcome = load.run_grpc_load(target.port, "/bare/large", message, 2, 0.3)
        assert outcome.requests > 1
        assert outcome.errors == 0
        assert 0.0 < outcome.p50 <= outcome.p99 < 5.0
        failed = load.run_grpc_load(target.port, "/bare/none", message, 1, 0.2)
        assert failed.errors == failed.requests > 0


def test_answers_are_compared_in_order_of_time():
    summed = load.summarize([0.3, 0.1, 0.2], 2.0, 0)
    assert (summed["requests"], summed["p50"], summed["p99"]) == (3, 0.2, 0.3)


def test_median_takes_the_middle_and_forgets_no_error():
    others = [
        Sample(rps=each, p50=1.0, p99=1.0, front=1.0, workers=0.0, errors=1, foreign=0.0, client=0.0)
        for each in (1.0, 9.0)
    ]
    middle = median([SAMPLE, *others])
    assert middle.rps == 9.0
    assert middle.errors == 2


def test_patience_is_spent_by_repeating():
    budget = WaitBudget(5.0)
    assert budget.try_spend(3.0)
    assert not budget.try_spend(3.0)
    budget.wait_until_quiet()  # returns at once


def test_table_compares_cpu_with_the_floor_and_marks_noise():
    noisy = Sample(
        **{name: getattr(SAMPLE, name) for name in SAMPLE.__slots__} | {"foreign": MAX_FOREIGN_SHARE * 2}
    )
    floor = Sample(
        **{name: getattr(SAMPLE, name) for name in SAMPLE.__slots__} | {"front": 5e-6, "workers": 0.0}
    )
    line = format_loads([Row("echo", 32, [noisy], {"bare front": floor})]).splitlines()[-1]
    assert [cell.strip() for cell in line.split("|")][4:-1] == [
        "1.00",
        "2.00",
        "20.0",
        "10.0",
        "30.0",
        "1.0",
        "6.00",
        "",
        "noisy",
    ]


def test_table_says_what_is_over_its_limit():
    lines = format_starts([Figure("a", 2.0, "s", 1.0), Figure("b", 0.5, "s", 1.0)]).splitlines()
    assert "OVER" in lines[-2]
    assert "OVER" not in lines[-1]


def test_unknown_case_is_named(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--cases", "tiny,tinny"])
    assert "tinny" in capsys.readouterr().err

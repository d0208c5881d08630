"""The short form of ``make faults``: each fault once, under load, with a client that accounts for each request."""

import tempfile
from pathlib import Path

import cluster_cases  # noqa: F401 - enters its cases
import hosts_cases
import pytest
import server_cases  # noqa: F401
import store_cases  # noqa: F401
import worker_cases  # noqa: F401
from accounting import Account
from fault_report import told
from stage import CASES, Line, Stage
from subjects import Mooring

SHORT = [case for case in CASES if case.short]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The one that all cases share which need none of their own."""
    server = Mooring(tmp_path_factory.mktemp("faults"))
    try:
        server.await_start()
        yield server
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.fixture
def folder():
    """Not ``tmp_path``: servers make unix sockets below it, whose paths have room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_nothing_is_lost_hung_doubled_or_wrong(case, server, folder):
    line = case.line(Stage(folder / "stage", server, span=0.4))
    if line.skipped:
        pytest.skip(line.skipped)
    assert line.sound, told(line)
    assert line.right, told(line)
    assert line.sent == line.right + line.honest + line.broken


def test_a_line_with_anything_that_never_may_be_is_not_sound():
    for malady in ("lost", "hung", "doubled", "wrong"):
        assert not Line("case", "Mooring", sent=2, right=1, **{malady: 1}).sound
    assert not Line("case", "Mooring", failed="AssertionError").sound
    assert Line("case", "Mooring", sent=3, right=1, honest=1, broken=1).sound


def test_an_account_tells_the_longest_time_without_a_right_answer():
    account = Account(right_at=[1.0, 2.0, 5.0, 5.5])
    assert account.longest_pause(1.5) == 3.0
    assert account.longest_pause(5.2) == pytest.approx(0.3)
    assert account.longest_pause(6.0) == 0.0


@pytest.mark.timeout(400)
@pytest.mark.xdist_group("ray")
def test_three_hosts_answer_over_five_protocols_while_two_lose_each_other_and_one_dies(
    long_run, server, folder
):
    if not long_run:
        pytest.skip("only with --long")
    (case,) = (case for case in CASES if case.play is hosts_cases.three_hosts)
    line = case.line(Stage(folder / "stage", server))
    if line.skipped:
        pytest.skip(line.skipped)
    assert line.sound, told(line)
    assert line.sent == line.right + line.honest + line.broken

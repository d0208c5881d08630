"""What happens when a worker dies, hangs, lies or is slow: every request is answered once, nothing is leaked."""

import asyncio
import errno
import os
import resource
import signal
import socket
import time

import psutil
import pytest
from model_kit import model_spec
from worker_kit import body_of

from mooring import descriptors
from mooring.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    VersionNotFound,
    WorkerDied,
    WorkersFailed,
)
from mooring.engine.lifecycle import State
from mooring.worker_process import template
from mooring.workers.local import ForkedProcess, Template

pytestmark = pytest.mark.processes

BIG = os.urandom(300_000)


async def until(reached, seconds=30.0):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come to pass"
        await asyncio.sleep(0.002)


async def test_a_request_whose_worker_is_killed_is_answered_by_the_next_worker(harness):
    await harness.load()
    future = harness.submit(BIG, do="sleep", seconds=0.3)
    await asyncio.sleep(0.1)
    os.kill(harness.worker().process.pid, signal.SIGKILL)
    assert body_of(await asyncio.wait_for(future, 30)) == BIG
    assert harness.arena.slots_in_use == 0


async def test_a_request_that_kills_two_workers_is_told_so_with_the_last_words(harness):
    await harness.load()
    error = await harness.ask(b"x", do="print")
    assert isinstance(error, WorkerDied)
    assert "ended with status 9" in error.detail
    assert "last words" in error.detail
    assert body_of(await harness.ask(b"fine")) == b"fine"


async def test_a_model_that_may_not_be_retried_is_not(harness):
    await harness.load(retry=False)
    before = harness.worker().id
    error = await harness.ask(b"x", do="kill")
    assert isinstance(error, WorkerDied)
    assert "killed by signal 9" in error.detail
    await until(lambda: harness.engine.registry.find_version("echo").ready)
    assert int(harness.worker().id) == int(before) + 1


async def test_requests_that_wait_survive_the_death_of_the_worker(harness):
    await harness.load(retry=False)
    first = harness.submit(b"x", do="sleep", seconds=0.2)
    await asyncio.sleep(0.05)
    rest = [harness.submit(b"%d" % n) for n in range(20)]
    await asyncio.sleep(0.05)
    os.kill(harness.worker().process.pid, signal.SIGKILL)
    assert isinstance(await first, WorkerDied)
    assert [body_of(await asyncio.wait_for(one, 30)) for one in rest] == [b"%d" % n for n in range(20)]


async def test_requests_of_a_message_that_were_not_started_do_not_share_the_death_of_the_one_that_was(
    harness,
):
    await harness.load(retry=False)
    for _ in range(50):  # teaches the scheduler that this model is fast, so that many travel in one message
        await asyncio.gather(*(harness.ask(b"warm") for _ in range(20)))
    futures = [harness.submit(b"ok") for _ in range(5)]
    futures.append(harness.submit(b"bad", do="kill"))
    futures += [harness.submit(b"ok") for _ in range(5)]
    outcomes = await asyncio.wait_for(asyncio.gather(*futures), 30)
    assert isinstance(outcomes[5], WorkerDied)
    later = outcomes[6:]
    assert [body_of(outcome) for outcome in later] == [b"ok"] * 5


async def test_a_fast_request_does_not_wait_for_a_slow_one_of_the_same_message(harness):
    await harness.load()
    for _ in range(50):
        await asyncio.gather(*(harness.ask(b"warm") for _ in range(20)))
    fast = [harness.submit(b"fast") for _ in range(5)]
    slow = harness.submit(b"slow", do="sleep", seconds=1.0)
    await asyncio.wait_for(asyncio.gather(*fast), 30)
    assert not slow.done()
    assert body_of(await slow) == b"slow"


async def test_requests_behind_a_slow_one_go_to_another_worker(harness):
    await harness.load(min_workers=2, max_workers=2)
    for _ in range(50):
        await asyncio.gather(*(harness.ask(b"warm") for _ in range(20)))
    slow = harness.submit(b"slow", do="sleep", seconds=1.0)
    behind = [harness.submit(b"behind") for _ in range(20)]
    await asyncio.wait_for(asyncio.gather(*behind), 30)
    assert not slow.done()
    await slow


async def test_waiting_requests_are_spread_over_idle_workers(harness):
    await harness.load(min_workers=2, max_workers=2, max_batch_size=8, parameters={"sleep": 0.2})
    await until(lambda: harness.engine.registry.find_version("echo").pool.ready == 2)
    futures = [harness.submit(b"x") for _ in range(8)]
    await asyncio.sleep(0.05)
    assert [worker.state.name for worker in harness.engine.registry.find_version("echo").pool.workers] == [
        "BUSY"
    ] * 2
    await asyncio.gather(*futures)


async def test_one_bad_row_never_fails_its_batch_mates(harness):
    await harness.load(max_batch_size=8)
    blocker = harness.submit(b"x", do="sleep", seconds=0.1)
    await asyncio.sleep(0.03)
    good = [harness.submit(b"%d" % n) for n in range(3)]
    bad = harness.submit(b"x", do="raise")
    refused = harness.submit(b"x", do="refuse")
    good += [harness.submit(b"%d" % n) for n in range(3, 6)]
    await blocker
    assert [body_of(await one) for one in good] == [b"%d" % n for n in range(6)]
    error = await bad
    assert isinstance(error, ModelFailed)
    assert error.message == "ValueError: told to raise"
    assert "Traceback" in error.detail
    assert isinstance(await refused, InvalidInput)


async def test_a_full_queue_says_so_at_once_and_only_to_those_it_has_no_room_for(harness):
    await harness.load(queue_size=3)
    blocker = harness.submit(b"x", do="sleep", seconds=0.3)
    await asyncio.sleep(0.05)
    waiting = [harness.submit(b"w") for _ in range(3)]
    error = await harness.ask(b"one too many")
    assert isinstance(error, QueueFull)
    assert not blocker.done()
    await blocker
    assert [body_of(await one) for one in waiting] == [b"w"] * 3


async def test_a_burst_that_idle_workers_can_take_is_not_refused(harness):
    await harness.load(queue_size=1)
    outcomes = await asyncio.gather(*[harness.submit(b"x") for _ in range(2)])
    assert [body_of(outcome) for outcome in outcomes] == [b"x"] * 2


async def test_a_moment_that_idle_workers_can_take_is_not_refused_where_there_are_more_of_them(harness):
    version = await harness.load(queue_size=1, min_workers=2, max_workers=2)
    while version.pool.ready < 2:
        await asyncio.sleep(0.01)
    outcomes = await asyncio.gather(*[harness.submit(b"x") for _ in range(2)])
    assert [body_of(outcome) for outcome in outcomes] == [b"x"] * 2


async def test_whoever_finds_no_room_is_told_how_long_the_queue_is(harness):
    await harness.load(queue_size=10)
    await harness.ask(b"x", do="sleep", seconds=0.2)
    running = [harness.submit(b"x", do="sleep", seconds=0.2) for _ in range(11)]
    error = await harness.ask(b"y")
    assert isinstance(error, QueueFull)
    assert 1.0 < error.retry_after < 20.0
    assert harness.engine.overload_error("echo").retry_after == pytest.approx(error.retry_after)
    for each in running[1:]:
        each.ticket.cancel()
    assert harness.engine.overload_error("echo") is None
    await running[0]


async def test_requests_that_are_withdrawn_before_a_busy_model_do_not_pile_up(harness):
    version = await harness.load(queue_size=10)
    running = harness.submit(b"x", do="sleep", seconds=0.5)
    await asyncio.sleep(0.05)
    kept = harness.submit(b"kept")
    for _ in range(1000):
        harness.submit(b"x").ticket.cancel()
    assert len(version.scheduler._queue._entries) < 100
    assert version.scheduler.waiting == 1
    assert body_of(await kept) == b"kept"
    await running


async def test_a_worker_that_does_not_answer_in_time_is_replaced(harness):
    await harness.load(response_timeout=0.3)
    waiting = harness.submit(b"x", do="sleep", seconds=30)
    await asyncio.sleep(0.05)
    behind = harness.submit(b"behind")
    error = await asyncio.wait_for(waiting, 30)
    assert isinstance(error, WorkerDied)
    assert "was ended after 0.3 s" in error.detail
    assert body_of(await asyncio.wait_for(behind, 30)) == b"behind"


async def test_a_request_past_its_deadline_never_reaches_a_worker(harness):
    await harness.load()
    blocker = harness.submit(b"x", do="sleep", seconds=0.5)
    await asyncio.sleep(0.05)
    late = harness.submit(b"x", do="kill", deadline=time.monotonic() + 0.1)
    assert isinstance(await asyncio.wait_for(late, 30), DeadlineExceeded)
    assert not blocker.done()
    await blocker
    before = harness.worker().id
    assert body_of(await harness.ask(b"alive")) == b"alive"
    assert harness.worker().id == before


async def test_a_request_that_runs_past_its_deadline_is_answered_in_time_and_its_late_answer_dropped(harness):
    await harness.load()
    error = await harness.ask(BIG, do="sleep", seconds=0.5, deadline=time.monotonic() + 0.1)
    assert isinstance(error, DeadlineExceeded)
    assert harness.arena.slots_in_use == 1  # the worker still reads it
    assert body_of(await harness.ask(b"next")) == b"next"
    assert harness.arena.slots_in_use == 0


async def test_a_withdrawn_request_never_runs_and_a_running_one_is_told(harness):
    await harness.load()
    running = harness.submit(b"x", do="wait_for_cancel")
    await asyncio.sleep(0.05)
    waiting = harness.submit(BIG, do="kill")
    before = harness.worker().id
    waiting.ticket.cancel()
    assert harness.arena.slots_in_use == 0
    begin = time.monotonic()
    running.ticket.cancel()
    assert body_of(await harness.ask(b"next")) == b"next"
    assert time.monotonic() - begin < 2.0
    assert harness.worker().id == before
    assert not running.done()
    assert not waiting.done()


async def test_pieces_of_a_streamed_answer_come_in_order_before_the_last(harness):
    await harness.load()
    future = harness.submit(b"last", do="stream")
    assert body_of(await asyncio.wait_for(future, 30)) == b"last"
    assert [body_of(piece) for piece in future.pieces] == [b"0", b"1", b"2"]


async def test_a_model_of_which_no_worker_can_be_told_is_failed_and_holds_nobody_up(harness):
    for name in ("one", "two", "three", "four", "five"):
        version = await asyncio.wait_for(harness.load(name, parameters={"number": 10**30}), 30)
        assert version.state is State.FAILED
        assert "serialize ints" in version.error.message
    assert (await asyncio.wait_for(harness.load("sound"), 30)).state is State.READY


async def test_a_model_that_cannot_load_says_why_and_refuses_requests(harness):
    version = await harness.load(parameters={"fail_at_load": True})
    assert version.state is State.FAILED
    assert isinstance(version.error, ModelLoadFailed)
    assert "told to fail at load" in version.error.message
    assert "Traceback" in version.error.detail
    error = await harness.ask(b"x")
    assert isinstance(error, ModelNotReady)
    assert "told to fail at load" in error.message
    assert not harness.engine.healthy()
    assert not harness.engine.ready()


async def test_a_worker_that_cannot_load_is_tried_later_each_time_though_another_one_answers(
    harness, tmp_path
):
    version = await harness.load(
        min_workers=2, max_workers=2, parameters={"fail_while": str(tmp_path / "file")}
    )
    pool = version.pool
    await until(lambda: pool.has_exactly(2))
    (tmp_path / "file").touch()
    os.kill(harness.worker().process.pid, signal.SIGKILL)
    end = time.monotonic() + 1.6
    while time.monotonic() < end:
        assert body_of(await harness.ask(b"fine")) == b"fine"
    assert 3 <= pool.failures.in_a_row <= 4
    assert pool.failures.since
    (tmp_path / "file").unlink()
    await until(lambda: pool.has_exactly(2))
    while pool.failures.in_a_row:  # until the new one has answered
        await asyncio.gather(*(harness.ask(do="sleep", seconds=0.01) for _ in range(2)))
    assert pool.failures.since is None


def echo_at(folder, **settings):
    backend = "echo_backend:EchoBackend"
    return model_spec(name="echo", version="1", backend=backend, location=str(folder), **settings)


async def test_what_can_never_load_is_tried_again_when_its_files_have_changed_and_not_before(
    harness, tmp_path, caplog
):
    caplog.set_level("INFO", "mooring")
    (tmp_path / "broken").write_text("half of it")
    past = time.time() - 60
    os.utime(tmp_path / "broken", (past, past))
    await asyncio.sleep(1.1)  # the time of its last change is older than the load
    version = await harness.engine.deploy_version(echo_at(tmp_path))
    assert version.state is State.FAILED
    await asyncio.sleep(3.0)
    pool = version.pool
    assert pool.failures.in_a_row == 1
    (tmp_path / "broken").write_text("still only half of it")
    await until(lambda: pool.failures.in_a_row == 2)
    (tmp_path / "broken").unlink()
    await until(lambda: version.ready)
    assert body_of(await harness.ask(b"x")) == b"x"


async def test_a_failure_to_load_is_logged_whole_once_and_then_counted(harness, tmp_path, caplog):
    caplog.set_level("INFO", "mooring")
    (tmp_path / "broken").write_text("half of it")
    version = await harness.engine.deploy_version(echo_at(tmp_path, min_workers=3, max_workers=3))
    pool = version.pool
    await until(lambda: pool.failures.in_a_row >= 3)
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("worker failed")]
    assert "a long explanation" in said[0]
    assert all(each.startswith("worker failed again ") for each in said[1:])
    assert not any("a long explanation" in each for each in said[1:])


async def test_somebody_who_wants_workers_need_not_wait_for_the_files_to_change(harness, tmp_path):
    (tmp_path / "broken").write_text("half of it")
    version = await harness.engine.deploy_version(echo_at(tmp_path))
    await asyncio.sleep(1.5)
    failures = version.pool.failures.in_a_row
    with pytest.raises(WorkersFailed, match="half of it"):
        await harness.engine.resize_workers(version, 2, 2)
    assert version.pool.failures.in_a_row > failures


async def test_workers_of_many_models_are_started_a_few_at_a_time(harness, monkeypatch):
    """Those that load do so beside at most as many others as there are turns."""
    monkeypatch.setattr("mooring.workers.local._LONGEST_START", 60.0)
    most = 0
    pools = []

    def count():
        nonlocal most
        most = max(most, sum(len(pool.workers) - pool.ready for pool in pools))

    versions = [
        asyncio.ensure_future(
            harness.load(f"echo{n}", min_workers=5, max_workers=5, parameters={"slow": 0.1})
        )
        for n in range(6)
    ]
    while not all(each.done() for each in versions) or not all(pool.has_exactly(5) for pool in pools):
        await asyncio.sleep(0.005)
        pools[:] = [v.pool for v in harness.engine.registry if v.pool]
        count()
    assert 0 < most <= 8


async def test_a_process_that_cannot_be_forked_costs_the_others_of_its_template_nothing(monkeypatch):
    """Of both ends in this process: the template lives on, and the worker is told of as one that never was."""

    def no_process():
        raise OSError(errno.EAGAIN, "no more processes")

    server, control = socket.socketpair()
    asked = Template(server)
    process = ForkedProcess(None)
    with control:
        asked.fork(process, [], [control.fileno()])
        monkeypatch.setattr(os, "fork", no_process)
        assert template._fork_child(control, (), None, template._Children()), "it goes on"
        await until(process.ended.is_set)
        asked.close()
    assert process.fault.startswith(f"could not be forked: {os.strerror(errno.EAGAIN)}")
    assert not asked.dead


@pytest.mark.parametrize("step", ["Template.fork", "anonymous_file", "os.pipe"])
async def test_a_worker_that_cannot_be_started_for_want_of_descriptors_costs_none(harness, monkeypatch, step):
    def none_left(*_args):
        raise OSError(24, "Too many open files")

    version = await harness.load()
    with monkeypatch.context() as patched:
        patched.setattr(f"mooring.workers.local.{step}", none_left)
        before = psutil.Process().num_fds()
        for _ in range(5):
            with pytest.raises(OSError, match="Too many open files"):
                await version.pool._spawner.start_worker()
        assert psutil.Process().num_fds() == before
    assert body_of(await harness.ask(b"fine")) == b"fine"


async def test_a_worker_that_dies_is_missed_though_its_child_holds_the_channel_and_the_child_ends_with_it(
    harness,
):
    await harness.load()
    await until(
        lambda: harness.worker().process.pid
    )  # it may answer before its template says that it is forked
    worker = harness.worker().process.pid
    assert body_of(await harness.ask(b"born", do="fork")) == b"born"
    (child,) = psutil.Process(worker).children()
    future = harness.submit(BIG, do="sleep", seconds=0.3)
    await asyncio.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    assert body_of(await asyncio.wait_for(future, 30)) == BIG
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a_worker_that_exits_while_loading_is_reported_with_its_status(harness):
    version = await harness.load(parameters={"exit_at_load": True})
    assert isinstance(version.error, WorkerDied)
    assert "ended with status 3" in version.error.detail


async def test_rows_beyond_a_batch_are_split_and_rejoined_in_order(harness):
    await harness.load(max_batch_size=4, min_workers=2, max_workers=2)
    rows = [b"%d" % n for n in range(50)]
    outcome = await harness.ask(rows=rows)
    assert outcome.outputs[0].data == rows
    assert outcome.outputs[0].shape == [50]


async def test_unloading_waits_for_what_runs_and_leaves_no_process(harness):
    await harness.load()
    pid = harness.worker().process.pid
    future = harness.submit(b"x", do="sleep", seconds=0.3)
    await asyncio.sleep(0.05)
    await harness.engine.retire_version("echo")
    assert body_of(await future) == b"x"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_template_that_dies_is_replaced(harness):
    await harness.load(retry=False)
    template = next(iter(harness.engine._workers._templates.values()))
    os.kill(template._process.pid, signal.SIGKILL)
    await until(lambda: template.dead)
    assert body_of(await harness.ask(b"x")) == b"x"


async def test_a_model_that_floods_its_output_is_neither_blocked_nor_logged_without_limit(harness, caplog):
    caplog.set_level("INFO", "MODEL_LOG")
    await harness.load()
    assert body_of(await harness.ask(b"done", do="flood")) == b"done"
    assert 0 < sum("model says" in record.message for record in caplog.records) < 5000
    assert body_of(await harness.ask(b"next")) == b"next"


async def test_a_line_without_an_end_neither_fills_the_log_nor_the_obituary(harness, caplog):
    caplog.set_level("INFO", "MODEL_LOG")
    await harness.load(retry=False)
    assert body_of(await harness.ask(b"done", do="flood_line")) == b"done"
    said = [record.getMessage() for record in caplog.records]
    # 100 MB were printed; a machine that takes ten seconds over them still logs a few.
    assert sum(map(len, said)) < 5_000_000
    error = await harness.ask(b"x", do="kill")
    assert isinstance(error, WorkerDied)
    assert 0 < len(error.detail) < 100_000


@pytest.fixture
def raised(monkeypatch):
    """A soft limit of descriptors that this process was started with, and has raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    inherited = hard - 1 if hard != resource.RLIM_INFINITY else 1024
    resource.setrlimit(resource.RLIMIT_NOFILE, (inherited, hard))
    monkeypatch.setattr(descriptors, "_inherited", inherited)
    assert descriptors.raise_limit() > inherited
    yield inherited
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_workers_have_the_soft_limit_of_descriptors_that_the_server_was_started_with(harness, raised):
    """Code that calls select fails for numbers above 1023."""
    await harness.load()
    assert body_of(await harness.ask(b"x", do="descriptors")) == b"%d" % raised


async def test_in_exact_mode_a_lone_request_waits_out_the_delay_and_a_full_batch_does_not(harness):
    await harness.load(max_batch_size=4, max_delay=1.0, exact_delay=True)
    begin = time.monotonic()
    await harness.ask(b"lone")
    assert time.monotonic() - begin > 0.99
    begin = time.monotonic()
    await asyncio.gather(*(harness.submit(b"x") for _ in range(4)))
    assert time.monotonic() - begin < 0.9


async def test_a_batch_delay_is_not_paid_on_an_idle_worker_by_default(harness):
    await harness.load(max_batch_size=4, max_delay=5.0)
    begin = time.monotonic()
    await harness.ask(b"lone")
    assert time.monotonic() - begin < 2.0


async def test_an_idle_server_that_stops_leaves_no_worker(harness):
    await harness.load(min_workers=2, max_workers=2)
    await until(lambda: harness.engine.registry.find_version("echo").pool.ready == 2)
    pids = [worker.process.pid for worker in harness.engine.registry.find_version("echo").pool.workers]
    await harness.engine.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_worker_in_the_middle_of_something_does_not_hold_up_the_end(harness):
    await harness.load()
    harness.submit(b"x", do="sleep", seconds=30)
    await asyncio.sleep(0.05)
    begin = time.monotonic()
    await harness.engine.close()
    assert time.monotonic() - begin < 10.0


async def test_a_model_with_no_worker_refuses_at_once(harness):
    await harness.load(min_workers=0)
    assert isinstance(await harness.ask(b"x"), ModelNotReady)
    assert harness.engine.healthy()


async def test_the_first_version_answers_until_another_is_chosen(harness):
    await harness.load(version="1.0", parameters={"say": "one"})
    await harness.load(version="2.0", parameters={"say": "two"})
    assert (await harness.ask(b"x")).version == "1.0"
    harness.engine.set_default("echo", "2.0")
    assert (await harness.ask(b"x")).version == "2.0"
    await harness.engine.retire_version("echo", "2.0")
    assert (await harness.ask(b"x")).version == "1.0"


async def test_a_large_request_for_a_model_that_is_not_there_gives_its_slot_back(harness):
    await harness.load()
    assert isinstance(await harness.ask(BIG, model="nobody"), ModelNotFound)
    assert harness.arena.slots_in_use == 0
    request = harness.request(BIG)
    request.version = "9"
    refused = []
    harness.engine.submit(request, refused.append)
    assert isinstance(refused[0], VersionNotFound)
    assert harness.arena.slots_in_use == 0

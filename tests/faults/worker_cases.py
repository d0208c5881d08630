"""Workers that are killed, end, hang, leak or say nonsense, while clients ask."""

import os
import random
import signal
import time
from contextlib import suppress

import psutil
from accounting import Account, once
from stage import Stage, case
from subjects import PATIENCE, gone, until

MB = 1 << 20


def kill(stage: Stage, model: str, *, times: int, load) -> None:
    """Kill a worker, and again when another has taken its place and work."""
    for _ in range(times):
        workers = stage.subject.workers(model)
        stage.strike()
        with suppress(ProcessLookupError):
            os.kill(workers[0], signal.SIGKILL)
        until(lambda before=workers: replaced(stage.subject.workers(model), before))
        load.until_right(50)


def replaced(now: list[int], before: list[int]) -> bool:
    """Whether there are as many as before, without the first of those."""
    return len(now) == len(before) and before[0] not in now


def times(stage: Stage) -> int:
    return 1 if stage.span < 1 else 3


@case("kill -9 of the only worker", short=True, compared=True)
def one_of_one(stage: Stage) -> None:
    model = stage.subject.registered("single")
    with stage.load(model) as load:
        stage.wait(0.5)
        kill(stage, model, times=times(stage), load=load)
        stage.wait(0.5)
    if not stage.peer:
        assert not stage.account.honest, "a request that ran once only was not run again"


@case("kill -9 of one of two workers", short=True)
def one_of_two(stage: Stage) -> None:
    model = stage.subject.registered("twin", workers=2)
    with stage.load(model) as load:
        stage.wait(0.5)
        kill(stage, model, times=times(stage), load=load)
        stage.wait(0.5)
    assert not stage.account.honest, f"clients were told of it: {stage.account.statuses}"


def poisoned(stage: Stage, model: str, doses: int = 3, **poison: object) -> Account:
    """Requests that bring harm, among others that do not. The account of the former, which is in the case's, too."""
    harmful = Account()
    before = stage.account.honest
    with stage.load(model) as load:
        stage.wait(0.5)
        for _ in range(1 if stage.span < 1 else doses):
            stage.strike()
            once(stage.subject.port, model, harmful, **poison)
            load.until_right(20)
        stage.wait(0.5)
    if not stage.peer:
        assert stage.account.honest == before, f"innocent requests were told of it: {stage.account.statuses}"
    stage.account.add(harmful)
    stage.notes.append(f"{harmful.sent} requests did it, and got {_told(harmful)}")
    return harmful


def _told(account: Account) -> str:
    return " and ".join(f"{status}" for status in sorted(account.statuses)) or "no answer"


@case("handler exits", short=True, compared=True)
def handler_exits(stage: Stage) -> None:
    harmful = poisoned(stage, stage.subject.registered("exits"), do="exit")
    if not stage.peer:
        assert set(harmful.statuses) == {500}


@case("handler crashes (segmentation fault)", short=True)
def handler_crashes(stage: Stage) -> None:
    harmful = poisoned(stage, stage.subject.registered("crashes"), do="segfault")
    assert set(harmful.statuses) == {500}


@case("handler deadlocks: response time-out of 1 s", short=True, compared=True)
def handler_deadlocks(stage: Stage) -> None:
    harmful = poisoned(
        stage, stage.subject.registered("deadlocks", responseTimeout=1), do="deadlock", doses=2
    )
    if not stage.peer:
        assert set(harmful.statuses) == {500}


@case("handler raises", short=True)
def handler_raises(stage: Stage) -> None:
    harmful = poisoned(stage, stage.subject.registered("raises", batchSize=4, maxBatchDelay=2), do="raise")
    assert set(harmful.statuses) == {500}


@case("handler returns nonsense", short=True)
def nonsense(stage: Stage) -> None:
    model = stage.subject.registered("nonsense")
    for do in ("nonsense", "count"):
        harmful = poisoned(stage, model, do=do)
        assert set(harmful.statuses) == {500}
    stage.notes[:] = ["an object that is no answer, and two answers to one request"]


@case("handler floods its output", short=True)
def floods(stage: Stage) -> None:
    model = stage.subject.registered("floods", workers=2)
    before = stage.subject.log_file.stat().st_size
    harmful = poisoned(stage, model, do="flood", doses=2)
    assert harmful.right == harmful.sent, "who floods is answered all the same"
    grown = stage.subject.log_file.stat().st_size - before
    assert grown < 20 * MB, f"the log grew by {grown} bytes"
    stage.notes[:] = [f"100,000 lines each; the log grew by {grown // 1000} kB"]


@case("handler leaks to its memory limit, and is recycled", short=True)
def leaks(stage: Stage) -> None:
    from mooring.workers.recycling import memory_of

    model = stage.subject.registered("thrifty")
    empty = memory_of(stage.subject.workers(model)[0])
    stage.subject.unregister(model)
    limit = empty + 64 * MB
    model = stage.subject.registered("leaks", workerMemoryLimit=limit)
    seen: set[int] = set()
    most = 0
    with stage.load(model, clients=4, asked={"do": "leak", "bytes": 256 * 1024}):
        end = time.monotonic() + max(4.0, 3 * stage.span)
        stage.strike()
        while (now := time.monotonic()) < end or (len(seen) < 2 and now < end + PATIENCE):
            workers = stage.subject.workers(model)
            seen.update(workers)
            most = max([most, *(memory_of(pid) for pid in workers)])
            time.sleep(0.1)
    assert len(seen) > 1, "no worker was recycled"
    assert not stage.account.honest
    stage.notes.append(
        f"{len(seen) - 1} workers recycled; limit {limit / MB:.0f} MiB, largest seen {most / MB:.0f} MiB"
    )


@case("a request eats twice the memory limit", short=False)
def eats(stage: Stage) -> None:
    model = stage.subject.registered("eats", workerMemoryLimit=500 * MB)
    harmful = poisoned(stage, model, do="leak", bytes=1100 * MB, then=10, doses=1)
    assert set(harmful.statuses) == {500}


@case("workers recycled after 100 requests each", short=False)
def recycled(stage: Stage) -> None:
    model = stage.subject.registered("recycled", workers=2, maxRequestsPerWorker=100)
    seen: set[int] = set()
    with stage.load(model):
        end = time.monotonic() + 3 * stage.span
        stage.strike()
        while time.monotonic() < end:
            seen.update(stage.subject.workers(model))
            time.sleep(0.05)
    assert len(seen) > 4
    assert not stage.account.honest
    stage.notes.append(f"{len(seen)} workers, one after the other")


@case("workers with many requests each: killed, recycled, fewer", short=True)
def overlapping(stage: Stage) -> None:
    model = stage.subject.registered("waiting", workers=2, also=["waiting"], maxRequestsPerWorker=200)
    first = stage.subject.workers(model)
    seen: set[int] = set(first)
    with stage.load(model, clients=24) as load:
        kill(stage, model, times=times(stage), load=load)
        for count in (1, 2) * times(stage):
            query = f"min_worker={count}&max_worker={count}&synchronous=true"
            status, told = stage.subject.manage("PUT", f"/models/{model}?{query}")
            assert status == 200, told
            load.until_right(300)
            seen.update(stage.subject.workers(model))
    assert not stage.account.honest, stage.account.statuses
    assert len(seen) > 4
    until(lambda: len(stage.subject.workers(model)) == 2)
    stage.notes.append(f"an asynchronous handler, 24 clients; {len(seen)} workers in all")


@case("worker killed while a slot of shared memory is in use", short=True)
def slots(stage: Stage) -> None:
    server = stage.own("--arena-size", str(4 * MB))  # too small for all of them at once
    server.await_start()
    model = server.registered("large", workers=2)

    def asked() -> dict[str, object]:
        return {"pad": random.choice("abc") * random.randrange(100_000, 400_000), "large": 200_000}

    with stage.load(model, server=server, asked=asked, clients=4) as load:
        for _ in range(2 * times(stage)):
            victim = server.workers(model)[0]
            stage.strike()
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: len(now := server.workers(model)) == 2 and gone not in now)
            load.until_right(10)
    assert not stage.account.honest
    assert not server.zombies()


@case("worker ignores SIGTERM", short=True)
def deaf(stage: Stage) -> None:
    server = stage.own()
    server.await_start()
    model = server.registered("deaf", workers=2, also=["deaf"])
    with stage.load(model, server=server) as load:
        for pid in server.workers(model):
            os.kill(pid, signal.SIGTERM)
        load.until_right(50)
        stage.strike()
        status, told = server.manage("PUT", f"/models/{model}?min_worker=1&max_worker=1&synchronous=true")
        assert status == 200, told
        load.until_right(50)
    assert (status := server.stop()) == 0, status
    assert not stage.account.honest
    stage.notes.append("scaled down and stopped: nothing is left of it")


@case("worker killed whose handler has forked a child", short=True)
def parent(stage: Stage) -> None:
    server = stage.own()
    server.await_start()
    model = server.registered("parent", also=["parent"], responseTimeout=20)
    with stage.load(model, server=server) as load:
        for _ in range(times(stage)):
            (victim,) = server.workers(model)
            stage.strike()
            os.kill(victim, signal.SIGKILL)
            until(lambda before=victim: (now := server.workers(model)) and before not in now)
            load.until_right(50)
    assert not stage.account.honest
    family = server.family()
    assert (status := server.stop()) == 0, status
    gone(family)


def heartbeat(stage: Stage) -> str:
    """A shorter time than the default, so that the case need not take long; it stands in the notes."""
    stage.notes.append("heartbeat_timeout = 2")
    return "--heartbeat-timeout=2"


@case("worker stopped (SIGSTOP) in the middle of a request", short=True)
def stopped_worker(stage: Stage) -> None:
    server = stage.own(heartbeat(stage))
    server.await_start()
    model = server.registered("stopped")
    with stage.load(model, server=server) as load:
        for _ in range(times(stage)):
            (victim,) = server.workers(model)
            stage.strike()
            os.kill(victim, signal.SIGSTOP)
            until(lambda before=victim: (now := server.workers(model)) and before not in now)
            load.until_right(50)
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status


@case("template stopped (SIGSTOP), then its only worker killed", short=True)
def stopped_template(stage: Stage) -> None:
    server = stage.own(heartbeat(stage))
    server.await_start()
    model = server.registered("orphaned")
    with stage.load(model, server=server) as load:
        for _ in range(times(stage)):
            (victim,) = server.workers(model)
            template = psutil.Process(victim).ppid()
            os.kill(template, signal.SIGSTOP)
            stage.strike()
            os.kill(victim, signal.SIGKILL)
            until(lambda before=victim: (now := server.workers(model)) and before not in now)
            load.until_right(50)
            until(lambda before=template: before not in [process.pid for process in server.family()])
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status


@case("template stopped (SIGSTOP) while its workers serve a model that must not run twice", short=True)
def given_up_template(stage: Stage) -> None:
    server = stage.own(heartbeat(stage))
    server.await_start()
    model = server.registered("once", workers=2, retryRequests=False)
    with stage.load(model, server=server) as load:
        before = set(server.workers(model))
        (template,) = {psutil.Process(pid).ppid() for pid in before}
        stage.strike()
        os.kill(template, signal.SIGSTOP)
        until(lambda: not before & set(server.workers(model)))
        load.until_right(50)
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status


@case("queue full: 100 clients, 10 may wait", compared=True)
def queue_full(stage: Stage) -> None:
    model = stage.subject.registered("narrow", workers=2, jobQueueSize=10)
    with stage.load(model, clients=4):
        stage.strike()
        with stage.load(model, clients=100, asked={"seconds": 0.02}):
            stage.wait(1.5)
        stage.wait(0.5)
    stage.notes.append(f"answers of {_told(stage.account)}")
    if not stage.peer:
        assert set(stage.account.statuses) == {200, 503}


@case("scaled from two workers to one under load", compared=True)
def scaled_down(stage: Stage) -> None:
    model = stage.subject.registered("scaled", workers=2)
    with stage.load(model) as load:
        for _ in range(times(stage)):
            stage.strike()
            for count in (1, 2):
                query = f"min_worker={count}&max_worker={count}&synchronous=true"
                status, told = stage.subject.manage("PUT", f"/models/{model}?{query}")
                assert status in (200, 202), told
                until(lambda n=count: len(stage.subject.workers(model)) == n)
                load.until_right(20)
    if not stage.peer:
        assert not stage.account.honest


@case("nothing dead is left undertaken", short=True)
def zombies(stage: Stage) -> None:
    model = stage.subject.registered("mortal", workers=2)
    with stage.load(model) as load:
        kill(stage, model, times=2 * times(stage), load=load)
    with suppress(TimeoutError):
        until(lambda: not stage.subject.zombies(), within=5)
    assert not stage.subject.zombies()


@case("the server is killed: no orphan", short=True)
def orphans(stage: Stage) -> None:
    server = stage.own()
    server.await_start()
    model = server.registered("orphan", workers=2, also=["parent"])
    with stage.load(model, server=server, mortal=True):
        family = server.family()
        assert len(family) >= 6, family  # the server, a template, two workers and what their handlers forked
        os.kill(server.process.pid, signal.SIGKILL)
        gone(family)
    psutil.wait_procs(family, timeout=PATIENCE)
    stage.notes.append(f"{len(family)} processes, all gone with it")

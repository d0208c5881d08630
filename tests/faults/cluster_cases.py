"""What befalls nodes of a cluster: a server that is killed or frozen, messages that get lost. Here a switch stands for Ray.

A model is on the second and the third node. Clients ask the first, which has to send everything on, and the second, to which it
happens. So each request of the first is a remote one, and has another node to go to.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil
from accounting import Load
from stage import Stage, case
from subjects import Mooring, until
from switched_nodes import switched_nodes

FROZEN = 2.5
"""Seconds that a frozen server is stopped: long enough to be taken for dead by the others."""

PARTED = 1.5
"""Seconds of a partition: longer than it takes to notice it."""
NOTICED = 1.6
"""Seconds that a request may take at most whose node is silent: one for the silence, and what a busy machine takes."""


def signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def slowest(load: Load) -> str:
    """How long a request of those waited whose node lives: that of the request which waited for the dead one, and ran again."""
    return f"the slowest request of the others took {load.account.slowest:.2f} s"


def all_well(servers: Sequence[Mooring]) -> None:
    """Every node server ends as it should, and has logged no fault."""
    for server in servers:
        assert (status := server.stop()) == 0, (status, server.log[-2000:])
        assert "Traceback" not in server.log, server.log[-4000:]


@case("cluster: a node server killed with -9, and started again", short=True)
def killed_server(stage: Stage) -> None:
    with switched_nodes(stage, {"far": (1, 2)}) as cluster:
        entry, victim, other = cluster.nodes
        with (
            stage.load("far", server=entry) as load,
            stage.load("far", server=victim, mortal=True, clients=4) as local,
        ):
            stage.wait(0.5)
            for _ in range(1 if stage.span < 1 else 3):
                stage.strike()
                os.kill(victim.process.pid, signal.SIGKILL)
                victim.process.wait()
                load.until_right(50)
                cluster.route({"far": [other]})
                load.until_right(50)
                cluster.restart(victim)
                until(lambda: victim.holds(far=2))
                cluster.route({"far": [victim, other]})
                load.until_right(50)
                local.until_right(20)
        assert not stage.account.honest, stage.account.statuses
        all_well(cluster.nodes)
        stage.notes.append(f"requests that it had run once more, on the other node; {slowest(load)}")


@case("cluster: a node server frozen (SIGSTOP), and thawed")
def frozen_server(stage: Stage) -> None:
    with switched_nodes(stage, {"far": (1, 2)}) as cluster:
        entry, victim, _ = cluster.nodes
        with stage.load("far", server=entry) as load, stage.load("far", server=victim, clients=4) as local:
            stage.wait(0.5)
            family = victim.family()
            stage.strike()
            signal_all(family, signal.SIGSTOP)
            load.until_right(50)
            time.sleep(FROZEN)
            signal_all(family, signal.SIGCONT)
            local.until_right(20)
            load.until_right(50)
        assert not stage.account.honest, stage.account.statuses
        assert load.account.slowest < NOTICED, slowest(load)
        all_well(cluster.nodes)
        stage.notes.append(
            f"all its processes, for {FROZEN:g} s; its own clients are answered when it thaws; {slowest(load)}"
        )


@case("cluster: messages between two nodes get lost without a word")
def partitioned(stage: Stage) -> None:
    with switched_nodes(stage, {"far": (1, 2)}) as cluster:
        entry, victim, _ = cluster.nodes
        with stage.load("far", server=entry) as load, stage.load("far", server=victim, clients=4) as local:
            stage.wait(0.5)
            stage.strike()
            cluster.swallow(entry, victim)
            load.until_right(50)
            local.until_right(50)
            time.sleep(PARTED)
            cluster.heal()
            load.until_right(50)
            local.until_right(50)
        assert not stage.account.honest, stage.account.statuses
        assert load.account.slowest < NOTICED, slowest(load)
        all_well(cluster.nodes)
        stage.notes.append(
            f"both go on: one with the third node, one with what it has; {slowest(load)}, {slowest(local)}"
        )


@case("cluster: a node server killed with -9 whose model must not run twice")
def killed_once(stage: Stage) -> None:
    with switched_nodes(stage, {"once": (1, 2)}, retryRequests=False) as cluster:
        entry, victim, other = cluster.nodes
        with stage.load("once", server=entry) as load:
            stage.wait(0.5)
            stage.strike()
            os.kill(victim.process.pid, signal.SIGKILL)
            victim.process.wait()
            load.until_right(50)
            cluster.route({"once": [other]})
            load.until_right(50)
        assert 0 < stage.account.honest <= 8, stage.account.statuses
        all_well([entry, other])
        stage.notes.append("retryRequests: false; what ran there, and may have ended, is an error")

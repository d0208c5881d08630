"""What befalls a cluster on Ray: processes, hosts and the network between them. All cases share three hosts, in this order.

Clients ask the hosts that survive, and nothing of theirs may get lost. Clients of a host to which it happens are told apart: their
connections break off.
"""

import os
import random
import signal
import time
from contextlib import ExitStack, suppress

from accounting import Load
from cluster_cases import FROZEN, NOTICED, PARTED, slowest
from ray_cluster import RayCluster
from slow_cable import slow_cable
from stage import Stage, case
from subjects import NotHere, until

_stack = ExitStack()
_clusters: list[RayCluster] = []
_failures: list[Exception] = []


def cluster_of(stage: Stage) -> RayCluster:
    """The cluster that all cases share; made for the first of them."""
    if _failures:
        raise NotHere(f"the cluster of the first case: {_failures[0]}")
    if not _clusters:
        try:
            _clusters.append(RayCluster(_stack))
        except Exception as error:
            _failures.append(error)
            close_cluster()
            raise
    stage.notes.clear()
    return _clusters[0]


def close_cluster() -> None:
    """After the last case."""
    _clusters.clear()
    _stack.close()


def noticed(load: Load) -> None:
    """Nobody waited longer for a silent node than it may take to notice."""
    assert load.account.slowest < NOTICED, slowest(load)


@case("Ray cluster: kill -9 of a worker on another host")
def killed_worker(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with cluster.load(stage, cluster.head) as load:
        for _ in range(3):
            victim = random.choice(cluster.second.find("mooring: worker far"))
            stage.strike()
            os.kill(victim, signal.SIGKILL)
            until(
                lambda before=victim: (
                    before not in (now := cluster.second.find("mooring: worker far")) and len(now) == 2
                )
            )
            load.until_right(50)
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append(slowest(load))


@case("Ray cluster: kill -9 of a node server")
def killed_server(stage: Stage) -> None:
    cluster = cluster_of(stage)
    victim = cluster.second
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, cluster.third, "near", clients=4),
        cluster.load(stage, victim, mortal=True, clients=4) as local,
    ):
        stage.wait(0.5)
        before = cluster.server_of(victim)
        stage.strike()
        os.kill(before, signal.SIGKILL)
        load.until_right(100)
        until(lambda: cluster.server_of(victim) != before and cluster.pings(victim))
        local.until_right(50)
        load.until_right(100)
    assert not load.account.honest, load.account.statuses
    assert set(local.account.statuses) <= {200, 503}, local.account.statuses
    noticed(load)
    stage.notes.append(
        f"its actor starts it again, and it says 503 until it has heard of the cluster; {slowest(load)}"
    )


@case("Ray cluster: kill -9 of the controller")
def killed_controller(stage: Stage) -> None:
    cluster = cluster_of(stage)
    found = [(host, pid) for host in cluster.network.hosts for pid in host.find("ray::ControllerActor")]
    assert len(found) == 1, found
    ((host, victim),) = found
    with cluster.load(stage, cluster.head) as load, cluster.load(stage, cluster.third, "near", clients=4):
        stage.wait(0.5)
        stage.strike()
        host.kill(victim)
        load.until_right(100)
        seconds = until(lambda: any(host.find("ray::ControllerActor") for host in cluster.network.hosts))
        cluster.await_ready(*cluster.network.hosts)
        load.until_right(100)
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append(f"Ray starts it again after {seconds:.1f} s; nobody notices")


@case("Ray cluster: kill -9 of a raylet")
def killed_raylet(stage: Stage) -> None:
    cluster = cluster_of(stage)
    victim = cluster.second
    before = cluster.server_of(victim)
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, victim, clients=4) as local,
    ):
        stage.wait(0.5)
        stage.strike()
        victim.kill_raylet()
        load.until_right(100)
        local.until_right(50)
        stage.wait()
        victim.stop_ray()
        cluster.start_ray(victim)
        cluster.await_ready(victim)
        load.until_right(100)
        local.until_right(50)
    assert cluster.server_of(victim) == before, "the node server was started again"
    assert not stage.account.honest, stage.account.statuses
    noticed(load)
    stage.notes.append(f"its node server serves on, and joins again after ray start; {slowest(load)}")


@case("Ray cluster: a host freezes (SIGSTOP of all its processes), and thaws")
def frozen_host(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with cluster.load(stage, cluster.head) as load, cluster.load(stage, cluster.second, clients=4) as local:
        stage.wait(0.5)
        stage.strike()
        cluster.second.freeze()
        try:
            load.until_right(100)
            time.sleep(FROZEN)
        finally:
            cluster.second.thaw()
        local.until_right(20)
        load.until_right(100)
    assert not stage.account.honest, stage.account.statuses
    noticed(load)
    stage.notes.append(f"for {FROZEN:g} s; its own clients are answered when it thaws; {slowest(load)}")


@case("Ray cluster: partition of two hosts")
def parted_hosts(stage: Stage) -> None:
    cluster = cluster_of(stage)
    one, other = cluster.second, cluster.third
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, one) as first,
        cluster.load(stage, other) as second,
    ):
        stage.wait(0.5)
        stage.strike()
        cluster.network.partition(one, other)
        try:
            first.until_right(100)
            second.until_right(100)
            time.sleep(2 * PARTED)
        finally:
            cluster.network.heal(one, other)
        load.until_right(100)
    assert not stage.account.honest, stage.account.statuses
    for each in (first, second):
        noticed(each)
    stage.notes.append(f"both have the model, and clients of their own; {slowest(first)}, {slowest(second)}")


@case("Ray cluster: partition of a host from the one with Ray's head")
def parted_from_head(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with cluster.load(stage, cluster.head) as load, cluster.load(stage, cluster.second, clients=4) as local:
        stage.wait(0.5)
        stage.strike()
        cluster.network.partition(cluster.head, cluster.second)
        try:
            load.until_right(100)
            local.until_right(50)
            time.sleep(2 * PARTED)
        finally:
            cluster.network.heal(cluster.head, cluster.second)
        load.until_right(100)
        local.until_right(50)
        cluster.await_ready(cluster.second)
    assert not stage.account.honest, stage.account.statuses
    noticed(load)
    stage.notes.append(f"both go on; {slowest(load)}, {slowest(local)}")


@case("Ray cluster: one packet in twenty gets lost")
def lossy(stage: Stage) -> None:
    cluster = cluster_of(stage)
    drop = "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; "
    drop += "add rule inet loss in numgen random mod 100 < 5 drop"
    try:
        done = cluster.second.try_to_run("nft", drop)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        raise NotHere(f"no nftables: {done.stderr.strip() if done else 'the command nft is missing'}")
    try:
        with cluster.load(stage, cluster.head) as load:
            stage.strike()
            stage.wait(2)
            load.until_right(100)
    finally:
        cluster.second.run("nft", "delete table inet loss")
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append(f"of those that come to one host; {slowest(load)}")


@case("Ray cluster: a slow link, 40 ms there and back")
def slow_link(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with slow_cable(cluster.second, delay=0.02), cluster.load(stage, cluster.head) as load:
        stage.strike()
        stage.wait(2)
        load.until_right(100)
    assert not stage.account.honest, stage.account.statuses
    noticed(load)
    stage.notes.append(f"nobody takes it for dead; {slowest(load)}")


_FILLER = """
import sys, time, numpy, ray
ray.init(address=sys.argv[1], _node_ip_address=sys.argv[2], log_to_driver=False)
held = []
for _ in range(90):
    held.append(ray.get(ray.put(numpy.ones(1_000_000, dtype=numpy.uint8))))
print("full", flush=True)
time.sleep(600)
"""


@case("Ray cluster: a full object store, and bodies that go through it")
def full_store(stage: Stage) -> None:
    import subprocess
    import sys

    cluster = cluster_of(stage)
    pad = {"pad": "p" * 1_500_000}
    fillers = []
    try:
        for host in (cluster.head, cluster.second):
            filler = host.start(
                sys.executable, "-c", _FILLER, cluster.network.ray_address, host.address, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            fillers.append((host, filler))
            assert filler.stdout.readline() == b"full\n"
        with cluster.load(stage, cluster.head, clients=4, asked=pad) as load:
            stage.strike()
            stage.wait(2)
            load.until_right(20)
    finally:
        for host, filler in fillers:
            with suppress(ProcessLookupError):
                host.kill(*host.find("held = []"))
            filler.wait(10)
            filler.stdout.close()
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append(f"bodies of 1.5 MB; {slowest(load)}")


@case("Ray cluster: a host joins whose software speaks another version of the messages")
def other_software(stage: Stage) -> None:
    cluster = cluster_of(stage)
    host = (
        cluster.add_host_of_other_software()
    )  # a start of Ray takes all cores of a small machine for a while
    refused = []

    def is_refused() -> bool:
        refused[:] = [node for node in cluster.view()["nodes"] if node["state"] == "REFUSED"]
        return bool(refused)

    with cluster.load(stage, cluster.head) as load:
        stage.strike()
        until(is_refused, within=60, every=0.5)
        load.until_right(100)
    assert "install the same version" in refused[0]["reason"], refused
    assert not stage.account.honest, stage.account.statuses
    host.die()
    stage.notes.append("it is REFUSED with the reason, and gets nothing")


@case("Ray cluster: the clock of a host is a day ahead")
def skewed(stage: Stage) -> None:
    cluster = cluster_of(stage)
    skewed = cluster.third.run("python", "-c", "import time; print(time.time())")
    assert float(skewed) - time.time() > 80_000
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, cluster.third, "far", clients=4),
        cluster.load(stage, cluster.third, "near", clients=4),
    ):
        stage.strike()
        stage.wait()
        load.until_right(100)
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append("so it was in all cases before")


@case("Ray cluster: kill -9 of Ray's head")
def killed_head(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, cluster.second, clients=4),
        cluster.load(stage, cluster.third, "near", clients=4),
    ):
        stage.wait(0.5)
        stage.strike()
        cluster.head.kill_head()
        stage.wait(2)
        load.until_right(200)
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append(f"all go on, and ask each other as before; {slowest(load)}")


@case("Ray cluster: a host dies, and its cable with it")
def dead_host(stage: Stage) -> None:
    cluster = cluster_of(stage)
    with (
        cluster.load(stage, cluster.head) as load,
        cluster.load(stage, cluster.second, clients=4),
        cluster.load(stage, cluster.third, mortal=True, clients=4) as local,
    ):
        stage.wait(0.5)
        stage.strike()
        cluster.third.die()
        local.abandon()
        load.until_right(200)
    assert not stage.account.honest, stage.account.statuses
    noticed(load)
    close_cluster()
    stage.notes.append(f"without Ray's head, too; {slowest(load)}")

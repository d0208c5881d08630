"""How many replicas a version has by what its nodes report: workers first, then replicas, then none."""

import pytest

from mooring.cluster.controller.desired_state import DesiredVersion, VersionSettings
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.replica_scaling import ReplicaScaling, measure_demand
from mooring.cluster.records import ModelFiles, ReplicaState, VersionStatus
from mooring.core.options import Placement

KEY = Key("m", "1")
TARGET = {"target_queue": 0.1, "scaling_window": 1.0, "cool_down": 5.0}


def version(replicas=1, scaling=TARGET, **placement):
    placed = Placement(**({"min_replicas": 1, "max_replicas": 4} | placement))
    settings = VersionSettings(files=ModelFiles("0", "m", 1), placement=placed, scaling=scaling)
    return DesiredVersion(settings=settings, replicas=replicas)


def status(state=ReplicaState.READY, **figures):
    figures = {"ready_workers": 2, "wanted_workers": 2, "max_workers": 2, "busy_workers": 2.0} | figures
    return VersionStatus("m", "1", state, **figures)


WAITS = {"waiting": 9, "oldest_wait": 0.25}


def test_a_node_that_can_add_workers_asks_for_no_replica():
    scaling = ReplicaScaling()
    room = {"a": status(wanted_workers=1, ready_workers=1, **WAITS)}
    assert scaling.decide(1.0, KEY, version(), room, 0) == 1
    assert scaling.decide(1.25, KEY, version(), {"a": status(**WAITS)}, 0) == 3


def test_the_target_the_window_and_the_cool_down_are_those_of_the_registration():
    scaling = ReplicaScaling()
    assert scaling.decide(1.0, KEY, version(scaling={}), {"a": status(**WAITS)}, 0) == 1  # half a second
    scaling = ReplicaScaling()
    idle = {name: status(busy_workers=0.0) for name in "abcd"}
    now, replicas, gone = 0.0, 4, []
    while now < 30.0 and replicas > 1:
        found = scaling.decide(now, KEY, version(replicas), idle, 0)
        if found != replicas:
            gone.append(now)
            replicas = found
            idle = dict(list(idle.items())[:replicas])
        now += 0.25
    assert replicas == 1
    assert gone[0] == pytest.approx(5.0, abs=0.5)


def test_without_a_least_the_last_replica_goes_and_requests_that_are_held_bring_one():
    scaling, wanted = ReplicaScaling(), version(min_replicas=0)
    for look in range(60):
        found = scaling.decide(look / 4, KEY, wanted, {"a": status(busy_workers=0.0)}, 0)
        if not found:
            break
    assert found == 0
    none = version(0, min_replicas=0)
    assert scaling.decide(20.0, KEY, none, {}, 0) == 0
    assert scaling.decide(20.25, KEY, none, {}, 3) == 1


def test_requests_between_two_looks_keep_the_last_replica():
    scaling, wanted = ReplicaScaling(), version(min_replicas=0)
    for look in range(120):
        reports = {"a": status(busy_workers=0.0, requests=look)}
        assert scaling.decide(look / 4, KEY, wanted, reports, 0) == 1


def test_a_fixed_number_is_that_whatever_waits():
    fixed = version(min_replicas=2, max_replicas=2)
    assert ReplicaScaling().decide(1.0, KEY, fixed, {"a": status(**WAITS)}, 5) == 2


def test_a_replica_is_busy_by_its_workers_and_the_longest_wait_counts():
    demand = measure_demand(
        3,
        [
            status(busy_workers=1.0, waiting=2, oldest_wait=0.5, queue_p95=0.1),
            status(busy_workers=2.0, waiting=1, oldest_wait=0.2, queue_p95=0.3),
            status(ReplicaState.LOADING),
        ],
        4,
    )
    assert (demand.units, demand.ready, demand.busy, demand.waiting) == (3, 2, 1.5, 7)
    assert (demand.oldest_wait, demand.queue_p95) == (0.5, 0.3)

"""Where replicas go: what holds for every plan, and what is said of those that have no place."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.cluster.controller.cluster_port import ResourceRequest
from mooring.cluster.controller.placement import (
    AbsentNode,
    Key,
    NodeRoom,
    WantedReplicas,
    plan_placement,
    request_of,
)
from mooring.core.options import Placement, PlacementStrategy

SPREAD, PACK = PlacementStrategy.SPREAD, PlacementStrategy.PACK
M = Key("m", "1")

amounts = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory"]), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
names = st.sampled_from("abcde")
rooms = st.builds(
    NodeRoom,
    free=amounts,
    labels=st.dictionaries(st.just("zone"), st.sampled_from("xy")),
    accelerator_type=st.sampled_from(["", "A100"]),
)
requests = st.builds(
    ResourceRequest,
    resources=amounts,
    labels=st.dictionaries(st.just("zone"), st.sampled_from("xy")),
    accelerator_type=st.sampled_from(["", "", "A100"]),
)
versions = st.builds(
    WantedReplicas,
    request=requests,
    count=st.one_of(st.none(), st.integers(0, 4)),
    strategy=st.sampled_from([SPREAD, PACK]),
    current=st.lists(names, unique=True),
    avoid=st.dictionaries(names, st.just("it failed"), max_size=2),
)
clusters = st.dictionaries(names, rooms)
wishes = st.dictionaries(st.builds(Key, st.sampled_from("klm"), st.sampled_from("12")), versions)


def matches(room, request):
    return (not request.accelerator_type or room.accelerator_type == request.accelerator_type) and all(
        room.labels.get(name) == value for name, value in request.labels.items()
    )


def left_after(nodes, wanted, plan):
    """What is free on each node once the plan is carried out; what is to go holds what it has."""
    free = {name: dict(room.free) for name, room in nodes.items()}
    for key, version in wanted.items():
        for name in set(plan.nodes[key]) - set(version.current):
            for resource, amount in version.request.resources.items():
                free[name][resource] = free[name].get(resource, 0.0) - amount
    return free


@settings(max_examples=150)
@given(clusters, wishes)
def test_every_plan_keeps_to_the_rules(nodes, wanted):
    plan = plan_placement(nodes, wanted)
    free = left_after(nodes, wanted, plan)
    for key, version in wanted.items():
        placed = plan.nodes[key]
        assert len(set(placed)) == len(placed)  # never two on one node
        assert version.count is None or len(placed) <= version.count
        for name in placed:
            assert name in nodes
            assert name not in version.avoid or name in version.current
            assert matches(nodes[name], version.request)
    assert all(amount > -1e-6 for held in free.values() for amount in held.values())  # never over capacity


@settings(max_examples=150)
@given(clusters, wishes)
def test_all_that_fits_is_placed_and_the_rest_says_why(nodes, wanted):
    plan = plan_placement(nodes, wanted)
    free = left_after(nodes, wanted, plan)
    for key, version in wanted.items():
        placed, request = plan.nodes[key], version.request
        lacks = version.count is None or len(placed) < version.count
        room = [
            name
            for name in nodes
            if name not in placed
            and name not in version.current
            and name not in version.avoid
            and matches(nodes[name], request)
            and all(free[name].get(resource, 0.0) >= amount for resource, amount in request.resources.items())
        ]
        assert not (lacks and room)
        if version.count is not None:
            assert (key in plan.missing) == (len(placed) < version.count)
        assert "\n" not in plan.missing.get(key, "")


@settings(max_examples=150)
@given(clusters, wishes)
def test_a_plan_that_is_carried_out_is_its_own_next_plan(nodes, wanted):
    plan = plan_placement(nodes, wanted)
    free = left_after(nodes, wanted, plan)
    then = {name: msgspec.structs.replace(room, free=free[name]) for name, room in nodes.items()}
    carried = {
        key: msgspec.structs.replace(version, current=plan.nodes[key]) for key, version in wanted.items()
    }
    assert plan_placement(then, carried).nodes == plan.nodes


@settings(max_examples=150)
@given(clusters, wishes)
def test_a_replica_that_is_wanted_and_may_stay_does(nodes, wanted):
    plan = plan_placement(nodes, wanted)
    for key, version in wanted.items():
        stay = [
            name
            for name in version.current
            if name in nodes and name not in version.avoid and matches(nodes[name], version.request)
        ]
        kept = set(stay) & set(plan.nodes[key])
        assert len(kept) == (len(stay) if version.count is None else min(len(stay), version.count))


def cluster(**free):
    return {name: NodeRoom(amounts) for name, amounts in free.items()}


def wants(count=1, strategy=SPREAD, current=(), avoid=None, **resources):
    return WantedReplicas(ResourceRequest(resources), count, strategy, current, avoid or {})


def test_models_are_spread_over_nodes_or_packed_on_few():
    nodes = cluster(a={}, b={}, c={})
    keys = [Key(name, "1") for name in "klmn"]
    spread = plan_placement(nodes, dict.fromkeys(keys, wants())).nodes
    assert sorted(name for placed in spread.values() for name in placed) == ["a", "a", "b", "c"]
    packed = plan_placement(nodes, dict.fromkeys(keys, wants(strategy=PACK))).nodes
    assert len({name for placed in packed.values() for name in placed}) == 1


def test_fewer_replicas_leave_the_fullest_nodes_first_and_ready_ones_last():
    nodes = cluster(a={}, b={}, c={})
    other = {Key("k", "1"): wants(1, current=["b"])}
    assert plan_placement(nodes, {M: wants(1, current=["c", "b", "a"]), **other}).nodes[M] == ["c"]
    assert plan_placement(nodes, {M: wants(2, current=["c", "b", "a"]), **other}).nodes[M] == ["a", "c"]


def test_a_replica_that_failed_moves_where_it_can_and_stays_where_it_cannot():
    failed = {"a": "it failed"}
    assert plan_placement(cluster(a={}, b={}), {M: wants(current=["a"], avoid=failed)}).nodes[M] == ["b"]
    assert plan_placement(cluster(a={}), {M: wants(current=["a"], avoid=failed)}).nodes[M] == ["a"]


def test_every_version_gets_its_first_replica_before_any_gets_its_second():
    nodes = cluster(a={"CPU": 1.0}, b={"CPU": 1.0})
    plan = plan_placement(nodes, {Key("k", "1"): wants(2, CPU=1.0), Key("l", "1"): wants(2, CPU=1.0)})
    assert [len(placed) for placed in plan.nodes.values()] == [1, 1]


def test_a_model_that_fits_nowhere_takes_no_room_from_one_that_fits():
    nodes = cluster(a={"GPU": 1.0})
    plan = plan_placement(nodes, {Key("big", "1"): wants(GPU=2.0), M: wants(GPU=1.0)})
    assert plan.nodes == {Key("big", "1"): [], M: ["a"]}


@pytest.mark.parametrize(
    ("nodes", "version", "text"),
    [
        ({}, wants(), "there is no node that takes models"),
        (
            cluster(a={}, b={"GPU": 1.0}),
            wants(GPU=2.0),
            "needs 2 GPUs on one node; the most free on any is 1 (node b)",
        ),
        (
            cluster(a={"memory": float(1 << 30)}),
            wants(memory=float(3 << 30)),
            "needs 3.0 GiB of memory on one node; the most free on any is 1.0 GiB of memory (node a)",
        ),
        (
            cluster(a={"CPU": 4.0}, b={"GPU": 1.0}),
            wants(CPU=2.0, GPU=1.0),
            "needs 2 CPUs and 1 GPU on one node; node a lacks 1 GPU",
        ),
        (cluster(a={}, b={}), wants(3), "wants 3 nodes, and only 2 fit"),
        (cluster(a={}), wants(avoid={"a": "it has no disk left"}), "node a: it has no disk left"),
        (
            {"a": NodeRoom({}, {"zone": "y"})},
            WantedReplicas(ResourceRequest(labels={"zone": "x"}), 1),
            "needs a node with the label zone = x; zone is y on the nodes that have it",
        ),
        (
            cluster(a={}),
            WantedReplicas(ResourceRequest(labels={"zone": "x"}), None),
            "needs a node with the label zone = x; no node has the label zone",
        ),
        (
            {"a": NodeRoom({"GPU": 1.0}, {}, "T4")},
            WantedReplicas(ResourceRequest({"GPU": 1.0}, accelerator_type="A100"), 1),
            "needs a node with a GPU of the kind A100; there are T4",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_in_a_line(nodes, version, text):
    assert plan_placement(nodes, {M: version}).missing == {M: text}


def test_nodes_that_would_fit_are_told_of_where_a_version_fits_nowhere():
    absent = {
        name: AbsentNode(NodeRoom({"GPU": gpus}), "its server does not start")
        for name, gpus in {"b": 1.0, "c": 2.0, "d": 2.0, "e": 2.0, "f": 2.0}.items()
    }
    plan = plan_placement(cluster(a={}), {M: wants(GPU=2.0)}, absent)
    told = [f"node {name} would fit, but its server does not start" for name in "cde"]
    assert plan.missing == {M: "; ".join([*told, "and 1 more"])}
    assert plan_placement(cluster(a={}), {M: wants(GPU=3.0)}, absent).missing == {
        M: "needs 3 GPUs on one node; the most free on any is 0 (node a)"
    }


def test_options_become_a_request_by_rays_names():
    placement = Placement(
        num_cpus=1, num_gpus=0.5, memory=7, resources={"licence": 1.0}, labels={"zone": "a"}
    )
    assert request_of(placement) == ResourceRequest(
        {"CPU": 1.0, "GPU": 0.5, "memory": 7.0, "licence": 1.0}, {"zone": "a"}
    )
    assert request_of(Placement()) == ResourceRequest()

"""The controller beside a simulated cluster: what it places, moves, rolls out, takes back, and how it comes back itself."""

import asyncio

import pytest
from simulation import LOAD, SimCluster, register
from virtual_time import virtual_time

from mooring.cluster.records import DrainNode, ReplicaState, ScaleVersion, SetDefault, UnregisterVersion
from mooring.core.errors import (
    ClusterUnavailable,
    InvalidInput,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    VersionIsDefault,
    VersionNotFound,
)


def on_cluster(*names, **options):
    """Run a test in virtual time with a cluster of these nodes and its controller."""

    def decorate(test):
        async def run():
            cluster = SimCluster(*names, **options)
            try:
                await test(cluster, await cluster.start_controller())
            finally:
                cluster.close()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return virtual_time(run)

    return decorate


def version_of(view, model="m", version="1"):
    return next(each for each in view.versions if (each.model, each.version) == (model, version))


def node_of(view, name):
    return next(each for each in view.nodes if each.node == name)


async def until(condition, patience=30.0):
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not condition():
        assert loop.time() < end, "it did not come to that"
        await asyncio.sleep(0.05)


def tables(cluster):
    return {name: node.assignment.routing for name, node in cluster.nodes.items() if node.alive}


@on_cluster("a", "b", "c")
async def test_a_registered_model_is_ready_on_one_node_and_every_node_knows(cluster, controller):
    view = await controller.handle(register())
    found = version_of(view)
    assert (found.state, found.is_default, found.wanted_replicas, len(found.replicas)) == (
        "READY",
        True,
        1,
        1,
    )
    (node,) = [name for name, versions in cluster.running().items() if versions]
    await until(lambda: all(table.replicas == {"m": {"1": [node]}} for table in tables(cluster).values()))
    assert all(table.defaults == {"m": "1"} for table in tables(cluster).values())
    assert tables(cluster)["a"].files == {"m": {"1": "x" * 8}}
    assert tables(cluster)["a"].nodes == {"a": "actor-a", "b": "actor-b", "c": "actor-c"}
    assert {each.state for each in view.nodes} == {"READY"}


@on_cluster("a", "b")
async def test_requests_for_a_version_that_loads_are_held(cluster, controller):
    await controller.handle(register(wait=False))
    await until(lambda: cluster.nodes["a"].assignment.routing.starting == {"m": ["1"]})
    assert cluster.nodes["a"].assignment.routing.wanted["m"]["1"] >= 1
    assert version_of(controller.view()).state == "LOADING"


@on_cluster("a", "b", "c")
async def test_all_nodes_or_a_number_of_them(cluster, controller):
    await controller.handle(register("every", all_nodes=True))
    await controller.handle(register("two", min_replicas=2, max_replicas=2))
    assert sum(bool(found) for found in cluster.running("every").values()) == 3
    assert sum(bool(found) for found in cluster.running("two").values()) == 2
    cluster.add("d")
    await until(lambda: cluster.running("every")["d"] == ["1"])


@on_cluster("a", "b", total={"CPU": 2.0, "GPU": 1.0})
async def test_what_fits_nowhere_is_pending_says_why_and_blocks_nobody(cluster, controller):
    view = await controller.handle(register("big", num_gpus=2))
    found = version_of(view, "big")
    reason = "needs 2 GPUs on one node; the most free on any is 1 (node b)"
    assert (found.state, found.reason, found.replicas) == ("PENDING", reason, [])
    assert version_of(await controller.handle(register("m", num_gpus=1))).state == "READY"
    assert tables(cluster)["a"].pending == {"big": {"1": reason}}
    assert cluster.ports[0].requested[1][0].resources == {"GPU": 2.0}
    cluster.add("c", {"CPU": 2.0, "GPU": 2.0})
    await until(lambda: cluster.running("big")["c"] == ["1"])
    await until(lambda: cluster.ports[0].requested[1] == [])
    (assigned,) = cluster.nodes["c"].assignment.versions
    assert assigned.gpus == [0, 1]


@on_cluster("a", "b", total={"CPU": 2.0})
async def test_resources_are_reserved_before_and_given_back_after(cluster, controller):
    await controller.handle(register("m", num_cpus=2))
    await controller.handle(register("n", num_cpus=2))
    assert {held.node for held in cluster.reserved.values()} == {"a", "b"}
    assert version_of(await controller.handle(register("o", num_cpus=2)), "o").state == "PENDING"
    await controller.handle(UnregisterVersion("m"))
    await until(lambda: version_of(controller.view(), "o").state == "READY")
    assert {held.model for held in cluster.reserved.values()} == {"n", "o"}


@on_cluster("a")
async def test_refusals_are_those_of_a_single_server(cluster, controller):
    await controller.handle(register())
    with pytest.raises(ModelExists, match="model 'm' has a version '1' already"):
        await controller.handle(register())
    await controller.handle(register(version="2"))
    with pytest.raises(VersionIsDefault, match="version '1' is the default of model 'm', which has others"):
        await controller.handle(UnregisterVersion("m", "1"))
    for change in (UnregisterVersion("n"), ScaleVersion("n"), SetDefault("n", "1")):
        with pytest.raises(ModelNotFound, match="model 'n' is not loaded"):
            await controller.handle(change)
    for change in (UnregisterVersion("m", "9"), SetDefault("m", "9")):
        with pytest.raises(VersionNotFound, match="model 'm' has no version '9'"):
            await controller.handle(change)
    with pytest.raises(InvalidInput, match="there is no node 'z'; the nodes are: a"):
        await controller.handle(DrainNode("z"))
    with pytest.raises(InvalidInput, match="from 3 to 2 replicas"):
        await controller.handle(ScaleVersion("m", min_replicas=3, max_replicas=2))
    with pytest.raises(InvalidInput, match=r"placement\.num_cpus"):
        await controller.handle(register("k", num_cpus="many"))
    await controller.handle(register(version="3", wait=False))
    with pytest.raises(ModelNotReady, match="version '3' of model 'm' is not ready on any node"):
        await controller.handle(SetDefault("m", "3"))


@on_cluster("a", "b")
async def test_a_version_is_unloaded_once_it_has_answered(cluster, controller):
    await controller.handle(register(all_nodes=True))
    cluster.nodes["a"].load["m", "1"] = {"in_flight": 1}
    gone = asyncio.ensure_future(controller.handle(UnregisterVersion("m")))
    await asyncio.sleep(5.0)
    assert cluster.running() == {"a": ["1"], "b": []}
    assert not gone.done()
    assert cluster.nodes["a"].assignment.versions[0].draining
    cluster.nodes["a"].load.clear()
    assert (await gone).versions == []
    assert cluster.running() == {"a": [], "b": []}


@on_cluster("a")
async def test_a_replica_that_never_empties_goes_after_a_while(cluster, controller):
    await controller.handle(register())
    cluster.nodes["a"].load["m", "1"] = {"in_flight": 1}
    loop = asyncio.get_running_loop()
    began = loop.time()
    await controller.handle(UnregisterVersion("m"))
    assert 60.0 <= loop.time() - began <= 62.0


@on_cluster("a", "b")
async def test_a_version_that_cannot_be_loaded_is_taken_away_with_the_reason(cluster, controller):
    cluster.faults["bad" * 8] = "it has no weights"
    with pytest.raises(ModelLoadFailed, match=r"model 'm' could not be loaded: node [ab]: it has no weights"):
        await controller.handle(register(content="bad"))
    assert cluster.running() == {"a": [], "b": []}
    found = version_of(controller.view())
    assert (found.state, found.reason[-17:]) == ("FAILED", "it has no weights")
    # The next one of that name begins anew.
    assert version_of(await controller.handle(register())).state == "READY"


def watch_readiness(cluster, model="m"):
    """See all the time which default nodes know, and whether some node runs it that they know."""
    gaps = []

    async def watch():
        while True:
            for name, table in tables(cluster).items():
                if cluster.nodes[name].reachable and model in table.defaults:
                    version = table.defaults[model]
                    asked = table.replicas.get(model, {}).get(version, [])
                    if not any((model, version) in cluster.nodes[each].running for each in asked):
                        gaps.append((asyncio.get_running_loop().time(), name, version))
            await asyncio.sleep(0.02)

    cluster.tasks.append(asyncio.get_running_loop().create_task(watch()))
    return gaps


@on_cluster("a", "b", "c")
async def test_a_rolling_update_takes_over_once_it_is_ready_everywhere(cluster, controller):
    await controller.handle(register(all_nodes=True))
    await until(lambda: all(table.replicas for table in tables(cluster).values()))
    gaps = watch_readiness(cluster)
    change = register(version="2", make_default=True, retire_previous=True, all_nodes=True)
    view = await controller.handle(change)
    assert version_of(view, version="2").is_default
    await until(lambda: [each.version for each in controller.view().versions] == ["2"])
    assert cluster.running() == {"a": ["2"], "b": ["2"], "c": ["2"]}
    assert gaps == []


@on_cluster("a", "b", "c")
async def test_a_new_version_that_fails_on_one_node_leaves_the_old_one(cluster, controller):
    await controller.handle(register(all_nodes=True))
    await until(lambda: all(table.replicas for table in tables(cluster).values()))
    gaps = watch_readiness(cluster)
    cluster.faults["c", "bad" * 8] = "out of memory"
    change = register(version="2", content="bad", make_default=True, retire_previous=True, all_nodes=True)
    with pytest.raises(
        ModelLoadFailed, match="version '2' of model 'm' could not be loaded: node c: out of memory"
    ):
        await controller.handle(change)
    await until(lambda: cluster.running() == {"a": ["1"], "b": ["1"], "c": ["1"]})
    assert version_of(controller.view()).is_default
    assert gaps == []


@on_cluster("a", "b", "c")
async def test_a_node_that_dies_does_not_stop_a_rollout(cluster, controller):
    await controller.handle(register(all_nodes=True))
    change = register(version="2", make_default=True, retire_previous=True, all_nodes=True)
    rollout = asyncio.ensure_future(controller.handle(change))
    await asyncio.sleep(0.6)
    cluster.nodes["c"].die()
    await rollout
    await until(lambda: cluster.running() == {"a": ["2"], "b": ["2"]})


@on_cluster("a", "b", "c", "d")
async def test_a_version_is_replaced_node_by_node(cluster, controller):
    await controller.handle(register(all_nodes=True))
    counts = []

    def new():
        return sum(
            each.files.sha256 == "y" * 8 for node in cluster.nodes.values() for each in node.running.values()
        )

    change = asyncio.ensure_future(controller.handle(register(content="y", replace=True, all_nodes=True)))
    while not change.done():
        counts.append(new())
        await asyncio.sleep(0.1)
    await change
    assert sorted(set(counts)) == [0, 1, 3, 4]
    assert counts == sorted(counts)


@on_cluster("a", "b")
async def test_a_version_that_is_taken_back_is_failed_from_the_first_moment(cluster, controller):
    cluster.faults["x" * 8] = "it has no weights"
    await controller.handle(register(all_nodes=True, wait=False))
    states = []
    while "FAILED" not in states[-8:-7]:
        states.append(version_of(controller.view()).state)
        await asyncio.sleep(0.05)
    assert {*states} == {"LOADING", "FAILED"}


@on_cluster("a", "b", "c")
async def test_a_replacement_that_fails_goes_back_everywhere(cluster, controller):
    await controller.handle(register(all_nodes=True))
    await until(lambda: all(table.replicas for table in tables(cluster).values()))
    gaps = watch_readiness(cluster)
    cluster.faults["b", "y" * 8] = "no such operator"
    with pytest.raises(ModelLoadFailed, match="node b: no such operator"):
        await controller.handle(register(content="y", replace=True, all_nodes=True))
    found = {each.files.sha256 for node in cluster.nodes.values() for each in node.running.values()}
    assert found == {"x" * 8}
    assert gaps == []


@on_cluster("a", "b", "c")
async def test_a_default_is_known_to_all_nodes_when_the_change_is_answered(cluster, controller):
    await controller.handle(register())
    await controller.handle(register(version="2"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await controller.handle(SetDefault("m", "2"))
    assert {table.defaults["m"] for table in tables(cluster).values()} == {"2"}
    assert loop.time() - began < 1.0


@on_cluster("a", "b", "c")
async def test_a_dead_nodes_replicas_start_elsewhere(cluster, controller):
    await controller.handle(register())
    (home,) = [name for name, versions in cluster.running().items() if versions]
    cluster.nodes[home].die()
    await until(lambda: any(cluster.running().values()), patience=3 * LOAD)
    assert node_of(controller.view(), home).state == "LOST"


@on_cluster("a", "b")
async def test_a_silent_nodes_replicas_start_elsewhere_and_its_own_go_when_it_is_back(cluster, controller):
    await controller.handle(register())
    (home,) = [name for name, versions in cluster.running().items() if versions]
    (other,) = {"a", "b"} - {home}
    cluster.nodes[home].cut = True
    await until(lambda: cluster.running()[other] == ["1"], patience=8.0)
    assert "has not reported" in node_of(controller.view(), home).reason
    # It goes on with what it has: nobody told it otherwise.
    assert cluster.running()[home] == ["1"]
    cluster.nodes[home].cut = False
    await until(lambda: sum(map(bool, cluster.running().values())) == 1)


@on_cluster("a", "b")
async def test_a_drained_nodes_replicas_are_ready_elsewhere_before_they_stop(cluster, controller):
    await controller.handle(register())
    await until(lambda: all(table.replicas for table in tables(cluster).values()))
    gaps = watch_readiness(cluster)
    (home,) = [name for name, versions in cluster.running().items() if versions]
    view = await controller.handle(DrainNode(home))
    assert node_of(view, home).state == "DRAINED"
    assert sum(map(bool, cluster.running().values())) == 1
    assert cluster.running()[home] == []
    assert cluster.nodes[home].assignment.draining
    await controller.handle(DrainNode(home, undo=True))
    await until(lambda: node_of(controller.view(), home).state == "READY")
    assert gaps == []


@on_cluster("a")
async def test_a_drained_node_keeps_what_has_no_other_place_and_says_so(cluster, controller):
    await controller.handle(register())
    view = await controller.handle(DrainNode("a"))
    node = node_of(view, "a")
    assert (node.state, node.reason) == ("DRAINING", "model m 1: node a would fit, but is drained")
    assert cluster.running() == {"a": ["1"]}
    cluster.add("b")
    await until(lambda: node_of(controller.view(), "a").state == "DRAINED")
    assert cluster.running() == {"a": [], "b": ["1"]}


@on_cluster("a", "b")
async def test_a_replica_that_fails_later_moves_to_another_node(cluster, controller):
    await controller.handle(register())
    (home,) = [name for name, versions in cluster.running().items() if versions]
    node = cluster.nodes[home]
    node.failed["m", "1"] = (node.running.pop(("m", "1")), "its workers die")
    node.tell()
    (other,) = {"a", "b"} - {home}
    await until(lambda: cluster.running() == {home: [], other: ["1"]})


@on_cluster("a", "b", "c")
async def test_workers_and_replicas_are_scaled(cluster, controller):
    await controller.handle(register())
    await controller.handle(ScaleVersion("m", min_replicas=3))
    assert cluster.running() == {"a": ["1"], "b": ["1"], "c": ["1"]}
    await controller.handle(ScaleVersion("m", min_workers=1, max_workers=4))
    assert {node.running["m", "1"].max_workers for node in cluster.nodes.values()} == {4}
    view = await controller.handle(ScaleVersion("m", min_replicas=1, max_replicas=1))
    assert sum(map(bool, cluster.running().values())) == 1
    assert version_of(view).wanted_replicas == 1


@on_cluster("a", "b", "c")
async def test_replicas_follow_the_wait_of_requests_down_to_none_and_up_again(cluster, controller):
    await controller.handle(register(min_replicas=0, max_replicas=3))
    assert sum(map(bool, cluster.running().values())) == 1
    busy = {"busy_workers": 1, "waiting": 9, "oldest_wait": 3.0}
    for node in cluster.nodes.values():
        node.load["m", "1"] = busy
    await until(lambda: sum(map(bool, cluster.running().values())) == 3)
    for node in cluster.nodes.values():
        node.load.clear()
    await until(lambda: sum(map(bool, cluster.running().values())) == 0, patience=600.0)
    assert cluster.nodes["a"].assignment.routing.starting == {"m": ["1"]}
    assert version_of(controller.view()).state == "READY"
    cluster.nodes["b"].held = {"m": {"1": 2}}
    await until(lambda: sum(map(bool, cluster.running().values())) == 1, patience=3 * LOAD)


@on_cluster("a", "b", "c")
async def test_a_controller_that_starts_anew_touches_nothing_that_is_right(cluster, controller):
    await controller.handle(register("m", all_nodes=True, num_cpus=1))
    await controller.handle(register("n"))
    before = {name: (list(node.loads), list(node.unloads)) for name, node in cluster.nodes.items()}
    held = dict(cluster.reserved)
    cluster.kill_controller(controller)
    await asyncio.sleep(2.0)
    gaps = watch_readiness(cluster)
    second = await cluster.start_controller()
    await until(lambda: all(node.epoch == 2 for node in cluster.nodes.values()))
    await asyncio.sleep(10.0)
    assert {name: (node.loads, node.unloads) for name, node in cluster.nodes.items()} == before
    assert cluster.reserved == held
    assert gaps == []
    assert (second.view().epoch, {each.state for each in second.view().versions}) == (2, {"READY"})


@on_cluster("a", "b", "c")
async def test_a_controller_that_starts_anew_finishes_a_rollout(cluster, controller):
    await controller.handle(register(all_nodes=True))
    change = register(version="2", make_default=True, retire_previous=True, all_nodes=True, wait=False)
    await controller.handle(change)
    await asyncio.sleep(0.5)
    cluster.kill_controller(controller)
    second = await cluster.start_controller()
    await until(lambda: cluster.running() == {"a": ["2"], "b": ["2"], "c": ["2"]})
    await until(lambda: [each.version for each in second.view().versions] == ["2"])


@on_cluster("a", "b")
async def test_a_controller_that_hears_of_a_later_one_stops(cluster, controller):
    await controller.handle(register())
    first = cluster.ports[0]
    first.cut = True
    second = await cluster.start_controller()
    await until(lambda: all(node.epoch == 2 for node in cluster.nodes.values()))
    # The store tells the first one, which no node can tell.
    with pytest.raises(ClusterUnavailable, match="the epoch 2"):
        await controller.handle(register("n"))
    await until(lambda: controller.superseded == 2)
    with pytest.raises(ClusterUnavailable):
        await controller.handle(register("n"))
    first.cut = False
    await second.handle(register("o"))
    assert all(node.epochs == sorted(node.epochs) for node in cluster.nodes.values())
    assert sorted({each.model for each in second.view().versions}) == ["m", "o"]


@on_cluster("a", "b")
async def test_a_node_that_knows_a_higher_epoch_ends_a_controller(cluster, controller):
    cluster.nodes["a"].epoch = 7
    await until(lambda: controller.superseded == 7)


@on_cluster("a", "b")
async def test_nothing_is_done_that_could_not_be_written(cluster, controller):
    await controller.handle(register())
    cluster.objects.broken = True
    with pytest.raises(ClusterUnavailable, match="memory/ cannot be used: the store is away"):
        await controller.handle(register("n"))
    await asyncio.sleep(2.0)
    assert cluster.running("n") == {"a": [], "b": []}
    # A node that dies is replaced all the same: that needs no new state.
    (home,) = [name for name, versions in cluster.running().items() if versions]
    cluster.nodes[home].die()
    await until(lambda: any(cluster.running().values()))
    cluster.objects.broken = False
    await controller.handle(register("n"))


@on_cluster("a", "b")
async def test_a_node_server_that_starts_anew_gets_its_assignment_again(cluster, controller):
    await controller.handle(register(all_nodes=True))
    cluster.nodes["a"].restart()
    assert cluster.running()["a"] == []
    await until(lambda: cluster.running()["a"] == ["1"])


@on_cluster("a")
async def test_a_node_of_other_software_is_shown_and_gets_nothing(cluster, controller):
    node = cluster.add("b")
    node.refused = "its server speaks protocol 2, and this controller 1"
    await controller.handle(register(all_nodes=True))
    shown = node_of(controller.view(), "address-b")
    assert (shown.state, shown.reason) == ("REFUSED", node.refused)
    assert node.epochs == []
    assert node.loads == []


@on_cluster("a")
async def test_a_node_whose_server_does_not_start_is_failed_and_named_where_a_model_waits_for_it(
    cluster, controller
):
    node = cluster.add("b", labels={"zone": "x"})
    node.start_failure = "the port 8080 is in use"
    view = await controller.handle(register(labels={"zone": "x"}))
    shown = node_of(view, "address-b")
    assert (shown.state, shown.reason) == ("FAILED", node.start_failure)
    version = version_of(view)
    assert version.state == "PENDING"
    assert version.reason.startswith("node address-b would fit, but its server does not start")
    node.start_failure = ""
    await until(lambda: version_of(controller.view()).state == "READY")


@on_cluster("a", "b")
async def test_a_report_that_comes_late_changes_nothing(cluster, controller):
    await controller.handle(register())
    (home,) = [name for name, versions in cluster.running().items() if versions]
    old = cluster.nodes[home].status()
    await controller.handle(register("n", all_nodes=True))
    before = list(cluster.nodes[home].loads)
    controller.report(old)
    await asyncio.sleep(2.0)
    assert cluster.nodes[home].loads == before
    assert old.versions[0].state is ReplicaState.READY

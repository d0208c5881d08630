"""What Ray's autoscaler is asked for, and which nodes it may end."""

from mooring.cluster.autoscaled_nodes import IdleNodes, Machine, total_demand
from mooring.cluster.controller.cluster_port import ResourceRequest

HEAD = Machine("1", "head", is_head=True, total={"CPU": 2, "memory": 1e9})
WORKER = Machine("2", "worker", total={"CPU": 4, "GPU": 1})
NEW = Machine("3", "", total={"CPU": 4})


def test_nodes_in_use_count_whole_and_replicas_without_a_place_beside_them():
    more = [ResourceRequest({"CPU": 3.0}, {"zone": "a"}), ResourceRequest()]
    demand = total_demand([HEAD, WORKER, NEW], {"head", "worker"}, more)
    assert demand.bundles == [{"CPU": 2}, {"CPU": 4, "GPU": 1}, {"CPU": 3.0}, {"CPU": 1}]
    assert demand.labels == [{}, {}, {"zone": "a"}, {}]
    assert total_demand([HEAD, WORKER], set(), []).bundles == []
    # The node that comes for it is where the replica goes, and asks for no other one.
    assert total_demand([HEAD, NEW], {"head"}, more[:1]).bundles == [{"CPU": 2}, {"CPU": 3.0}]


def test_a_node_without_a_replica_may_end_after_the_timeout_and_the_head_never():
    idle = IdleNodes(5.0)
    machines = [HEAD, WORKER, NEW]
    assert idle.look(100.0, machines, {"worker"}, wants_more=False) == []
    assert idle.look(110.0, machines, set(), wants_more=False) == []
    assert idle.look(114.0, machines, {"worker"}, wants_more=False) == []  # it had a replica again
    assert idle.look(116.0, machines, set(), wants_more=False) == []
    assert idle.look(121.0, machines, set(), wants_more=False) == ["2"]
    assert idle.look(122.0, machines, set(), wants_more=False) == []  # told once
    assert idle.released == {"2"}


def test_nodes_that_may_end_are_taken_back_when_more_are_needed_and_forgotten_when_they_are_gone():
    idle = IdleNodes(5.0)
    for now in (0.0, 5.0):
        idle.look(now, [HEAD, WORKER], set(), wants_more=False)
    assert idle.released == {"2"}
    assert idle.look(6.0, [HEAD, WORKER], {"head"}, wants_more=True) == []
    assert idle.released == set()
    for now in (7.0, 12.0):
        idle.look(now, [HEAD, WORKER], set(), wants_more=False)
    assert idle.released == {"2"}
    idle.look(13.0, [HEAD], set(), wants_more=False)
    assert idle.released == set()


def test_without_a_timeout_no_node_may_end():
    idle = IdleNodes(0.0)
    for now in (0.0, 1000.0):
        assert idle.look(now, [HEAD, WORKER], set(), wants_more=False) == []

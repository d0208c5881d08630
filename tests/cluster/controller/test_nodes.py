"""What is known of nodes: which are usable, which reports count."""

from mooring.cluster.controller.cluster_port import Host
from mooring.cluster.controller.nodes import NodeTable
from mooring.cluster.records import NodeStatus


def status(node="a", epoch=0, generation=0):
    return NodeStatus(node, "0.1", "http://a:8080", epoch, generation)


def test_a_node_is_usable_while_it_reports_and_its_machine_lives():
    table = NodeTable(lost_after=3.0)
    table.note_hosts([Host("1", "a"), Host("2", "b")], 0.0)
    assert table.usable(0.0) == {}
    table.note_status(status("a"), 0.0)
    table.note_status(status("b"), 2.0)
    assert list(table.usable(3.0)) == ["a", "b"]
    assert list(table.usable(3.1)) == ["b"]
    table.note_hosts([Host("2", "b", alive=False)], 3.1)
    assert list(table.usable(3.1)) == []


def test_a_raylet_that_started_anew_is_the_machine_of_its_node():
    table = NodeTable(lost_after=3.0)
    table.note_hosts([Host("2", "a", actor="new"), Host("1", "a", actor="old", alive=False)], 0.0)
    table.note_status(status(), 0.0)
    assert table.usable(0.0)["a"].actor == "new"


def test_a_node_whose_actor_refuses_it_is_not_usable():
    table = NodeTable(lost_after=3.0)
    table.note_hosts([Host("1", "a", refused="another protocol")], 0.0)
    table.note_status(status(), 0.0)
    assert list(table.usable(0.0)) == []
    assert table.is_complete(0.0)


def test_an_old_report_changes_nothing_and_a_server_that_started_anew_counts():
    table = NodeTable(lost_after=3.0)
    table.note_status(status(epoch=2, generation=7), 0.0)
    table.note_status(status(epoch=2, generation=6), 1.0)
    assert (table.find("a").status.generation, table.find("a").heard) == (7, 0.0)
    table.note_status(status(), 2.0)
    assert (table.find("a").status.epoch, table.find("a").heard) == (0, 2.0)


def test_all_is_known_once_every_machine_that_lives_has_said_how_it_is():
    table = NodeTable(lost_after=3.0)
    table.note_hosts([Host("1", "a"), Host("2"), Host("3", alive=False), Host("4", failed="no disk")], 0.0)
    table.note_status(status(), 0.0)
    assert not table.is_complete(0.0)
    table.note_hosts([Host("1", "a"), Host("2", "b")], 0.0)
    table.note_status(status("b"), 0.0)
    assert table.is_complete(0.0)


def test_a_node_that_is_long_gone_is_forgotten():
    table = NodeTable(lost_after=3.0)
    table.note_status(status(), 0.0)
    table.note_hosts([], 500.0)
    assert table.find("a") is not None
    table.note_hosts([], 700.0)
    assert table.find("a") is None

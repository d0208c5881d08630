"""What a node knows of versions that it does not have: asked once, of a node that has them, and again when their files change."""

import pytest

from mooring.cluster import version_facts
from mooring.cluster.records import RoutingTable
from mooring.cluster.remote_requests import VersionFacts, Versions
from mooring.cluster.routing import Routes
from mooring.cluster.version_facts import VersionDirectory
from mooring.core.service import ModelMetadata


class Nodes:
    """Other nodes, which keep what they are asked."""

    def __init__(self):
        self.asked = []
        self.avoided = set()

    def is_avoided(self, node):
        return node in self.avoided

    def reach(self, node):
        nodes = self

        class Node:
            def ask_versions(self, versions, receive, _on_lost):
                nodes.asked.append((node, sorted(versions), receive))

        return Node()


def facts(platform):
    return VersionFacts(ModelMetadata("m", platform=platform))


def routes(replicas, **files):
    return Routes(RoutingTable(1, replicas=replicas, defaults={}, files=files), "a")


@pytest.fixture
def now(monkeypatch):
    class Clock:
        seconds = 100.0

    monkeypatch.setattr(version_facts.time, "monotonic", lambda: Clock.seconds)
    return Clock


@pytest.fixture
def nodes():
    return Nodes()


@pytest.fixture
def directory(nodes):
    news = []
    directory = VersionDirectory(nodes, lambda: news.append(1))
    directory.news = news
    return directory


def test_a_node_is_asked_once_for_all_that_it_has_and_not_for_what_is_here(directory, nodes, now):
    directory.update(routes({"m": {"1": ["b"], "2": ["b"]}, "mine": {"1": ["a"]}}))
    ((node, versions, receive),) = nodes.asked
    assert (node, versions) == ("b", [("m", "1"), ("m", "2")])
    directory.ask()
    assert len(nodes.asked) == 1  # the answer is on its way
    receive(Versions(1, [("m", "1", facts("x")), ("m", "2", facts("y"))]))
    assert directory.find(("m", "2")).metadata.platform == "y"
    assert directory.news == [1]
    assert not directory.asking
    directory.update(routes({"m": {"1": ["b", "c"], "2": ["b"]}}))
    assert len(nodes.asked) == 1


def test_what_nobody_has_told_is_asked_again_of_a_node_that_is_there(directory, nodes, now):
    directory.update(routes({"m": {"1": ["b", "c"]}}))
    assert directory.asking
    nodes.avoided = {nodes.asked[0][0]}
    (other,) = {"b", "c"} - nodes.avoided
    now.seconds += 1
    directory.ask()
    assert [node for node, *_ in nodes.asked[1:]] == [other]
    nodes.avoided = {"b", "c"}
    now.seconds += 1
    directory.ask()
    assert len(nodes.asked) == 2
    assert directory.asking


def test_other_files_of_a_version_are_asked_for_and_the_old_ones_hold_meanwhile(directory, nodes, now):
    directory.update(routes({"m": {"1": ["b"]}}, m={"1": "aa"}))
    nodes.asked[0][2](Versions(1, [("m", "1", facts("old"))]))
    directory.update(routes({"m": {"1": ["b"]}}, m={"1": "bb"}))
    assert directory.find(("m", "1")).metadata.platform == "old"
    nodes.asked[1][2](Versions(2, [("m", "1", facts("new"))]))
    assert directory.find(("m", "1")).metadata.platform == "new"


def test_a_version_that_is_gone_is_forgotten(directory, nodes, now):
    directory.update(routes({"m": {"1": ["b"]}}))
    nodes.asked[0][2](Versions(1, [("m", "1", facts("x"))]))
    directory.update(routes({}))
    assert directory.find(("m", "1")) is None

"""A node server's end of the connection to its actor: who is attached, what is refused, and what an actor's end costs."""

import asyncio
import os
import socket

import pytest
from switch import Switch, table_of

from mooring.cluster import link as link_module
from mooring.cluster.link import ClusterLink, EpochFile, choose_node_name
from mooring.cluster.records import NodeAssignment, NodeStatus, SetDefault
from mooring.core.errors import ClusterUnavailable, ModelNotFound


@pytest.fixture
async def link(tmp_path):
    """A link that listens."""
    link = make_link(tmp_path)
    link.listen()
    yield link
    link.close()


def make_link(folder):
    made = ClusterLink(folder / "server.sock", lambda: NodeStatus(made.node, "1", "127.0.0.1:8080"), folder)
    return made


async def attach(*folders):
    switch = Switch([folder / "server.sock" for folder in folders])
    await asyncio.wait_for(switch.attached(), 5)
    return switch


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_actor_that_attaches_hears_what_the_server_has(link, tmp_path):
    switch = await attach(tmp_path)
    port = switch.ports[link.node]
    attached = port.attachments[0]
    assert (attached.pid, attached.files) == (os.getpid(), str(tmp_path))
    assert attached.status.node == link.node
    assert (link.attached, link.attached_once, link.cluster) == (True, True, "switched")
    switch.close()
    await until(lambda: not link.attached)
    assert link.attached_once


async def test_an_actor_finds_a_server_that_begins_to_listen_after_it(tmp_path):
    switch = Switch([tmp_path / "server.sock"])
    await asyncio.sleep(0.02)
    late = make_link(tmp_path)
    late.listen()
    assert await asyncio.wait_for(switch.attached(), 5) == [late.node]
    switch.close()
    late.close()


async def test_a_newer_actor_takes_the_place_of_the_older_one(link, tmp_path):
    first = await attach(tmp_path)
    first.ports[link.node].relay.start = lambda: None  # it does not come back
    taken = []
    link.on_assignment(taken.append)
    second = await attach(tmp_path)
    await until(lambda: not first.ports[link.node].relay.is_attached)
    assert not first.ports[link.node].relay.assign(NodeAssignment(1, 1))
    assert second.ports[link.node].relay.assign(NodeAssignment(1, 2))
    await until(lambda: taken)
    assert [each.generation for each in taken] == [2]
    first.close()
    second.close()


async def test_an_actor_with_other_messages_is_refused_with_both_versions_named(link, tmp_path):
    switch = await attach(tmp_path)
    stranger = Switch([])
    other = type(switch.ports[link.node])(stranger, tmp_path / "server.sock")
    other.relay._attach = type(other.relay._attach)(99, "9.9.9", "other", "n", "a")
    other.relay.start()
    await until(lambda: other.refusals)
    assert "9.9.9" in other.refusals[0].reason
    assert "install the same version on all nodes" in other.refusals[0].reason
    assert switch.ports[link.node].relay.is_attached
    other.relay.close()
    switch.close()


async def test_an_older_controller_is_refused_even_by_a_server_that_was_started_again(link, tmp_path):
    taken = []
    link.on_assignment(taken.append)
    switch = await attach(tmp_path)
    port = switch.ports[link.node]
    for epoch, generation in ((5, 3), (4, 9), (5, 2), (5, 3), (5, 4)):
        port.relay.assign(NodeAssignment(epoch, generation))
    await until(lambda: len(taken) == 3)
    assert [(each.epoch, each.generation) for each in taken] == [(5, 3), (5, 3), (5, 4)]
    assert [each.epoch for each in port.refusals] == [5, 5]
    assert "older than 3 of epoch 5" in port.refusals[0].reason
    assert EpochFile(tmp_path / "epoch").highest == 5
    switch.close()


async def test_an_assignment_is_refused_where_its_epoch_cannot_be_kept(link, tmp_path, monkeypatch):
    taken = []
    link.on_assignment(taken.append)
    switch = await attach(tmp_path)

    def fail(_self, _epoch):
        raise OSError("no space left")

    monkeypatch.setattr(link_module.EpochFile, "raise_to", fail)
    switch.ports[link.node].relay.assign(NodeAssignment(7, 1))
    await until(lambda: switch.ports[link.node].refusals)
    assert "no space left" in switch.ports[link.node].refusals[0].reason
    assert taken == []
    switch.close()


async def test_what_the_controller_answers_reaches_whoever_asked(link, tmp_path):
    switch = await attach(tmp_path)
    view = await link.ask(None)
    assert view.name == "switched"

    def refuse(node, change):
        assert (node, change) == (link.node, SetDefault("m", "2"))
        raise ModelNotFound("there is no model 'm'")

    switch.answer = refuse
    with pytest.raises(ModelNotFound, match="there is no model 'm'"):
        await link.ask(SetDefault("m", "2"))
    switch.answer = lambda *_: 1 / 0
    with pytest.raises(ClusterUnavailable, match="division by zero"):
        await link.ask(None)
    switch.close()


async def test_without_an_actor_only_the_controller_is_missing(link):
    with pytest.raises(ClusterUnavailable, match="serves on what it has"):
        await link.ask(None)
    with pytest.raises(ClusterUnavailable):
        await link.fetch_file("ab", "b")
    link.report(NodeStatus("a", "1", ""))  # for nobody
    lost = []
    link.on_unreachable(lambda node, reason: lost.append((node, reason)))
    link.send("b", [b"x"])
    assert lost == []  # never from within the call
    await until(lambda: lost)
    assert lost == [("b", "no node actor is attached")]


async def test_who_waits_for_the_controller_hears_that_the_actor_is_gone(link, tmp_path):
    switch = await attach(tmp_path)
    port = switch.ports[link.node]
    never = asyncio.get_running_loop().create_future()

    async def wait(_change):
        await never

    port.ask = wait
    port.fetch_file = lambda _sha256, _node: wait(None)
    asked, fetched = asyncio.ensure_future(link.ask(None)), asyncio.ensure_future(link.fetch_file("ab", "b"))
    await asyncio.sleep(0.05)
    switch.close()
    with pytest.raises(ClusterUnavailable, match="may have been made"):
        await asyncio.wait_for(asked, 5)
    with pytest.raises(OSError, match="node actor is gone"):
        await asyncio.wait_for(fetched, 5)


async def test_files_come_from_other_nodes_or_not(link, tmp_path):
    switch = await attach(tmp_path)
    switch.fetch = lambda sha256, node: f"/{node}/{sha256}"
    assert str(await link.fetch_file("ab", "b")) == "/b/ab"

    def fail(_sha256, _node):
        raise FileNotFoundError("it has it no more")

    switch.fetch = fail
    with pytest.raises(OSError, match="node 'b' did not give it: FileNotFoundError: it has it no more"):
        await link.fetch_file("ab", "b")
    switch.close()


async def test_reports_reach_the_actor(link, tmp_path):
    switch = await attach(tmp_path)
    link.report(NodeStatus(link.node, "1", "here", ready=True))
    await until(lambda: switch.ports[link.node].reports)
    assert switch.ports[link.node].reports[0].ready
    switch.close()


async def test_a_socket_left_behind_is_taken_over_and_one_in_use_is_not(tmp_path):
    path = tmp_path / "server.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    first = make_link(tmp_path)
    first.listen()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(OSError, match=r"cluster_socket .*another node server listens there"):
        make_link(tmp_path).listen()
    first.close()
    assert not path.exists()


async def test_a_path_that_is_too_long_is_named(tmp_path):
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    with pytest.raises(OSError, match=r"cluster_socket .*too long"):
        make_link(folder).listen()


def test_a_node_keeps_its_name(tmp_path):
    name = choose_node_name(tmp_path / "node")
    assert choose_node_name(tmp_path / "node") == name
    assert choose_node_name(tmp_path / "other") != name


def test_an_epoch_file_that_holds_none_is_no_reason_to_start_from_zero(tmp_path):
    (tmp_path / "epoch").write_text("x")
    with pytest.raises(ValueError, match="holds no epoch"):
        EpochFile(tmp_path / "epoch")


async def test_servers_reach_each_other_through_their_actors(tmp_path):
    links = []
    for name in "ab":
        (tmp_path / name).mkdir()
        links.append(make_link(tmp_path / name))
        links[-1].listen()
    switch = await attach(tmp_path / "a", tmp_path / "b")
    came = []
    links[1].on_messages(lambda node, messages: came.append((node, list(messages))))
    links[0].send(links[1].node, [b"one"])
    await until(lambda: came)
    assert came == [(links[0].node, [b"one"])]
    assert table_of({"m": [links[0].node]}).replicas == {"m": {"1": [links[0].node]}}
    switch.close()
    for link in links:
        link.close()

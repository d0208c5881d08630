"""Stands for Ray between node servers: relays without an actor around them, joined in this process, with cables to cut.

A switch attaches to every server, hands messages from one to another, answers what they ask of the controller with
``answer``, and keeps their reports. All of it runs on one event loop.
"""

import asyncio
import inspect
import threading
from contextlib import contextmanager

from mooring.cluster.records import ClusterView, NodeAssignment, RoutingTable, VersionAssignment
from mooring.cluster.relay import NodeRelay


class Port:
    """What the switch does for one server."""

    def __init__(self, switch, path):
        self.switch = switch
        self.node = ""
        self.reports = []
        self.refusals = []
        self.attachments = []
        self.relay = NodeRelay(path, self, cluster="switched", node=path.parent.name, actor=f"actor-{path}")

    async def send(self, node, messages):
        await self.switch.carry(self.node, node, messages)

    async def ask(self, change):
        answer = self.switch.answer(self.node, change)
        return await answer if inspect.isawaitable(answer) else answer

    async def fetch_file(self, sha256, node):
        return self.switch.fetch(sha256, node)

    def attached(self, attached):
        self.node = attached.status.node
        self.attachments.append(attached)
        self.switch.ports[self.node] = self

    def refused(self, refuse):
        self.refusals.append(refuse)

    def report(self, status):
        self.reports.append(status)

    def lost(self):
        pass


class Switch:
    """Joins the servers that listen at ``paths``. ``cut`` has pairs of nodes between which nothing gets through.

    What is ``swallowed`` between two nodes is lost without a word, as when packets are dropped; ``delay`` is in seconds.
    """

    def __init__(self, paths):
        self.ports = {}  # by the name of the node
        self.cut = set()
        self.swallowed = set()
        self.delay = 0.0
        self.carried = []  # sender, receiver and number of messages of each call
        self.answer = lambda _node, _change: ClusterView("switched", 1, 1)
        self.fetch = lambda sha256, node: f"/{node}/{sha256}"
        self._all = [Port(self, path) for path in paths]
        for port in self._all:
            port.relay.start()

    async def attached(self, count=None):
        """Wait until so many servers are attached, or all; their names, in the order of the paths."""
        while len([port for port in self._all if port.relay.is_attached]) < (count or len(self._all)):
            await asyncio.sleep(0.01)
        return [port.node for port in self._all if port.node]

    async def carry(self, sender, receiver, messages):
        """Hand messages of one node to another, as a call of its actor would."""
        self.carried.append((sender, receiver, len(messages)))
        if self.delay:
            await asyncio.sleep(self.delay)
        pair = frozenset((sender, receiver))
        if pair in self.swallowed:
            return
        if pair in self.cut or receiver not in self.ports:
            raise ConnectionError(f"{receiver} is cut off")
        self.ports[receiver].relay.deliver(sender, messages)

    def assign(self, table, versions=None, *, epoch=1, draining=()):
        """Give every attached node the same routing table, and each its ``versions``."""
        for name, port in self.ports.items():
            mine = (versions or {}).get(name, [])
            port.relay.assign(NodeAssignment(epoch, table.generation, mine, table, name in draining))

    def close(self):
        for port in self._all:
            port.relay.close()


def table_of(replicas, *, generation=1, nodes=(), **more):
    """A routing table: ``replicas`` maps "model" or "model/version" to nodes; the last version named is the default."""
    versions, defaults = {}, {}
    for key, where in replicas.items():
        model, _, version = key.partition("/")
        versions.setdefault(model, {})[version or "1"] = list(where)
        defaults[model] = version or "1"
    known = sorted({node for where in replicas.values() for node in where} | set(nodes))
    named = {node: f"actor-{node}" for node in known}
    return RoutingTable(generation, named, versions, more.pop("defaults", defaults), **more)


@contextmanager
def running_switch(paths):
    """A switch on a loop in a thread of its own; yields it and a function that runs a call there and gives its result."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(function, *args, **more):
        async def run():
            result = function(*args, **more)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), loop).result(60)

    switch = call(Switch, paths)
    try:
        yield switch, call
    finally:
        call(switch.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


__all__ = ["Port", "Switch", "VersionAssignment", "running_switch", "table_of"]

"""A cluster without Ray: real node servers, a switch between them, and the real controller, which sees the nodes through the switch."""

import asyncio
import shutil
import sys
import time
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

from e2e_kit import Server, request, until
from switch import running_switch

from mooring.cluster.controller.cluster_port import Host, NodeGone, Reservation
from mooring.cluster.controller.controller import TICK, Controller
from mooring.cluster.controller.state_store import open_state_store


class SwitchPort:
    """The ``ClusterPort`` of the controller: the nodes of a switch, with room for everything."""

    def __init__(self, switch):
        self._switch = switch
        self.gone = set()

    async def hosts(self):
        return [
            Host(
                host=name,
                node=name,
                actor=f"actor-{name}",
                alive=name not in self.gone,
                total={"CPU": 8, "GPU": 2},
                free={"CPU": 8, "GPU": 2},
            )
            for name in self._switch.ports
        ]

    async def start_node(self, host):
        """All nodes run already."""

    async def assign(self, node, assignment):
        port = self._switch.ports.get(node)
        if port is None or not port.relay.is_attached:
            raise NodeGone(node)
        port.relay.assign(assignment)

    async def reserve(self, node, model, version, request):
        return Reservation(
            node, model, version, request.resources, gpus=[1] if request.resources.get("GPU") else []
        )

    async def release(self, node, model, version):
        """There is room for everything."""

    async def reservations(self):
        return []

    async def request_nodes(self, keep, more):
        """There are no more."""


class Controlled:
    """The controller on the loop of a switch. ``ask`` makes a change from outside, as a command would."""

    def __init__(self, switch, folder):
        self.port = SwitchPort(switch)
        self.controller = Controller(
            "switched", self.port, open_state_store(str(folder), "switched"), time.monotonic
        )
        self._switch = switch
        switch.answer = self._answer
        switch.fetch = self._fetch
        self._ticking = None

    async def start(self):
        for port in self._switch.ports.values():
            port.report = self.controller.report
            self.controller.report(port.attachments[-1].status)
        await self.controller.start()
        self._ticking = asyncio.ensure_future(self._tick())

    async def stop(self):
        self._ticking.cancel()

    async def ask(self, change):
        return self.controller.view() if change is None else await self.controller.handle(change)

    async def _tick(self):
        while True:
            await self.controller.tick()
            await asyncio.sleep(TICK / 5)

    def _answer(self, _node, change):
        return self.ask(change)

    def _fetch(self, sha256, node):
        """Copy a file out of the folder of another node, as its actor would send it."""
        files = Path(self._switch.ports[node].attachments[-1].files)
        copy = files.parent.parent / f".part-{uuid.uuid4().hex}"
        shutil.copyfile(files / sha256, copy)
        return copy


class Node:
    """A node server with addresses of its own; ``store`` and ``repository`` are folders that all nodes see."""

    def __init__(self, folder, label, settings):
        self.folder = folder / label
        self.folder.mkdir()
        self.socket = self.folder / "server.sock"
        self.label = label
        (self.folder / "settings.toml").write_text(settings)
        self.server = self._start()

    def _start(self):
        return Server(
            self.folder, f"--config={self.folder / 'settings.toml'}", f"--cluster-socket={self.socket}",
            environ={"NODE": self.label},
        )  # fmt: skip

    def restart(self):
        """Start it again, as its actor would once it has died."""
        self.server = self._start()
        until(lambda: "Mooring is up." in self.server.log)

    @property
    def name(self):
        return (self.folder / "node").read_text().strip()

    @property
    def files(self):
        return self.folder / "files"

    def ask(self, method, target, body=b"", *lines):
        """A request at the inference address."""
        return self.server.ask(method, target, body, *lines)

    def manage(self, method, target, body=b"", *lines):
        """A request at TorchServe's management address."""
        return self.server.at(self.server.ports[1], request(method, target, body, *lines))


@contextmanager
def running_cluster(folder, labels, settings=""):
    """Nodes by label, and the controller with a function that calls on its loop."""
    settings = (
        f'model_store = "{folder / "store"}"\nmodel_repository = ["{folder / "repository"}"]\nrepository_load_existing = false\n'
        f"enable_repository_api = true\n{settings}"
    )
    for name in ("store", "repository", "state", "nodes"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        nodes = {label: Node(folder / "nodes", label, settings) for label in labels}
        for node in nodes.values():
            stack.callback(lambda node=node: node.server.kill())
        for node in nodes.values():
            node.server.started()
        switch, call = stack.enter_context(running_switch([node.socket for node in nodes.values()]))
        call(switch.attached)
        controlled = call(Controlled, switch, folder / "state")
        call(controlled.start)
        yield nodes, controlled, call
        call(controlled.stop)
        for node in nodes.values():
            if node.server.process.poll() is None:
                node.server.stop()
            # A model that does not load is no fault of the server's.
            assert not [each for each in node.server.faults() if " worker failed " not in each], (
                node.server.log
            )

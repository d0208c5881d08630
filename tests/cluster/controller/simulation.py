"""A cluster that is simulated: nodes that load for a while, fail, die, freeze and are cut off; messages that are late or lost. Time is virtual."""

import asyncio
import random

import msgspec

from mooring.cluster.controller.cluster_port import HigherEpoch, Host, NodeGone, NotReserved, Reservation
from mooring.cluster.controller.controller import TICK, Controller
from mooring.cluster.controller.state_store import StateStore
from mooring.cluster.records import (
    ModelFiles,
    NodeAssignment,
    NodeStatus,
    RegisterVersion,
    ReplicaState,
    VersionStatus,
)

LOAD = 1.0  # seconds


class MemoryObjects:
    """The files of a state store, in memory. While it is ``broken`` nothing can be read or written."""

    can_create = True

    def __init__(self):
        self.files = {}
        self.broken = False

    def _access(self):
        if self.broken:
            raise OSError("the store is away")

    def place(self, name):
        return f"memory/{name}"

    def names(self):
        self._access()
        return list(self.files)

    def read(self, name):
        self._access()
        return self.files[name]

    def create(self, name, data):
        self._access()
        return self.files.setdefault(name, data) is data

    def replace(self, name, data):
        self._access()
        self.files[name] = data

    def delete(self, name):
        self._access()
        self.files.pop(name, None)


async def inline(function, *args):
    await asyncio.sleep(0)
    return function(*args)


class SimNode:
    """A node server: it takes assignments as the real one does, and loads for ``LOAD`` seconds."""

    def __init__(self, cluster, name, total=None, **host):
        self.cluster = cluster
        self.name = name
        self.total = total or {"CPU": 4.0}
        self.host = host
        self.alive = True  # its machine
        self.frozen = False
        self.cut = False  # from the controllers
        self.refused = ""
        self.start_failure = ""  # why its server does not start
        self.epoch = 0  # the highest that it has seen
        self.epochs = []  # of the orders that it took
        self.assignment = NodeAssignment(0, 0)
        self.running = {}  # key -> VersionAssignment
        self.loading = {}  # key -> task
        self.failed = {}  # key -> (VersionAssignment, reason)
        self.load = {}  # key -> fields of a VersionStatus
        self.held = {}
        self.loads = []  # every load that began: key
        self.unloads = []

    @property
    def reachable(self):
        return self.alive and not self.frozen and not self.cut

    def take(self, assignment):
        if assignment.epoch < self.epoch:
            raise HigherEpoch(self.epoch)
        if (assignment.epoch, assignment.generation) < (self.assignment.epoch, self.assignment.generation):
            return
        self.epoch = assignment.epoch
        self.epochs.append(assignment.epoch)
        self.assignment = assignment
        self.work()

    def work(self):
        wanted = {(each.model, each.version): each for each in self.assignment.versions}
        for key in [key for key in self.running if key not in wanted]:
            del self.running[key]
            self.unloads.append(key)
        for key in [key for key in self.loading if key not in wanted]:
            self.loading.pop(key).cancel()
        for key in [key for key in self.failed if self.failed[key][0] != wanted.get(key)]:
            del self.failed[key]
        for key, assigned in wanted.items():
            running = self.running.get(key)
            if running is not None and same(running, assigned):
                self.running[key] = assigned
            elif key not in self.loading and key not in self.failed:
                self.loading[key] = asyncio.get_running_loop().create_task(self._load(key))
        self.tell()

    async def _load(self, key):
        self.loads.append(key)
        wanted = {(each.model, each.version): each for each in self.assignment.versions}
        assigned = wanted[key]
        await asyncio.sleep(self.cluster.load_time)
        while self.frozen:
            await asyncio.sleep(0.1)
        self.loading.pop(key, None)
        if not self.alive:
            return
        fault = self.cluster.faults.get((self.name, assigned.files.sha256)) or self.cluster.faults.get(
            assigned.files.sha256
        )
        if fault:
            self.failed[key] = (assigned, fault)
        else:
            self.running[key] = assigned
        self.work()  # what is assigned may be another by now

    def die(self):
        """The machine is gone, with everything that ran there."""
        self.alive = False
        self.restart()

    def restart(self):
        """The node server starts anew: it has nothing, but remembers the highest epoch."""
        for task in self.loading.values():
            task.cancel()
        self.running, self.loading, self.failed = {}, {}, {}
        self.assignment = NodeAssignment(0, 0)

    def status(self):
        versions = []
        wanted = {(each.model, each.version): each for each in self.assignment.versions}
        for key in sorted({*wanted, *self.running}):
            running, reason = self.running.get(key), self.failed.get(key, ("", ""))[1]
            behind = running is not None and not same(running, wanted.get(key, running))
            state = ReplicaState.READY if running else ReplicaState.FAILED if reason else ReplicaState.LOADING
            fields = {"ready_workers": int(running is not None), "wanted_workers": 1, "max_workers": 1}
            versions.append(
                VersionStatus(
                    *key, state, reason=reason, behind=behind, **{**fields, **self.load.get(key, {})}
                )
            )
        return NodeStatus(
            self.name, "0.1", f"http://{self.name}:8080", self.assignment.epoch, self.assignment.generation,
            ready=True, versions=versions, held=self.held,
        )  # fmt: skip

    def tell(self):
        if self.reachable:
            self.cluster.deliver(self.name, self.status())

    async def run(self):
        while True:
            self.tell()
            await asyncio.sleep(0.5)


def same(one, other):
    """Whether a version runs as it is assigned; whether it drains changes nothing of that."""
    return msgspec.structs.replace(one, draining=other.draining) == other


class SimPort:
    """What a controller asks of Ray. A controller that is ``cut`` reaches no node, and is not heard."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.controller = None
        self.cut = False
        self.requested = ([], [])

    async def hosts(self):
        nodes = self.cluster.nodes.values()
        return [
            Host(
                host=f"host-{node.name}", node=node.name if node.name in self.cluster.started else "",
                actor=f"actor-{node.name}", alive=node.alive, total=node.total,
                free=self.cluster.free(node), refused=node.refused, failed=node.start_failure,
                address=f"address-{node.name}", **node.host,
            )
            for node in nodes
        ]  # fmt: skip

    async def start_node(self, host):
        await asyncio.sleep(0.2)
        name = host.removeprefix("host-")
        if not self.cluster.nodes[name].start_failure:
            self.cluster.started.add(name)

    async def assign(self, node, assignment):
        await asyncio.sleep(self.cluster.delay())
        found = self.cluster.nodes[node]
        if self.cut or not found.reachable:
            await asyncio.sleep(1.0)
            raise NodeGone(f"{node} cannot be reached")
        found.take(assignment)
        if random.random() < self.cluster.loss:
            raise NodeGone("the answer was lost")

    async def reserve(self, node, model, version, request):
        await asyncio.sleep(self.cluster.delay())
        key = (node, model, version)
        if key not in self.cluster.reserved:
            free = self.cluster.free(self.cluster.nodes[node])
            for name, amount in request.resources.items():
                if free.get(name, 0.0) < amount:
                    raise NotReserved(f"{name} is taken")
            gpus = int(request.resources.get("GPU", 0))
            self.cluster.reserved[key] = Reservation(*key, request.resources, list(range(gpus)))
        return self.cluster.reserved[key]

    async def release(self, node, model, version):
        self.cluster.reserved.pop((node, model, version), None)

    async def reservations(self):
        return list(self.cluster.reserved.values())

    async def request_nodes(self, keep, more):
        self.requested = (list(keep), list(more))


class SimCluster:
    """Nodes, and the controllers that were started. ``faults`` maps the hash of files, alone or with a node, to why they do not load."""

    def __init__(self, *names, total=None):
        self.nodes = {}
        self.started = set()
        self.reserved = {}
        self.faults = {}
        self.load_time = LOAD
        self.latest = 0.01  # seconds that a message takes at most
        self.loss = 0.0
        self.objects = MemoryObjects()
        self.ports = []
        self.tasks = []
        for name in names:
            self.add(name, total)

    def add(self, name, total=None, **host):
        node = self.nodes[name] = SimNode(self, name, total, **host)
        self.tasks.append(asyncio.get_running_loop().create_task(node.run()))
        return node

    def delay(self):
        return random.uniform(0, self.latest)

    def free(self, node):
        free = dict(node.total)
        for (name, _, _), each in self.reserved.items():
            if name == node.name:
                for resource, amount in each.resources.items():
                    free[resource] = free.get(resource, 0.0) - amount
        return free

    def deliver(self, node, status):
        if node in self.started and random.random() >= self.loss:
            asyncio.get_running_loop().call_later(self.delay(), self._arrive, status)

    def _arrive(self, status):
        for port in self.ports:
            if not port.cut and port.controller is not None:
                port.controller.report(status)

    async def start_controller(self):
        port = SimPort(self)
        loop = asyncio.get_running_loop()
        store = StateStore(self.objects, "c", inline)
        port.controller = controller = Controller("c", port, store, loop.time)
        await controller.start()
        self.ports.append(port)
        self.tasks.append(loop.create_task(self._run(controller)))
        return controller

    async def _run(self, controller):
        while not controller.superseded:
            await controller.tick()
            await asyncio.sleep(TICK)

    def kill_controller(self, controller):
        """It does nothing more, and hears nothing more."""
        controller.superseded = 10**9
        for port in self.ports:
            if port.controller is controller:
                port.controller = None

    def close(self):
        for task in self.tasks:
            task.cancel()
        for node in self.nodes.values():
            node.restart()

    def running(self, model="m"):
        """The versions of a model that each node runs."""
        return {
            name: sorted(version for found, version in node.running if found == model)
            for name, node in self.nodes.items()
            if node.alive
        }


def files(content="x"):
    return ModelFiles(content * 8, "m.onnx", 7, sources=["file:///m.onnx"])


def register(model="m", version="1", content="x", wait=True, make_default=False, replace=False,
             retire_previous=False, **placement):  # fmt: skip
    return RegisterVersion(
        model, version, files(content), placement=placement, make_default=make_default, replace=replace,
        wait=wait, retire_previous=retire_previous,
    )  # fmt: skip

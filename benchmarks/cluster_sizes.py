"""What a cluster's tables and looks cost at a size: bytes as they are sent, and seconds of CPU to plan, write and encode them.

    python benchmarks/cluster_sizes.py [NODES] [MODELS] [REPLICAS]

No server runs: the records are filled as a controller fills them and put through its own code, in this process. Decision 74 draws
its conclusions from what this prints.
"""

import asyncio
import sys
import time

import msgspec

from mooring.cluster.controller.cluster_port import Host
from mooring.cluster.controller.desired_state import DesiredState, DesiredVersion, VersionSettings
from mooring.cluster.controller.placement import Key, NodeRoom, WantedReplicas, plan_placement, request_of
from mooring.cluster.controller.reconciler import Reconciler, Timings
from mooring.cluster.records import (
    ModelFiles,
    NodeStatus,
    ReplicaState,
    RoutingTable,
    VersionAssignment,
    VersionStatus,
)
from mooring.cluster.routing_changes import apply_changes, find_changes
from mooring.core.options import Placement


def main() -> None:
    nodes, models, replicas = (
        int(each) for each in (*sys.argv[1:], *("1000", "10000", "3")[len(sys.argv) - 1 :])
    )
    print(f"{nodes} nodes, {models} models of one version, {replicas} replicas each")
    names = [f"worker-{number:04}-{number:08x}" for number in range(nodes)]
    state = make_state(models, replicas)
    plan = measure_plans(names, state)
    table = make_table(names, plan)
    measure_encoding(state, names, plan, table)
    asyncio.run(measure_looks(names, state))


def make_state(models: int, replicas: int) -> DesiredState:
    """What is to be served, as registrations fill it."""
    placement = Placement(min_replicas=replicas, max_replicas=replicas)
    state: dict[str, object] = {}
    for number in range(models):
        model_files = ModelFiles(
            f"{number:064x}", f"model-{number:05}.onnx", 100_000_000, sources=[f"s3://models/m{number}.onnx"]
        )
        version = DesiredVersion(
            settings=VersionSettings(files=model_files, placement=placement), replicas=replicas
        )
        state[f"model-{number:05}"] = {"default": "1", "versions": {"1": version}}
    return msgspec.convert({"models": msgspec.to_builtins(state)}, DesiredState)


def measure_plans(names: list[str], state: DesiredState) -> dict[Key, list[str]]:
    """Plan all replicas from nothing, the same again, after a node's death, and with resources for each."""
    rooms = {name: NodeRoom({"CPU": 64.0, "GPU": 8.0}) for name in names}
    wanted = {Key(m, v): WantedReplicas(request_of(d.placement), d.replicas) for m, v, d in state}
    first = timed("plan from nothing", plan_placement, rooms, wanted).nodes
    placed = {key: msgspec.structs.replace(each, current=first[key]) for key, each in wanted.items()}
    timed("plan where nothing changed", plan_placement, rooms, placed)
    without = {name: room for name, room in rooms.items() if name != names[0]}
    timed("plan after a node's death", plan_placement, without, placed)
    busy = request_of(Placement(num_cpus=1))
    with_cpus = {key: WantedReplicas(busy, each.count) for key, each in wanted.items()}
    timed("plan from nothing, each with a CPU", plan_placement, rooms, with_cpus)
    return first


def make_table(names: list[str], plan: dict[Key, list[str]]) -> RoutingTable:
    """The routing table of this plan."""
    replicas: dict[str, dict[str, list[str]]] = {}
    for key, nodes in plan.items():
        replicas.setdefault(key.model, {})[key.version] = nodes
    actors = {name: f"default-node-{number:056x}" for number, name in enumerate(names)}
    return RoutingTable(7, actors, replicas, dict.fromkeys(replicas, "1"))


def measure_encoding(
    state: DesiredState, names: list[str], plan: dict[Key, list[str]], table: RoutingTable
) -> None:
    """The bytes of what is written and sent."""
    encoded = timed("encode the desired state", msgspec.json.encode, state)
    print(f"  {len(encoded):>12,} bytes of desired state, as JSON")
    encoded = timed("encode a routing table", msgspec.msgpack.encode, table)
    print(f"  {len(encoded):>12,} bytes of routing table, as msgpack")
    timed("decode a routing table", msgspec.msgpack.decode, encoded, type=RoutingTable)
    moved = {**table.replicas, "model-00007": {"1": [*names[:2], names[-1]]}}
    after = msgspec.structs.replace(table, generation=8, replicas=moved)
    changes = timed("find what changed in it", find_changes, table, after)
    print(
        f"  {len(msgspec.msgpack.encode(changes)):>12,} bytes of changes, where one version's nodes are others"
    )
    timed("apply that", apply_changes, table, changes)
    on_first = [key for key, nodes in plan.items() if names[0] in nodes]
    versions = [
        VersionAssignment(*key, state.models[key.model].versions["1"].settings.files) for key in on_first
    ]
    print(
        f"  {len(msgspec.msgpack.encode(versions)):>12,} bytes of one node's versions, {len(versions)} of them"
    )
    print(f"  {len(msgspec.msgpack.encode(make_status(names[0], on_first))):>12,} bytes of one node's report")


def make_status(name: str, keys: list[Key], epoch: int = 0, generation: int = 0) -> NodeStatus:
    """A report of a node that has these versions ready."""
    versions = [
        VersionStatus(*key, ReplicaState.READY, ready_workers=4, wanted_workers=4, max_workers=4, waiting=3,
                      oldest_wait=0.0123, in_flight=4, queue_p95=0.0345, busy_workers=4, requests=123_456)
        for key in keys
    ]  # fmt: skip
    return NodeStatus(name, "0.1.0", f"http://{name}:8080", epoch, generation, ready=True, versions=versions)


class Sink:
    """A port that takes everything at once; the assignments that it gets are as answers of nodes."""

    def __init__(self, names: list[str]) -> None:
        self.hosts_now = [
            Host(f"h{name}", name, f"actor-{name}", total={"CPU": 64.0}, free={"CPU": 64.0}) for name in names
        ]
        self.taken: dict[str, object] = {}

    async def hosts(self) -> list[Host]:
        return self.hosts_now

    async def assign(self, node: str, assignment: object) -> None:
        self.taken[node] = assignment


async def measure_looks(names: list[str], state: DesiredState) -> None:
    """A controller's looks: the first, one where nothing changed, one after all nodes have reported."""
    port = Sink(names)
    reconciler = Reconciler(port, time.monotonic, Timings(lost_after=1e6), print)  # type: ignore[arg-type]
    reconciler.orders.epoch = 1
    for name in names:
        reconciler.nodes.note_status(make_status(name, []), time.monotonic())
    await reconciler.look()

    def look() -> None:
        proposed = reconciler.propose(state)
        assert proposed is state
        reconciler.carry_out(state)

    for what in (
        "the first look",
        "a look with all assigned",
        "a look when all is served",
        "a look when nothing changed",
    ):
        timed(what, look)
        await asyncio.sleep(0.5)
        for name, assignment in port.taken.items():
            keys = [Key(each.model, each.version) for each in assignment.versions]  # type: ignore[attr-defined]
            report = make_status(name, keys, 1, assignment.generation)  # type: ignore[attr-defined]
            reconciler.nodes.note_status(report, time.monotonic())
    await asyncio.sleep(0.1)


def timed(what, function, *args, **kwargs):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN002, ANN003, ANN201
    """Call a function, print its seconds of CPU, return its result."""
    began = time.process_time()
    result = function(*args, **kwargs)
    print(f"  {time.process_time() - began:>12.4f} s  {what}")
    return result


if __name__ == "__main__":
    main()

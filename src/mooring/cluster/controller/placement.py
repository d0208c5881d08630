"""Which node serves which version: a pure plan, without a clock and without Ray. Runs in the controller.

    what is wanted, what nodes have, where replicas are  ->  for each version its nodes, and what is missing for the rest

A replica that is where it may be stays there: nothing moves to make a plan prettier. A version that fits nowhere takes no
room, so that it is in nobody's way. Every version gets its first replica before any gets its second.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from mooring.cluster.controller.cluster_port import ResourceRequest, Resources
from mooring.core.options import Placement, PlacementStrategy

# Sums of parts of a CPU or a GPU are exact to so much.
_EXACT = 1e-6
# Nodes that are told of where a version fits nowhere.
_TOLD = 3


class Key(NamedTuple):
    """A version of a model."""

    model: str
    version: str


class NodeRoom(msgspec.Struct, frozen=True):
    """A node that may get replicas. ``free`` is what no one has reserved, this cluster's replicas included."""

    free: Resources = {}
    labels: Mapping[str, str] = {}
    accelerator_type: str = ""


class AbsentNode(msgspec.Struct, frozen=True):
    """A node that gets no replicas now, and why not: ``its server does not start``. ``room.free`` is all that it has."""

    room: NodeRoom
    reason: str


class WantedReplicas(msgspec.Struct, frozen=True):
    """How many replicas a version is to have, or one on every node that fits where ``count`` is None.

    ``current`` are the nodes that have one now, those first that have it ready. ``avoid`` are nodes that could not load it or
    reserve for it lately, each with the reason: one of those keeps the replica that it has only where no other node takes it.
    """

    request: ResourceRequest
    count: int | None
    strategy: PlacementStrategy = PlacementStrategy.SPREAD
    current: Sequence[str] = ()
    avoid: Mapping[str, str] = {}


class Plan(msgspec.Struct, frozen=True):
    """The nodes of each version, and what is ``missing`` where it should have more."""

    nodes: dict[Key, list[str]]
    missing: dict[Key, str]


def request_of(placement: Placement) -> ResourceRequest:
    """What a replica reserves, by Ray's names, and where it may go."""
    amounts = {
        "CPU": placement.num_cpus,
        "GPU": placement.num_gpus,
        "memory": float(placement.memory),
        **placement.resources,
    }
    return ResourceRequest(
        {name: amount for name, amount in amounts.items() if amount},
        placement.labels,
        placement.accelerator_type,
    )


def plan_placement(
    nodes: Mapping[str, NodeRoom],
    wanted: Mapping[Key, WantedReplicas],
    absent: Mapping[str, AbsentNode] | None = None,
) -> Plan:
    """Plan all replicas. The same input gives the same plan, and the plan as its own input gives itself.

    ``absent`` nodes are told of where a version fits nowhere and would fit there. A replica on a node that is not in ``nodes`` is planned anew. What replicas hold that are to go counts as taken until they are gone.
    """
    planner = _Planner(nodes, wanted, absent or {})
    for key, version in wanted.items():
        planner.keep_current(key, version)
    # Models that need much of what is scarce choose first: of two that fit on one node, the other one may fit elsewhere.
    order = sorted(wanted, key=lambda key: (_scarcity(wanted[key].request), key))
    planner.add_missing(order)
    return Plan(planner.planned, planner.missing)


def _scarcity(request: ResourceRequest) -> tuple[float, ...]:
    resources = request.resources
    special = len(request.labels) + bool(request.accelerator_type) + len(resources)
    return (-resources.get("GPU", 0.0), -special, -resources.get("CPU", 0.0), -resources.get("memory", 0.0))


class _Planner:
    """One plan while it is made.

    How this works: what replicas hold now is in no node's ``free``. First each version keeps the nodes that it has and may
    have. Then each takes in turn the first node that fits, of a heap of all nodes by their number of replicas.
    """

    def __init__(
        self,
        nodes: Mapping[str, NodeRoom],
        wanted: Mapping[Key, WantedReplicas],
        absent: Mapping[str, AbsentNode],
    ) -> None:
        self._nodes = nodes
        self._wanted = wanted
        self._absent = absent
        self._free = {name: dict(room.free) for name, room in nodes.items()}
        self._replicas = dict.fromkeys(nodes, 0)
        for version in wanted.values():
            for name in version.current:
                if name in self._replicas:
                    self._replicas[name] += 1
        self._heaps = {strategy: _Heap(strategy, self._replicas) for strategy in PlacementStrategy}
        self.planned: dict[Key, list[str]] = {}
        self.missing: dict[Key, str] = {}

    def keep_current(self, key: Key, version: WantedReplicas) -> None:
        """Keep the replicas that are where they may be, no more than are wanted."""
        stay = [name for name in version.current if self._may_stay(name, version)]
        if version.count is not None and len(stay) > version.count:
            ready = {name: place for place, name in enumerate(stay)}
            sign = 1 if version.strategy is PlacementStrategy.SPREAD else -1
            # The ones that go are those on the fullest nodes, or where models are packed on the emptiest.
            stay.sort(key=lambda name: (sign * self._replicas[name], ready[name]))
            del stay[version.count :]
        self.planned[key] = sorted(stay)

    def _may_stay(self, name: str, version: WantedReplicas) -> bool:
        return name not in version.avoid and self._has_place(name, version)

    def _has_place(self, name: str, version: WantedReplicas) -> bool:
        node = self._nodes.get(name)
        return node is not None and _matches(node, version.request)

    def add_missing(self, order: Sequence[Key]) -> None:
        """Give each version one replica more, in turns, as long as there is a node for one."""
        turn = [key for key in order if self._lacks(key)]
        while turn:
            placed = [key for key in turn if self._add_one(key, self._wanted[key])]
            turn = [key for key in placed if self._lacks(key)]

    def _lacks(self, key: Key) -> bool:
        count = self._wanted[key].count
        return count is None or len(self.planned[key]) < count

    def _add_one(self, key: Key, version: WantedReplicas) -> bool:
        name = self._choose(key, version)
        if name is None:
            doubtful = [
                name for name in version.avoid if name in version.current and self._has_place(name, version)
            ]
            if left := sorted(set(doubtful) - {*self.planned[key]}):
                self.planned[key] = sorted([*self.planned[key], left[0]])
                return True
            if version.count is not None or not self.planned[key] or self._left_out(key, version):
                self.missing[key] = self._explain(key, version)
            return False
        self.planned[key] = sorted([*self.planned[key], name])
        self._replicas[name] += 1
        for heap in self._heaps.values():
            heap.push(name)
        free = self._free[name]
        for resource, amount in version.request.resources.items():
            free[resource] = free.get(resource, 0.0) - amount
        return True

    def _choose(self, key: Key, version: WantedReplicas) -> str | None:
        taken = {*self.planned[key], *version.current}
        return self._heaps[version.strategy].find(
            lambda name: name not in taken and self._fits(name, version)
        )

    def _fits(self, name: str, version: WantedReplicas) -> bool:
        free, request = self._free[name], version.request
        return (
            name not in version.avoid
            and all(
                free.get(resource, 0.0) >= amount - _EXACT for resource, amount in request.resources.items()
            )
            and _matches(self._nodes[name], request)
        )

    def _left_out(self, key: Key, version: WantedReplicas) -> bool:
        """Whether a node that should have the version, which is for all of them, has it not."""
        planned = {*self.planned[key], *version.current}
        return any(
            _matches(room, version.request) for name, room in self._nodes.items() if name not in planned
        )

    def _explain(self, key: Key, version: WantedReplicas) -> str:
        if reason := _explain_absent(version.request, self._absent):
            return reason
        planned = {*self.planned[key], *version.current}
        left = {name: free for name, free in self._free.items() if name not in planned}
        return explain_missing(version, self._nodes, left, len(planned))


class _Heap:
    """The nodes by their number of replicas. An entry whose number is not that of the node any more is passed over."""

    def __init__(self, strategy: PlacementStrategy, replicas: Mapping[str, int]) -> None:
        self._sign = 1 if strategy is PlacementStrategy.SPREAD else -1
        self._replicas = replicas
        self._entries = [(self._sign * count, name) for name, count in replicas.items()]
        heapq.heapify(self._entries)

    def push(self, name: str) -> None:
        """Note that the number of replicas of this node has changed."""
        heapq.heappush(self._entries, (self._sign * self._replicas[name], name))

    def find(self, fits: Callable[[str], bool]) -> str | None:
        """The first node in order that fits, None where none does."""
        passed = []
        found = None
        while self._entries and found is None:
            entry = heapq.heappop(self._entries)
            if entry[0] == self._sign * self._replicas[entry[1]]:
                passed.append(entry)
                if fits(entry[1]):
                    found = entry[1]
        for entry in passed:
            heapq.heappush(self._entries, entry)
        return found


def _matches(node: NodeRoom, request: ResourceRequest) -> bool:
    """Whether the node is of the kind that is asked for, however much is free there."""
    if request.accelerator_type and node.accelerator_type != request.accelerator_type:
        return False
    return not request.labels or all(node.labels.get(name) == value for name, value in request.labels.items())


def explain_missing(
    version: WantedReplicas, nodes: Mapping[str, NodeRoom], left: Mapping[str, Resources], have: int
) -> str:
    """Say in a line why a version gets no further replica; ``left`` is what is free on the nodes that have it not, ``have`` those that do."""
    request = version.request
    if not nodes:
        return "there is no node that takes models"
    matching = {name: free for name, free in left.items() if _matches(nodes[name], request)}
    if not matching and not have:
        return f"needs {_describe_kind(request)}; {_describe_nodes(request, nodes)}"
    if not matching:
        return f"wants {version.count or have + 1} nodes, and only {have} fit"
    usable = {name: free for name, free in matching.items() if name not in version.avoid}
    if not usable:
        return "; ".join(f"node {name}: {version.avoid[name]}" for name in sorted(matching))
    short = []
    for resource, amount in request.resources.items():
        most, name = max((free.get(resource, 0.0), name) for name, free in usable.items())
        if most < amount - _EXACT:
            short.append(
                f"needs {describe_amount(resource, amount)} on one node; the most free on any is "
                f"{describe_amount(resource, most, bare=resource != 'memory')} (node {name})"
            )
    if short:
        return ", and ".join(short)
    everything = " and ".join(describe_amount(*each) for each in request.resources.items())
    lacking = {name: _lacking(free, request.resources) for name, free in usable.items()}
    name = min(lacking, key=lambda name: (len(lacking[name]), name))
    return f"needs {everything} on one node; node {name} lacks {' and '.join(lacking[name])}"


def _explain_absent(request: ResourceRequest, absent: Mapping[str, AbsentNode]) -> str:
    """Say which nodes would take a replica if they could; empty where none would."""
    fitting = [
        name
        for name, node in sorted(absent.items())
        if _matches(node.room, request) and not _lacking(node.room.free, request.resources)
    ]
    told = "; ".join(f"node {name} would fit, but {absent[name].reason}" for name in fitting[:_TOLD])
    return f"{told}; and {len(fitting) - _TOLD} more" if len(fitting) > _TOLD else told


def _lacking(free: Resources, wanted: Resources) -> list[str]:
    return [
        describe_amount(resource, amount - free.get(resource, 0.0))
        for resource, amount in wanted.items()
        if free.get(resource, 0.0) < amount - _EXACT
    ]


def _describe_kind(request: ResourceRequest) -> str:
    labels = ", ".join(f"{name} = {value}" for name, value in request.labels.items())
    kinds = [
        *([f"a GPU of the kind {request.accelerator_type}"] if request.accelerator_type else []),
        *([f"the label {labels}"] if labels else []),
    ]
    return "a node with " + " and ".join(kinds)


def _describe_nodes(request: ResourceRequest, nodes: Mapping[str, NodeRoom]) -> str:
    """Say what there is in the place of what is asked for."""
    if request.accelerator_type:
        kinds = sorted({room.accelerator_type for room in nodes.values() if room.accelerator_type})
        if request.accelerator_type not in kinds:
            return f"there are {', '.join(kinds)}" if kinds else "no node has a GPU of a known kind"
    values = {
        name: sorted({room.labels[name] for room in nodes.values() if name in room.labels})
        for name in request.labels
    }
    return "; ".join(
        f"{name} is {', '.join(known)} on the nodes that have it"
        if known
        else f"no node has the label {name}"
        for name, known in values.items()
    )


def describe_amount(resource: str, amount: float, *, bare: bool = False) -> str:
    """An amount as people read it; ``bare`` is without the name of the resource.

    >>> describe_amount("GPU", 2), describe_amount("CPU", 0.5), describe_amount("memory", 3 << 30)
    ('2 GPUs', '0.5 CPUs', '3.0 GiB of memory')
    """
    if resource == "memory":
        return f"{max(amount, 0.0) / (1 << 30):.1f} GiB of memory"
    number = f"{max(amount, 0.0):g}"
    if bare:
        return number
    return f"{number} {resource}s" if resource in ("CPU", "GPU") and amount != 1 else f"{number} {resource}"

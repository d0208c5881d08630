"""Which node answers a request: pure rules, with no clock and no message.

A request goes to the replica of its own node while that has room. Else to the less loaded of two others that are drawn, or
to its own where that is less loaded still. A sequence has one node, which its id alone decides, so that every node knows it.
Runs in the first process of a node server.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from mooring.cluster.records import RoutingTable

_random = Random()  # noqa: S311 - which of equal nodes is asked is no secret


class ReplicaLoad(msgspec.Struct, array_like=True, frozen=True):
    """What a replica had to do when it last said so: requests that waited and ran, and the workers that were ready."""

    waiting: int = 0
    running: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Route:
    """The way of requests for one version. ``others`` are the nodes beside this one that have a replica, ``here`` whether this one has.

    ``starting``: one is to come, and requests wait for it. ``missing`` says what one that fits nowhere lacks. ``stamp`` changes
    with the files of the version.
    """

    model: str
    version: str
    others: tuple[str, ...]
    here: bool
    starting: bool = False
    missing: str = ""
    stamp: str = ""


class Routes:
    """The routes of a table, as ``node`` sees them. ``by_version`` has them by model and version; the empty version is the default."""

    def __init__(self, table: RoutingTable, node: str) -> None:
        self.table = table
        self.by_version: dict[tuple[str, str], Route] = {}
        versions: dict[str, dict[str, None]] = {}
        for source in (table.replicas, table.starting, table.pending):
            for model, named in source.items():
                versions.setdefault(model, {}).update(dict.fromkeys(named))
        self.models: Mapping[str, Collection[str]] = versions
        for model, known in versions.items():
            for version in known:
                self.by_version[model, version] = _route_of(table, node, model, version)
            default = self.by_version.get((model, table.defaults.get(model, "")))
            if default is not None:
                self.by_version[model, ""] = default


def _route_of(table: RoutingTable, node: str, model: str, version: str) -> Route:
    replicas = table.replicas.get(model, {}).get(version, [])
    return Route(
        model,
        version,
        tuple(each for each in replicas if each != node),
        node in replicas,
        version in table.starting.get(model, ()),
        table.pending.get(model, {}).get(version, ""),
        table.files.get(model, {}).get(version, ""),
    )


def draw_two(nodes: Sequence[str], random: Random = _random) -> Sequence[str]:
    """Draw two of the nodes, or those that there are, in any order: the first of equal ones is not always the same."""
    return random.sample(nodes, min(len(nodes), 2))


def relative_load(load: ReplicaLoad, reported_mine: int, mine: int) -> float:
    """How much each worker of a replica has to do: what it said, with my own requests there as they are now.

    >>> relative_load(ReplicaLoad(waiting=2, running=2, workers=2), reported_mine=1, mine=3)
    3.0
    """
    others = max(load.waiting + load.running - reported_mine, 0)
    return (others + mine) / max(load.workers, 1)


def rank_for_sequence(model: str, version: str, sequence: str, nodes: Collection[str]) -> list[str]:
    """The nodes in the order in which they are to have a sequence: the first of them has it.

    Every node ranks alike. One that comes or goes changes the place only of the sequences that it gets or had.
    """

    def weight(node: str) -> bytes:
        text = f"{model}\0{version}\0{sequence}\0{node}"
        return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=8).digest()

    return sorted(nodes, key=lambda node: (weight(node), node), reverse=True)

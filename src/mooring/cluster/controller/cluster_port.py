"""What the controller asks of Ray, as an interface: ``cluster/ray/`` implements it with actors. Runs in the controller."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from mooring.cluster.records import NodeAssignment

Resources = dict[str, float]
"""Amounts by Ray's names: ``CPU``, ``GPU``, ``memory`` in bytes, and custom ones."""


class Host(msgspec.Struct, frozen=True):
    """A machine of the cluster that may serve, as Ray sees it now.

    ``host`` is the port's own word for it, ``address`` what people call it. ``node`` is the name of the node server there and ``actor`` that of its actor, both ""
    until the server is attached for the first time. A host that is not ``alive`` is listed for as long as the port likes.
    ``free`` is what nobody has reserved; the replicas of this cluster count as reserved. ``refused`` says why the node server and the actor cannot
    work together, ``failed`` why no node server could be started. The machine of Ray's head (``is_head``) stays for as long as the cluster.
    """

    host: str
    node: str = ""
    actor: str = ""
    alive: bool = True
    total: Resources = {}
    free: Resources = {}
    labels: dict[str, str] = {}
    accelerator_type: str = ""
    refused: str = ""
    failed: str = ""
    is_head: bool = False
    address: str = ""

    @property
    def name(self) -> str:
        """What people call it: its node, or before that has a name its address."""
        return self.node or self.address or self.host


class ResourceRequest(msgspec.Struct, frozen=True):
    """What one replica reserves on its node, and which nodes it may go to."""

    resources: Resources = {}
    labels: dict[str, str] = {}
    accelerator_type: str = ""


class Reservation(msgspec.Struct, frozen=True):
    """Resources of a node that are held for one version of a model. ``gpus`` are the numbers of its devices there."""

    node: str
    model: str
    version: str
    resources: Resources = {}
    gpus: list[int] = []


class NodeGone(Exception):
    """The node could not be reached. Its actor or server may be starting again."""


class HigherEpoch(Exception):
    """The node refuses orders, because it has seen the ``epoch`` of another controller."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"a controller with the epoch {epoch} has given orders")
        self.epoch = epoch


class NotReserved(Exception):
    """The resources could not be reserved now; the text says what is missing."""


class ClusterPort(Protocol):
    """The cluster as the controller uses it. Each method returns within a few seconds or raises; none of them waits for a model.

    The controller makes at most one call of ``assign`` to a node at a time.
    """

    async def hosts(self) -> Sequence[Host]:
        """Every machine that may serve. Called at each tick, so it should answer from memory or one question to Ray."""

    async def start_node(self, host: str) -> None:
        """Begin to start a node actor there, which starts or adopts the node server. What became of it is in ``hosts``.

        It is called again for a host whose start failed.
        """

    async def assign(self, node: str, assignment: NodeAssignment) -> None:
        """Give a node its assignment. Return when its server has it.

        Raises ``NodeGone``, or ``HigherEpoch`` when the server has orders of a later controller.
        """

    async def reserve(self, node: str, model: str, version: str, request: ResourceRequest) -> Reservation:
        """Reserve resources for a replica; where that is done already, return what there is.

        Raises ``NotReserved``, and then holds nothing.
        """

    async def release(self, node: str, model: str, version: str) -> None:
        """Give a reservation back; nothing happens where there is none."""

    async def reservations(self) -> Sequence[Reservation]:
        """Every reservation of this cluster, those of an earlier controller as well."""

    async def request_nodes(self, keep: Sequence[str], more: Sequence[ResourceRequest]) -> None:
        """Tell Ray's autoscaler which nodes are in use, and have it add a node for each of ``more``.

        This replaces what was asked before. A node that is not in ``keep`` may be ended.
        """

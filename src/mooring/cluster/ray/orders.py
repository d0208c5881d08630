"""What actors and commands of a cluster tell each other when they are made. Runs in actors and commands."""

import msgspec

from mooring.cluster.records import NodeAssignment, NodeStatus
from mooring.cluster.routing_changes import RoutingChanges


class NodeOrder(msgspec.Struct, frozen=True):
    """What a node actor is made with. ``settings`` are those of the node server, as TOML."""

    cluster: str
    controller: str  # the name of its actor
    protocol: int
    software: str
    settings: str
    cluster_dir: str = ""


class NodeFound(msgspec.Struct, frozen=True):
    """How a node is, as its actor sees it.

    ``status`` is None while no server is attached. ``refused`` says why server, actor and controller cannot work together,
    ``failed`` why there is no server. An actor that has just started knows no assignment and so no other node: it is not ``assigned``.
    """

    actor: str
    node_id: str
    software: str
    pid: int
    status: NodeStatus | None = None
    refused: str = ""
    failed: str = ""
    assigned: bool = False


class AssignmentOrder(msgspec.Struct, frozen=True):
    """An assignment on its way to a node. With ``changes`` its routing table is left out: the node's actor makes it of the one that it has."""

    assignment: NodeAssignment
    changes: RoutingChanges | None = None


class AssignmentTaken(msgspec.Struct, frozen=True):
    """What became of an assignment: the server has it, has seen the higher ``epoch``, or cannot be reached for a ``reason``.
    With ``whole`` the actor has not the table that changes were sent to, and wants it whole.
    """

    taken: bool = False
    epoch: int = 0
    reason: str = ""
    whole: bool = False


class ControllerOrder(msgspec.Struct, frozen=True):
    """What a controller is made with. ``nodes`` chooses nodes: addresses, or LABEL=TEXT; empty is all.

    A node without a replica for ``idle_timeout`` seconds may be ended by Ray's autoscaler; 0 is never.
    """

    cluster: str
    protocol: int
    software: str
    settings: str
    state: str = ""
    nodes: list[str] = []
    cluster_dir: str = ""
    idle_timeout: float = 0.0

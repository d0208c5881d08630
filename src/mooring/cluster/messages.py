"""The messages between a node actor and its node server, over a unix socket. Runs in both.

A node server's messages to another one (sessions.py) are bytes to everybody between: its node actor hands them to the other
node's actor, many in one call of Ray, and that one to its server.
"""

import msgspec

from mooring.cluster.records import Change, ClusterView, NodeAssignment, NodeStatus
from mooring.core.errors import ErrorRecord

# From a node actor to its server.


class Attach(msgspec.Struct, array_like=True, tag="attach"):
    """The first message of an actor. A server that cannot work with it answers ``Refuse``, and keeps the one that it has."""

    protocol: int
    software: str
    cluster: str
    node: str  # the name that Ray's actor gives this node
    actor: str


class Assign(msgspec.Struct, array_like=True, tag="assign"):
    """Serve this from now on."""

    assignment: NodeAssignment


class ControllerAnswer(msgspec.Struct, array_like=True, tag="answer"):
    """What became of a change, or of a question, that the server had asked of the controller."""

    key: int
    view: ClusterView | None = None
    error: ErrorRecord | None = None


class Incoming(msgspec.Struct, array_like=True, tag="incoming"):
    """Messages of another node's server, in order."""

    node: str
    messages: list[bytes]


class NodeUnreachable(msgspec.Struct, array_like=True, tag="unreachable"):
    """Ray says that what was sent to a node did not arrive, or that its actor is gone."""

    node: str
    reason: str


class FileFetched(msgspec.Struct, array_like=True, tag="fetched"):
    """The file of a ``FetchFile`` lies at ``path``, unverified, or could not be had."""

    key: int
    path: str = ""
    error: str = ""


# From a node server to its actor.


class Attached(msgspec.Struct, array_like=True, tag="attached"):
    """The server works for this actor from now on. ``status`` says what it has, ``files`` where its model files lie."""

    protocol: int
    software: str
    pid: int
    status: NodeStatus
    files: str


class Refuse(msgspec.Struct, array_like=True, tag="refuse"):
    """The server does not work with this actor, or refuses an assignment, and why. ``epoch`` is the highest that it has seen."""

    reason: str
    epoch: int = 0


class Report(msgspec.Struct, array_like=True, tag="report"):
    """The state of the server, for the controller."""

    status: NodeStatus


class AskController(msgspec.Struct, array_like=True, tag="ask"):
    """A change that a client asks of the whole cluster; without one, the question how the cluster is."""

    key: int
    change: Change | None = None


class Outgoing(msgspec.Struct, array_like=True, tag="outgoing"):
    """Messages for another node's server, in order."""

    node: str
    messages: list[bytes]


class FetchFile(msgspec.Struct, array_like=True, tag="fetch"):
    """Bring the model file with this hash from another node."""

    key: int
    sha256: str
    node: str


ToServer = Attach | Assign | ControllerAnswer | Incoming | NodeUnreachable | FileFetched
ToActor = Attached | Refuse | Report | AskController | Outgoing | FetchFile

"""What node servers, node actors, the controller and commands tell each other about models and nodes. Runs in all of them.

A *replica* is one version of a model served on one node; it has as many workers there as its options say. A node has at
most one replica of a version. Times are in seconds, sizes in bytes.
"""

import enum

import msgspec

from mooring.core.tensors import Parameter

PROTOCOL = 1
"""The number of these messages: processes with different numbers refuse each other."""

Key = tuple[str, str]
"""The name of a model and a version of it."""


class ModelFiles(msgspec.Struct, frozen=True):
    """The files of one version of a model, identified by what they contain.

    ``sha256`` is the hash, in hexadecimal digits, of the one file that is sent: the model's own file or archive, or a tar
    archive of its folder, as ``packing`` says. ``name`` is what that file or folder is called when it is served. ``sources`` are
    tried in order: ``file:///…`` (a path that nodes share), ``https://…``, ``s3://…``, ``gs://…``, ``az://…``, or ``node:NAME``,
    a node that has it.
    """

    sha256: str
    name: str
    size: int
    packing: str = "file"  # or "folder"
    sources: list[str] = []


class VersionAssignment(msgspec.Struct, frozen=True):
    """One version that a node serves.

    ``options`` are those of the registration, in the words of ``core.service.Registration``, and ``config`` overrides keys of
    the model's own configuration. ``min_workers`` and ``max_workers`` are an operator's, None where nobody named them.
    ``gpus`` are the numbers of the devices that Ray has reserved for it on that node. With ``draining`` it takes no new
    requests from other nodes, answers what it has, and is then unloaded by the next assignment.
    """

    model: str
    version: str
    files: ModelFiles
    options: dict[str, Parameter] = {}
    config: dict[str, object] = {}
    min_workers: int | None = None
    max_workers: int | None = None
    gpus: list[int] = []
    draining: bool = False


class RoutingTable(msgspec.Struct, frozen=True):
    """Which nodes answer for which version, and which version answers requests that name none.

    ``generation`` grows with every change. ``replicas`` maps a model and version to the nodes that have it ready.
    ``starting`` are versions that have no ready replica yet, but will have one: their requests are held. ``pending`` are those that fit nowhere,
    each with what is missing. ``wanted`` is how many nodes are to have each version. ``files`` are the hashes of the files of versions: nodes ask anew what a version is when it changes.
    """

    generation: int = 0
    nodes: dict[str, str] = {}  # the name of a node -> the name of its actor
    replicas: dict[str, dict[str, list[str]]] = {}
    defaults: dict[str, str] = {}
    starting: dict[str, list[str]] = {}
    pending: dict[str, dict[str, str]] = {}
    wanted: dict[str, dict[str, int]] = {}
    files: dict[str, dict[str, str]] = {}


class NodeAssignment(msgspec.Struct, frozen=True):
    """All that a node has to serve, whole: what it serves beyond that, it unloads.

    A node refuses an assignment whose ``epoch`` is below the highest that it has seen, and of the same epoch one whose ``generation``
    is lower. With ``draining`` the node is to be emptied: it says that it is not ready, and serves on until it has nothing.
    """

    epoch: int
    generation: int
    versions: list[VersionAssignment] = []
    routing: RoutingTable = RoutingTable()
    draining: bool = False


class ReplicaState(enum.StrEnum):
    """How far a version is on a node."""

    FETCHING = "FETCHING"
    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADING = "UNLOADING"


class VersionStatus(msgspec.Struct, frozen=True):
    """One version on a node, now. ``queue_p95`` is the 95th percentile of the time that requests waited lately.

    ``busy_workers`` work at the moment. ``requests`` counts all that ever went to a worker. With ``behind`` the version is READY as it was
    assigned before, and answers so: what is assigned now (files, options, numbers of workers) is still being brought about or, where
    there is a ``reason``, has failed.
    """

    model: str
    version: str
    state: ReplicaState
    reason: str = ""
    ready_workers: int = 0
    wanted_workers: int = 0
    max_workers: int = 0
    waiting: int = 0
    oldest_wait: float = 0.0
    in_flight: int = 0
    queue_p95: float = 0.0
    busy_workers: float = 0.0
    requests: int = 0
    behind: bool = False


class NodeStatus(msgspec.Struct, frozen=True):
    """What a node server tells of itself, at each change and twice a second.

    ``epoch`` and ``generation`` are those of the last assignment that it took. ``held`` counts the requests that wait here for a model that
    has no replica anywhere.
    """

    node: str
    software: str  # the version of Mooring
    address: str  # its inference address, as other machines reach it
    epoch: int = 0
    generation: int = 0
    ready: bool = False
    versions: list[VersionStatus] = []
    held: dict[str, dict[str, int]] = {}


# Changes that a node server or a command asks of the controller. Each is answered once it is done everywhere, or has failed.


class RegisterVersion(msgspec.Struct, frozen=True, tag="register"):
    """Serve a version on the cluster. Without ``wait`` it is answered as soon as the desired state is written.

    ``placement`` is a ``core.options.Placement`` as JSON types. With ``replace`` a version that is there is loaded anew with these files. With
    ``retire_previous``, beside ``make_default``, the version that was the default is served no more once this one has taken its place.
    """

    model: str
    version: str
    files: ModelFiles
    options: dict[str, Parameter] = {}
    config: dict[str, object] = {}
    placement: dict[str, object] = {}
    scaling: dict[str, object] = {}
    make_default: bool = False
    replace: bool = False
    wait: bool = True
    retire_previous: bool = False


class UnregisterVersion(msgspec.Struct, frozen=True, tag="unregister"):
    """Serve a version no more; without ``version`` all versions of the model."""

    model: str
    version: str = ""
    wait: bool = True


class ScaleVersion(msgspec.Struct, frozen=True, tag="scale"):
    """Change workers of every replica, or the number of replicas; None leaves one as it is."""

    model: str
    version: str = ""
    min_workers: int | None = None
    max_workers: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    wait: bool = True


class SetDefault(msgspec.Struct, frozen=True, tag="set_default"):
    """Have this version answer requests that name none, on all nodes."""

    model: str
    version: str


class DrainNode(msgspec.Struct, frozen=True, tag="drain"):
    """Move everything away from a node; with ``undo`` let it serve again."""

    node: str
    undo: bool = False
    wait: bool = True


Change = RegisterVersion | UnregisterVersion | ScaleVersion | SetDefault | DrainNode


class ReplicaView(msgspec.Struct, frozen=True):
    """One replica as ``mooring cluster models`` shows it."""

    node: str
    status: VersionStatus


class VersionView(msgspec.Struct, frozen=True):
    """One version in the cluster. ``state`` is PENDING, LOADING, READY, FAILED or UNLOADING; ``reason`` says what is missing or why it failed."""

    model: str
    version: str
    state: str
    reason: str
    is_default: bool
    wanted_replicas: int
    min_replicas: int
    max_replicas: int
    replicas: list[ReplicaView] = []


class NodeView(msgspec.Struct, frozen=True):
    """One node in the cluster.

    ``state`` is STARTING, READY, DRAINING, DRAINED, LOST, FAILED (its server does not start) or REFUSED (another version of the software).
    """

    node: str
    state: str
    reason: str
    address: str
    software: str
    seconds_since_heard: float
    resources: dict[str, float] = {}


class ClusterView(msgspec.Struct, frozen=True):
    """The whole cluster, as the controller sees it now."""

    name: str
    epoch: int
    generation: int
    nodes: list[NodeView] = []
    versions: list[VersionView] = []

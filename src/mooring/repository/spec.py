"""Everything the server knows of one version of a model before it is loaded."""

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mooring.core.tensors import Parameter, TensorSpec
from mooring.core.versions import VersionPolicy

if TYPE_CHECKING:
    from mooring.config.settings import (
        ModelSettings,
    )  # which every worker would import, for the server's Defaults alone

MOST_CONCURRENT = 256


class BatchMode(enum.StrEnum):
    """How requests to a tensor model join into a batch: along their own first dimension, or along a new one."""

    CONCAT = "concat"
    STACK = "stack"


class SequenceHeaders(msgspec.Struct, frozen=True):
    """The names of the headers that say which sequence a request belongs to, as handlers spell them."""

    id: str = "ts_request_sequence_id"
    start: str = "ts_request_sequence_start"
    end: str = "ts_request_sequence_end"

    @property
    def lower(self) -> tuple[str, str, str]:
        """The three as they are compared: clients may spell them as they like."""
        return self.id.lower(), self.start.lower(), self.end.lower()


TORCHSERVE_HEADERS = SequenceHeaders()
"""As TorchServe has them where nothing else is set."""


class ControlKind(enum.StrEnum):
    """What an input that the server fills says of a row's sequence."""

    START = "start"
    END = "end"
    READY = "ready"
    ID = "id"


class Control(msgspec.Struct, frozen=True):
    """An input that the server fills and no client sends: ``[rows, 1]``, or ``[1]`` where there is no batch.

    A flag is ``values[1]`` where it is set and ``values[0]`` where it is not. With ``flat`` it is ``[rows]`` always.
    """

    name: str
    kind: ControlKind
    datatype: str
    values: tuple[float, float] = (0, 1)
    flat: bool = False


class SequenceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model has its sequences. Times are in seconds, and 0 is for ever.

    ``most`` sequences at a time, ``waiting`` steps of one beside the step that runs. One of which nothing was heard
    for ``max_idle``, or that began ``timeout`` ago, is over. ``per_worker`` 0 is any number; where every worker has so
    many, new ones wait.
    """

    most: int = 1
    per_worker: int = 0
    waiting: int = 1
    max_idle: float = 0.0
    timeout: float = 0.0
    controls: tuple[Control, ...] = ()


class Recycling(msgspec.Struct, frozen=True):
    """When a worker makes way for a fresh one: after so many requests, or at so many bytes of memory; 0 is never."""

    max_requests: int = 0
    memory_limit: int = 0

    def changed(self, max_requests: int | None, memory_limit: int | None) -> "Recycling":
        """With what is said in place of what is not, which is None."""
        return Recycling(
            self.max_requests if max_requests is None else max_requests,
            self.memory_limit if memory_limit is None else memory_limit,
        )


class WaitPolicy(msgspec.Struct, frozen=True):
    """How requests of one priority wait: ``queue_size`` of them at most, each for ``timeout`` seconds; 0 is no limit.

    One that has waited so long is refused, or with ``delays`` served after all others of its priority.
    """

    queue_size: int = 0
    timeout: float = 0.0
    delays: bool = False


class QueuePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How requests wait for a worker, as Triton has it.

    With ``levels`` a request has a priority from 1 to that, and one that names no such priority the ``default_level``.
    With ``ordered`` answers are given in the order in which the requests came.
    """

    policy: WaitPolicy = WaitPolicy()
    levels: int = 0
    default_level: int = 0
    by_level: dict[int, WaitPolicy] = {}
    ordered: bool = False

    def of(self, level: int) -> WaitPolicy:
        """The policy of a priority."""
        return self.by_level.get(level, self.policy)


class Node(msgspec.Struct, frozen=True):
    """A node of a workflow: the model that it asks, and the nodes whose answers it takes.

    ``timeout`` is in seconds, 0 is none; ``retries`` is how often it is asked again when it gave no answer.
    """

    name: str
    model: str
    parents: list[str] = []
    timeout: float = 0.0
    retries: int = 0


class WarmupInput(msgspec.Struct, frozen=True):
    """An input of a warm-up request. ``data`` is zero, random, or the file that holds its elements, little-endian."""

    name: str
    datatype: str
    shape: list[int]
    data: str = "zero"


class Warmup(msgspec.Struct, frozen=True, kw_only=True):
    """A request that a worker makes of its model, ``count`` times, before it takes any other.

    ``body`` is a file with what a client would send, of that content type. Where there is none, the ``inputs``, and
    without them what the model declares, with ``rows`` in the place of open dimensions in front.
    """

    name: str
    count: int = 1
    rows: int = 1
    body: str = ""
    content_type: str = ""
    inputs: list[WarmupInput] = []
    data: str = "zero"  # of what the model declares


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the server knows of one version of a model before it is loaded. Times are in seconds.

    ``location`` is the extracted directory (or the single file) the backend reads. ``entry`` names what in it is the
    model: for handlers the manifest's handler (``handler.py``, ``handler:fn``, ``image_classifier``), for functions
    ``file.py:name``, for builtins the builtin's name. ``url`` is what the user named, shown by describe.
    """

    name: str
    version: str
    backend: str
    location: str
    entry: str = ""
    url: str = ""
    # Of a repository, where the highest version that is ready answers who names none. None of all others: there the
    # first one does that was registered.
    version_policy: VersionPolicy | None = None
    handler: str = ""  # named by an operator in place of the archive's own
    platform: str = ""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    labels: dict[str, Any] = {}
    # The labels of single outputs, which go before those of the model.
    output_labels: dict[str, dict[str, Any]] = {}
    parameters: dict[str, Parameter] = {}
    explain: dict[str, Any] = {}  # how a tensor model is explained (explain/settings.py)
    # Of a chain: the models that run in order. It has no worker of its own, its backend is "chain".
    stages: list[str] = []
    # Of a workflow, whose models are the stages: its graph. Every node stands after those whose answers it takes.
    nodes: list[Node] = []
    # What a worker asks its model before it is ready.
    warmup: list[Warmup] = []
    # The workflow that this model belongs to, and is registered and unregistered with.
    workflow: str = ""
    # A function of a workflow: its files are the workflow's, and TorchServe lists it nowhere.
    function: bool = False
    # Models that take this one's outputs further, in order (AMD's load parameter "next").
    following: list[str] = []
    batch: BatchMode = BatchMode.CONCAT
    max_batch_size: int = 1
    # Nobody asked for that size: it holds where the model's own file shows a batch dimension.
    batch_is_default: bool = False
    # Whether the shapes have a batch dimension in front; None where nobody says so, and the shapes must tell.
    batch_dimension: bool | None = None
    # A request may have any number of responses, and none.
    decoupled: bool = False
    # A configuration for Triton as it was written, which clients are shown again.
    triton: dict[str, Any] = {}
    max_delay: float = 0.0
    # TorchServe's own behaviour: a lone request waits out the delay although a worker is idle.
    exact_delay: bool = False
    # TorchServe's continuousBatching: the handler is called step by step, and each step's results are pieces.
    stepwise: bool = False
    # How many requests one worker of an asynchronous model takes at once.
    concurrency: int = MOST_CONCURRENT
    # TorchServe's useJobTicket: who finds no idle worker is refused at once.
    job_ticket: bool = False
    min_workers: int = 1
    max_workers: int = 1
    workers_by_default: bool = False  # nobody asked for that number
    queue_size: int = 100
    # None where requests wait in the order of their priority and for as long as their callers do.
    queue_policy: QueuePolicy | None = None
    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    # How long a crashing worker counts as healthy while it is being restarted (TorchServe's maxRetryTimeoutInSec).
    retry_timeout: float = 300.0
    # 0 means the caller waits for ever (TorchServe's clientTimeoutInMills).
    client_timeout: float = 0.0
    # Whether a request that was running when its worker died may run once more on another.
    retry: bool = True
    # Of a model that keeps state from request to request. Its requests are never tried twice.
    sequence: SequenceSettings | None = None
    sequence_headers: SequenceHeaders = TORCHSERVE_HEADERS
    threads: int = 0  # 0: cores divided by workers
    recycling: Recycling = Recycling()
    # Whether the model is loaded once, before its workers are forked; None where that is known to be safe.
    preload: bool | None = None
    # Whether the library may rearrange the model for speed when it is loaded, within what floats are exact to.
    optimize: bool = True
    channels_last: bool = False
    max_response_bytes: int = 6_553_500
    json_nan: str = "by_protocol"  # the setting of that name
    decode_input: bool = True  # TorchServe's decode_input_request
    limit_image_pixels: bool = True
    envelope: str = ""  # TorchServe's service_envelope
    metrics_config: str = ""  # TorchServe's metrics_config: a metrics.yaml for every model
    packages: str = ""  # a folder that the model's code imports from before all others: its own requirements
    venv: str = ""  # the virtual environment that those packages are in, where they are in one
    manifest: dict[str, Any] = {}
    config: dict[str, Any] = {}  # model-config.yaml, as the handler sees it

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """The name of each class of an output, by its index."""
        found: Mapping[str, Any] = self.output_labels.get(output, self.labels)
        return found


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the server's settings say of a model that does not say it itself. Times are in seconds.

    ``settings`` is by name and version; it wins over the rest and yields to the model's own config, as in TorchServe.
    """

    workers: int = 1
    sharing_workers: int = 0  # of a model that is loaded once for all of them; 0: no others than of all
    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    queue_size: int = 100
    max_response_bytes: int = 6_553_500
    json_nan: str = "by_protocol"
    decode_input: bool = True
    limit_image_pixels: bool = True
    envelope: str = ""
    metrics_config: str = ""
    exact_delay: bool = False
    handler: str = ""  # of an archive that names none: TorchServe's default_service_handler
    sequence_headers: SequenceHeaders = TORCHSERVE_HEADERS
    install_requirements: bool = False  # TorchServe's install_py_dep_per_model
    recycling: Recycling = Recycling()
    settings: Mapping[str, Mapping[str, "ModelSettings"]] = {}

    def workers_of(self, *, sharing: bool) -> int:
        """How many workers a model has that does not say; ``sharing`` where they share one copy of it."""
        return (sharing and self.sharing_workers) or self.workers

"""The interfaces between protocols and engine, and between a model's code and its worker, with their records."""

import abc
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from mooring.core.errors import MooringError
from mooring.core.options import Parallel
from mooring.core.requests import InferenceRequest, InferenceResponse
from mooring.core.tensors import Parameter, TensorSpec
from mooring.core.versions import VersionPolicy

Outcome = InferenceResponse | MooringError
Done = Callable[[Outcome], None]
"""Receives every piece of a streamed answer (``final`` False) and then, exactly once, the last piece or an error."""


class LoadContext(msgspec.Struct, frozen=True):
    """The worker that loads a model. ``threads`` is the number that its libraries may use; ``gpu`` None means the CPU.

    With ``debug`` what the model logs is taken from DEBUG up, else from INFO.
    ``call_socket`` is the path of the socket over which the model's code may call other models; empty for code that does not.
    ``place`` is the worker's number among those of its version, from 0.
    """

    worker: str = ""
    threads: int = 1
    gpu: int | None = None
    debug: bool = False
    call_socket: str = ""
    place: int = 0


class ValueDescription(msgspec.Struct, frozen=True):
    """The JSON that a model of Python values takes and gives, as two JSON Schemas (2020-12).

    ``request`` describes the JSON body of a request, ``response`` that of its answer or, where it ``streams``, of each piece.
    Both are self-contained: what they refer to is in their own ``$defs``. ``text`` is what the model's author wrote of it.
    """

    request: dict[str, Any]
    response: dict[str, Any]
    streams: bool = False
    text: str = ""


class CodeOptions(msgspec.Struct, frozen=True):
    """What a model's code asks of the server: the headers of requests, and that so many requests share a call.

    ``max_delay`` is in seconds. ``max_batch_size`` 1 leaves both to the configuration.
    """

    headers: bool = False
    max_batch_size: int = 1
    max_delay: float = 0.0


class ModelMetadata(msgspec.Struct, frozen=True):
    """The metadata of a loaded model. Handlers declare no tensors; only models of Python values have ``values``.

    ``code`` is what the model's code asks of the server; None where it asks nothing.
    """

    name: str
    versions: list[str] = []
    platform: str = ""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    values: ValueDescription | None = None
    code: CodeOptions | None = None


class JoiningState(enum.StrEnum):
    """Whether the requests for a model file may share its calls, as far as that is known."""

    DECLARED = "declared"  # the configuration says how many rows a call has
    NO_BATCH = "no_batch"  # the file shows that they may not
    UNTRIED = "untried"  # no two requests have come at the same time yet
    TRYING = "trying"
    SHOWN = "shown"  # rows gave the same answers alone and joined
    APART = "apart"  # they did not, or it cannot be told


class Joining(msgspec.Struct, frozen=True):
    """Whether requests for a model file are joined in one call, and the ``reason``, a line for operators.

    ``stamp`` identifies the contents of the file: the result of a trial holds for all workers with the same stamp.
    """

    state: JoiningState
    reason: str
    stamp: str = ""

    @property
    def joined(self) -> bool:
        """Whether requests are joined."""
        return self.state in (JoiningState.DECLARED, JoiningState.SHOWN)


class ModelState(msgspec.Struct, frozen=True):
    """One version of a model as the index and the readiness probes see it.

    ``kind`` is ``handler``, ``values`` for functions of Python values, ``tensors``, or ``chain``, ``workflow`` or ``ensemble``;
    it is empty where the model is not loaded, and before a function has loaded it may be wrong. ``loading_since`` is when the
    load began that is going on, on the monotonic clock; 0.0 where none is.
    """

    name: str
    version: str
    state: str
    ready: bool
    is_default: bool
    reason: str = ""
    # False for a function of a workflow, which TorchServe lists nowhere, and for a stage that has its chain's name.
    listed: bool = True
    kind: str = ""
    platform: str = ""
    loading_since: float = 0.0


class Ticket(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """Withdraw the request: ``done`` is not called again. A queued one is dropped, a worker that runs it is told."""
        ...


class InferenceService(abc.ABC):
    """The interface by which protocols call models. The engine implements it, and so does a client of another server."""

    @abc.abstractmethod
    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Send a request on its way. ``done`` may be called before this returns; every refusal goes there too.

        No coroutine and no task: every request takes this call. Must be called on the event loop's thread. The payloads of
        the request are released by the service once the request has been answered.
        """

    def overload_error(self, model: str, version: str = "") -> MooringError | None:
        """The error with which any request would be refused now, so that its body need not be received.

        None where a request would be queued, or where that cannot be told without it.
        """
        return None

    @abc.abstractmethod
    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether a model can answer now; without a name, whether every model that was configured can.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """

    @abc.abstractmethod
    def healthy(self) -> bool:
        """Whether every default version has as many live workers as it was given (TorchServe's /ping)."""

    @abc.abstractmethod
    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """The metadata of a loaded model. Raises ``ModelNotFound``, ``VersionNotFound`` or ``ModelNotReady``."""

    @abc.abstractmethod
    def models(self) -> Sequence[ModelState]:
        """Every version of every model, sorted by name, then version in order of registration."""


class MetricValue(NamedTuple):
    """A value of a metric that a model's own code records. ``kind`` is counter, gauge or histogram.

    A metric with a ``description`` is shown as Triton shows it: with that text, and no labels but its dimensions. A value
    with a ``request_id``, which may be empty, is reported by itself and not added up with others.
    ``bounds`` are those of a histogram's buckets, in ascending order; without any they are the server's.
    """

    name: str
    value: float
    unit: str
    kind: str
    dimensions: dict[str, str]
    description: str = ""
    request_id: str | None = None
    bounds: tuple[float, ...] = ()


class Reply(Protocol):
    """The callbacks that a worker passes to ``Backend.infer``. ``row`` is the index of a request in the batch."""

    def emit(self, row: int, piece: InferenceResponse) -> None:
        """Send a piece of a streamed answer now; the value returned at the end is the last piece."""
        ...

    def cancelled(self, row: int) -> bool:
        """Whether the caller of this request has gone."""
        ...

    def record_metric(self, metric: MetricValue) -> None:
        """Record a value of a metric of the model's own."""
        ...


class ModelAccess(Protocol):
    """The server's models as the code of one of them reaches them. All methods may be called from any thread."""

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """Send a request to a model. ``done`` is called from another thread, as ``InferenceService`` says."""
        ...

    def is_ready(self, model: str, version: str) -> bool:
        """Whether a model can answer now; a model that is not there cannot."""
        ...

    def load(self, model: str, files: Mapping[str, bytes], config: Mapping[str, Any] | None) -> None:
        """Load a model of the repository, or the one that ``files`` are; return when it is ready. Raises ``MooringError``."""
        ...

    def unload(self, model: str, *, dependents: bool) -> None:
        """Unload a model, and with ``dependents`` what only it uses. Raises ``MooringError``."""
        ...


class WorkerDescription(msgspec.Struct, frozen=True):
    """One worker process. ``started`` is in seconds since the epoch, ``memory`` in bytes."""

    id: str
    pid: int
    state: str
    started: float
    memory: int


class SequenceDescription(msgspec.Struct, frozen=True):
    """The limits of a model's sequences: ``most`` at a time, ``waiting`` steps of each, and seconds until one ends (0: never).

    ``controls`` has the name, kind and datatype of each input that tells the model which sequence a row belongs to. With
    ``direct`` every sequence has a row of its own.
    """

    most: int
    waiting: int
    max_idle: float
    timeout: float
    controls: list[tuple[str, str, str]] = []
    direct: bool = False


class ModelDescription(msgspec.Struct, frozen=True):
    """The description of one version in the management protocols. Times are in seconds.

    ``reason`` is why it is not ready, in a line; ``detail`` the last traceback of its workers. ``default_rule`` is why
    the model's default version is that one; only models of a repository have a ``version_policy``.
    """

    name: str
    version: str
    url: str
    state: str
    is_default: bool
    reason: str
    detail: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_delay: float
    response_timeout: float
    startup_timeout: float
    retry_timeout: float
    client_timeout: float
    queue_size: int
    pending: int
    loaded_at_startup: bool
    workers: list[WorkerDescription]
    default_rule: str = ""
    version_policy: VersionPolicy | None = None
    parallel: Parallel | None = None
    sequences: SequenceDescription | None = None
    joining: Joining | None = None  # None for models with code of their own, which decide by themselves
    use_venv: bool = False
    stepwise: bool = False
    job_ticket: bool = False
    # It has no workers because it was idle. ``start_seconds`` is how long the last start of one took.
    scaled_to_zero: bool = False
    start_seconds: float = 0.0
    kind: str = ""  # as in ``ModelState``
    explains: bool = False  # whether an explanation is to be had, as far as its configuration says
    labels: list[str] = []  # names of classes, in the order of their numbers


class ModelConfig(msgspec.Struct, frozen=True):
    """The configuration of a version, in the terms of Triton's model configuration. Shapes include the batch dimension.

    ``max_batch_size`` 0 means that the model's shapes have none; ``delay`` is in seconds. ``file_name`` is the model's file
    in its version's folder, empty where that does not say all. ``declared`` is a configuration of Triton's as the model's
    owner wrote it, empty where it has none.
    """

    name: str
    version: str
    platform: str
    backend: str
    max_batch_size: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    instances: int
    delay: float
    parameters: dict[str, Parameter]
    sequences: SequenceDescription | None = None
    joining: Joining | None = None
    version_policy: VersionPolicy = VersionPolicy()
    decoupled: bool = False
    file_name: str = ""
    declared: Mapping[str, Any] = {}


class Duration(msgspec.Struct, frozen=True):
    """How often something happened and how long it took together, in nanoseconds."""

    count: int = 0
    ns: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """The executions of one batch size, in rows."""

    batch_size: int
    infer: Duration


class ResponseUsage(msgspec.Struct, frozen=True):
    """The responses of one number, the first, the second and so on, of a model that gives any number to a request.

    Each with the time since the response before it, or since the model had the request; ``empty`` ones ended a request.
    """

    success: Duration
    fail: Duration
    empty: Duration


class ModelUsage(msgspec.Struct, frozen=True):
    """The statistics of a version since it was first loaded.

    ``last_inference`` is in milliseconds since the epoch; ``inferences`` counts rows, ``executions`` calls of the
    model, ``success`` and ``fail`` requests.
    """

    name: str
    version: str
    last_inference: int
    inferences: int
    executions: int
    success: Duration
    fail: Duration
    queue: Duration
    infer: Duration
    batches: list[BatchUsage]
    cache_hit: Duration = Duration()
    cache_miss: Duration = Duration()
    responses: list[ResponseUsage] = []


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a request to register a model. Times are in seconds.

    ``url`` is an archive or folder of the model store, or where an archive is fetched from. What is empty or None is
    left to the model's own configuration and the server's settings; those win over ``workers`` and the time-outs, and
    yield to the rest, as in TorchServe.
    """

    url: str
    name: str = ""
    handler: str = ""
    runtime: str = ""
    batch_size: int | None = None
    max_delay: float | None = None
    workers: int | None = None
    response_timeout: float | None = None
    startup_timeout: float | None = None


class Scaled(msgspec.Struct, frozen=True):
    """The result of a change of a version's workers. ``done`` is False while some are still to start or to end."""

    name: str
    version: str
    workers: int
    done: bool = True


class QueueScaling(msgspec.Struct, frozen=True):
    """How the number of workers of a version follows the time that its requests wait. Times are in seconds.

    ``queue_p95`` is the 95th percentile of the time that requests waited which were answered lately, 0.0 where none was.
    ``needed_workers`` are those that the target takes, ``most_workers`` those that there may be: what the model's range and the room
    that other models leave allow.
    """

    target: float
    queue_p95: float
    needed_workers: int
    most_workers: int


class VersionLoad(msgspec.Struct, frozen=True):
    """What one version has to do now, over all processes of the server.

    ``waiting`` requests have no worker yet, and the oldest of them has waited ``oldest_wait`` seconds (0.0 where none
    waits). A worker has each of the ``in_flight`` ones; of a chain or an ensemble, which has no workers, they are those on
    their way through it. ``starting_workers`` load the model, or are to be started; ``busy_workers`` work at the moment.
    ``requests`` counts all that ever went to a worker. ``scaling`` is None where the version has no target for its queue.
    """

    name: str
    version: str
    waiting: int
    oldest_wait: float
    in_flight: int
    ready_workers: int
    wanted_workers: int
    starting_workers: int
    busy_workers: float = 0.0
    requests: int = 0
    scaling: QueueScaling | None = None


class ModelAdministration(abc.ABC):
    """The operations of the management protocols on models."""

    @abc.abstractmethod
    async def describe(self, model: str, version: str = "") -> Sequence[ModelDescription]:
        """One version (by default the default one), or with version "all" every one of them.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """

    @abc.abstractmethod
    def loads(self) -> Sequence[VersionLoad]:
        """What every loaded version has to do now, sorted as ``InferenceService.models``. Cheap: it asks no process."""

    @abc.abstractmethod
    def index(self) -> Sequence[ModelState]:
        """Every version that is loaded or could be. What is not loaded is UNAVAILABLE, with the reason where one is known;
        a model as a whole has no version.
        """

    @abc.abstractmethod
    async def config(self, model: str, version: str = "") -> ModelConfig:
        """The configuration of a version. Raises ``ModelNotFound`` or ``VersionNotFound``."""

    @abc.abstractmethod
    async def usage(self, model: str = "", version: str = "") -> Sequence[ModelUsage]:
        """The statistics of one version, of all versions of a model, or of all. Raises ``ModelNotFound`` or ``VersionNotFound``."""

    @abc.abstractmethod
    async def load(
        self,
        model: str,
        version: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        """Load a model of the repository, every version or the one named, and return when it is ready.

        One that is loaded is loaded anew; the old one answers until then, and on if the new one fails. Versions of a
        repository that its policy does not serve any more, or whose folders are gone, are unloaded once the others are
        ready; one that was named here or made the default stays while it has a folder. ``config``
        overrides keys of the model's own configuration (Triton's names or ours), ``files`` are its files by path
        ("1/model.onnx"), to be used in place of the repository's; ``parameters`` are merged over the model's own.

        Raises ``ModelNotFound`` for a model that is not in the repository, ``ModelLoadFailed`` for one that cannot be
        loaded and ``InvalidInput`` for a config that cannot be understood.
        """

    @abc.abstractmethod
    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        """Return once the last request in flight is answered and the workers are gone: every version, or one.

        With ``dependents`` the stages of a chain that nothing else uses go with it. Raises ``ModelNotFound`` or
        ``VersionNotFound``.
        """

    @abc.abstractmethod
    async def register(self, registration: Registration, *, wait: bool = True) -> Scaled:
        """Add a version of a model and return when its workers are there, or without ``wait`` once it is known.

        One whose workers do not come up is gone again, files and all. Raises ``ModelNotFound`` for what is not in the
        store, ``SourceRefused``, ``FetchFailed``, ``ModelLoadFailed`` for what is no model, ``ModelExists``,
        ``WorkersFailed`` and, for a runtime that there is not, ``InvalidInput``.
        """

    @abc.abstractmethod
    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        """Have at least and at most so many workers, and return when it is so, or without ``wait`` at once.

        Those too many finish what they do. Where new ones do not come up the number stays as it was. Raises
        ``ModelNotFound``, ``VersionNotFound``, ``WorkersFailed`` and, where there are no workers to count,
        ``Unsupported``.
        """

    @abc.abstractmethod
    async def set_default(self, model: str, version: str) -> None:
        """Set the version that answers requests that name none. Raises ``ModelNotFound`` or ``VersionNotFound``."""

    @abc.abstractmethod
    async def unregister(self, model: str, version: str = "") -> None:
        """As ``unload``, but of one version, by default the default one; and that only as the last.

        Raises ``ModelNotFound``, ``VersionNotFound`` or ``VersionIsDefault``.
        """

    @abc.abstractmethod
    async def load_worker(self, worker: str, parameters: Mapping[str, Parameter]) -> str:
        """Load a model by the name of what runs it, as AMD's server does, and return its endpoint when it is ready.

        The first endpoint of a worker is called like it, further ones ``worker-0``, ``worker-1``; the same parameters
        lead to the same endpoint, ``share`` False adds an instance to it. Raises ``InvalidInput`` or
        ``ModelLoadFailed``.
        """

    @abc.abstractmethod
    async def unload_worker(self, endpoint: str) -> None:
        """Take one instance from an endpoint, and with the last one the endpoint. Raises ``ModelNotFound``."""


class WorkflowRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a request to register a workflow. Times are in seconds; empty and None leave an option open.

    ``url`` is an archive (.war) of the workflow store, or where one is fetched from.
    """

    url: str
    name: str = ""
    response_timeout: float | None = None
    startup_timeout: float | None = None


class WorkflowDescription(msgspec.Struct, frozen=True):
    """The description of a workflow. ``max_delay`` is in seconds; ``graph`` maps each node to those that follow it.

    The sizes are the archive's defaults for models that set none.
    """

    name: str
    url: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_delay: float
    graph: dict[str, list[str]]


class WorkflowService(abc.ABC):
    """The interface by which protocols call workflows, and register and unregister them."""

    @abc.abstractmethod
    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        """As ``InferenceService.submit``, where ``request.model`` is the name of a workflow.

        A node that gives no answer is ``NodeFailed``, whatever the reason, unless its queue was full or the client's
        time ran out.
        """

    @abc.abstractmethod
    def workflows(self) -> Sequence[WorkflowDescription]:
        """All of them, by name."""

    @abc.abstractmethod
    def describe(self, workflow: str) -> WorkflowDescription:
        """One of them. Raises ``ModelNotFound``."""

    @abc.abstractmethod
    async def register(self, registration: WorkflowRegistration) -> str:
        """Add a workflow, with models of its own for every node, and return its name when all their workers are there.

        One that fails leaves nothing behind. Raises ``ModelNotFound`` for what is not in the store, ``SourceRefused``,
        ``FetchFailed``, ``ModelLoadFailed`` for what is no workflow, ``ModelExists`` and ``WorkersFailed``.
        """

    @abc.abstractmethod
    async def unregister(self, workflow: str) -> None:
        """Return once the last request in flight is answered and its models are gone. Raises ``ModelNotFound``."""


class ServerAdministration(abc.ABC):
    """The operations of the management protocols on the server itself."""

    @abc.abstractmethod
    def log_level(self) -> str:
        """The log level: debug, info, warning or error."""

    @abc.abstractmethod
    def set_log_level(self, level: str) -> None:
        """Change the log level. Raises ``InvalidInput`` for an unknown one."""

    @abc.abstractmethod
    def devices(self) -> Mapping[str, int]:
        """The devices of the machine: "CPU" -> the number of logical cores, and the name of each accelerator -> its count."""

"""The options of a model: how its requests are batched and wait, its workers, its time-outs. Each is written here once.

    built in  <  the server's settings  <  what TorchServe's ``models`` setting says  <  the model's own files  <  an operator

The same groups hold the server's defaults, what one of these sources declares, and what is in force for a model. A source
declares with ``declare``, which leaves every option that it does not name undeclared; ``resolve_options`` puts the
layers over each other. Times are in seconds, sizes in bytes, and 0 is no limit where nothing else is said.
"""

import enum
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

import msgspec
from msgspec import UNSET, structs

P = ParamSpec("P")
T = TypeVar("T")
G = TypeVar("G", bound="OptionGroup")

MAX_CONCURRENT = 256
"""How many requests one worker of an asynchronous model takes at once where nobody names a number."""


class OptionGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Options that belong together, with the values that are built in."""


class BatchMode(enum.StrEnum):
    """How requests to a tensor model join into a batch: along their own first dimension, or along a new one."""

    CONCAT = "concat"
    STACK = "stack"


# Looked up per request (core/requests.py says what a look into the class costs).
CONCAT, STACK = BatchMode.CONCAT, BatchMode.STACK


class Batching(OptionGroup, frozen=True, kw_only=True):
    """How many requests share a call of the model, and how long one waits for others.

    ``size_by_default`` says that nobody named ``max_batch_size``: it holds where the model's own file shows a batch
    dimension, and for a function where its code names none. ``batch_dimension`` is whether the declared shapes have one in front, None where the shapes must tell.
    With ``exact_delay`` a lone request waits out ``max_delay`` although a worker is idle, as in TorchServe.
    ``stepwise`` is TorchServe's continuousBatching: the handler is called step by step, and each step's results are
    pieces of the answers. ``concurrency`` is how many requests one worker of an asynchronous model takes at once.
    """

    mode: BatchMode = BatchMode.CONCAT
    max_batch_size: int = 1
    size_by_default: bool = False
    batch_dimension: bool | None = None
    max_delay: float = 0.0
    exact_delay: bool = False
    stepwise: bool = False
    concurrency: int = MAX_CONCURRENT


class Scaling(OptionGroup, frozen=True, kw_only=True):
    """How many worker processes a model has, and when one is replaced by a fresh one.

    ``workers_by_default`` says that nobody named their number. A worker is replaced after ``max_requests`` requests, or
    at ``memory_limit`` bytes of memory. With a ``target_queue``, of which 95 of 100 requests should wait for less, there are
    as many workers between the two numbers as that takes (scaling_rule.py, which says what ``scaling_window`` and
    ``cool_down`` are).
    """

    min_workers: int = 1
    max_workers: int = 1
    workers_by_default: bool = True
    max_requests: int = 0
    memory_limit: int = 0
    target_queue: float = 0.0
    scaling_window: float = 10.0
    cool_down: float = 60.0

    @property
    def scales(self) -> bool:
        """Whether the number of workers follows the time that requests wait."""
        return self.target_queue > 0 and self.max_workers > self.min_workers

    @property
    def first_workers(self) -> int:
        """How many workers start with the model: one at least where it scales, which tells what the model is."""
        return max(self.min_workers, 1) if self.scales else self.min_workers


class PlacementStrategy(enum.StrEnum):
    """Which nodes get the replicas of a model: those with the fewest replicas of all models, or those with the most."""

    SPREAD = "spread"
    PACK = "pack"


class Placement(OptionGroup, frozen=True, kw_only=True):
    """On which nodes of a cluster a model is served, and what is reserved for it there; a server alone ignores it.

    A replica is the model on one node. There are ``min_replicas`` to ``max_replicas`` of them, as many as requests need, or with
    ``all_nodes`` one on each node that fits. Every replica reserves ``num_cpus``, ``num_gpus`` (a part of a GPU below 1),
    ``memory`` in bytes and other ``resources`` by name, and goes to nodes that have all ``labels`` and GPUs of the
    ``accelerator_type``; what is 0 or empty is not asked for.
    """

    all_nodes: bool = False
    min_replicas: int = 1
    max_replicas: int = 1
    num_cpus: float = 0.0
    num_gpus: float = 0.0
    memory: int = 0
    labels: dict[str, str] = {}
    accelerator_type: str = ""
    resources: dict[str, float] = {}
    strategy: PlacementStrategy = PlacementStrategy.SPREAD


class Timeouts(OptionGroup, frozen=True, kw_only=True):
    """How long the server waits for a model, and a caller for its answer.

    For ``retry_timeout`` a crashing worker that is being restarted counts as healthy (TorchServe's
    maxRetryTimeoutInSec). ``client_timeout`` is the caller's (TorchServe's clientTimeoutInMills); 0 is for ever.
    """

    response_timeout: float = 120.0
    startup_timeout: float = 120.0
    retry_timeout: float = 300.0
    client_timeout: float = 0.0


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


class ModelLimits(OptionGroup, frozen=True, kw_only=True):
    """How many requests may wait and how large an answer may be.

    ``queue_policy`` is None where requests wait in the order of their priority and for as long as their callers do.
    With ``job_ticket`` a request that finds no idle worker is refused at once (TorchServe's useJobTicket). ``retry``:
    a request that was running when its worker died may run once more on another. ``response_cache``: the answer to a
    request is kept, and given to whoever sends the same request again.
    """

    queue_size: int = 100
    queue_policy: QueuePolicy | None = None
    job_ticket: bool = False
    retry: bool = True
    max_response_bytes: int = 6_553_500
    response_cache: bool = False


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
"""The headers as TorchServe has them where nothing else is set."""


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


class ImplicitState(msgspec.Struct, frozen=True):
    """A tensor that the worker keeps of every sequence: output ``output`` of a step is input ``input`` of the next one.

    ``shape`` is that of one sequence, without a batch dimension, -1 for any size. The first step of a sequence gets what
    is in the file ``initial``, zeros without one, of the ``initial_shape``.
    """

    input: str
    output: str
    datatype: str
    shape: tuple[int, ...]
    initial_shape: tuple[int, ...]
    initial: str = ""


class SequenceOptions(OptionGroup, frozen=True, kw_only=True):
    """Whether a model keeps state from request to request (``enabled``), and how its sequences are kept apart.

    There are ``max_sequences`` at a time, and of each ``max_queued_steps`` wait beside the step that runs. A sequence
    without a request for ``max_idle`` seconds, or that began ``timeout`` seconds ago, is over. ``max_per_worker`` 0 is
    any number; where every worker has so many, new sequences wait. ``max_sequences`` 0 lets any number of them wait that
    the model's queue has room for.

    With ``direct`` (Triton's strategy) a sequence has a row of its own in every call of its worker, and a call leaves
    without a delay where the part ``minimum_slot_utilization`` of the rows has a step; without ``direct``, where there are
    as many steps as one of the numbers in ``preferred_batch_size``.
    """

    enabled: bool = False
    max_sequences: int = 1
    max_per_worker: int = 0
    max_queued_steps: int = 1
    direct: bool = False
    minimum_slot_utilization: float = 0.0
    preferred_batch_size: tuple[int, ...] = ()
    states: tuple[ImplicitState, ...] = ()
    max_idle: float = 0.0
    timeout: float = 0.0
    controls: tuple[Control, ...] = ()
    headers: SequenceHeaders = TORCHSERVE_HEADERS


class HandlerOptions(OptionGroup, frozen=True, kw_only=True):
    """What a model's code gets of a request, and how its answers are written; each is the setting of TorchServe's name.

    ``decode_input`` is decode_input_request, ``limit_image_pixels`` limit_max_image_pixels, ``envelope``
    service_envelope; ``metrics_config`` is the path of a metrics.yaml for every handler. ``metric_lines``: what it
    records becomes lines of a log, a line for each value. ``json_nan`` is how JSON writes NaN and Infinity: by_protocol,
    null or nan. ``forward_headers`` is the pattern of headers that become parameters, empty for none. ``client_errors``
    are names of exception classes: what the model's code raises of them is the client's mistake.
    """

    decode_input: bool = True
    limit_image_pixels: bool = True
    envelope: str = ""
    metrics_config: str = ""
    metric_lines: bool = False
    json_nan: str = "by_protocol"
    forward_headers: str = ""
    client_errors: tuple[str, ...] = ()


def compile_header_pattern(text: str) -> re.Pattern[str]:
    """Compile the pattern of headers that become parameters. As in Triton, case counts only after ``(?-i)``.

    Raises ``re.error``.
    """
    rest = text.removeprefix("(?-i)")
    return re.compile(text if rest == text else f"(?-i:{rest})", re.IGNORECASE)


class RuntimeOptions(OptionGroup, frozen=True, kw_only=True):
    """How the library runs a model in a worker.

    ``threads`` 0 divides the cores by the workers. ``preload`` is whether the model is loaded once, before its workers
    are forked; None where that is known to be safe. ``optimize``: the library may rearrange the model for speed when it
    is loaded, within what floats are exact to.
    """

    threads: int = 0
    preload: bool | None = None
    optimize: bool = True
    channels_last: bool = False


class ParallelType(enum.StrEnum):
    """How a model is split over the processes of a group (TorchServe's parallelType)."""

    UNNAMED = ""
    TENSOR = "tp"
    PIPELINE = "pp"
    PIPELINE_TENSOR = "pptp"
    CUSTOM = "custom"  # by the handler itself: its worker is one process


class Parallel(msgspec.Struct, frozen=True, kw_only=True):
    """Several processes that are one worker of a model, as torchrun would start them: its *group* of ``level`` ranks.

    ``threads`` is OMP_NUM_THREADS of each; 0 divides those of the worker. ``master`` and ``master_port`` are where they
    meet; by default this machine, and a free port. ``devices`` are numbers of GPUs, of which each worker gets ``level``.
    """

    type: ParallelType = ParallelType.UNNAMED
    level: int = 1
    threads: int = 0
    master: str = ""
    master_port: int = 0
    device_type: str = ""
    devices: list[int] = []

    @property
    def grouped(self) -> bool:
        """Whether the server starts the processes."""
        return self.type is not ParallelType.CUSTOM

    def count_processes(self, workers: int) -> int:
        """The number of processes of so many workers: that which the server knows, and the ranks of its group."""
        return workers * (1 + self.level) if self.grouped else workers


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Every option of a model, by group."""

    batching: Batching = Batching()
    scaling: Scaling = Scaling()
    placement: Placement = Placement()
    timeouts: Timeouts = Timeouts()
    sequence: SequenceOptions = SequenceOptions()
    limits: ModelLimits = ModelLimits()
    handler: HandlerOptions = HandlerOptions()
    runtime: RuntimeOptions = RuntimeOptions()


_GROUPS: Mapping[type, str] = {field.type: field.name for field in structs.fields(ModelOptions)}

UNDECLARED: Any = UNSET
"""Stands for an option that a source does not name. No option in force has it."""


def or_undeclared(value: T | None) -> T:
    """The value that a source has for an option; undeclared where it has none."""
    return cast("T", UNDECLARED if value is None else value)


def declare(kind: Callable[P, G], *args: P.args, **options: P.kwargs) -> G:
    """A group in which everything but these ``options`` is undeclared: one layer for ``resolve_options``.

    >>> declare(Scaling, min_workers=2).min_workers, declare(Scaling).min_workers is UNDECLARED
    (2, True)
    """
    assert not args
    group = cast("type[G]", kind)
    left_open = dict.fromkeys(group.__struct_fields__, UNDECLARED)
    return cast("Callable[..., G]", group)(**{**left_open, **options})


def override(options: ModelOptions, *layers: OptionGroup) -> ModelOptions:
    """The options with what each layer declares in place of what was there; a later layer wins."""
    changed: dict[str, OptionGroup] = {}
    for layer in layers:
        name = _GROUPS[type(layer)]
        before = changed.get(name, getattr(options, name))
        declared = {
            field: value
            for field in layer.__struct_fields__
            if (value := getattr(layer, field)) is not UNDECLARED
        }
        changed[name] = structs.replace(before, **declared)
    return structs.replace(options, **changed)


def resolve_options(defaults: ModelOptions, *declared: OptionGroup) -> ModelOptions:
    """The options of a model: the ``defaults`` under what its sources declare, the weakest source first.

    Every place that makes a model of a configuration goes this way. Two options depend on others: a source that names
    the least or the most workers decides both, and a model that keeps state has no request run twice.
    """
    options = defaults
    for layer in declared:
        options = override(
            options, _worker_range(options.scaling, layer) if isinstance(layer, Scaling) else layer
        )
    if options.sequence.enabled:
        options = override(options, declare(ModelLimits, retry=False))
    return options


def _worker_range(before: Scaling, layer: Scaling) -> Scaling:
    """The layer with both ends of the range that it names one of; the number that was usual fills the lower end."""
    least, most = layer.min_workers, layer.max_workers
    if least is UNDECLARED and most is UNDECLARED:
        return layer
    if least is UNDECLARED:
        least = min(before.min_workers, most)
    if most is UNDECLARED:
        most = least
    return structs.replace(
        layer, min_workers=least, max_workers=max(least, most, 1), workers_by_default=False
    )

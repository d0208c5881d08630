"""A model's own configuration as it is written: the keys of config.toml, and of config.pbtxt in our form.

    NAME/config.toml        name, platform, max_batch_size, [[inputs]], [[outputs]], [batching], [workers], [parameters]
    NAME/1/model.py         the model of version 1; which file it is, platforms.py says

A config with ``[[models]]`` is a chain: every stage is a model of its own, and the chain one that runs them in order.
Unknown keys are errors: a typo must not pass for a setting. None leaves an option to the server's settings, or to the
value that is built in (core/options.py).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mooring.core.options import BatchMode, ControlKind, PlacementStrategy
from mooring.core.tensors import Parameter
from mooring.repository.triton_config import TritonConfig

# The largest whole number that messages and answers can carry. The longest time holds the 2^64 microseconds that Triton's
# configurations may say, in milliseconds as well.
SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1
_MAX_SECONDS = 2e13
# Of an ensemble. What fits together is looked at for every pair of them.
_MAX_STEPS = 1000
_Positive = Annotated[int, Meta(ge=1, le=LARGEST)]
_Size = Annotated[int, Meta(ge=-1, le=LARGEST)]
_Count = Annotated[int, Meta(ge=0, le=LARGEST)]
_Seconds = Annotated[float, Meta(gt=0, le=_MAX_SECONDS)]
_Wait = Annotated[float, Meta(ge=0, le=_MAX_SECONDS)]
_Name = Annotated[str, Meta(min_length=1)]
_Wanted = Annotated[float, Meta(ge=0, le=1e9)]

Labels = str | list[str] | dict[str, str | list[str]]


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table in which an unknown key is an error."""


class TensorTable(Table, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[_Size]
    id: str = ""  # AMD's chains tie tensors together by it; it says nothing of a single model
    reshape: list[_Size] | None = None


class InputTable(TensorTable, frozen=True):
    optional: bool = False


class OutputTable(TensorTable, frozen=True):
    labels: Labels = []


class BatchingTable(Table, frozen=True):
    max_delay_ms: Annotated[float, Meta(ge=0, le=_MAX_SECONDS * 1000)] | None = None
    mode: BatchMode | None = None
    exact_delay: bool | None = None


class WorkersTable(Table, frozen=True):
    min: _Count | None = None
    max: _Positive | None = None
    max_requests: _Count | None = None
    memory_limit: _Count | None = None


class PlacementTable(Table, frozen=True):
    nodes: _Positive | Literal["all"] | None = None
    min_replicas: _Count | None = None
    max_replicas: _Positive | None = None
    num_cpus: _Wanted | None = None
    num_gpus: _Wanted | None = None
    memory: _Count | None = None
    labels: dict[_Name, str] | None = None
    accelerator_type: _Name | None = None
    resources: dict[_Name, _Wanted] | None = None
    strategy: PlacementStrategy | None = None


class ScalingTable(Table, frozen=True):
    target_queue_ms: Annotated[float, Meta(ge=0, le=_MAX_SECONDS * 1000)] | None = None
    window: _Seconds | None = None
    cool_down: _Seconds | None = None


class WaitPolicyTable(Table, frozen=True):
    queue_size: _Count = 0
    timeout: _Wait = 0.0
    timeout_action: Literal["reject", "delay"] = "reject"


class QueuePolicyTable(WaitPolicyTable, frozen=True):
    priority_levels: _Count = 0
    default_priority_level: _Count = 0
    preserve_ordering: bool = False
    by_priority: dict[str, WaitPolicyTable] = {}


class ControlTable(Table, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    kind: ControlKind
    datatype: str = "INT32"
    values: tuple[float, float] = (0, 1)


class StateTable(Table, frozen=True):
    input: Annotated[str, Meta(min_length=1)]
    output: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[_Size]
    initial: str = "zero"
    initial_shape: list[_Count] | None = None


class SequencesTable(Table, frozen=True):
    strategy: Literal["oldest", "direct"] = "oldest"
    max: _Positive | None = None
    per_worker: _Count = 0
    queue_size: _Positive = 1000
    max_idle: _Wait = 0.0
    timeout: _Wait = 0.0
    minimum_slot_utilization: Annotated[float, Meta(ge=0, le=1)] = 0.0
    preferred_batch_size: list[_Positive] = []
    controls: list[ControlTable] = []
    states: list[StateTable] = []


class WarmupInputTable(Table, frozen=True):
    name: Annotated[str, Meta(min_length=1)]
    datatype: str
    shape: list[_Count]
    data: str = "zero"


class WarmupTable(Table, frozen=True):
    name: str = ""
    count: _Positive = 1
    rows: _Positive = 1
    body: str = ""
    content_type: str = ""
    inputs: list[WarmupInputTable] = []
    data: Literal["zero", "random"] = "zero"


class EnsembleStepTable(Table, frozen=True):
    model: str = ""
    version: Annotated[int, Meta(ge=-1, le=LARGEST)] = -1
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class EnsembleTable(Table, frozen=True):
    steps: Annotated[list[EnsembleStepTable], Meta(max_length=_MAX_STEPS)] = []
    max_inflight_requests: _Count = 0


class VersionPolicyTable(Table, frozen=True):
    latest: Annotated[int, Meta(ge=1, lt=1 << 32)] | None = None
    all: bool = False
    specific: list[Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]] = []


class Declaration(Table, frozen=True, kw_only=True):
    """A model's configuration. ``entry`` is the file (``model.py:function``) or the builtin. Times are in seconds.

    ``id`` is AMD's name for the file. ``labels`` are names of classes, or the file that has them. ``explain`` is checked
    where the model is loaded (explain/settings.py). Without ``max_batch_size`` a model is batched where its own file
    shows a batch dimension and trials show that its rows are independent (platforms.DEFAULT_BATCH).
    """

    name: str = ""
    platform: str = ""
    backend: str = ""
    entry: str = ""
    id: str = ""
    version_policy: VersionPolicyTable | None = None
    max_batch_size: _Positive | None = None
    inputs: list[InputTable] = []
    outputs: list[OutputTable] = []
    decoupled: bool = False
    batching: BatchingTable = BatchingTable()
    workers: WorkersTable = WorkersTable()
    scaling: ScalingTable = ScalingTable()
    sequences: SequencesTable | None = None
    parameters: dict[str, Parameter] = {}
    labels: Labels = []
    explain: dict[str, Any] = {}
    models: list["Declaration"] = []
    ensemble: EnsembleTable | None = None
    queue_size: _Positive | None = None
    queue_policy: QueuePolicyTable | None = None
    concurrency: _Positive | None = None
    job_ticket: bool | None = None
    response_timeout: _Seconds | None = None
    startup_timeout: _Seconds | None = None
    client_timeout: _Wait | None = None
    retry: bool | None = None
    response_cache: bool | None = None
    client_errors: tuple[_Name, ...] | None = None
    threads: _Count | None = None
    warmup: list[WarmupTable] = []
    preload: bool | None = None
    optimize: bool | None = None
    channels_last: bool | None = None
    placement: PlacementTable = PlacementTable()


class TritonDeclaration(Declaration, frozen=True, kw_only=True):
    """A configuration for Triton, whose rules hold for what it leaves open; ``configuration`` is the original."""

    configuration: TritonConfig = {}

    @property
    def batch_dimension(self) -> bool | None:
        """Whether shapes have a batch dimension; None where the configuration does not tell."""
        known = "max_batch_size" in self.configuration or "input" in self.configuration
        return self.configuration.get("max_batch_size", 0) > 0 if known else None


# Keys that tell a text proto of our own form, or AMD's, from Triton's.
OWN_KEYS = frozenset(Declaration.__struct_fields__) - {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "parameters",
    "version_policy",
}

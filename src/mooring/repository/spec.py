"""Everything the server knows of one version of a model before it is loaded."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from mooring.core.options import (
    Batching,
    HandlerOptions,
    ModelLimits,
    ModelOptions,
    OptionGroup,
    Parallel,
    RuntimeOptions,
    Scaling,
    SequenceOptions,
    Timeouts,
    declare,
    override,
)
from mooring.core.service import CodeOptions
from mooring.core.tensors import Parameter, TensorSpec
from mooring.core.versions import VersionPolicy

if TYPE_CHECKING:
    from mooring.config.settings import (
        ModelSettings,
    )  # which every worker would import, for the server's Defaults alone


class Node(msgspec.Struct, frozen=True):
    """A node of a workflow: the model that it asks, and the nodes whose answers it takes.

    ``timeout`` is in seconds, 0 is none. A model that gives no answer is asked again ``retries`` times.
    """

    name: str
    model: str
    parents: list[str] = []
    timeout: float = 0.0
    retries: int = 0


class EnsembleStep(msgspec.Struct, frozen=True):
    """A step of an ensemble: a model, and the ensemble's tensor for each of its inputs and outputs, by their names.

    ``version`` is empty for the default one.
    """

    model: str
    version: str = ""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}


class Ensemble(msgspec.Struct, frozen=True):
    """The steps of an ensemble. Of the pieces of a streamed answer ``max_inflight`` are in the steps after it at a time."""

    steps: list[EnsembleStep]
    max_inflight: int = 0


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
    """Everything the server knows of one version of a model before it is loaded.

    ``options`` are those in force, by ``resolve_options``: the server's settings under the model's own configuration. An
    option is read by its group, as in ``spec.batching.max_batch_size``; code that runs for every request reads
    ``spec.options``, since a property costs a call. ``location`` is the extracted directory (or the single file) that the
    backend reads. ``entry`` names the model in it: for handlers the manifest's handler (``handler.py``, ``handler:fn``,
    ``image_classifier``), for functions ``file.py:name``, for builtins the builtin's name. ``url`` is what the user named,
    shown by describe.
    """

    name: str
    version: str
    backend: str
    location: str
    options: ModelOptions
    entry: str = ""
    url: str = ""
    # Of a repository, where the highest version that is ready answers who names none. None of all others: there the
    # first one does that was registered.
    version_policy: VersionPolicy | None = None
    handler_override: str = ""  # named by an operator in place of the archive's own
    platform: str = ""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    labels: dict[str, Any] = {}
    # The labels of single outputs, which go before those of the model.
    output_labels: dict[str, dict[str, Any]] = {}
    # A request may have any number of responses, and none.
    decoupled: bool = False
    parameters: dict[str, Parameter] = {}
    explain: dict[str, Any] = {}  # how a tensor model is explained (explain/settings.py)
    # Of a chain: the models that run in order. It has no worker of its own, its backend is "chain".
    stages: list[str] = []
    # Of a workflow, whose models are the stages: its graph. Every node stands after those whose answers it takes.
    nodes: list[Node] = []
    # Of an ensemble, whose models are the stages; it has no worker of its own, its backend is "ensemble".
    ensemble: Ensemble | None = None
    # What a worker asks its model before it is ready.
    warmup: list[Warmup] = []
    # The workflow that this model belongs to, and is registered and unregistered with.
    workflow: str = ""
    # A function of a workflow: its files are the workflow's, and TorchServe lists it nowhere.
    function: bool = False
    # The chain that has this stage's name, and that it is loaded and unloaded with: clients do not see the stage.
    chain: str = ""
    # Models that take this one's outputs further, in order (AMD's load parameter "next").
    following: list[str] = []
    # A configuration for Triton as it was written, which clients are shown again.
    triton: dict[str, Any] = {}
    parallel: Parallel | None = None  # of an archive whose workers are groups of processes
    packages: str = ""  # a folder that the model's code imports from before all others: its own requirements
    # The dotted name by which a function's file is imported from ``location``; empty where it is imported by itself.
    module: str = ""
    # The GPUs that its workers have to themselves, as a cluster has reserved them; empty where nobody has reserved any.
    gpus: list[int] = []
    venv: str = ""  # the virtual environment that those packages are in, where they are in one
    manifest: dict[str, Any] = {}
    config: dict[str, Any] = {}  # model-config.yaml, as the handler sees it

    @property
    def batching(self) -> Batching:
        """How requests join into batches."""
        return self.options.batching

    @property
    def scaling(self) -> Scaling:
        """How many workers there are."""
        return self.options.scaling

    @property
    def timeouts(self) -> Timeouts:
        """How long the server and a caller wait."""
        return self.options.timeouts

    @property
    def sequence(self) -> SequenceOptions:
        """Whether the model keeps state, and how."""
        return self.options.sequence

    @property
    def limits(self) -> ModelLimits:
        """How much may wait, and how large an answer may be."""
        return self.options.limits

    @property
    def handler(self) -> HandlerOptions:
        """What the model's code gets of a request."""
        return self.options.handler

    @property
    def runtime(self) -> RuntimeOptions:
        """How the library runs the model."""
        return self.options.runtime

    @property
    def ranks(self) -> int:
        """The number of processes of one worker's group; 0 where a worker is a process of its own."""
        return self.parallel.level if self.parallel is not None and self.parallel.grouped else 0

    def count_processes(self, workers: int) -> int:
        """The number of processes of so many workers, with those of their groups."""
        return self.parallel.count_processes(workers) if self.parallel is not None else workers

    def with_options(self, *layers: OptionGroup) -> "ModelSpec":
        """The same version with what the layers declare in place of its own options."""
        return structs.replace(self, options=override(self.options, *layers))

    def with_code(self, code: CodeOptions | None) -> "ModelSpec":
        """The same version with the batches that its code asks for, unless its configuration names a size."""
        if code is None or code.max_batch_size == 1 or not self.batching.size_by_default:
            return self
        size, delay = code.max_batch_size, code.max_delay
        return self.with_options(
            declare(Batching, max_batch_size=size, max_delay=delay, exact_delay=True)
            if delay
            else declare(Batching, max_batch_size=size)
        )

    def reads_headers(self, code: CodeOptions | None) -> bool:
        """Whether an answer of the version may depend on a request's headers; ``code`` is what its code asks for."""
        return (
            self.backend == "handler"
            or bool(self.handler.forward_headers)
            or (code is not None and code.headers)
        )

    def labels_of(self, output: str) -> Mapping[str, Any]:
        """The name of each class of an output, by its index."""
        found: Mapping[str, Any] = self.output_labels.get(output, self.labels)
        return found


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """The server's settings for models: what holds where a model itself declares nothing.

    ``sharing_workers`` is the number of workers of a model that is loaded once for all of them, 0 where it is that of
    every other. ``handler`` is that of an archive which names none (TorchServe's default_service_handler).
    ``settings`` is by name and version; it wins over the rest and yields to the model's own config, as in TorchServe.
    """

    options: ModelOptions = ModelOptions()
    sharing_workers: int = 0
    handler: str = ""
    install_requirements: bool = False  # TorchServe's install_py_dep_per_model
    settings: Mapping[str, Mapping[str, "ModelSettings"]] = {}

    def options_for(self, *, sharing: bool) -> ModelOptions:
        """The options of a model that declares none; ``sharing`` where its workers share one copy of it."""
        if not (sharing and self.sharing_workers):
            return self.options
        workers = self.sharing_workers
        return override(self.options, declare(Scaling, min_workers=workers, max_workers=workers))

"""The registry of models: name -> versions, the state of each version, and which version is the default."""

import asyncio
import enum
import itertools
import time
from collections.abc import Callable, Iterator

import msgspec

from mooring.core.errors import (
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    PackageMissing,
    VersionNotFound,
)
from mooring.core.options import Scaling, declare
from mooring.core.service import ModelMetadata, Ticket
from mooring.engine.admission import RequestScheduler
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.engine.graphs.run import Graph, graph_of
from mooring.engine.lifecycle import Lifecycle, State
from mooring.observability.logs import MODEL_LOG, get_logger, truncate_text
from mooring.repository.spec import ModelSpec
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)
model_log = get_logger(MODEL_LOG)  # TorchServe has what handlers raise at a load in its model_log.log

# A model whose workers die this often in a row, without an answer in between, is in a crash loop.
_CRASH_LOOP = 3
# Characters of a reason that is logged again; the log has it in full already.
_MAX_REASON = 200


class DefaultRule(enum.Enum):
    """The rule by which a version answers requests that name none; describe shows it."""

    CHOSEN = "chosen by an operator"
    HIGHEST = "the highest that is ready"
    FIRST = "the first that was registered"


_version_numbers = itertools.count(1)


class ModelVersion:
    """One version of a model: its state, its scheduler, its pool of workers, and its last error.

    How this works: ``start_loading`` gives it a scheduler and a pool. The pool reports each load, failed load and death
    of a worker to ``on_worker_event``, which makes the move of the ``Lifecycle`` (lifecycle.py). Every move opens or
    closes the queue, and tells the ``Model``, whose default version may change with it. A version is *settled* once its
    first worker has loaded the model or has failed to. It is *suspended* while an operator has set its workers to 0.

    A chain, a workflow or an ensemble has neither scheduler nor pool: its models have theirs. ``number`` is unique among all
    versions that this process ever had; frontend processes name a version by it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.number = next(_version_numbers)
        self.metadata = ModelMetadata(spec.name, [spec.version], spec.platform, spec.inputs, spec.outputs)
        self.error: MooringError | None = None
        self.scheduler: RequestScheduler | None = None
        self.pool: WorkerPool | None = None
        self.loaded_at_startup = False
        # Whether the start ends where it cannot be loaded, and says why: the log does not then.
        self.ends_start = False
        self.ever_loaded = False  # by any of its workers
        self.load_seconds = 0.0  # from the start of the load until it was ready, the last time
        # The graph of a chain, of a workflow or of a model with followers, or the plan of an ensemble; and the requests on
        # their way through it.
        self.graph: Graph | EnsemblePlan | None = (
            graph_of(spec) if spec.ensemble is None else EnsemblePlan(spec)
        )
        self.runs: set[Ticket] = set()
        # Counts the calls that set the number of workers: a newer call makes an older one that still waits give up.
        self.resize_epoch = 0
        self.resizes = 0  # such calls that are under way
        self._read_scaling = spec.scaling  # as it was read, whatever an operator has set since
        self._on_move: Callable[[], None] = _do_nothing
        self._observe_load: Callable[[float], None] = lambda _seconds: None
        self._lifecycle = Lifecycle(self._on_state_change)
        self._settled = asyncio.Event()
        self._logged: MooringError | None = None  # the error whose reason the log has
        self._began = time.monotonic()

    @property
    def state(self) -> State:
        """The state now."""
        return self._lifecycle.state

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        return self._lifecycle.state is State.READY

    @property
    def suspended(self) -> bool:
        """Whether it has no workers because an operator has set their number to 0."""
        return self.pool is not None and not self.pool.wanted and not self.ready

    @property
    def scaled_to_zero(self) -> bool:
        """Whether it has no workers because it was idle: the next request starts them, and waits for one."""
        return self.pool is not None and not self.pool.wanted and self.ready

    @property
    def kind(self) -> str:
        """What its clients send and what it is made of, as in ``ModelState``."""
        spec = self.spec
        if spec.ensemble is not None:
            return "ensemble"
        if spec.nodes:
            return "workflow"
        if spec.stages:
            return "chain"
        if spec.backend == "handler":
            return "handler"
        return "tensors" if self.metadata.values is None else "values"

    @property
    def loading_since(self) -> float:
        """When the load began that is going on, on the monotonic clock; 0.0 where none is, or no worker is wanted."""
        return self._began if self.state is State.LOADING and not self.suspended else 0.0

    @property
    def healthy(self) -> bool:
        """Whether it has the workers it should have, or is about to get them back.

        While a worker is being restarted it counts, until the model's retry time-out has passed (TorchServe's rule);
        while the first ones are loading it does not, so that nobody is sent here too early.
        """
        if self.spec.stages:  # which answer for themselves
            return self.state is not State.FAILED
        pool = self.pool
        if pool is None:
            return False
        if pool.ready >= min(self.spec.scaling.min_workers, pool.wanted):
            return True
        if not self._settled.is_set() or (self.state is State.FAILED and pool.ready == 0):
            return False
        since = pool.failures.since
        return since is None or time.monotonic() - since < self.spec.timeouts.retry_timeout

    @property
    def is_settled(self) -> bool:
        """Whether the first worker has loaded the model or has failed to, or the version was suspended."""
        return self._settled.is_set()

    async def wait_until_settled(self) -> None:
        """Return when the first worker has loaded the model or has failed to."""
        await self._settled.wait()

    def set_on_move(self, on_move: Callable[[], None] | None) -> None:
        """Set what is called after every change of the state; None for nothing. The model's default may depend on it."""
        self._on_move = on_move or _do_nothing

    def start_loading(
        self,
        scheduler: RequestScheduler | None,
        pool: WorkerPool | None,
        observe_load: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """Begin to load the version. A chain, a workflow or an ensemble has no scheduler and no pool.

        ``observe_load`` is called with the seconds of each load, when the version is ready.
        """
        self.scheduler, self.pool, self._observe_load = scheduler, pool, observe_load
        if self.state is not State.LOADING:  # as while its configuration is completed
            self._lifecycle.move_to(State.LOADING)

    def on_worker_event(self, event: ModelMetadata | MooringError) -> None:
        """Note that a worker has loaded the model (its metadata), or has failed to or died (the error)."""
        if self.state in (State.UNLOADING, State.UNLOADED):
            return
        if isinstance(event, ModelMetadata):
            self.metadata = event
            self.spec = self.spec.with_code(event.code)
            self.ever_loaded = True
            if self.state is State.FAILED and self.pool is not None:
                # Only the try that succeeded: what failed may have been mended an hour later.
                self._began = time.monotonic() - self.pool.start_seconds
            self._lifecycle.move_to(State.READY)
        else:
            self._on_failure(event)
        self._settled.set()

    def fail(self, error: MooringError, *, logged: bool = False) -> None:
        """Note why an ensemble cannot answer, or a version has no configuration; ``logged``: the log has the reason."""
        if self.state not in (State.UNLOADING, State.UNLOADED):
            self.error = error
            if logged:
                self._logged = error
            self._lifecycle.move_to(State.FAILED)
            self._settled.set()

    def wait_again(self) -> None:
        """Note that an ensemble waits for a model that is being loaded."""
        if self.state in (State.READY, State.FAILED):
            self._lifecycle.move_to(State.LOADING)

    def set_spec(self, spec: ModelSpec) -> None:
        """Replace what is known of the version before it is loaded."""
        self.spec = spec
        self.metadata = ModelMetadata(spec.name, [spec.version], spec.platform, spec.inputs, spec.outputs)

    def set_decoupled(self, decoupled: bool) -> None:
        """Set whether an ensemble may have any number of responses to a request, which its models decide."""
        self.spec = msgspec.structs.replace(self.spec, decoupled=decoupled)

    def set_worker_range(self, least: int, most: int) -> None:
        """Set the least and the greatest number of workers in the spec; the pool itself is not changed."""
        self.resize_epoch += 1
        self.spec = self.spec.with_options(
            declare(Scaling, min_workers=least, max_workers=most, workers_by_default=False)
        )

    def workers_beside(self, spec: ModelSpec) -> tuple[int, int] | None:
        """Return the range that an operator has set, for the version that is made of ``spec`` and replaces this one.

        None where nobody has, where there is no worker, or where the model's own configuration has other numbers now.
        """
        now, read = self.spec.scaling, self._read_scaling
        if not self.resize_epoch or not now.first_workers or spec.scaling != read:
            return None
        return now.min_workers, now.max_workers

    def resume(self) -> None:
        """Accept requests again: workers are about to start, and requests wait for them."""
        assert self.scheduler is not None
        if self.state is State.FAILED:
            self._lifecycle.move_to(State.LOADING)
        elif self.suspended:
            self._began = time.monotonic()
        self.scheduler.accept_new()

    def suspend(self) -> None:
        """Refuse requests: there are no workers until an operator sets a number."""
        assert self.scheduler is not None
        self._lifecycle.move_to(State.LOADING)
        self.scheduler.refuse_all(self.no_worker_error())
        self._settled.set()

    def no_worker_error(self) -> ModelNotReady:
        """The error for requests to a version without workers."""
        spec = self.spec
        return ModelNotReady(
            f"model '{spec.name}' version '{spec.version}' has no worker",
            model=spec.name,
            version=spec.version,
        )

    def check_not_unloaded(self) -> None:
        """Raise ``ModelNotFound`` where the version has been unloaded, or is being unloaded."""
        if self.state in (State.UNLOADING, State.UNLOADED):
            name = self.spec.name
            raise ModelNotFound(f"model '{name}' was unloaded meanwhile", model=name)

    def start_unloading(self) -> None:
        """Refuse new requests; those that wait are still served."""
        self.resize_epoch += 1
        self._lifecycle.move_to(State.UNLOADING)

    def finish_unloading(self) -> None:
        """Note that the workers are gone."""
        self._lifecycle.move_to(State.UNLOADED)

    def not_ready_error(self) -> ModelNotReady:
        """The error for requests to a version that is not READY, with the reason of its state."""
        reason = f": {self.error.message}" if self.error is not None else ""
        return ModelNotReady(
            f"model '{self.spec.name}' version '{self.spec.version}' is {self.state.name}{reason}",
            model=self.spec.name,
            version=self.spec.version,
        )

    def _on_failure(self, error: MooringError) -> None:
        previous, self.error = self.error, error
        pool = self.pool
        assert pool is not None
        if self.fails_start:
            pool.start(0)  # no second try
            if isinstance(error, PackageMissing):
                log.debug("package missing", model=self.spec.name, detail=error.detail)
        else:
            self._log_failure(error, previous, pool.failures.in_a_row)
        if pool.ready:
            return
        if isinstance(error, ModelLoadFailed) or pool.failures.in_a_row >= _CRASH_LOOP:
            self._lifecycle.move_to(State.FAILED)
        elif self.state is not State.FAILED:
            self._lifecycle.move_to(State.LOADING)

    @property
    def fails_start(self) -> bool:
        """Whether a failure now ends the start, which says why."""
        return self.ends_start and not self.ever_loaded

    def _log_failure(self, error: MooringError, previous: MooringError | None, in_a_row: int) -> None:
        self._logged = error
        # A model that cannot load says the same each time it is tried: whole the first time, then only that it does.
        known = (
            isinstance(error, ModelLoadFailed) and previous is not None and previous.message == error.message
        )
        model_log.error(
            "worker failed again" if known else "worker failed",
            model=self.spec.name,
            version=self.spec.version,
            reason=truncate_text(error.reason, _MAX_REASON) if known else error.reason,
            failures_in_a_row=in_a_row,
            detail="" if known or isinstance(error, PackageMissing) else error.detail,
        )
        if isinstance(error, PackageMissing) and not known:
            log.debug("package missing", model=self.spec.name, detail=error.detail)

    def _on_state_change(self, state: State) -> None:
        name, version = self.spec.name, self.spec.version
        if state is State.READY:
            self.error = None
            self.load_seconds = round(time.monotonic() - self._began, 3)
            self._observe_load(self.load_seconds)
            log.info("model ready", model=name, version=version, seconds=self.load_seconds)
        elif state is State.LOADING:
            self._began = time.monotonic()
        elif state is State.FAILED and not self.fails_start:
            facts = {"model": name, "version": version}
            if self.error is not None and self.error is not self._logged:
                facts["reason"] = self.error.reason
            log.error("model failed", detail="", exc_info=None, **facts)
        if self.scheduler is not None:
            self._set_admission(self.scheduler, state)
        self._on_move()

    def _set_admission(self, scheduler: RequestScheduler, state: State) -> None:
        """Accept requests, refuse new ones, or refuse those that wait, too, as the state demands."""
        if state in (State.READY, State.LOADING):
            scheduler.accept_new()
        elif state is State.UNLOADING:
            scheduler.refuse_new(self.not_ready_error())
        else:
            scheduler.refuse_all(self.not_ready_error())


def _do_nothing() -> None:
    """Do nothing when a version changes its state."""


class Model:
    """All versions under one name. ``default`` is the version that answers requests that name none.

    The choice of an operator wins. Without one, the default is the highest ready version where all versions are of a
    model repository (Triton's rule), and else the first that was registered (TorchServe's rule).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, ModelVersion] = {}
        self.default = ""
        self.chosen = ""

    @property
    def default_rule(self) -> DefaultRule:
        """The rule by which ``default`` is the default now."""
        if self.chosen:
            return DefaultRule.CHOSEN
        numbered = all(each.spec.version_policy is not None for each in self.versions.values())
        return DefaultRule.HIGHEST if numbered else DefaultRule.FIRST

    def choose_default(self, version: str) -> None:
        """Make this version the default for as long as it is loaded."""
        self.chosen = version
        self.update_default()

    def update_default(self) -> None:
        """Compute the default again: a version was added or removed, or has changed its state."""
        if self.chosen not in self.versions:
            self.chosen = ""
        rule = self.default_rule
        if rule is DefaultRule.CHOSEN:
            self.default = self.chosen
        elif rule is DefaultRule.HIGHEST and self.versions:
            self.default = max(self.versions.values(), key=_default_preference).spec.version
        elif self.default not in self.versions:
            self.default = next(iter(self.versions), "")

    def find_version(self, version: str) -> ModelVersion:
        """The version of that number, or the default one for "". Raises ``VersionNotFound``."""
        match = self.versions.get(version or self.default)
        if match is None:
            raise VersionNotFound(
                f"model '{self.name}' has no version '{version}'", model=self.name, version=version
            )
        return match


def _default_preference(version: ModelVersion) -> tuple[bool, bool, int]:
    """The sort key of a default version: ready ones are best, then loading ones, then the highest number."""
    return version.ready, version.state is State.LOADING, int(version.spec.version)


class Unavailable(msgspec.Struct, frozen=True):
    """Why a model, or one version of it, is missing. ``expected`` says that it was configured at the start."""

    url: str
    reason: str
    expected: bool = False


class Registry:
    """The models of this server, and the reasons why others could not be loaded.

    How this works: ``models`` maps a name to its ``Model``, which holds the versions. ``unavailable`` maps (name,
    version) to the reason of a failed load; version "" stands for a model as a whole. An entry stays there until that
    model or version is loaded, or is not to be loaded any more. So the index can list it, and errors can name the reason.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.unavailable: dict[tuple[str, str], Unavailable] = {}

    @property
    def lacks_expected(self) -> bool:
        """Whether anything that was configured at the start could not be loaded, and still is missing."""
        return any(each.expected for each in self.unavailable.values())

    def note_missing(self, name: str, version: str, why: Unavailable) -> None:
        """Remember why a model or version could not be loaded. An entry that was ``expected`` stays so.

        An entry of a model as a whole replaces those of its versions.
        """
        replaced = [key for key in self.unavailable if key[0] == name and (not version or key[1] == version)]
        if any(self.unavailable.pop(key).expected for key in replaced):
            why = msgspec.structs.replace(why, expected=True)
        self.unavailable[name, version] = why

    def is_missing(self, name: str) -> bool:
        """Whether the reason is known why a model of that name is missing as a whole."""
        return (name, "") in self.unavailable

    def forget_missing(self, name: str, url: str, version: str = "") -> None:
        """Forget why a model is missing, by its name or its URL, or only that version of it.

        Call it when the model is loaded, or is not to be loaded any more.
        """
        self.unavailable = {
            key: why
            for key, why in self.unavailable.items()
            if not ((key[0] == name or why.url == url) and (not version or key[1] in ("", version)))
        }

    def find_version(self, name: str, version: str = "") -> ModelVersion:
        """The version of that number, or the default one. Raises ``ModelNotFound`` or ``VersionNotFound``."""
        return self.find_model(name).find_version(version)

    def find_model(self, name: str) -> Model:
        """The model of that name. Raises ``ModelNotFound``."""
        model = self.models.get(name)
        if model is None:
            raise self.not_loaded_error(name)
        return model

    def not_loaded_error(self, name: str) -> ModelNotFound:
        """The error for a name that no model has, with the reason where one is known."""
        unavailable = self.unavailable.get((name, ""))
        reason = f": {unavailable.reason}" if unavailable else ""
        return ModelNotFound(f"model '{name}' is not loaded{reason}", model=name)

    def add_version(self, version: ModelVersion) -> None:
        """Add a version, and its model with the first one. Raises ``ModelExists`` for a name and version that exist."""
        spec = version.spec
        model = self.models.setdefault(spec.name, Model(spec.name))
        if spec.version in model.versions:
            raise ModelExists(
                f"model '{spec.name}' has a version '{spec.version}' already",
                model=spec.name,
                version=spec.version,
            )
        self._put_version(model, version)

    def replace_version(self, old: ModelVersion, new: ModelVersion) -> None:
        """Replace a version by another of the same name and number; from now on the new one answers."""
        old.set_on_move(None)
        self._put_version(self.models[new.spec.name], new)

    def remove_version(self, version: ModelVersion) -> None:
        """Remove a version, and the model with its last one. The model has another default when this returns."""
        spec = version.spec
        model = self.models[spec.name]
        version.set_on_move(None)
        del model.versions[spec.version]
        model.update_default()
        if not model.versions:
            del self.models[spec.name]

    @staticmethod
    def _put_version(model: Model, version: ModelVersion) -> None:
        model.versions[version.spec.version] = version
        version.set_on_move(model.update_default)
        model.update_default()

    def __iter__(self) -> Iterator[ModelVersion]:
        for name in sorted(self.models):
            yield from self.models[name].versions.values()

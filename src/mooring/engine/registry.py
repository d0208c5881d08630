"""Which models there are: name -> versions -> loaded model, and which version answers when none is named."""

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
    VersionNotFound,
)
from mooring.core.options import Scaling, declare
from mooring.core.service import ModelMetadata
from mooring.engine.admission import RequestScheduler
from mooring.engine.graphs.run import GraphRun, graph_of
from mooring.engine.lifecycle import Lifecycle, State
from mooring.observability.logs import get_logger, shortened
from mooring.repository.spec import ModelSpec
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

# A worker that dies this often in a row, without an answer in between, is in a crash loop.
_CRASH_LOOP = 3
# Characters of a reason that the log has in full already.
_REASON = 200


class DefaultRule(enum.Enum):
    """The rule by which a version answers requests that name none; describe shows it."""

    CHOSEN = "chosen by an operator"
    HIGHEST = "the highest that is ready"
    FIRST = "the first that was registered"


_numbers = itertools.count(1)


class ModelVersion:
    """One version: its state, its queue and workers, and what went wrong last.

    A chain or a workflow has neither queue nor workers: its models have theirs. ``number`` is its own among all versions
    this process ever had; frontend processes name it by that.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.number = next(_numbers)
        self.metadata = ModelMetadata(spec.name, [spec.version], spec.platform, spec.inputs, spec.outputs)
        self.error: MooringError | None = None
        self.scheduler: RequestScheduler | None = None
        self.pool: WorkerPool | None = None
        self.loaded_at_startup = False
        self.ever_loaded = False  # by any of its workers
        # Of a chain or a workflow, and of a model that others follow; with the requests on their way through it.
        self.graph = graph_of(spec)
        self.runs: set[GraphRun] = set()
        # Counts the calls that set the number of workers: an older one gives way to a newer one.
        self.resize_epoch = 0
        self._on_move: Callable[[], None] = _ignore
        self._lifecycle = Lifecycle(self._on_state_change)
        self._settled = asyncio.Event()
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
        """Whether it has no workers because nobody wants any."""
        return self.pool is not None and not self.pool.wanted and not self.ready

    @property
    def scaled_to_zero(self) -> bool:
        """Whether it has no workers because nobody asks it: the next request starts them, and waits for one."""
        return self.pool is not None and not self.pool.wanted and self.ready

    @property
    def healthy(self) -> bool:
        """Whether it has the workers it should have, or is about to get them back.

        While a worker is being restarted it counts, until the model's retry time-out has passed (TorchServe's rule);
        while the first ones are loading it does not, so that nobody is sent here too early.
        """
        if self.spec.stages:
            return True  # its stages answer for themselves
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
    def tried(self) -> bool:
        """Whether the first worker has loaded it, or has failed to, or none is wanted."""
        return self._settled.is_set()

    async def settled(self) -> None:
        """Return when the first worker has loaded the model, or the first has failed to."""
        await self._settled.wait()

    def follow(self, on_move: Callable[[], None] | None) -> None:
        """Call this after every change of the state, or nobody: which version answers by default may depend on it."""
        self._on_move = on_move or _ignore

    def begin(self, scheduler: RequestScheduler | None, pool: WorkerPool | None) -> None:
        """Start loading: its workers, if it has any of its own, are about to load it."""
        self.scheduler, self.pool = scheduler, pool
        self._lifecycle.move(State.LOADING)

    def report(self, news: ModelMetadata | MooringError) -> None:
        """A worker has loaded it, or has failed to, or has died."""
        if self.state in (State.UNLOADING, State.UNLOADED):
            return
        if isinstance(news, ModelMetadata):
            self.metadata = news
            self.ever_loaded = True
            self._lifecycle.move(State.READY)
        else:
            self._on_failure(news)
        self._settled.set()

    def set_worker_range(self, least: int, most: int) -> None:
        """Note that it has at least and at most so many workers from now on; its pool is not told."""
        self.resize_epoch += 1
        self.spec = self.spec.with_options(
            declare(Scaling, min_workers=least, max_workers=most, workers_by_default=False)
        )

    def resume(self) -> None:
        """Take requests again: workers are about to come, and requests wait for them."""
        assert self.scheduler is not None
        if self.state is State.FAILED:
            self._lifecycle.move(State.LOADING)
        self.scheduler.admit()

    def suspend(self) -> None:
        """Refuse requests: it has no workers until an operator gives it some."""
        assert self.scheduler is not None
        self._lifecycle.move(State.LOADING)
        self.scheduler.refuse_all(self.no_worker())
        self._settled.set()

    def no_worker(self) -> ModelNotReady:
        """Why it does not answer when it has no workers, as an error."""
        spec = self.spec
        return ModelNotReady(
            f"model '{spec.name}' version '{spec.version}' has no worker",
            model=spec.name,
            version=spec.version,
        )

    def check_kept(self) -> None:
        """Raises ``ModelNotFound`` where somebody has unloaded it, or is about to."""
        if self.state in (State.UNLOADING, State.UNLOADED):
            name = self.spec.name
            raise ModelNotFound(f"model '{name}' was unloaded meanwhile", model=name)

    def unload(self) -> None:
        """No more requests."""
        self.resize_epoch += 1
        self._lifecycle.move(State.UNLOADING)

    def unloaded(self) -> None:
        """Note that its workers are gone."""
        self._lifecycle.move(State.UNLOADED)

    def not_ready(self) -> ModelNotReady:
        """Why it does not answer, as an error."""
        reason = f": {self.error.message}" if self.error is not None else ""
        return ModelNotReady(
            f"model '{self.spec.name}' version '{self.spec.version}' is {self.state.name}{reason}",
            model=self.spec.name,
            version=self.spec.version,
        )

    def _on_failure(self, error: MooringError) -> None:
        before, self.error = self.error, error
        pool = self.pool
        assert pool is not None
        # A model that cannot load says the same each time it is tried: whole the first time, then only that it does.
        known = isinstance(error, ModelLoadFailed) and before is not None and before.message == error.message
        log.error(
            "worker failed again" if known else "worker failed",
            model=self.spec.name,
            version=self.spec.version,
            reason=shortened(error.message, _REASON) if known else error.message,
            failures_in_a_row=pool.failures.in_a_row,
            detail="" if known else error.detail,
        )
        if pool.ready:
            return
        if isinstance(error, ModelLoadFailed) or pool.failures.in_a_row >= _CRASH_LOOP:
            self._lifecycle.move(State.FAILED)
        elif self.state is not State.FAILED:
            self._lifecycle.move(State.LOADING)

    def _on_state_change(self, state: State) -> None:
        name, version = self.spec.name, self.spec.version
        if state is State.READY:
            self.error = None
            log.info(
                "model ready", model=name, version=version, seconds=round(time.monotonic() - self._began, 3)
            )
        elif state is State.LOADING:
            self._began = time.monotonic()
        elif state is State.FAILED:
            log.error(
                "model failed",
                model=name,
                version=version,
                reason=self.error.message if self.error is not None else "",
            )
        if self.scheduler is not None:
            self._open_or_close(self.scheduler, state)
        self._on_move()

    def _open_or_close(self, scheduler: RequestScheduler, state: State) -> None:
        """Have the queue take requests, refuse new ones, or refuse those that wait, too."""
        if state in (State.READY, State.LOADING):
            scheduler.admit()
        elif state is State.UNLOADING:
            scheduler.refuse_new(self.not_ready())
        else:
            scheduler.refuse_all(self.not_ready())


def _ignore() -> None:
    """Do nothing when a version changes its state."""


class Model:
    """All versions under one name, and the ``default`` that answers who names none.

    An operator's choice stays. Else it is the numerically highest version that is ready where all are of a repository,
    as in Triton, and the first one registered where they are not, as in TorchServe.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, ModelVersion] = {}
        self.default = ""
        self.chosen = ""

    @property
    def rule(self) -> DefaultRule:
        """Why the default is the default."""
        if self.chosen:
            return DefaultRule.CHOSEN
        numbered = all(each.spec.version_policy is not None for each in self.versions.values())
        return DefaultRule.HIGHEST if numbered else DefaultRule.FIRST

    def choose(self, version: str) -> None:
        """Have this one answer from now on, whichever come and go beside it."""
        self.chosen = version
        self.settle()

    def settle(self) -> None:
        """Find the default anew: a version has come, gone or changed its state."""
        if self.chosen not in self.versions:
            self.chosen = ""
        rule = self.rule
        if rule is DefaultRule.CHOSEN:
            self.default = self.chosen
        elif rule is DefaultRule.HIGHEST and self.versions:
            self.default = max(self.versions.values(), key=_preference).spec.version
        elif self.default not in self.versions:
            self.default = next(iter(self.versions), "")

    def version(self, version: str) -> ModelVersion:
        """The version asked for, or the default one. Raises ``VersionNotFound``."""
        found = self.versions.get(version or self.default)
        if found is None:
            raise VersionNotFound(
                f"model '{self.name}' has no version '{version}'", model=self.name, version=version
            )
        return found


def _preference(version: ModelVersion) -> tuple[bool, bool, int]:
    """Ready ones first, then those about to be, then the highest."""
    return version.ready, version.state is State.LOADING, int(version.spec.version)


class Unavailable(msgspec.Struct, frozen=True):
    """Why a model, or one version of it, is not there. ``asked_for`` is whether the start counted on it."""

    url: str
    reason: str
    asked_for: bool = False


class Registry:
    """The models of this server, and why others could not be loaded, by name and version.

    An unavailable model as a whole has no version.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.unavailable: dict[tuple[str, str], Unavailable] = {}

    @property
    def incomplete(self) -> bool:
        """Whether something that the start asked for could not be loaded, and still is not there."""
        return any(each.asked_for for each in self.unavailable.values())

    def miss(self, name: str, version: str, why: Unavailable) -> None:
        """Remember why something could not be loaded. What the start asked for once stays asked for.

        Where nothing of a model can be loaded, what was known of its versions is of no use any more.
        """
        replaced = [key for key in self.unavailable if key[0] == name and (not version or key[1] == version)]
        if any(self.unavailable.pop(key).asked_for for key in replaced):
            why = msgspec.structs.replace(why, asked_for=True)
        self.unavailable[name, version] = why

    def misses(self, name: str) -> bool:
        """Whether it is known why a model of that name is not there."""
        return (name, "") in self.unavailable

    def stop_missing(self, name: str, url: str, version: str = "") -> None:
        """Forget why a model is missing, by its name or its url, or only that version of it.

        It is loaded now, or it is not wanted any more.
        """
        self.unavailable = {
            key: why
            for key, why in self.unavailable.items()
            if not ((key[0] == name or why.url == url) and (not version or key[1] in ("", version)))
        }

    def find(self, name: str, version: str = "") -> ModelVersion:
        """Raises ``ModelNotFound`` or ``VersionNotFound``."""
        return self.model(name).version(version)

    def model(self, name: str) -> Model:
        """Raises ``ModelNotFound``."""
        model = self.models.get(name)
        if model is None:
            raise self.not_loaded(name)
        return model

    def not_loaded(self, name: str) -> ModelNotFound:
        """The error for a name that no model has, with the reason where one is known."""
        why = self.unavailable.get((name, ""))
        return ModelNotFound(f"model '{name}' is not loaded{f': {why.reason}' if why else ''}", model=name)

    def add(self, version: ModelVersion) -> None:
        """Raises ``ModelExists`` if there is one of that name and version."""
        spec = version.spec
        model = self.models.setdefault(spec.name, Model(spec.name))
        if spec.version in model.versions:
            raise ModelExists(
                f"model '{spec.name}' has a version '{spec.version}' already",
                model=spec.name,
                version=spec.version,
            )
        self._put(model, version)

    def exchange(self, old: ModelVersion, new: ModelVersion) -> None:
        """Have a version answer in place of another of the same name and version."""
        old.follow(None)
        self._put(self.models[new.spec.name], new)

    def remove(self, version: ModelVersion) -> None:
        """Forget a version, and the model with its last one; another one is the default before this returns."""
        spec = version.spec
        model = self.models[spec.name]
        version.follow(None)
        del model.versions[spec.version]
        model.settle()
        if not model.versions:
            del self.models[spec.name]

    @staticmethod
    def _put(model: Model, version: ModelVersion) -> None:
        model.versions[version.spec.version] = version
        version.follow(model.settle)
        model.settle()

    def __iter__(self) -> Iterator[ModelVersion]:
        for name in sorted(self.models):
            yield from self.models[name].versions.values()

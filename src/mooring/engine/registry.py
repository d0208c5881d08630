"""Which models there are: name -> versions -> loaded model, and which version answers when none is named."""

import asyncio
import time
from collections.abc import Iterator

import msgspec

from mooring.core.errors import (
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    MooringError,
    VersionNotFound,
)
from mooring.core.service import ModelMetadata
from mooring.engine.graphs import GraphRun, graph_of
from mooring.engine.lifecycle import Lifecycle, State
from mooring.engine.scheduler import Scheduler
from mooring.observability.logs import get_logger, shortened
from mooring.repository.spec import ModelSpec

log = get_logger(__name__)

# A worker that dies this often in a row, without an answer in between, is in a crash loop.
_CRASH_LOOP = 3
# Characters of a reason that the log has in full already.
_REASON = 200


class ModelVersion:
    """One version: its state, its queue, and what went wrong last."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.metadata = ModelMetadata(spec.name, [spec.version], spec.platform, spec.inputs, spec.outputs)
        self.error: MooringError | None = None
        self.scheduler: Scheduler | None = None
        self.loaded_at_startup = False
        # Of a chain or a workflow, and of a model that others follow; with the requests on their way through it.
        self.graph = graph_of(spec)
        self.runs: set[GraphRun] = set()
        # Whose turn it is to say how many workers there are: the later one's.
        self.turn = 0
        self._lifecycle = Lifecycle(self._changed)
        self._settled = asyncio.Event()
        self._began = time.monotonic()

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._lifecycle.state

    @property
    def ready(self) -> bool:
        """Whether it can answer now."""
        return self._lifecycle.state is State.READY

    @property
    def resting(self) -> bool:
        """Whether it has no workers because nobody wants any."""
        pool = self.scheduler.pool if self.scheduler is not None else None
        return pool is not None and not pool.wanted and not self.ready

    @property
    def healthy(self) -> bool:
        """Whether it has the workers it should have, or is about to get them back.

        While a worker is being restarted it counts, until the model's retry time-out has passed (TorchServe's rule);
        while the first ones are loading it does not, so that nobody is sent here too early.
        """
        if self.spec.stages:
            return True  # its stages answer for themselves
        pool = self.scheduler.pool if self.scheduler is not None else None
        if pool is None:
            return False
        if pool.ready >= min(self.spec.min_workers, pool.wanted):
            return True
        if not self._settled.is_set() or (self.state is State.FAILED and pool.ready == 0):
            return False
        since = pool.failing_since
        return since is None or time.monotonic() - since < self.spec.retry_timeout

    async def settled(self) -> None:
        """Return when the first worker has loaded the model, or the first has failed to."""
        await self._settled.wait()

    def begin(self, scheduler: Scheduler) -> None:
        """Workers are about to load it."""
        self.scheduler = scheduler
        self._lifecycle.move(State.LOADING)

    def report(self, news: ModelMetadata | MooringError) -> None:
        """A worker has loaded it, or has failed to, or has died."""
        if self.state in (State.UNLOADING, State.UNLOADED):
            return
        if isinstance(news, ModelMetadata):
            self.metadata = news
            self._lifecycle.move(State.READY)
        else:
            self._went_wrong(news)
        self._settled.set()

    def sized(self, least: int, most: int) -> None:
        """It is to have so many workers from now on."""
        self.turn += 1
        self.spec = msgspec.structs.replace(self.spec, min_workers=least, max_workers=most)

    def rouse(self) -> None:
        """Workers are about to come: who asks for it waits for them."""
        assert self.scheduler is not None
        if self.state is State.FAILED:
            self._lifecycle.move(State.LOADING)
        self.scheduler.admit()

    def rest(self) -> None:
        """It has no workers until somebody wants some: who asks for it is told so."""
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
        self.turn += 1
        self._lifecycle.move(State.UNLOADING)

    def unloaded(self) -> None:
        """Its workers are gone."""
        self._lifecycle.move(State.UNLOADED)

    def not_ready(self) -> ModelNotReady:
        """Why it does not answer, as an error."""
        reason = f": {self.error.message}" if self.error is not None else ""
        return ModelNotReady(
            f"model '{self.spec.name}' version '{self.spec.version}' is {self.state.name}{reason}",
            model=self.spec.name,
            version=self.spec.version,
        )

    def _went_wrong(self, error: MooringError) -> None:
        before, self.error = self.error, error
        assert self.scheduler is not None
        assert self.scheduler.pool is not None
        pool = self.scheduler.pool
        # A model that cannot load says the same each time it is tried: whole the first time, then only that it does.
        known = isinstance(error, ModelLoadFailed) and before is not None and before.message == error.message
        log.error(
            "worker failed again" if known else "worker failed",
            model=self.spec.name,
            version=self.spec.version,
            reason=shortened(error.message, _REASON) if known else error.message,
            failures_in_a_row=pool.failures,
            detail="" if known else error.detail,
        )
        if pool.ready:
            return
        if isinstance(error, ModelLoadFailed) or pool.failures >= _CRASH_LOOP:
            self._lifecycle.move(State.FAILED)
        elif self.state is not State.FAILED:
            self._lifecycle.move(State.LOADING)

    def _changed(self, state: State) -> None:
        name, version = self.spec.name, self.spec.version
        assert self.scheduler is not None
        if state is State.READY:
            self.error = None
            self.scheduler.admit()
            log.info(
                "model ready", model=name, version=version, seconds=round(time.monotonic() - self._began, 3)
            )
        elif state is State.LOADING:
            self._began = time.monotonic()
            self.scheduler.admit()
        elif state is State.UNLOADING:
            self.scheduler.refuse_new(self.not_ready())
        else:
            if state is State.FAILED:
                log.error(
                    "model failed",
                    model=name,
                    version=version,
                    reason=self.error.message if self.error is not None else "",
                )
            self.scheduler.refuse_all(self.not_ready())


class Model:
    """All versions under one name. The first one registered is the default until another is chosen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.versions: dict[str, ModelVersion] = {}
        self.default = ""

    def version(self, version: str) -> ModelVersion:
        """The version asked for, or the default one. Raises ``VersionNotFound``."""
        found = self.versions.get(version or self.default)
        if found is None:
            raise VersionNotFound(
                f"model '{self.name}' has no version '{version}'", model=self.name, version=version
            )
        return found


class Registry:
    """Every model of this server."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def find(self, name: str, version: str = "") -> ModelVersion:
        """Raises ``ModelNotFound`` or ``VersionNotFound``."""
        return self.model(name).version(version)

    def model(self, name: str) -> Model:
        """Raises ``ModelNotFound``."""
        model = self.models.get(name)
        if model is None:
            raise ModelNotFound(f"model '{name}' is not loaded", model=name)
        return model

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
        model.versions[spec.version] = version
        model.default = model.default or spec.version

    def remove(self, version: ModelVersion) -> None:
        """Forget a version, and the model with its last one."""
        spec = version.spec
        model = self.models[spec.name]
        del model.versions[spec.version]
        if not model.versions:
            del self.models[spec.name]
        elif model.default == spec.version:
            model.default = next(iter(model.versions))

    def __iter__(self) -> Iterator[ModelVersion]:
        for name in sorted(self.models):
            yield from self.models[name].versions.values()

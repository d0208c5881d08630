"""The engine: resolve, admit, split, answer. The ``InferenceService`` of this process."""

import asyncio
import functools
import os
import time
from collections.abc import Iterator, Sequence

from mooring.core.errors import (
    InvalidInput,
    ModelLoadFailed,
    MooringError,
    Unsupported,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.requests import InferenceRequest
from mooring.core.service import (
    Done,
    InferenceService,
    ModelMetadata,
    ModelState,
    Ticket,
)
from mooring.core.tensors import TensorSpec
from mooring.engine.admission import RequestScheduler, admit, refuse_request, wait_until
from mooring.engine.body_reader import BodyReader
from mooring.engine.codec_pool import MAX_CODECS, CodecPool
from mooring.engine.frontends import Frontends, SingleProcess
from mooring.engine.graphs.run import GraphRun
from mooring.engine.queue_policy import make_scheduler
from mooring.engine.registry import Model, ModelVersion, Registry
from mooring.engine.scale_to_zero import Budget, IdleModels, may_scale_to_zero
from mooring.engine.sequence_scheduler import SequenceScheduler
from mooring.hardware import cores
from mooring.ipc.arena import Arena
from mooring.observability.logs import get_logger
from mooring.observability.metrics import Metrics
from mooring.repository.preloads import preload
from mooring.repository.spec import ModelSpec
from mooring.workers.capacity import machine_capacity
from mooring.workers.handle import PoolOwner
from mooring.workers.heartbeat import DEADLINES, Clock, Deadlines
from mooring.workers.libraries import Libraries
from mooring.workers.local import LocalWorkers
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

# How often time-outs are looked at, in seconds: their precision, and nothing else, depends on it.
_CHECK_EVERY = 0.05


class Engine(InferenceService):
    """Every model of this process, and the way of every request to one of them.

    A version that is unloaded has ``drain_limit`` seconds for what it was asked. ``frontends`` are the further
    processes that take connections, and ``codecs`` how many may read and write large JSON beside the workers. There are ``most_workers``
    of all models together, or what the machine bears where that is 0; above the ``budget`` idle models of files have
    none. With 0 codecs there is still one for large JSON to
    chains and to models with sequences, started when any comes: it must be read before a worker is chosen. Workers are
    forked from processes of ``libraries``, by default such as see this process's own variables. With ``strict_readiness``
    it is not ready while anything is missing that the start asked for; without, once everything has been tried.
    """

    def __init__(
        self,
        arena: Arena,
        metrics: Metrics,
        *,
        drain_limit: float = 30.0,
        libraries: Libraries | None = None,
        first_worker: int = 9000,  # TorchServe's number, which describe shows
        frontends: Frontends | None = None,
        codecs: int = 0,
        most_workers: int = 0,
        cache_folder: str = "",
        strict_readiness: bool = True,
        budget: Budget | None = None,
        deadlines: Deadlines = DEADLINES,
    ) -> None:
        self.registry = Registry()
        # Beside the models: one may be called as a model is, and is then reached by its own route only.
        self.workflows = Registry()
        self.drain_limit = drain_limit
        # Whether all addresses are open, and whether the server is about to stop: before and then it is not ready,
        # whatever its models are.
        self.opened = True
        self.leaving = False
        self._capacity = machine_capacity(most_workers)
        self._strict_readiness = strict_readiness
        self._arena = arena
        self._metrics = metrics
        metrics.host.loads = self._loads
        metrics.served.states = self._states
        self._frontends = frontends or SingleProcess()
        self._idle_models = IdleModels(self.registry, budget or Budget(), self._frontends.retire)
        self._workers = LocalWorkers(
            arena,
            libraries or Libraries(os.environ),
            first_worker,
            self._frontends.processes,
            cache_folder,
            deadlines,
        )
        self._codecs = CodecPool(max(1, codecs), arena.slot, self._workers)
        self._shares_reading = codecs > 0
        self._read = BodyReader(self._codecs, arena.slot).read
        self._looks = Clock(deadlines.heartbeat)
        self._loop = asyncio.get_running_loop()
        self._wanted: set[str] = set()
        self._ticker = self._loop.call_later(_CHECK_EVERY, self._check)

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        model = self.registry.models.get(request.model) or self.workflows.models.get(request.model)
        if model is None:
            return refuse_request(request, done, self.registry.not_loaded(request.model))
        version = model.versions.get(request.version or model.default)
        if version is not None:
            if version.graph is not None:
                return self.run(version, request, done)
            scheduler = version.scheduler
            if scheduler is not None:
                return admit(scheduler, request, done)
        text = f"model '{request.model}' has no version '{request.version}'"
        return refuse_request(
            request, done, VersionNotFound(text, model=request.model, version=request.version)
        )

    def overload_error(self, model: str, version: str = "") -> MooringError | None:
        found = self.registry.models.get(model)
        one = found.versions.get(version or found.default) if found is not None else None
        # A chain has no queue: its models have theirs.
        if one is None or one.scheduler is None or one.graph is not None:
            return None
        return one.scheduler.overload_error()

    def run(self, version: ModelVersion, request: InferenceRequest, done: Done) -> Ticket:
        """Send a request on its way through a chain or a workflow; as ``submit``."""
        assert version.graph is not None
        return GraphRun(
            version.graph, request, done, self._submit_stage, self._inputs, version.runs, self._read
        )

    def _submit_stage(self, request: InferenceRequest, done: Done) -> Ticket:
        """As ``submit``, but a model that others follow does its own part only."""
        model = self.registry.models.get(request.model)
        version = model.versions.get(model.default) if model is not None else None
        if version is None or not version.spec.following:
            return self.submit(request, done)
        assert version.scheduler is not None
        return admit(version.scheduler, request, done)

    def ready(self, model: str = "", version: str = "") -> bool:
        if model:
            return self._ready(self._find(model, version))
        models = self.registry.models
        if not self.opened or self.leaving or not self._wanted <= models.keys():
            return False
        if not self._strict_readiness:
            return all(version.tried for name in self._wanted for version in models[name].versions.values())
        return not self.registry.incomplete and all(self._complete(models[name]) for name in self._wanted)

    def _complete(self, model: Model) -> bool:
        """Whether a model's default can answer, and every version of it that the start asked for has been loaded once."""
        default = model.version("")
        if not (default.suspended or self._ready(default)):
            return False
        return all(
            each.ever_loaded or each.suspended for each in model.versions.values() if each.loaded_at_startup
        )

    def _find(self, model: str, version: str) -> ModelVersion:
        is_workflow = model in self.workflows.models and model not in self.registry.models
        registry = self.workflows if is_workflow else self.registry  # which knows why a model is not there
        return registry.find(model, version)

    def _ready(self, version: ModelVersion) -> bool:
        models = self.registry.models
        return version.ready and all(
            stage in models and models[stage].version("").ready
            for stage in (*version.spec.stages, *version.spec.following)
        )

    def _inputs(self, model: str) -> Sequence[TensorSpec]:
        found = self.registry.models.get(model)
        return found.version("").metadata.inputs if found is not None else ()

    def healthy(self) -> bool:
        models = self.registry.models
        return (
            self.opened
            and not self.leaving
            and not (self._strict_readiness and self.registry.incomplete)
            and self._wanted <= models.keys()
            and all(model.version("").healthy for model in models.values())
        )

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        found = self._find(model, version)
        if not found.ready:
            raise found.not_ready()
        return found.metadata

    def models(self) -> Sequence[ModelState]:
        return [
            ModelState(
                name=version.spec.name,
                version=version.spec.version,
                state=version.state.name,
                ready=version.ready,
                is_default=self.registry.models[version.spec.name].default == version.spec.version,
                reason=self._reason(version),
                listed=not version.spec.function,
            )
            for version in self.registry
        ]

    def _reason(self, version: ModelVersion) -> str:
        """Why a version does not answer, or why it could not be loaded anew."""
        if version.error is not None:
            return version.error.message
        why = self.registry.unavailable.get((version.spec.name, version.spec.version))
        return f"it could not be loaded anew: {why.reason}" if why is not None else ""

    def missing(self) -> Sequence[ModelState]:
        """What could not be loaded and does not answer, sorted by name: models, and versions of models that are there."""
        ready = {(version.spec.name, version.spec.version) for version in self.registry if version.ready}
        return [
            ModelState(name, version, "UNAVAILABLE", ready=False, is_default=False, reason=why.reason)
            for (name, version), why in sorted(self.registry.unavailable.items())
            if (name, version) not in ready
        ]

    def _loads(self) -> Iterator[tuple[str, float]]:
        """How long every worker took to load its model, by the name that TorchServe would give it."""
        for version in self.registry:
            for worker in version.pool.workers if version.pool is not None else ():
                if worker.load_seconds is not None:
                    yield f"W-{worker.id}-{version.spec.name}_{version.spec.version}", worker.load_seconds

    def _states(self) -> Iterator[tuple[str, str, str]]:
        for version in self.registry:
            yield version.spec.name, version.spec.version, version.state.name

    def waiting(self) -> int:
        """How many requests wait for a worker, over all models."""
        return sum(map(self.waiting_for, self.registry))

    def waiting_for(self, version: ModelVersion) -> int:
        """How many requests wait for a worker of a version, in all processes."""
        own = version.scheduler.waiting if version.scheduler is not None else 0
        return own + self._frontends.waiting(version)

    def expect(self, spec: ModelSpec) -> None:
        """A model that ``deploy`` will be asked for: its libraries are imported meanwhile, and until it is loaded this
        server is not ready.
        """
        self._wanted.add(spec.name)
        self._workers.template(preload(spec))

    async def deploy(self, spec: ModelSpec, *, at_startup: bool = False) -> ModelVersion:
        """Register a version and start its workers; return when the first of them has loaded it or has failed to.

        Raises ``ModelExists``. A version that failed stays, FAILED, and its workers are tried again.
        """
        version = ModelVersion(spec)
        version.loaded_at_startup = at_startup
        self.registry.add(version)
        self._wanted.add(spec.name)
        return await self._start(version)

    async def deploy_workflow(self, spec: ModelSpec) -> None:
        """Register a workflow whose models are deployed. Raises ``ModelExists``."""
        version = ModelVersion(spec)
        self.workflows.add(version)
        await self._start(version)

    async def _start(self, version: ModelVersion) -> ModelVersion:
        spec = version.spec
        if spec.stages:
            self._metrics.model(spec.name, spec.version)
            version.begin(None, None)
            version.report(version.metadata)
            return version
        scheduler, pool = self._make_scheduler(version)
        version.begin(scheduler, pool)
        refusal = self._capacity.refusal_reason(spec.scaling.min_workers, self._workers_beside(version))
        if refusal:
            version.report(ModelLoadFailed(refusal, model=spec.name, version=spec.version))
            return version
        pool.start(self._idle_models.workers_at_first(spec))
        if spec.scaling.min_workers:
            await version.settled()
        else:
            version.suspend()
        self._frontends.publish()
        return version

    def _make_scheduler(self, version: ModelVersion) -> tuple[RequestScheduler, WorkerPool]:
        """The queue of a version and its workers, none of which is started yet."""
        spec, allocate = version.spec, self._arena.slot
        statistics = self._metrics.model(spec.name, spec.version)

        def make_pool(owner: PoolOwner) -> WorkerPool:
            return WorkerPool(
                spec,
                owner,
                self._workers,
                spec.runtime.threads or threads_for(spec.scaling.max_workers),
                sharing=self._frontends.sharing(version),
                record_metrics=functools.partial(self._metrics.record, spec.name),
            )

        if spec.sequence.enabled:
            stateful = SequenceScheduler(spec, statistics, allocate, version.report, make_pool, self._read)
            return stateful, stateful.pool
        codecs = self._codecs if self._shares_reading else None
        wake = functools.partial(self._idle_models.wake, version) if may_scale_to_zero(spec) else None
        scheduler = make_scheduler(
            spec, statistics, allocate, version.report, make_pool, codecs=codecs, wake=wake
        )
        return scheduler, scheduler.pool

    def check_room(self, workers: int, version: ModelVersion | None = None) -> None:
        """Raises ``InvalidInput`` where so many workers of a version, or of a new one, are more than there may be."""
        refusal = self._capacity.refusal_reason(workers, self._workers_beside(version))
        if refusal:
            raise InvalidInput(refusal)

    def _workers_beside(self, version: ModelVersion | None) -> int:
        """How many workers all other versions are to have."""
        pools = [
            each.pool
            for each in self.registry
            # Those that may be scaled to zero make room for others.
            if each is not version and not may_scale_to_zero(each.spec)
        ]
        return sum(pool.wanted for pool in pools if pool is not None)

    async def _end(self, version: ModelVersion) -> None:
        version.unload()
        scheduler = version.scheduler
        self._frontends.publish()
        await self._frontends.retire(version)
        await wait_until(
            lambda: (scheduler is None or scheduler.idle) and not version.runs,
            self.drain_limit,
        )
        if version.pool is not None:
            await version.pool.stop()
        version.unloaded()

    def set_default(self, name: str, version: str) -> None:
        """The version that answers when none is named. Raises ``ModelNotFound`` or ``VersionNotFound``."""
        model = self.registry.model(name)
        model.choose(model.version(version).spec.version)
        self._frontends.publish()

    async def replace(self, spec: ModelSpec) -> ModelVersion:
        """Load a version anew: the old one answers until the new one is ready, and on if that fails.

        Returns the new version where it failed, too: READY says which.
        """
        old = self.registry.models[spec.name].versions[spec.version]
        new = await self._start(ModelVersion(spec))
        if new.ready:
            self.registry.exchange(old, new)
            if isinstance(new.scheduler, SequenceScheduler) and isinstance(old.scheduler, SequenceScheduler):
                new.scheduler.remember_lost(old.scheduler.open_sequences())
            await self._end(old)
        else:
            await self._end(new)
        return new

    def scale(self, name: str, workers: int) -> None:
        """Have this many workers from now on; the idle ones among those too many end first.

        Raises ``ModelNotFound``, or ``InvalidInput`` where those are more than there may be.
        """
        version = self.registry.find(name)
        self.check_room(workers, version)
        assert version.pool is not None
        version.pool.start(workers)

    async def resize(self, version: ModelVersion, least: int, most: int) -> bool:
        """Have at least and at most so many workers of this version; True when it is so and those too many are gone.

        False where somebody changed the number again meanwhile, or what ran took too long to be waited for: it goes on.
        Raises ``WorkersFailed`` when a new worker does not load the model, and then there are as many as before, and
        ``InvalidInput`` where those are more than there may be, or ``ModelNotFound`` where the version is unloaded meanwhile.
        """
        version.check_kept()
        scheduler, pool = version.scheduler, version.pool
        if scheduler is None or pool is None:
            raise Unsupported(f"model '{version.spec.name}' has no workers of its own")
        self.check_room(least, version)
        before = version.spec
        had, load_failures = pool.wanted, pool.failures.load_failures
        version.set_worker_range(least, most)
        epoch, count = version.resize_epoch, min(max(had, least), most)
        limit = before.timeouts.startup_timeout + before.timeouts.response_timeout
        if count:
            version.resume()
        else:
            # What was accepted is answered by the workers that there are.
            scheduler.refuse_new(version.no_worker())
            await self._frontends.retire(version)
            await wait_until(lambda: scheduler.idle or version.resize_epoch != epoch, limit)
        if version.resize_epoch != epoch:
            version.check_kept()
            return False
        _have(version, pool, count)
        await wait_until(
            lambda: (
                version.resize_epoch != epoch
                or pool.failures.load_failures != load_failures
                or pool.has_exactly(count)
            ),
            limit,
        )
        if version.resize_epoch != epoch:
            version.check_kept()
            return False
        if pool.failures.load_failures != load_failures:
            version.set_worker_range(before.scaling.min_workers, before.scaling.max_workers)
            _have(version, pool, had)
            raise _no_more_workers(version, pool.failures.last_load_error)
        return pool.has_exactly(count)

    async def retire(self, name: str, version: str = "") -> None:
        """Return once the last request in flight is answered and the workers are gone.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """
        found = self.registry.find(name, version)
        self.registry.remove(found)
        if name not in self.registry.models:
            self._wanted.discard(name)
        await self._end(found)
        log.info("model unloaded", model=name, version=found.spec.version)

    async def retire_workflow(self, name: str) -> None:
        """Return once the last request in flight is answered; its models stay. Raises ``ModelNotFound``."""
        found = self.workflows.find(name)
        self.workflows.remove(found)
        await self._end(found)

    async def drain(self, grace: float) -> bool:
        """Return when nothing waits and nothing runs; False if that took longer than ``grace`` seconds."""
        return await wait_until(
            lambda: all(version.scheduler is None or version.scheduler.idle for version in self.registry),
            grace,
        )

    async def close(self) -> None:
        """End every worker and template."""
        self._ticker.cancel()
        self._idle_models.close()
        pools = [version.pool for version in self.registry if version.pool is not None]
        await asyncio.gather(*(pool.stop() for pool in pools))
        await self._codecs.stop()
        self._workers.close()

    def _check(self) -> None:
        now = time.monotonic()
        for version in self.registry:
            if version.scheduler is not None:
                version.scheduler.check(now)
        self._codecs.check(now)
        self._idle_models.check(now)
        if self._looks.step(now):
            self._workers.check(now)
            self._frontends.check(now)
        self._frontends.publish()
        self._ticker = self._loop.call_later(_CHECK_EVERY, self._check)


def _have(version: ModelVersion, pool: WorkerPool, count: int) -> None:
    pool.start(count)
    if not count:
        version.suspend()


def _no_more_workers(version: ModelVersion, error: MooringError | None) -> WorkersFailed:
    spec = version.spec
    return WorkersFailed(
        error.message if error is not None else "",
        model=spec.name,
        version=spec.version,
        detail=error.detail if error is not None else "",
    )


def threads_for(workers: int) -> int:
    """How many threads the libraries of one worker may use: its share of the cores, and at least one."""
    return max(1, cores() // max(workers, 1))


def codecs_for() -> int:
    """How many codec processes there may be where nothing is set: one for each core but one."""
    return min(cores() - 1, MAX_CODECS)

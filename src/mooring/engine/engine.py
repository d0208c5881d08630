"""The engine: finds the model of each request, and starts, resizes and ends the models."""

import asyncio
import functools
import os
import time
from collections.abc import Collection, Iterator, Sequence

from mooring.core.errors import (
    InvalidInput,
    ModelLoadFailed,
    MooringError,
    Unsupported,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.options import Placement
from mooring.core.requests import InferenceRequest
from mooring.core.service import (
    Done,
    InferenceService,
    ModelMetadata,
    ModelState,
    QueueScaling,
    Ticket,
    VersionLoad,
)
from mooring.core.tensors import TensorSpec
from mooring.engine.admission import (
    NO_LOAD,
    QueueLoad,
    RequestScheduler,
    admit_request,
    refuse_request,
    wait_until,
)
from mooring.engine.body_reader import BodyReader
from mooring.engine.codec_pool import MAX_CODECS, CodecPool
from mooring.engine.completion import complete_spec, needs_completion
from mooring.engine.frontends import Frontends, SingleProcess
from mooring.engine.graphs.ensemble_forms import observe_run, run_ensemble
from mooring.engine.graphs.ensemble_plan import EnsemblePlan
from mooring.engine.graphs.ensemble_run import EnsembleContext
from mooring.engine.graphs.ensembles import Ensembles
from mooring.engine.graphs.run import GraphRun, count_run
from mooring.engine.readiness import Readiness
from mooring.engine.registry import ModelVersion, Registry
from mooring.engine.response_cache import CachedAnswers, CachingScheduler, ResponseCache
from mooring.engine.scale_to_zero import Budget, IdleModels, may_scale_to_zero
from mooring.engine.scheduler_choice import make_scheduler
from mooring.engine.sequence_scheduler import SequenceScheduler
from mooring.engine.worker_scaling import WorkerScaling
from mooring.hardware import count_cores
from mooring.ipc.arena import Arena
from mooring.observability.logs import get_logger
from mooring.observability.metrics import Metrics
from mooring.observability.statistics import ModelStatistics
from mooring.repository.preloads import preload
from mooring.repository.spec import ModelSpec
from mooring.workers.capacity import machine_capacity
from mooring.workers.execution_env import names_environment
from mooring.workers.handle import PoolOwner
from mooring.workers.heartbeat import DEADLINES, Clock, Deadlines
from mooring.workers.libraries import Libraries
from mooring.workers.local import LocalWorkers
from mooring.workers.pool import WorkerPool

log = get_logger(__name__)

# Seconds between two checks of deadlines and idle models. Only their precision depends on it.
_CHECK_EVERY = 0.05


class Engine(InferenceService):
    """The models of this process. It is the ``InferenceService`` that the protocols call.

    How this works: the ``Registry`` holds every version with its state. Each version has a scheduler, which queues its
    requests, and a pool of worker processes, which runs them. ``submit`` looks up the version and passes the request to
    its scheduler; a chain, a workflow or an ensemble has none, and its request becomes a run. To deploy a version is to
    make scheduler and pool and to wait until the first worker has loaded the model. To retire one is to refuse new requests,
    to wait for those in flight, and to end the workers. A timer calls ``_check_all`` every 50 ms: it refuses requests
    past their deadlines, changes the workers of models with a target for their queue, scales idle models to zero, and looks for
    frozen processes.

    ``drain_limit`` is how many seconds a version that is unloaded has to answer what it has accepted. ``frontends`` are
    the other processes that accept connections. ``codecs`` is the number of processes that decode and encode large JSON
    beside the workers. With 0 there is still one for chains, ensembles and models with sequences, whose bodies must be decoded
    before a worker can be chosen; it starts when the first such body comes. ``most_workers`` bounds the workers of all
    models together; 0 leaves the bound to the machine. Idle models of files have no workers while all together exceed
    the ``budget``. Workers are forked from the processes of ``libraries``, which by default get the environment of this
    process. With ``strict_readiness`` the engine is not ready while anything is missing that was configured at the
    start; without it, the engine is ready once everything has been tried. ``cache_size`` bounds the answers that are kept
    for models with a response cache, in bytes; with 0 none is kept. ``private_folder`` is the server's own, with the
    socket over which the code of models calls other models (model_calls.py).
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
        cache_size: int = 0,
        private_folder: str = "",
    ) -> None:
        self.registry = Registry()
        # A registry of their own: a workflow may have the name of a model. Then only its own route reaches it.
        self.workflows = Registry()
        self.drain_limit = drain_limit
        # Versions that still answer what they have accepted, or load to replace another; most are not in the registry.
        self._unlisted: set[ModelVersion] = set()
        self._unloads: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks only weakly
        self._capacity = machine_capacity(most_workers)
        self._arena = arena
        self._metrics = metrics
        metrics.host.read_load_times(self._load_times)
        metrics.read_versions(self._served_versions, self._version_states, self.loads)
        self._frontends = frontends or SingleProcess()
        self._idle_models = IdleModels(self.registry, budget or Budget(), self._frontends.retire)
        self._scaling = WorkerScaling(self.registry, self, self._frontends.retire)
        self._workers = LocalWorkers(
            arena,
            libraries or Libraries(os.environ),
            first_worker,
            self._frontends.processes,
            cache_folder,
            deadlines,
            private_folder,
        )
        self._cache = ResponseCache(cache_size)
        self._ensembles = Ensembles(self.registry)
        self.readiness = Readiness(self.registry, self._ensembles, strict=strict_readiness)
        self._codecs = CodecPool(max(1, codecs), arena.slot, self._workers)
        self._shares_reading = codecs > 0
        self.read_body = BodyReader(self._codecs, arena.slot).read_body
        # Through which the models of graphs are asked. Of a node of a cluster, what stands before this engine takes its place.
        self.entry: InferenceService = self
        self._placement_noted = False
        self._heartbeat_clock = Clock(deadlines.heartbeat)
        self._loop = asyncio.get_running_loop()
        self._next_check = self._loop.call_later(_CHECK_EVERY, self._check_all)

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        model = self.registry.models.get(request.model) or self.workflows.models.get(request.model)
        if model is None:
            return refuse_request(request, done, self.registry.not_loaded_error(request.model))
        version = model.versions.get(request.version or model.default)
        if version is not None:
            if version.graph is not None:
                return self.run_graph(version, request, done)
            scheduler = version.scheduler
            if scheduler is not None:
                return admit_request(scheduler, request, done)
            return refuse_request(request, done, version.not_ready_error())
        text = f"model '{request.model}' has no version '{request.version}'"
        return refuse_request(
            request, done, VersionNotFound(text, model=request.model, version=request.version)
        )

    def overload_error(self, model: str, version: str = "") -> MooringError | None:
        entry = self.registry.models.get(model)
        target = entry.versions.get(version or entry.default) if entry is not None else None
        # A chain has no queue: its models have theirs.
        if target is None or target.scheduler is None or target.graph is not None:
            return None
        return target.scheduler.overload_error()

    def run_graph(self, version: ModelVersion, request: InferenceRequest, done: Done) -> Ticket:
        """Send a request on its way through a chain, a workflow or an ensemble; as ``submit``."""
        graph = version.graph
        if isinstance(graph, EnsemblePlan):
            return self._run_ensemble(version, graph, request, done)
        assert graph is not None
        # A model that others follow counts its requests itself, and the models of a workflow do.
        if version.kind == "chain":
            statistics = self._metrics.statistics_for(version.spec.name, version.spec.version)
            done = count_run(request, statistics, done)
        return GraphRun(
            graph,
            request,
            done,
            self._submit_stage,
            self._declared_inputs,
            version.runs,
            self.read_body,
        )

    def _run_ensemble(
        self, version: ModelVersion, plan: EnsemblePlan, request: InferenceRequest, done: Done
    ) -> Ticket:
        if not version.ready:
            return refuse_request(request, done, version.not_ready_error())
        context = EnsembleContext(self.entry.submit, self.read_body, self._codecs, version.runs)
        statistics = self._metrics.statistics_for(version.spec.name, version.spec.version)

        def run(done: Done) -> Ticket:
            return run_ensemble(
                plan, request, observe_run(plan, request, statistics, done), context, self._arena.slot
            )

        return run(done) if plan.answers is None else plan.answers.submit(request, done, run)

    def _submit_stage(self, request: InferenceRequest, done: Done) -> Ticket:
        """Submit a request to one model of a graph. A model that others follow runs alone, without its followers."""
        model = self.registry.models.get(request.model)
        version = model.versions.get(model.default) if model is not None else None
        if version is None or not version.spec.following:
            return self.entry.submit(request, done)
        assert version.scheduler is not None
        return admit_request(version.scheduler, request, done)

    def ready(self, model: str = "", version: str = "") -> bool:
        if model:
            return self.readiness.can_answer(self._find_version(model, version))
        return self.readiness.is_ready()

    def _find_version(self, model: str, version: str) -> ModelVersion:
        is_workflow = model in self.workflows.models and model not in self.registry.models
        # The registry of the models knows why a model is missing.
        registry = self.workflows if is_workflow else self.registry
        return registry.find_version(model, version)

    def _declared_inputs(self, model: str) -> Sequence[TensorSpec]:
        entry = self.registry.models.get(model)
        return entry.find_version("").metadata.inputs if entry is not None else ()

    def healthy(self) -> bool:
        return self.readiness.is_healthy()

    def metadata(self, model: str, version: str = "") -> ModelMetadata:
        target = self._find_version(model, version)
        if not target.ready:
            raise target.not_ready_error()
        return target.metadata

    def models(self) -> Sequence[ModelState]:
        return [
            ModelState(
                name=version.spec.name,
                version=version.spec.version,
                state=version.state.name,
                ready=version.ready,
                is_default=self.registry.models[version.spec.name].default == version.spec.version,
                reason=self._reason_not_ready(version),
                listed=not version.spec.function and not version.spec.chain,
                kind=version.kind,
                platform=version.metadata.platform,
                loading_since=version.loading_since,
            )
            for version in self.registry
        ]

    def _reason_not_ready(self, version: ModelVersion) -> str:
        """The reason why a version does not answer, or why it could not be reloaded; empty where there is none."""
        if version.error is not None:
            return version.error.reason
        unavailable = self.registry.unavailable.get((version.spec.name, version.spec.version))
        return f"it could not be loaded anew: {unavailable.reason}" if unavailable is not None else ""

    def list_missing(self) -> Sequence[ModelState]:
        """List the models and versions that could not be loaded and do not answer, sorted by name."""
        ready = {(version.spec.name, version.spec.version) for version in self.registry if version.ready}
        return [
            ModelState(name, version, "UNAVAILABLE", ready=False, is_default=False, reason=unavailable.reason)
            for (name, version), unavailable in sorted(self.registry.unavailable.items())
            if (name, version) not in ready
        ]

    def _load_times(self) -> Iterator[tuple[str, float]]:
        """The seconds that each worker took to load its model, by the name that TorchServe would give the worker."""
        for version in self.registry:
            for worker in version.pool.workers if version.pool is not None else ():
                if worker.load_seconds is not None:
                    yield f"W-{worker.id}-{version.spec.name}_{version.spec.version}", worker.load_seconds

    def _served_versions(self) -> Collection[tuple[str, str]]:
        # Workflows are counted as well, though no page lists their load.
        return {(each.spec.name, each.spec.version) for each in (*self._versions(), *self.workflows)}

    def _version_states(self) -> Iterator[tuple[str, str, str]]:
        for (name, number), version in self._shown_versions().items():
            yield name, number, version.state.name

    def waiting_requests(self) -> int:
        """Count the requests that wait for a worker, over all models and all processes."""
        return sum(map(self.waiting_for, self.registry))

    def waiting_by_version(self) -> Iterator[tuple[str, str, int]]:
        """Return the name and the number of each version, and how many requests wait for its workers."""
        for version in self.registry:
            yield version.spec.name, version.spec.version, self.waiting_for(version)

    def waiting_for(self, version: ModelVersion) -> int:
        """Count the requests that wait for a worker of a version, in all processes."""
        return self.load_of(version).waiting

    def load_of(self, version: ModelVersion) -> QueueLoad:
        """The requests of a version that wait and run, in all processes; a version without a queue has none."""
        own = version.scheduler.load if version.scheduler is not None else NO_LOAD
        return own.plus(self._frontends.load(version))

    def loads(self) -> Sequence[VersionLoad]:
        """What every version has to do now. One that is replaced counts as the one in its place."""
        now = time.monotonic()
        beside: dict[tuple[str, str], QueueLoad] = {}
        for other in self._unlisted:
            key = other.spec.name, other.spec.version
            beside[key] = self.load_of(other).plus(beside.get(key, NO_LOAD))
        found = []
        for key, version in self._shown_versions().items():
            load = beside.get(key, NO_LOAD)
            if version not in self._unlisted:  # else it is among them
                load = load.plus(self.load_of(version))
            found.append(_version_load(version, load, now, self._scaling.describe(version)))
        return found

    def statistics_of(self, version: ModelVersion) -> ModelStatistics:
        """What was counted of a version, in all processes."""
        return self._metrics.statistics_for(version.spec.name, version.spec.version)

    def room_for(self, version: ModelVersion) -> int:
        """How many workers of a version there may be beside those that all others are to have."""
        left = self._capacity.workers - self._workers_beside(version, granted=True)
        return max(left // version.spec.count_processes(1), 0)

    def _shown_versions(self) -> dict[tuple[str, str], ModelVersion]:
        """Each version of a model. One that is unloaded is there until it has answered, unless another is in its place."""
        shown = {(each.spec.name, each.spec.version): each for each in self.registry}
        for other in self._unlisted:
            if other.kind != "workflow":
                shown.setdefault((other.spec.name, other.spec.version), other)
        return shown

    def await_workflows(self, *, awaiting: bool) -> None:
        """Set whether workflows that the start names are still being registered: the engine is not ready meanwhile."""
        self.readiness.awaits_workflows = awaiting
        self._frontends.publish()

    def expect_model(self, spec: ModelSpec) -> None:
        """Announce a model that will be deployed: its libraries are imported now, and the server is not ready before."""
        self.readiness.expected.add(spec.name)
        if not names_environment(spec):
            self._workers.template(preload(spec))

    async def deploy_version(
        self,
        spec: ModelSpec,
        *,
        at_startup: bool = False,
        ends_start: bool = False,
        suspended: bool = False,
    ) -> ModelVersion:
        """Register a version and start its workers; return when the first of them has loaded it or has failed to.

        Raises ``ModelExists``. A version that failed stays, FAILED, and its workers are tried again. With ``ends_start`` the
        caller ends the start then, and says why. With ``suspended`` it has no workers until ``resize_workers``.
        """
        version = ModelVersion(spec)
        version.loaded_at_startup, version.ends_start = at_startup, ends_start
        self.registry.add_version(version)
        self.readiness.expected.add(spec.name)
        if spec.options.placement != Placement() and self.entry is self and not self._placement_noted:
            self._placement_noted = True
            log.debug("placement without effect", model=spec.name, reason="this server is in no cluster")
        return await self._start_version(version, 0 if suspended else None)

    async def deploy_workflow(self, spec: ModelSpec) -> None:
        """Register a workflow whose models are deployed. Raises ``ModelExists``."""
        version = ModelVersion(spec)
        self.workflows.add_version(version)
        await self._start_version(version)

    async def _start_version(self, version: ModelVersion, workers: int | None = None) -> ModelVersion:
        """Start a version, with so many ``workers`` where that is not for its options to say."""
        spec = version.spec
        if spec.ensemble is not None:
            statistics = self._metrics.statistics_for(spec.name, spec.version)
            keeps = spec.limits.response_cache and self._cache.size
            await self._ensembles.start(version, CachedAnswers(self._cache, statistics) if keeps else None)
            self._frontends.publish()
            return version
        if spec.stages:
            self._metrics.statistics_for(spec.name, spec.version)
            version.start_loading(None, None)
            version.on_worker_event(version.metadata)
            return version
        if needs_completion(spec):
            spec = await self._complete_version(version)
            if version.error is not None:
                return version
        scheduler, pool = self._make_scheduler(version)
        statistics = self._metrics.statistics_for(spec.name, spec.version)
        version.start_loading(scheduler, pool, statistics.loads.observe)
        wanted = spec.count_processes(spec.scaling.min_workers)
        refusal = self._capacity.refusal_reason(wanted, self._workers_beside(version))
        if refusal:
            version.on_worker_event(ModelLoadFailed(refusal, model=spec.name, version=spec.version))
            return version
        first = self._idle_models.workers_at_first(spec) if workers is None else workers
        pool.start(first)
        if first:
            await version.wait_until_settled()
        else:
            version.suspend()
        self._ensembles.update()
        self._frontends.publish()
        return version

    async def _complete_version(self, version: ModelVersion) -> ModelSpec:
        """Have the model's code complete its configuration. Where that fails, the version is FAILED."""
        version.start_loading(None, None)
        try:
            version.set_spec(await complete_spec(version.spec, self._workers))
        except ModelLoadFailed as error:
            if not version.ends_start:
                log.error(  # noqa: TRY400 - the traceback that helps is the model's, in the detail
                    "configuration not completed",
                    model=version.spec.name,
                    reason=error.message,
                    detail=error.detail,
                )
            version.fail(error, logged=True)
        return version.spec

    def _make_scheduler(self, version: ModelVersion) -> tuple[RequestScheduler, WorkerPool]:
        """Make the queue of a version and its pool of workers, none of which is started yet."""
        spec, allocate = version.spec, self._arena.slot
        statistics = self._metrics.statistics_for(spec.name, spec.version)

        def make_pool(owner: PoolOwner) -> WorkerPool:
            return WorkerPool(
                spec,
                owner,
                self._workers,
                spec.runtime.threads or threads_for(spec.scaling.max_workers),
                sharing=self._frontends.sharing(version),
                record_metrics=functools.partial(self._metrics.record_values, spec.name),
            )

        if spec.sequence.enabled:
            stateful = SequenceScheduler(
                spec, statistics, allocate, version.on_worker_event, make_pool, self.read_body
            )
            return stateful, stateful.pool
        codecs = self._codecs if self._shares_reading else None
        wake = None
        if may_scale_to_zero(spec):
            wake = functools.partial(self._idle_models.wake_version, version)
        elif spec.scaling.target_queue:
            wake = functools.partial(self._scaling.wake_version, version)
        scheduler = make_scheduler(
            spec,
            statistics,
            allocate,
            version.on_worker_event,
            make_pool,
            codecs=codecs,
            wake=wake,
            cache=self._cache,
        )
        return scheduler, scheduler.pool

    def check_capacity(self, workers: int, version: ModelVersion | None = None) -> None:
        """Raise ``InvalidInput`` where so many workers of ``version``, or of a new one, exceed the bound of all models."""
        wanted = version.spec.count_processes(workers) if version is not None else workers
        refusal = self._capacity.refusal_reason(wanted, self._workers_beside(version))
        if refusal:
            raise InvalidInput(refusal)

    def _workers_beside(self, version: ModelVersion | None, *, granted: bool = False) -> int:
        """Count the workers that all other versions are to have.

        Of those whose number follows their queue only the least counts, since they make room for what an operator asks for; with
        ``granted`` all that they were given counts.
        """
        beside = 0
        for each in self.registry:
            # Those that may be scaled to zero make room for others.
            if each.pool is not None and each is not version and not may_scale_to_zero(each.spec):
                scaling, wanted = each.spec.scaling, each.pool.wanted
                kept = wanted if granted or not scaling.scales else min(scaling.min_workers, wanted)
                beside += each.spec.count_processes(kept)
        return beside

    async def _unload_version(self, version: ModelVersion) -> None:
        """Refuse new requests, wait for those in flight for ``drain_limit`` seconds at most, and end the workers.

        That goes on where nobody waits for it any more.
        """
        await asyncio.shield(self._begin_unload(version))

    def _begin_unload(self, version: ModelVersion) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._unload_to_end(version))
        self._unloads.add(task)
        task.add_done_callback(self._unloads.discard)
        return task

    async def _unload_to_end(self, version: ModelVersion) -> None:
        version.start_unloading()
        self._unlisted.add(version)
        self._ensembles.forget(version)
        self._ensembles.update()
        scheduler = version.scheduler
        self._frontends.publish()
        try:
            await self._frontends.retire(version)
            await wait_until(
                lambda: (scheduler is None or scheduler.idle) and not version.runs,
                self.drain_limit,
            )
        finally:
            self._unlisted.discard(version)
        if version.pool is not None:
            await version.pool.stop()
        if isinstance(scheduler, CachingScheduler):
            scheduler.answers.forget_all()
        version.finish_unloading()

    def set_default(self, name: str, version: str) -> None:
        """Set the version that answers requests that name none. Raises ``ModelNotFound`` or ``VersionNotFound``."""
        model = self.registry.find_model(name)
        model.choose_default(model.find_version(version).spec.version)
        self._frontends.publish()

    async def replace_version(self, spec: ModelSpec, workers: tuple[int, int] | None = None) -> ModelVersion:
        """Reload a version: the old one answers until the new one is ready, and goes on if the new one fails.

        ``workers`` are the least and the greatest number that an operator has set in place of the spec's. Return the new
        version even where it failed; its state tells.
        """
        old = self.registry.models[spec.name].versions[spec.version]
        new = ModelVersion(spec)
        if workers is not None:
            new.set_worker_range(*workers)
        self._unlisted.add(new)
        try:
            await self._start_version(new, _workers_after(old, new))
        except asyncio.CancelledError:  # a newer one is to be loaded, or the server ends
            self._begin_unload(new)
            raise
        finally:
            self._unlisted.discard(new)
        if new.ready:
            self.registry.replace_version(old, new)
            self._ensembles.update()
            if isinstance(new.scheduler, SequenceScheduler) and isinstance(old.scheduler, SequenceScheduler):
                new.scheduler.remember_lost(old.scheduler.open_sequences())
            await self._unload_version(old)
        else:
            await self._unload_version(new)
        return new

    def scale_workers(self, name: str, workers: int) -> None:
        """Set the number of workers of a model's default version. Of too many, the idle ones end first.

        Raises ``ModelNotFound``, or ``InvalidInput`` where the number exceeds the bound of all models.
        """
        version = self.registry.find_version(name)
        self.check_capacity(workers, version)
        assert version.pool is not None
        version.pool.start(workers)

    async def resize_workers(self, version: ModelVersion, least: int, most: int) -> bool:
        """Set the range of the number of workers of a version. Return True once exactly as many run as there should.

        Return False where another call has changed the number meanwhile, or where running requests held their workers
        for longer than the time-outs of the model; the change then goes on in the background. Raises ``WorkersFailed``
        where a new worker cannot load the model (the old number is restored), ``InvalidInput`` where the number exceeds
        the bound of all models, and ``ModelNotFound`` where the version is unloaded meanwhile.
        """
        version.check_not_unloaded()
        self.check_capacity(least, version)
        version.resizes += 1
        try:
            return await self._resize_pool(version, least, most)
        finally:
            version.resizes -= 1

    async def _resize_pool(self, version: ModelVersion, least: int, most: int) -> bool:
        scheduler, pool = version.scheduler, version.pool
        if scheduler is None or pool is None:
            raise Unsupported(f"model '{version.spec.name}' has no workers of its own")
        old_spec = version.spec
        old_count, load_failures = pool.wanted, pool.failures.load_failures
        version.set_worker_range(least, most)
        epoch, count = version.resize_epoch, min(max(old_count, version.spec.scaling.first_workers), most)
        limit = old_spec.timeouts.startup_timeout + old_spec.timeouts.response_timeout
        if count:
            version.resume()
        else:
            # The workers end only after they have answered what was accepted.
            scheduler.refuse_new(version.no_worker_error())
            await self._frontends.retire(version)
            await wait_until(lambda: scheduler.idle or version.resize_epoch != epoch, limit)
        if version.resize_epoch != epoch:
            version.check_not_unloaded()
            return False
        _set_worker_count(version, pool, count)
        await wait_until(
            lambda: (
                version.resize_epoch != epoch
                or pool.failures.load_failures != load_failures
                or pool.has_exactly(count)
            ),
            limit,
        )
        if version.resize_epoch != epoch:
            version.check_not_unloaded()
            return False
        if pool.failures.load_failures != load_failures:
            version.set_worker_range(old_spec.scaling.min_workers, old_spec.scaling.max_workers)
            _set_worker_count(version, pool, old_count)
            raise _workers_failed_error(version, pool.failures.last_load_error)
        return pool.has_exactly(count)

    async def retire_version(self, name: str, version: str = "") -> None:
        """Unload a version: return once its last request in flight is answered and its workers are gone.

        Raises ``ModelNotFound`` or ``VersionNotFound``.
        """
        retired = self.registry.find_version(name, version)
        self.registry.remove_version(retired)
        if name not in self.registry.models:
            self.readiness.expected.discard(name)
        await self._unload_version(retired)
        log.info("model unloaded", model=name, version=retired.spec.version)

    async def retire_workflow(self, name: str) -> None:
        """Unload a workflow once its last request in flight is answered; its models stay. Raises ``ModelNotFound``."""
        retired = self.workflows.find_version(name)
        self.workflows.remove_version(retired)
        await self._unload_version(retired)

    async def drain(self, grace: float) -> bool:
        """Wait until no request waits or runs. Return False where that took longer than ``grace`` seconds."""
        return await wait_until(
            lambda: all(each.scheduler is None or each.scheduler.idle for each in self._versions()), grace
        )

    async def close(self) -> None:
        """End every worker and template."""
        self._next_check.cancel()
        self._idle_models.close()
        self._scaling.close()
        pools = [version.pool for version in self._versions() if version.pool is not None]
        await asyncio.gather(*(pool.stop() for pool in pools))
        await self._codecs.stop()
        self._workers.close()

    def _versions(self) -> list[ModelVersion]:
        return list(dict.fromkeys([*self.registry, *self._unlisted]))

    def _check_all(self) -> None:
        """Refuse requests past their deadlines, change numbers of workers, scale idle models to zero, look for frozen processes."""
        now = time.monotonic()
        for version in self._versions():
            if version.scheduler is not None:
                version.scheduler.check_deadlines(now)
        self._ensembles.update()
        self._codecs.check_deadlines(now)
        self._scaling.check(now)
        self._idle_models.check_budget(now)
        if self._heartbeat_clock.step(now):
            self._workers.check(now)
            self._frontends.check(now)
        self._frontends.publish()
        self._next_check = self._loop.call_later(_CHECK_EVERY, self._check_all)


def _workers_after(old: ModelVersion, new: ModelVersion) -> int | None:
    """The number of workers of a version that replaces another, where it follows the queue: as many as that had."""
    scaling = new.spec.scaling
    if not scaling.scales or old.pool is None:
        return None
    return min(max(old.pool.wanted, scaling.first_workers), scaling.max_workers)


def _set_worker_count(version: ModelVersion, pool: WorkerPool, count: int) -> None:
    """Have the pool run so many workers; a version without any refuses requests."""
    pool.start(count)
    if not count:
        version.suspend()


def _workers_failed_error(version: ModelVersion, error: MooringError | None) -> WorkersFailed:
    spec = version.spec
    return WorkersFailed(
        error.message if error is not None else "",
        model=spec.name,
        version=spec.version,
        detail=error.detail if error is not None else "",
    )


def threads_for(workers: int) -> int:
    """The number of threads for the libraries of one worker: its share of the cores, at least 1."""
    return max(1, count_cores() // max(workers, 1))


def codecs_for() -> int:
    """The default number of codec processes: one for each core but one, ``MAX_CODECS`` at most."""
    return min(count_cores() - 1, MAX_CODECS)


def _version_load(
    version: ModelVersion, load: QueueLoad, now: float, scaling: QueueScaling | None
) -> VersionLoad:
    pool = version.pool
    return VersionLoad(
        version.spec.name,
        version.spec.version,
        load.waiting,
        max(now - load.oldest, 0.0) if load.waiting else 0.0,
        load.running if version.scheduler is not None else len(version.runs),
        pool.ready if pool is not None else 0,
        pool.wanted if pool is not None else 0,
        pool.starting if pool is not None else 0,
        pool.busy if pool is not None else 0.0,
        pool.served if pool is not None else 0,
        scaling,
    )

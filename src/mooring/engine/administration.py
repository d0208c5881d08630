"""The operations of the management protocols on models: load, unload, scale, describe."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import (
    InvalidInput,
    LoadingDisabled,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    MooringError,
    Unsupported,
    VersionIsDefault,
    WorkersFailed,
)
from mooring.core.options import Scaling, declare
from mooring.core.service import (
    BatchUsage,
    Duration,
    Joining,
    ModelAdministration,
    ModelConfig,
    ModelDescription,
    ModelState,
    ModelUsage,
    Registration,
    ResponseUsage,
    Scaled,
    VersionLoad,
    WorkerDescription,
)
from mooring.core.tensors import Parameter
from mooring.engine.endpoints import WorkerEndpoints
from mooring.engine.engine import Engine
from mooring.engine.registry import Model, ModelVersion, Unavailable
from mooring.observability.logs import get_logger
from mooring.observability.metrics import Metrics
from mooring.observability.statistics import ModelStatistics
from mooring.repository.catalog import Catalog, ServedVersions, worker_spec
from mooring.repository.spec import ModelSpec
from mooring.repository.triton_document import describe_config, describe_sequences
from mooring.workers.pool import WorkerPool
from mooring.workers.recycling import resident_memory

log = get_logger(__name__)


class Administration(ModelAdministration):
    """The ``ModelAdministration`` of this process: it loads models of the catalog into the engine, and unloads them.

    How this works: the ``Catalog`` reads a model from the repository or the store and returns its specs; that may block,
    so it runs in a thread. The engine then deploys, replaces or retires the versions. A lock per model makes changes to
    one model run one after the other, while other models may change at the same time. A load that fails leaves the old
    versions in place, and its reason in the registry for the index. A resize is a task of its own: it goes on when the
    client that asked for it has gone. AMD's clients load by the name of a worker; ``WorkerEndpoints`` has those names.

    ``on_change`` is called after each change. ``loading`` says whether clients may load and unload models.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
        *,
        loading: bool = True,
    ) -> None:
        self._engine = engine
        self._loading = loading
        self._catalog = catalog
        self._metrics = metrics
        self._on_change = on_change
        self._endpoints = WorkerEndpoints()
        self._locks: dict[str, asyncio.Lock] = {}
        self._pinned: dict[str, set[str]] = {}  # by model: the versions that were loaded by number
        self._changes: set[asyncio.Task[bool]] = set()  # the event loop itself holds tasks only weakly

    async def describe(self, model: str, version: str = "") -> Sequence[ModelDescription]:
        entry = self._engine.registry.find_model(model)
        versions = list(entry.versions.values()) if version == "all" else [entry.find_version(version)]
        return [_describe_version(each, entry, self._engine.waiting_for(each)) for each in versions]

    def loads(self) -> Sequence[VersionLoad]:
        return self._engine.loads()

    def index(self) -> Sequence[ModelState]:
        registry = self._engine.registry
        known = [*self._engine.models(), *self._engine.list_missing()]
        names = {state.name for state in known}
        urls = {version.spec.url for version in registry} | {
            each.url for each in registry.unavailable.values()
        }
        known += [
            ModelState(each.name, "", "UNAVAILABLE", ready=False, is_default=False, reason="not loaded")
            for each in self._catalog.list_available()
            if each.name not in names and each.url not in urls
        ]
        return sorted(known, key=lambda state: state.name)

    async def config(self, model: str, version: str = "") -> ModelConfig:
        target = self._engine.registry.find_version(model, version)
        metadata = target.metadata
        return describe_config(
            target.spec,
            inputs=metadata.inputs,
            outputs=metadata.outputs,
            platform=metadata.platform,
            joining=_joining_of(target),
        )

    async def usage(self, model: str = "", version: str = "") -> Sequence[ModelUsage]:
        if version:
            versions = [self._engine.registry.find_version(model, version)]
        elif model:
            versions = list(self._engine.registry.find_model(model).versions.values())
        else:
            versions = list(self._engine.registry)
        return [
            _usage_of(
                self._metrics.statistics_for(each.spec.name, each.spec.version),
                has_rows=each.spec.batching.batch_dimension is not False,
            )
            for each in versions
        ]

    async def load(
        self,
        model: str,
        version: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        self.check_loading()
        await self._load(model, version, config=config, files=files, parameters=parameters)

    def check_loading(self) -> None:
        """Raise ``LoadingDisabled`` where clients may not load and unload models."""
        if not self._loading:
            raise LoadingDisabled(
                "explicit model load / unload is not allowed: enable_repository_api is off, as with Triton's "
                "--model-control-mode none and poll; start with explicit to allow it"
            )

    async def _load(self, model: str, version: str = "", **changes: Any) -> None:
        """As ``load``, whether or not clients may load models."""
        await self._load_model(model, version, (), **changes)
        self._on_change()

    async def _load_model(self, model: str, version: str, within: tuple[str, ...], **changes: Any) -> None:
        """Load a model, and the missing models of its steps before it where it is an ensemble, itself ``within`` others."""
        missing = await self._load_unless_incomplete(model, version, changes)
        if not missing:
            return
        for step in missing:
            if step in (*within, model):
                path = " -> ".join((*within, model, step))
                raise ModelLoadFailed(f"the ensemble is a step of itself: {path}", model=model)
            try:
                await self._load_model(step, "", (*within, model))
            except (ModelLoadFailed, ModelNotFound) as error:
                text = f"step '{step}' of ensemble '{model}': {error.message}"
                self._note_incomplete(model, text)
                raise ModelLoadFailed(text, model=model, detail=error.detail) from error
        await self._load_unless_incomplete(model, version, changes, complete=True)

    def _note_incomplete(self, model: str, reason: str) -> None:
        if model not in self._engine.registry.models:
            url = self._catalog.url_of(model)
            self._engine.registry.note_missing(model, "", Unavailable(url, reason))

    async def _load_unless_incomplete(
        self, model: str, version: str, changes: Mapping[str, Any], *, complete: bool = False
    ) -> list[str]:
        """Load a model, unless it is an ensemble of models that are not loaded: then return those.

        No lock is held while they are loaded: another ensemble may need this one.
        """
        async with self._lock_of(model):
            url = self._catalog.url_of(model)
            try:
                served = await asyncio.to_thread(
                    self._catalog.read_versions,
                    model,
                    version,
                    also=self._pinned_versions(model),
                    **changes,
                )
            except (ModelLoadFailed, ModelNotFound) as error:
                if not changes.get("files"):
                    await self._on_read_failure(model, version, url, error)
                raise
            missing = [] if complete else self._missing_steps(served.specs)
            if missing:
                for spec in served.specs:
                    self._catalog.release(spec)
                return missing
            # Who sends a configuration along says the number of workers with it.
            await self._load_versions(served, url, keep_workers=not any(changes.values()))
            if version:
                self._pinned.setdefault(model, set()).add(version)
            self._engine.registry.forget_missing(model, url, version)
        return []

    def _missing_steps(self, specs: Iterable[ModelSpec]) -> list[str]:
        """The models of ensembles' steps, and of the steps of those, that are not loaded."""
        models = self._engine.registry.models
        steps = {stage: None for spec in specs if spec.ensemble is not None for stage in spec.stages}
        ensembles = [*steps]
        for step in ensembles:  # which grows
            versions = models[step].versions.values() if step in models else ()
            inner = [
                stage for each in versions if each.spec.ensemble is not None for stage in each.spec.stages
            ]
            ensembles += [stage for stage in inner if stage not in steps]
            steps |= dict.fromkeys(inner)
        return [step for step in steps if step not in models]

    async def sync_folder(self, folder: str) -> bool:
        """Load the model in a folder of the repository, or unload it where the folder is gone.

        Return whether the folder is there. Raises as ``load``.
        """
        if self._catalog.has_folder(folder):
            await self._load(folder)
            return True
        async with self._lock_of(folder):
            await self._unload_folder(folder)
        self._on_change()
        return False

    async def reload_target(self, model: str) -> None:
        """Load a model of the command line anew, whether or not clients may load models. Raises as ``load``."""
        await self._load(model)

    async def load_assigned(self, model: str, read: Callable[[], Sequence[ModelSpec]]) -> None:
        """Load the version that ``read`` returns, its stages first, whether or not clients may load models.

        ``read`` may block. What is loaded is loaded anew; the old one answers until then, and on if the new one fails. Raises as ``load``.
        """
        async with self._lock_of(model):
            for spec in await asyncio.to_thread(read):
                await self._load_one(spec)
        self._on_change()

    async def unload_assigned(self, model: str, version: str) -> None:
        """As ``unload`` of one version, whether or not clients may unload models.

        The stages of a chain came with it and go with it. The models of an ensemble's steps are assigned by themselves.
        """
        spec = self._engine.registry.find_version(model, version).spec
        await self._unload(model, version, dependents=spec.ensemble is None)

    async def _on_read_failure(self, model: str, version: str, url: str, error: MooringError) -> None:
        """Note why a model cannot be loaded, for the index, and unload what came from a folder that is empty now."""
        if version:
            return
        if isinstance(error, ModelNotFound):
            await self._unload_folder(model)
            return
        empty = self._catalog.has_no_version(model)
        if empty or model not in self._engine.registry.models:
            self._engine.registry.note_missing(model, "", Unavailable(url, error.message))
        if empty:
            await self._retire_others(url, set())

    async def _unload_folder(self, folder: str) -> None:
        """Unload what was loaded from a folder of the repository that is gone. The index does not list it any more."""
        url = self._catalog.url_of(folder)
        await self._retire_others(url, set())
        self._engine.registry.forget_missing(folder, url)

    async def _load_versions(self, served: ServedVersions, url: str, *, keep_workers: bool) -> None:
        """Load the versions that were read, then unload those of the same place that are not to be served any more.

        Raises the first failure once every version has been tried; nothing is unloaded then.
        """
        self._check_names(served)
        failures = dict(served.faults)
        for spec in served.specs:
            try:
                await self._load_one(spec, keep_workers=keep_workers)
            except ModelLoadFailed as error:
                failures.setdefault(spec.version, error)
        if failures:
            for version, failure in failures.items() if served.whole else ():
                unavailable = Unavailable(url, failure.message)
                self._engine.registry.note_missing(served.specs[-1].name, version, unavailable)
            raise next(iter(failures.values()))
        if served.target:
            self._catalog.add_names(served.target, served.specs)
        if served.whole:
            kept = {(spec.name, spec.version) for spec in served.specs}
            if served.target:
                await self._retire_of_target(served.target, kept)
                return
            await self._retire_others(url, kept, {spec.name for spec in served.specs})

    def _check_names(self, served: ServedVersions) -> None:
        """Raise ``ModelExists`` where a target's model is called now as a model from elsewhere."""
        for spec in served.specs if served.target else ():
            if (
                spec.name in self._engine.registry.models
                and self._catalog.target_of(spec.name) != served.target
            ):
                for each in served.specs:
                    self._catalog.release(each)
                raise ModelExists(
                    f"'{spec.url}' calls its model '{spec.name}', as another model is called that is served already; "
                    "name one of them differently",
                    model=spec.name,
                )

    async def _retire_of_target(self, target: str, kept: Collection[tuple[str, str]]) -> None:
        """Unload what an argument of the command line served before and does not any more, but for a chosen default."""
        for one in sorted(self._engine.registry, key=lambda one: not one.spec.stages):
            spec = one.spec
            if (spec.name, spec.version) in kept or not self._catalog.comes_from(spec, target):
                continue
            chosen = self._engine.registry.models[spec.name].chosen == spec.version
            if not (chosen and await asyncio.to_thread(Path(spec.location).exists)):
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self._unload_one(one)

    async def _retire_others(
        self, url: str, kept: Collection[tuple[str, str]], names: Collection[str] = ()
    ) -> None:
        """Unload the versions of a URL that are not ``kept``, and those of the models ``names`` that clients uploaded.

        Their successors answer already.
        """
        for one in sorted(
            self._engine.registry, key=lambda one: not one.spec.stages
        ):  # chains before their stages
            spec = one.spec
            theirs = spec.url == url or (spec.name in names and self._catalog.is_uploaded(spec))
            if theirs and spec.version_policy is not None and (spec.name, spec.version) not in kept:
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self._unload_one(one)

    def _pinned_versions(self, model: str) -> set[str]:
        """The versions that were loaded by number or made the default: they stay whatever the version policy says."""
        entry = self._engine.registry.models.get(model)
        chosen = {entry.chosen} if entry is not None and entry.chosen else set()
        return self._pinned.get(model, set()) | chosen

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        self.check_loading()
        await self._unload(model, version, dependents=dependents)

    async def _unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        """As ``unload``, whether or not clients may unload models."""
        async with self._lock_of(model):
            if (
                not version
                and model not in self._engine.registry.models
                and self._engine.registry.is_missing(model)
            ):
                self._engine.registry.forget_missing(model, self._catalog.url_of(model))
                return
            entry = self._engine.registry.find_model(model)
            versions = [entry.find_version(version)] if version else list(entry.versions.values())
            for each in versions:
                await self._unload_one(each)
                self._pinned.get(model, set()).discard(each.spec.version)
        self._endpoints.forget_endpoint(model)
        self._on_change()
        for stage in dict.fromkeys(stage for each in versions for stage in each.spec.stages):
            if (dependents or self._belongs_to(stage, model)) and not self._is_in_use(stage):
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self._unload(stage, dependents=dependents)

    async def register(self, registration: Registration, *, wait: bool = True) -> Scaled:
        spec = await asyncio.to_thread(self._catalog.read_registration, registration)
        least, most = spec.scaling.min_workers, spec.scaling.max_workers
        try:
            self._engine.check_capacity(spec.count_processes(least))
            version = await self._engine.deploy_version(
                spec.with_options(declare(Scaling, min_workers=0)), suspended=True
            )
        except (InvalidInput, ModelExists):
            self._catalog.release(spec)
            raise
        return await self._resize_version(version, least, most, wait=wait or not least, new=True)

    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        target = self._engine.registry.find_version(model, version)
        if target.spec.stages:
            kind = "a chain" if target.spec.ensemble is None else "an ensemble"
            raise Unsupported(f"model '{model}' is {kind}: its stages have the workers")
        self._engine.check_capacity(least, target)
        return await self._resize_version(target, least, most, wait=wait)

    async def set_default(self, model: str, version: str) -> None:
        self._engine.set_default(model, version)
        self._on_change()

    def choose_default(self, model: str, version: str) -> None:
        """As ``set_default``; nothing happens where it is so already."""
        if self._engine.registry.find_model(model).chosen != version:
            self._engine.set_default(model, version)

    def states(self) -> Sequence[ModelState]:
        """The state of every version that is loaded."""
        return self._engine.models()

    async def unregister(self, model: str, version: str = "") -> None:
        async with self._lock_of(model):
            entry = self._engine.registry.find_model(model)
            target = entry.find_version(version)
            if target.spec.version == entry.default and len(entry.versions) > 1:
                raise VersionIsDefault(
                    f"version '{target.spec.version}' is the default of model '{model}', which has others",
                    model=model,
                    version=target.spec.version,
                )
            await self._unload_one(target)
        self._endpoints.forget_endpoint(model)
        self._on_change()

    async def _resize_version(
        self, version: ModelVersion, least: int, most: int, *, wait: bool, new: bool = False
    ) -> Scaled:
        """Change the number of workers of a version. A ``new`` version whose workers do not start is unloaded again."""
        spec = version.spec
        task = asyncio.get_running_loop().create_task(self._apply_resize(version, least, most, new=new))
        self._changes.add(task)
        task.add_done_callback(self._on_change_done)
        if not wait:
            return Scaled(spec.name, spec.version, least, done=False)
        # Shielded: the client may disconnect, and half a change would help nobody.
        done = await asyncio.shield(task)
        pool = version.pool
        return Scaled(spec.name, spec.version, pool.wanted if pool is not None else 0, done)

    async def _apply_resize(self, version: ModelVersion, least: int, most: int, *, new: bool) -> bool:
        try:
            done = await self._engine.resize_workers(version, least, most)
        except WorkersFailed as error:
            if new and version in self._engine.registry:
                await self._unload_one(version)
            log.error(  # noqa: TRY400 - the reason says it all, and the model's traceback is in the detail
                "workers not started",
                model=error.model,
                version=error.version,
                reason=error.message,
                registered=not new,
            )
            raise
        if new:
            self._engine.registry.forget_missing(version.spec.name, version.spec.url, version.spec.version)
        self._on_change()
        return done

    def _on_change_done(self, task: asyncio.Task[bool]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged where it was raised; without ``wait`` no other code retrieves it

    async def load_worker(self, worker: str, parameters: Mapping[str, Parameter]) -> str:
        self.check_loading()
        worker = worker.lower()
        share = parameters.get("share", True)
        if not isinstance(share, bool):
            raise InvalidInput(f"parameter 'share' of worker '{worker}' must be true or false, not {share!r}")
        async with self._lock_of(f"worker {worker}"):
            endpoint = self._endpoints.find_endpoint(worker, parameters)
            if endpoint is not None:
                if not share:
                    self._engine.scale_workers(endpoint, self._endpoints.add_instance(endpoint))
                return endpoint
            endpoint = self._endpoints.next_name(worker)
            while endpoint in self._engine.registry.models:  # a model of the repository has that name
                endpoint = self._endpoints.next_name(worker)
            try:
                spec = worker_spec(worker, endpoint, parameters, self._catalog.defaults)
                await self._load_one(self._with_followers(spec))
            except MooringError:
                self._endpoints.note_load_failure(worker)
                raise
            self._endpoints.add_endpoint(worker, endpoint, parameters)
            return endpoint

    async def unload_worker(self, endpoint: str) -> None:
        self.check_loading()
        try:
            left = self._endpoints.release_instance(endpoint)
        except KeyError:
            await self.unload(endpoint)
            return
        if left:
            self._engine.scale_workers(endpoint, left)
        else:
            await self.unload(endpoint)

    def _with_followers(self, spec: ModelSpec) -> ModelSpec:
        """The spec with the endpoint that its parameter ``next`` names as follower, and the followers of that one."""
        following = spec.parameters.get("next")
        if following is None:
            return spec
        if not isinstance(following, str) or following not in self._engine.registry.models:
            raise InvalidInput(f"No next endpoint found at: {following}")
        follower = self._engine.registry.find_version(following).spec
        parameters = {key: value for key, value in spec.parameters.items() if key != "next"}
        return msgspec.structs.replace(
            spec, parameters=parameters, following=[following, *follower.following]
        )

    async def _load_one(self, spec: ModelSpec, *, keep_workers: bool = False) -> None:
        """Load a version, anew if it is loaded; then with ``keep_workers`` it has the number that an operator has set."""
        models = self._engine.registry.models
        if spec.name in models and spec.version in models[spec.name].versions:
            served = models[spec.name].versions[spec.version]
            old = served.spec
            workers = served.workers_beside(spec) if keep_workers else None
            version = await self._engine.replace_version(spec, workers)
            if version.ready:
                self._catalog.release(old)
        else:
            version = await self._engine.deploy_version(spec)
            if not version.ready and version.spec.scaling.first_workers:
                await self._engine.retire_version(
                    spec.name, spec.version
                )  # a load that failed leaves nothing behind
        if not version.ready and version.spec.scaling.first_workers:
            self._catalog.release(spec)
            raise _load_failed(version)

    async def _unload_one(self, version: ModelVersion) -> None:
        await self._engine.retire_version(version.spec.name, version.spec.version)
        self._catalog.release(version.spec)

    def _belongs_to(self, stage: str, chain: str) -> bool:
        entry = self._engine.registry.models.get(stage)
        return entry is not None and all(each.spec.chain == chain for each in entry.versions.values())

    def _is_in_use(self, stage: str) -> bool:
        return any(
            stage in (*version.spec.stages, *version.spec.following) for version in self._engine.registry
        )

    def _lock_of(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())


def _load_failed(version: ModelVersion) -> ModelLoadFailed:
    error = version.error
    return ModelLoadFailed(
        error.reason if error is not None else "it did not load",
        model=version.spec.name,
        version=version.spec.version,
        detail=error.detail if error is not None else "",
    )


def _usage_of(statistics: ModelStatistics, *, has_rows: bool) -> ModelUsage:
    """Describe what a version has done. Without a batch dimension the first one is no number of rows."""
    counts = statistics.counts
    failed, answered = counts.outcomes
    by_size = counts.by_size if has_rows else _merge_sizes(counts.by_size)
    executions = sum(int(count) for count, _ in by_size.values())
    return ModelUsage(
        name=statistics.name,
        version=statistics.version,
        last_inference=int(statistics.last * 1e3),
        inferences=counts.rows if has_rows else executions,
        executions=executions,
        success=_duration(answered, counts.spent[1]),
        fail=_duration(failed, counts.spent[0]),
        queue=_duration(failed + answered, sum(counts.queue)),
        infer=_duration(sum(counts.inferences.counts), counts.inferences.total),
        batches=[
            BatchUsage(rows, _duration(int(count), seconds))
            for rows, (count, seconds) in sorted(by_size.items())
        ],
        cache_hit=_duration(counts.cache[1], counts.cache_spent[1]),
        cache_miss=_duration(counts.cache[0], counts.cache_spent[0]),
        responses=[
            ResponseUsage(*(_duration(int(counted[i]), counted[i + 1]) for i in (0, 2, 4)))
            for _, counted in sorted(counts.responses.items())
        ],
    )


def _merge_sizes(by_size: Mapping[int, Sequence[float]]) -> dict[int, list[float]]:
    calls = list(by_size.values())
    return {1: [sum(count for count, _ in calls), sum(seconds for _, seconds in calls)]} if calls else {}


def _duration(count: int, seconds: float) -> Duration:
    return Duration(count, int(seconds * 1e9))


def _describe_version(version: ModelVersion, model: Model, pending: int) -> ModelDescription:
    spec, error = version.spec, version.error
    pool = version.pool
    return ModelDescription(
        name=spec.name,
        version=spec.version,
        url=spec.url,
        state=version.state.name,
        is_default=spec.version == model.default,
        default_rule=model.default_rule.value,
        version_policy=spec.version_policy,
        reason=error.message if error is not None else "",
        detail=error.detail if error is not None else "",
        runtime=spec.manifest.get("runtime", "python"),
        min_workers=spec.scaling.min_workers,
        max_workers=spec.scaling.max_workers,
        batch_size=spec.batching.max_batch_size,
        max_delay=spec.batching.max_delay,
        response_timeout=spec.timeouts.response_timeout,
        startup_timeout=spec.timeouts.startup_timeout,
        retry_timeout=spec.timeouts.retry_timeout,
        client_timeout=spec.timeouts.client_timeout,
        queue_size=spec.limits.queue_size,
        use_venv=bool(spec.venv),
        pending=pending,
        loaded_at_startup=version.loaded_at_startup,
        workers=_describe_workers(pool) if pool is not None else [],
        parallel=spec.parallel,
        sequences=describe_sequences(spec),
        joining=_joining_of(version),
        stepwise=spec.batching.stepwise,
        job_ticket=spec.limits.job_ticket,
        scaled_to_zero=version.scaled_to_zero,
        start_seconds=pool.start_seconds if pool is not None else 0.0,
        kind=version.kind,
        # A PyTorch model is explained by its gradients, a handler by a method that it may have.
        explains=bool(spec.explain) or spec.backend in ("handler", "pytorch"),
        labels=[str(label) for label in spec.labels.values()],
    )


def _describe_workers(pool: WorkerPool) -> list[WorkerDescription]:
    """Describe the workers of a pool, those that are wanted and have no process yet included: clients wait for them."""
    described = [
        WorkerDescription(
            worker.id,
            worker.process.pid,
            worker.state.name,
            worker.started,
            sum(map(resident_memory, worker.pids)),
        )
        for worker in pool.workers
    ]
    missing = pool.wanted - len(described)
    return described + [WorkerDescription("", 0, "STARTING", time.time(), 0)] * missing


def _joining_of(version: ModelVersion) -> Joining | None:
    pool = version.pool
    return pool.joining if pool is not None else None

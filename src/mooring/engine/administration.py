"""What an operator does to the models: load, unload, look. The ``ModelAdministration`` of this process."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from mooring.core.errors import (
    InvalidInput,
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
    Scaled,
    SequenceDescription,
    WorkerDescription,
)
from mooring.core.tensors import Parameter
from mooring.core.versions import VersionPolicy
from mooring.engine.endpoints import WorkerEndpoints
from mooring.engine.engine import Engine
from mooring.engine.registry import Model, ModelVersion, Unavailable
from mooring.observability.logs import get_logger
from mooring.observability.metrics import Metrics
from mooring.observability.statistics import ModelStatistics
from mooring.repository.catalog import Catalog, ServedVersions, worker_spec
from mooring.repository.spec import ModelSpec
from mooring.workers.recycling import resident_memory

log = get_logger(__name__)


class Administration(ModelAdministration):
    """Changes what the engine serves, out of what the catalog has. Changes to one model come one after the other.

    ``on_change`` is called after each that was made.
    """

    def __init__(
        self,
        engine: Engine,
        catalog: Catalog,
        metrics: Metrics,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._metrics = metrics
        self._on_change = on_change
        self._endpoints = WorkerEndpoints()
        self._locks: dict[str, asyncio.Lock] = {}
        self._named: dict[str, set[str]] = {}  # versions that were loaded by their number
        self._changes: set[asyncio.Task[bool]] = set()  # the loop itself holds tasks only weakly

    def describe(self, model: str, version: str = "") -> Sequence[ModelDescription]:
        found = self._engine.registry.model(model)
        versions = list(found.versions.values()) if version == "all" else [found.version(version)]
        return [_described(one, found, self._engine.waiting_for(one)) for one in versions]

    def index(self) -> Sequence[ModelState]:
        registry = self._engine.registry
        known = [*self._engine.models(), *self._engine.missing()]
        names = {state.name for state in known}
        urls = {version.spec.url for version in registry} | {why.url for why in registry.unavailable.values()}
        known += [
            ModelState(each.name, "", "UNAVAILABLE", ready=False, is_default=False, reason="not loaded")
            for each in self._catalog.list_available()
            if each.name not in names and each.url not in urls
        ]
        return sorted(known, key=lambda state: state.name)

    def config(self, model: str, version: str = "") -> ModelConfig:
        found = self._engine.registry.find(model, version)
        spec, metadata = found.spec, found.metadata
        return ModelConfig(
            name=spec.name,
            version=spec.version,
            platform=metadata.platform or spec.platform,
            backend=spec.backend,
            max_batch_size=spec.batching.max_batch_size,
            inputs=metadata.inputs,
            outputs=metadata.outputs,
            instances=spec.scaling.min_workers,
            delay=spec.batching.max_delay,
            parameters=spec.parameters,
            sequences=_sequences(spec),
            joining=_joining(found),
            version_policy=spec.version_policy or VersionPolicy(),
            decoupled=spec.decoupled,
            declared=spec.triton,
        )

    def usage(self, model: str = "", version: str = "") -> Sequence[ModelUsage]:
        if version:
            versions = [self._engine.registry.find(model, version)]
        elif model:
            versions = list(self._engine.registry.model(model).versions.values())
        else:
            versions = list(self._engine.registry)
        return [_used(self._metrics.model(one.spec.name, one.spec.version)) for one in versions]

    async def load(
        self,
        model: str,
        version: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        async with self._changing(model):
            url = self._catalog.url_of(model)
            try:
                opened = await asyncio.to_thread(
                    self._catalog.read_versions,
                    model,
                    version,
                    also=self._kept(model),
                    config=config,
                    files=files,
                    parameters=parameters,
                )
            except (ModelLoadFailed, ModelNotFound) as error:
                if not files:
                    await self._not_opened(model, version, url, error)
                raise
            await self._bring_in(opened, url)
            if version:
                self._named.setdefault(model, set()).add(version)
            self._engine.registry.stop_missing(model, url, version)
        self._on_change()

    async def follow(self, folder: str) -> bool:
        """Bring what is served in step with a folder of the repository: load what it holds, or unload what it held.

        Returns whether it is there. Raises as ``load``.
        """
        if self._catalog.has_folder(folder):
            await self.load(folder)
            return True
        async with self._changing(folder):
            await self._forget(folder)
        self._on_change()
        return False

    async def _not_opened(self, model: str, version: str, url: str, error: MooringError) -> None:
        """Say in the index why a model cannot be loaded, and unload what was loaded from a folder that is empty now."""
        if version:
            return
        if isinstance(error, ModelNotFound):
            await self._forget(model)
            return
        empty = self._catalog.has_no_version(model)
        if empty or model not in self._engine.registry.models:
            self._engine.registry.miss(model, "", Unavailable(url, error.message))
        if empty:
            await self._retire_others(url, set())

    async def _forget(self, folder: str) -> None:
        """Unload what was loaded from a folder of the repository that is gone; nobody misses it."""
        url = self._catalog.url_of(folder)
        await self._retire_others(url, set())
        self._engine.registry.stop_missing(folder, url)

    async def _bring_in(self, opened: ServedVersions, url: str) -> None:
        """Load all that was opened, and then let go of what is not to be served any more.

        Raises the first failure once everything has been tried; nothing is let go of then.
        """
        failures = dict(opened.faults)
        for spec in opened.specs:
            try:
                await self._load_one(spec)
            except ModelLoadFailed as error:
                failures.setdefault(spec.version, error)
        if failures:
            for version, failure in failures.items() if opened.whole else ():
                why = Unavailable(url, failure.message)
                self._engine.registry.miss(opened.specs[-1].name, version, why)
            raise next(iter(failures.values()))
        if opened.whole:
            served = {(spec.name, spec.version) for spec in opened.specs}
            await self._retire_others(url, served, {spec.name for spec in opened.specs})

    async def _retire_others(
        self, url: str, served: Collection[tuple[str, str]], names: Collection[str] = ()
    ) -> None:
        """Unload every version of a place in the repository but these, and of ``names`` those that clients have sent.

        Others answer in their place already.
        """
        for one in sorted(
            self._engine.registry, key=lambda one: not one.spec.stages
        ):  # chains before their stages
            spec = one.spec
            theirs = spec.url == url or (spec.name in names and self._catalog.is_uploaded(spec))
            if theirs and spec.version_policy is not None and (spec.name, spec.version) not in served:
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self._unload_one(one)

    def _kept(self, model: str) -> set[str]:
        """The versions that somebody has named, which stay whatever the model's policy says."""
        found = self._engine.registry.models.get(model)
        chosen = {found.chosen} if found is not None and found.chosen else set()
        return self._named.get(model, set()) | chosen

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        async with self._changing(model):
            if (
                not version
                and model not in self._engine.registry.models
                and self._engine.registry.misses(model)
            ):
                self._engine.registry.stop_missing(model, self._catalog.url_of(model))
                return
            found = self._engine.registry.model(model)
            versions = [found.version(version)] if version else list(found.versions.values())
            for one in versions:
                await self._unload_one(one)
                self._named.get(model, set()).discard(one.spec.version)
        self._endpoints.forget(model)
        self._on_change()
        if dependents:
            for stage in dict.fromkeys(stage for one in versions for stage in one.spec.stages):
                if not self._in_use(stage):
                    with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                        await self.unload(stage, dependents=True)

    async def register(self, registration: Registration, *, wait: bool = True) -> Scaled:
        spec = await asyncio.to_thread(self._catalog.read_registration, registration)
        least, most = spec.scaling.min_workers, spec.scaling.max_workers
        try:
            self._engine.check_room(least)
            version = await self._engine.deploy(spec.with_options(declare(Scaling, min_workers=0)))
        except (InvalidInput, ModelExists):
            self._catalog.release(spec)
            raise
        return await self._resize(version, least, most, wait=wait or not least, new=True)

    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        found = self._engine.registry.find(model, version)
        if found.spec.stages:
            raise Unsupported(f"model '{model}' is a chain: its stages have the workers")
        self._engine.check_room(least, found)
        return await self._resize(found, least, most, wait=wait)

    def set_default(self, model: str, version: str) -> None:
        self._engine.set_default(model, version)
        self._on_change()

    async def unregister(self, model: str, version: str = "") -> None:
        async with self._changing(model):
            found = self._engine.registry.model(model)
            one = found.version(version)
            if one.spec.version == found.default and len(found.versions) > 1:
                raise VersionIsDefault(
                    f"version '{one.spec.version}' is the default of model '{model}', which has others",
                    model=model,
                    version=one.spec.version,
                )
            await self._unload_one(one)
        self._endpoints.forget(model)
        self._on_change()

    async def _resize(
        self, version: ModelVersion, least: int, most: int, *, wait: bool, new: bool = False
    ) -> Scaled:
        """Change how many workers a version has; a new one that cannot have them goes again."""
        spec = version.spec
        task = asyncio.get_running_loop().create_task(self._resized(version, least, most, new=new))
        self._changes.add(task)
        task.add_done_callback(self._changed)
        if not wait:
            return Scaled(spec.name, spec.version, least, done=False)
        # A shield: who asked may go away, and half a change would help nobody.
        done = await asyncio.shield(task)
        pool = version.pool
        return Scaled(spec.name, spec.version, pool.wanted if pool is not None else 0, done)

    async def _resized(self, version: ModelVersion, least: int, most: int, *, new: bool) -> bool:
        try:
            done = await self._engine.resize(version, least, most)
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
            self._engine.registry.stop_missing(version.spec.name, version.spec.url, version.spec.version)
        self._on_change()
        return done

    def _changed(self, task: asyncio.Task[bool]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # logged where it was raised; without ``wait`` nobody else takes it

    async def load_worker(self, worker: str, parameters: Mapping[str, Parameter]) -> str:
        worker = worker.lower()
        share = parameters.get("share", True)
        if not isinstance(share, bool):
            raise InvalidInput(f"parameter 'share' of worker '{worker}' must be true or false, not {share!r}")
        async with self._changing(f"worker {worker}"):
            endpoint = self._endpoints.find(worker, parameters)
            if endpoint is not None:
                if not share:
                    self._engine.scale(endpoint, self._endpoints.share(endpoint))
                return endpoint
            endpoint = self._endpoints.name(worker)
            while endpoint in self._engine.registry.models:  # a model of the repository is called so
                endpoint = self._endpoints.name(worker)
            try:
                spec = worker_spec(worker, endpoint, parameters, self._catalog.defaults)
                await self._load_one(self._followed(spec))
            except MooringError:
                self._endpoints.failed(worker)
                raise
            self._endpoints.add(worker, endpoint, parameters)
            return endpoint

    async def unload_worker(self, endpoint: str) -> None:
        try:
            left = self._endpoints.release(endpoint)
        except KeyError:
            await self.unload(endpoint)
            return
        if left:
            self._engine.scale(endpoint, left)
        else:
            await self.unload(endpoint)

    def _followed(self, spec: ModelSpec) -> ModelSpec:
        """With the endpoint that its parameter ``next`` names, and those that follow that one."""
        following = spec.parameters.get("next")
        if following is None:
            return spec
        if not isinstance(following, str) or following not in self._engine.registry.models:
            raise InvalidInput(f"No next endpoint found at: {following}")
        then = self._engine.registry.find(following).spec
        parameters = {key: value for key, value in spec.parameters.items() if key != "next"}
        return msgspec.structs.replace(spec, parameters=parameters, following=[following, *then.following])

    async def _load_one(self, spec: ModelSpec) -> None:
        models = self._engine.registry.models
        if spec.name in models and spec.version in models[spec.name].versions:
            old = models[spec.name].versions[spec.version].spec
            version = await self._engine.replace(spec)
            if version.ready:
                self._catalog.release(old)
        else:
            version = await self._engine.deploy(spec)
            if not version.ready and version.spec.scaling.min_workers:
                await self._engine.retire(spec.name, spec.version)  # a load that failed leaves nothing behind
        if not version.ready and version.spec.scaling.min_workers:
            self._catalog.release(spec)
            raise _load_failed(version)

    async def _unload_one(self, version: ModelVersion) -> None:
        await self._engine.retire(version.spec.name, version.spec.version)
        self._catalog.release(version.spec)

    def _in_use(self, stage: str) -> bool:
        return any(
            stage in (*version.spec.stages, *version.spec.following) for version in self._engine.registry
        )

    def _changing(self, model: str) -> asyncio.Lock:
        return self._locks.setdefault(model, asyncio.Lock())


def _load_failed(version: ModelVersion) -> ModelLoadFailed:
    error = version.error
    return ModelLoadFailed(
        error.message if error is not None else "it did not load",
        model=version.spec.name,
        version=version.spec.version,
        detail=error.detail if error is not None else "",
    )


def _used(statistics: ModelStatistics) -> ModelUsage:
    counts = statistics.counts
    failed, answered = counts.outcomes
    return ModelUsage(
        name=statistics.name,
        version=statistics.version,
        last_inference=int(statistics.last * 1e3),
        inferences=sum(rows * int(count) for rows, (count, _) in counts.by_size.items()),
        executions=sum(int(count) for count, _ in counts.by_size.values()),
        success=_duration(answered, counts.spent[1]),
        fail=_duration(failed, counts.spent[0]),
        queue=_duration(failed + answered, sum(counts.queue)),
        infer=_duration(sum(counts.inferences.counts), counts.inferences.total),
        batches=[
            BatchUsage(rows, _duration(int(count), seconds))
            for rows, (count, seconds) in sorted(counts.by_size.items())
        ],
    )


def _duration(count: int, seconds: float) -> Duration:
    return Duration(count, int(seconds * 1e9))


def _described(version: ModelVersion, model: Model, pending: int) -> ModelDescription:
    spec, error = version.spec, version.error
    pool = version.pool
    return ModelDescription(
        name=spec.name,
        version=spec.version,
        url=spec.url,
        state=version.state.name,
        is_default=spec.version == model.default,
        default_rule=model.rule.value,
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
        workers=[
            WorkerDescription(
                worker.id,
                worker.process.pid,
                worker.state.name,
                worker.started,
                resident_memory(worker.process.pid),
            )
            for worker in (pool.workers if pool is not None else ())
        ],
        sequences=_sequences(spec),
        joining=_joining(version),
        stepwise=spec.batching.stepwise,
        job_ticket=spec.limits.job_ticket,
        scaled_to_zero=version.scaled_to_zero,
        start_seconds=pool.start_seconds if pool is not None else 0.0,
    )


def _joining(version: ModelVersion) -> Joining | None:
    pool = version.pool
    return pool.joining if pool is not None else None


def _sequences(spec: ModelSpec) -> SequenceDescription | None:
    sequence = spec.sequence
    if not sequence.enabled:
        return None
    controls = [(each.name, each.kind.name, each.datatype) for each in sequence.controls]
    return SequenceDescription(
        sequence.max_sequences, sequence.max_queued_steps, sequence.max_idle, sequence.timeout, controls
    )

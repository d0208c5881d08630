"""The operations of the management protocols on a cluster's models, on whichever node they are asked. Runs in the first process of a node server.

What changes models is packed into files here and asked of the controller, which has the nodes do it and answers when it is done.
What reads is answered by this node for the versions that it has, and by a node that has them for all others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import msgspec

from mooring.cluster.assignments import Assignments
from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.packing import EVERYWHERE, ModelPacker, placement_of, scaling_of
from mooring.cluster.records import (
    Change,
    ClusterView,
    ModelFiles,
    RegisterVersion,
    RoutingTable,
    ScaleVersion,
    SetDefault,
    UnregisterVersion,
    VersionView,
)
from mooring.cluster.remote_requests import ModelQuestion
from mooring.core.errors import (
    ClusterUnavailable,
    FetchFailed,
    InvalidInput,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    MooringError,
    Unsupported,
    VersionIsDefault,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.service import (
    InferenceService,
    ModelAdministration,
    ModelConfig,
    ModelDescription,
    ModelState,
    ModelUsage,
    Registration,
    Scaled,
    VersionLoad,
)
from mooring.core.tensors import Parameter
from mooring.engine.administration import Administration
from mooring.engine.endpoints import WorkerEndpoints
from mooring.observability.logs import get_logger
from mooring.repository.catalog import PARAMETER, Catalog, ServedVersions, worker_spec
from mooring.repository.spec import ModelSpec

log = get_logger(__name__)

T = TypeVar("T")
Ask = Callable[[Change | None], Awaitable[ClusterView | None]]
"""Asks a change of the controller, or without one how the cluster is. Raises ``MooringError``."""

AskNode = Callable[[str, str, str, str], Awaitable[bytes]]
"""Asks the node of that name what (as ``ModelQuestion`` has it) of a version. Raises ``MooringError`` where it has none or does not answer."""


class LocalReads:
    """Answers the questions of other nodes about versions that this node has."""

    def __init__(self, local: Administration, assignments: Assignments) -> None:
        self._local = local
        self._assignments = assignments
        self._encoder = msgspec.msgpack.Encoder()

    async def answer(self, question: ModelQuestion) -> bytes:
        """The answer, for ``ClusterAdministration`` of the other node. Raises ``ModelNotFound``, ``VersionNotFound`` or ``InvalidInput``."""
        who = question.model, question.version
        found: object
        if question.what == "description":
            found = await self._local.describe(*who)
        elif question.what == "config":
            found = await self._local.config(*who)
        elif question.what == "usage":
            found = await self._local.usage(*who)
        elif question.what == "options":
            assigned = self._assignments.find(*who)
            found = assigned.options if assigned is not None else {}
        else:
            raise InvalidInput(f"no node answers '{question.what}' of a version")
        return self._encoder.encode(found)


class ClusterAdministration(ModelAdministration):
    """The ``ModelAdministration`` of a node server: what changes goes to the controller, for the whole cluster.

    How this works: a model that is registered or loaded is read here first, so that what is wrong with it is said at once and in the same
    words as on one machine. Its files go into this node's cache, from which the others fetch them by their hash. The controller
    makes one change after the other, whichever nodes ask; who registers what another node has just registered is told that it exists.

    ``local`` has what this node itself serves, and ``reads`` tells of it. ``service`` has the states of all models of the cluster.
    ``routing`` returns the latest table.
    """

    def __init__(
        self,
        local: Administration,
        reads: LocalReads,
        service: InferenceService,
        catalog: Catalog,
        packer: ModelPacker,
        cache: ModelFileCache,
        node: str,
        ask: Ask,
        ask_node: AskNode,
        routing: Callable[[], RoutingTable],
    ) -> None:
        self._local = local
        self._reads = reads
        self._service = service
        self._catalog = catalog
        self._packer = packer
        self._cache = cache
        self._node = node
        self._ask = ask
        self._ask_node = ask_node
        self._routing = routing

    # What reads.

    def index(self) -> Sequence[ModelState]:
        known = list(self._service.models())
        names = {state.name for state in known}
        local = [state for state in self._local.index() if state.name not in names]
        return sorted([*known, *local], key=lambda state: state.name)

    def loads(self) -> Sequence[VersionLoad]:
        return self._local.loads()

    async def describe(self, model: str, version: str = "") -> Sequence[ModelDescription]:
        table = self._routing()
        known = _versions_of(table, model)
        if not known:
            return await self._local.describe(model, version)
        default = table.defaults.get(model, "") or known[0]
        wanted = known if version == "all" else [self._resolve(model, version)]
        found = await asyncio.gather(*(self._describe_one(model, each) for each in wanted))
        return [
            msgspec.structs.replace(each, is_default=each.version == default)
            for descriptions in found
            for each in descriptions
        ]

    async def _describe_one(self, model: str, version: str) -> Sequence[ModelDescription]:
        try:
            return await self._read(
                "description", model, version, list[ModelDescription], self._local.describe
            )
        except (ModelNotFound, ClusterUnavailable):
            return [_describe_missing(model, version, self._routing())]

    async def config(self, model: str, version: str = "") -> ModelConfig:
        resolved = self._resolve(model, version)
        return await self._read("config", model, resolved, ModelConfig, self._local.config)

    async def usage(self, model: str = "", version: str = "") -> Sequence[ModelUsage]:
        table = self._routing()
        if model and not version and not _versions_of(table, model):
            return await self._local.usage(model)
        if version:
            wanted = [(model, self._resolve(model, version))]
        else:
            models = [model] if model else sorted({*table.replicas})
            wanted = [(each, number) for each in models for number in table.replicas.get(each, {})]
        found = await asyncio.gather(
            *(self._read("usage", *each, list[ModelUsage], self._local.usage) for each in wanted),
            return_exceptions=not version,
        )
        usages = [usage for each in found if not isinstance(each, BaseException) for usage in each]
        if not model:  # stages of chains are no models of the cluster
            here = {(usage.name, usage.version) for usage in usages}
            usages += [each for each in await self._local.usage() if (each.name, each.version) not in here]
        return usages

    async def _read(
        self,
        what: str,
        model: str,
        version: str,
        kind: type[T],
        read_here: Callable[[str, str], Awaitable[T | Sequence[Any]]],
    ) -> T:
        """Read from this node where it has the version, else from the first other node that has it and answers."""
        nodes = self._routing().replicas.get(model, {}).get(version, [])
        try:
            return cast("T", await read_here(model, version))
        except ModelNotFound:
            others = [node for node in nodes if node != self._node]
            if not others:
                raise
        reason: MooringError | None = None
        for node in others:
            try:
                body = await self._ask_node(node, what, model, version)
            except MooringError as error:
                reason = error
            else:
                return msgspec.msgpack.decode(body, type=kind)
        assert reason is not None
        raise reason

    def _resolve(self, model: str, version: str) -> str:
        """The number of a version, of the default one for "". Raises ``VersionNotFound``; what the table lacks is left to this node."""
        table = self._routing()
        known = _versions_of(table, model)
        if not known:
            return version
        number = version or table.defaults.get(model, "") or known[0]
        if number not in known:
            raise _no_version(model, version)
        return number

    # What changes.

    async def register(self, registration: Registration, *, wait: bool = True) -> Scaled:
        spec, files = await asyncio.to_thread(self._pack_registration, registration)
        options: dict[str, Parameter] = {
            key: value
            for key, value in msgspec.structs.asdict(registration).items()
            if value not in ("", None) and key != "name"
        }
        options["url"] = spec.url
        change = RegisterVersion(
            spec.name,
            spec.version,
            self._with_sources(files),
            options=options,
            placement=placement_of(spec),
            scaling=scaling_of(spec),
            wait=wait,
        )
        try:
            await self._ask(change)
        except FetchFailed:
            raise
        except ModelLoadFailed as error:
            if isinstance(error, WorkersFailed):
                raise
            raise WorkersFailed(
                error.message, model=spec.name, version=spec.version, detail=error.detail
            ) from error
        least = spec.scaling.min_workers
        return Scaled(spec.name, spec.version, least, done=wait or not least)

    def _pack_registration(self, registration: Registration) -> tuple[ModelSpec, ModelFiles]:
        with self._catalog.open_registered(registration) as (spec, place):
            return spec, self._cache.add(place)

    async def scale(
        self, model: str, version: str = "", *, least: int, most: int, wait: bool = True
    ) -> Scaled:
        found = _find_version(await self._view(), model, version)
        described = (await self.describe(model, found.version))[0]
        if described.kind in ("chain", "ensemble"):
            kind = "a chain" if described.kind == "chain" else "an ensemble"
            raise Unsupported(f"model '{model}' is {kind}: its stages have the workers")
        view = await self._ask(
            ScaleVersion(model, found.version, min_workers=least, max_workers=most, wait=wait)
        )
        after = _find_version(view or await self._view(), model, found.version)
        replicas = [replica.status for replica in after.replicas]
        done = wait and all(each.ready_workers == each.wanted_workers for each in replicas)
        workers = max((each.wanted_workers for each in replicas), default=least) if wait else least
        return Scaled(model, found.version, workers, done)

    async def set_default(self, model: str, version: str) -> None:
        found = _find_version(await self._view(), model, version)
        await self._ask(SetDefault(model, found.version))

    async def unregister(self, model: str, version: str = "") -> None:
        view = await self._view()
        target = _find_version(view, model, version)
        if target.is_default and len(_find_versions(view, model)) > 1:
            raise VersionIsDefault(
                f"version '{target.version}' is the default of model '{model}', which has others",
                model=model,
                version=target.version,
            )
        await self._ask(UnregisterVersion(model, target.version))

    async def load(
        self,
        model: str,
        version: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
    ) -> None:
        self._local.check_loading()
        changes = {"config": config, "files": files, "parameters": parameters}
        try:
            await self._load(model, version, (), changes)
        except ModelNotFound:
            # Of a repository or model store of another node: it is served already, and there is nothing new of it here.
            view = await self._view()
            found = [each for each in view.versions if each.model == model and version in ("", each.version)]
            if any(changes.values()) or not found:
                raise

    async def _load(
        self, model: str, version: str, within: tuple[str, ...], changes: Mapping[str, Any]
    ) -> None:
        served, packed = await asyncio.to_thread(self._pack_load, model, version, changes)
        for spec in served.specs:
            for step in dict.fromkeys(spec.stages if spec.ensemble is not None else ()):
                await self._load_step(step, (*within, model))
        failures = list(served.faults.values())
        known = _find_versions(await self._view(), model)
        highest = max((_number_of(each.version) for each in known), default=-1)
        previous = next((each.version for each in known if each.is_default), "")
        # One version in the place of another is taken over in one change, which goes on if this node does not.
        takes_over = (
            served.whole
            and bool(previous)
            and [change.version for change in packed] != [previous]
            and len(packed) == 1
            and not (await self._options_of(model, previous)).get("pinned")
        )
        options = {f"{PARAMETER}{key}": value for key, value in (changes.get("parameters") or {}).items()}
        for change in packed:
            own = change.options | options | ({"pinned": True} if version else {})
            asked = msgspec.structs.replace(
                change,
                files=self._with_sources(change.files),
                options=own,
                config=dict(changes.get("config") or {}),
                placement=change.placement or (EVERYWHERE if within else {}),
                make_default=change.make_default and _number_of(change.version) >= highest,
                wait=True,
                retire_previous=takes_over,
            )
            try:
                await self._ask(asked)
            except ModelLoadFailed as error:
                failures.append(error)
        if failures:
            raise failures[0]
        if served.whole:
            await self._retire_others(model, {change.version for change in packed})

    def _pack_load(
        self, model: str, version: str, changes: Mapping[str, Any]
    ) -> tuple[ServedVersions, list[RegisterVersion]]:
        served = self._catalog.read_versions(model, version, **changes)
        try:
            return served, self._packer.pack_versions(served.specs)
        finally:
            for spec in served.specs:
                self._catalog.release(spec)

    async def _load_step(self, step: str, within: tuple[str, ...]) -> None:
        """Load a model of an ensemble's steps that the cluster does not have."""
        ensemble = within[-1]
        if step in within:
            path = " -> ".join((*within, step))
            raise ModelLoadFailed(f"the ensemble is a step of itself: {path}", model=ensemble)
        if _find_versions(await self._view(), step):
            return
        try:
            await self._load(step, "", within, {})
        except (ModelLoadFailed, ModelNotFound) as error:
            text = f"step '{step}' of ensemble '{ensemble}': {error.message}"
            raise ModelLoadFailed(text, model=ensemble, detail=error.detail) from error

    async def _retire_others(self, model: str, kept: Iterable[str]) -> None:
        """Unload the versions that the repository does not serve any more, but for the default and those that were loaded by number."""
        for each in _find_versions(await self._view(), model):
            if each.version in kept or each.is_default:
                continue
            if not (await self._options_of(model, each.version)).get("pinned"):
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self._ask(UnregisterVersion(model, each.version))

    async def _options_of(self, model: str, version: str) -> dict[str, Parameter]:
        """The options with which a version was registered; none where no node tells."""
        for node in self._routing().replicas.get(model, {}).get(version, []):
            with suppress(MooringError):
                question = "options", model, version
                here = node == self._node
                body = await (
                    self._reads.answer(ModelQuestion(0, *question))
                    if here
                    else self._ask_node(node, *question)
                )
                return msgspec.msgpack.decode(body, type=dict[str, Parameter])
        return {}

    async def unload(self, model: str, version: str = "", *, dependents: bool = False) -> None:
        self._local.check_loading()
        view = await self._view()
        if version:
            await self._make_way(view, _find_version(view, model, version))
        elif not _find_versions(view, model):
            await self._local.unload(
                model
            )  # which forgets why it could not be loaded, or says that it is not there
            return
        steps = await self._steps_of(model) if dependents else []
        await self._ask(UnregisterVersion(model, version))
        for step in steps:
            in_use = {each for other in self._ensembles() for each in await self._steps_of(other)}
            if step not in in_use:
                with suppress(ModelNotFound):  # somebody else unloaded it meanwhile
                    await self.unload(step, dependents=True)

    async def _make_way(self, view: ClusterView, version: VersionView) -> None:
        """Have the highest other version be the default where this one is, which goes."""
        others = [each for each in _find_versions(view, version.model) if each.version != version.version]
        if version.is_default and others:
            highest = max(others, key=lambda each: (each.state == "READY", _number_of(each.version)))
            await self._ask(SetDefault(version.model, highest.version))

    def _ensembles(self) -> list[str]:
        return sorted({state.name for state in self._service.models() if state.kind == "ensemble"})

    async def _steps_of(self, model: str) -> list[str]:
        """The models of an ensemble's steps; none for any other model."""
        with suppress(MooringError):
            declared = (await self.config(model)).declared
            steps = declared.get("ensemble_scheduling", {}).get("step", [])
            return [str(step["model_name"]) for step in steps]
        return []

    async def load_worker(self, worker: str, parameters: Mapping[str, Parameter]) -> str:
        self._local.check_loading()
        worker = worker.lower()
        share = parameters.get("share", True)
        if not isinstance(share, bool):
            raise InvalidInput(f"parameter 'share' of worker '{worker}' must be true or false, not {share!r}")
        if "next" in parameters:
            raise Unsupported("parameter 'next': a cluster has no endpoints that hand on to others")
        names = WorkerEndpoints()
        view = await self._view()
        taken = {each.model for each in view.versions}
        for name in sorted(taken):
            if name == worker or name.removeprefix(f"{worker}-").isdecimal():
                options = await self._options_of(name, "1")
                loaded = {
                    key.removeprefix(PARAMETER): value
                    for key, value in options.items()
                    if key.startswith(PARAMETER)
                }
                if options.get("worker") == worker:
                    names.add_endpoint(worker, name, loaded)
        endpoint = names.find_endpoint(worker, parameters)
        if endpoint is not None:
            if not share:
                workers = _wanted_workers(_find_version(view, endpoint, ""))
                await self.scale(endpoint, least=workers + 1, most=workers + 1)
            return endpoint
        endpoint = names.next_name(worker)
        while endpoint in taken:
            endpoint = names.next_name(worker)
        change = await asyncio.to_thread(self._pack_worker, worker, endpoint, parameters)
        try:
            await self._ask(change)
        except ModelExists:  # another node has loaded one of that name meanwhile
            return await self.load_worker(worker, parameters)
        return endpoint

    def _pack_worker(
        self, worker: str, endpoint: str, parameters: Mapping[str, Parameter]
    ) -> RegisterVersion:
        spec = worker_spec(worker, endpoint, parameters, self._catalog.defaults)
        with TemporaryDirectory(prefix="mooring-") as folder:
            place = Path(spec.location, spec.entry)
            if spec.backend == "builtin":  # which is a name, and no file
                place = Path(folder, spec.entry)
                place.write_text("")
            files = self._cache.add(place)
        options: dict[str, Parameter] = {f"{PARAMETER}{key}": value for key, value in parameters.items()}
        return RegisterVersion(
            endpoint,
            "1",
            self._with_sources(files),
            options=options | {"worker": worker, "shown": spec.url},
        )

    async def unload_worker(self, endpoint: str) -> None:
        self._local.check_loading()
        view = await self._view()
        if "worker" in await self._options_of(endpoint, "1"):
            workers = _wanted_workers(_find_version(view, endpoint, ""))
            if workers > 1:
                await self.scale(endpoint, least=workers - 1, most=workers - 1)
                return
        await self.unload(endpoint)

    def _with_sources(self, files: ModelFiles) -> ModelFiles:
        return msgspec.structs.replace(files, sources=[*files.sources, f"node:{self._node}"])

    async def _view(self) -> ClusterView:
        view = await self._ask(None)
        assert view is not None  # a question is always answered
        return view


def _versions_of(table: RoutingTable, model: str) -> list[str]:
    """The versions of a model that the table knows, those that are ready first."""
    tables: tuple[Mapping[str, Iterable[str]], ...] = (table.replicas, table.starting, table.pending)
    return list(dict.fromkeys(version for known in tables for version in known.get(model, ())))


def _find_versions(view: ClusterView, model: str) -> list[VersionView]:
    return [each for each in view.versions if each.model == model]


def _find_version(view: ClusterView, model: str, version: str) -> VersionView:
    """One version, the default one for "". Raises ``ModelNotFound`` or ``VersionNotFound``, in the words of one machine."""
    versions = _find_versions(view, model)
    if not versions:
        raise ModelNotFound(f"model '{model}' is not loaded", model=model)
    found = next((each for each in versions if each.version == version), None)
    if not version:
        found = next((each for each in versions if each.is_default), versions[0])
    if found is None:
        raise _no_version(model, version)
    return found


def _no_version(model: str, version: str) -> VersionNotFound:
    return VersionNotFound(f"model '{model}' has no version '{version}'", model=model, version=version)


def _number_of(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def _wanted_workers(version: VersionView) -> int:
    return max((replica.status.wanted_workers for replica in version.replicas), default=1)


def _describe_missing(model: str, version: str, table: RoutingTable) -> ModelDescription:
    """What is known of a version that no node can describe now."""
    reason = table.pending.get(model, {}).get(version, "")
    return ModelDescription(
        name=model,
        version=version,
        url="",
        state="FAILED" if reason else "LOADING",
        is_default=False,
        reason=reason,
        detail="",
        runtime="python",
        min_workers=0,
        max_workers=0,
        batch_size=1,
        max_delay=0.0,
        response_timeout=0.0,
        startup_timeout=0.0,
        retry_timeout=0.0,
        client_timeout=0.0,
        queue_size=0,
        pending=0,
        loaded_at_startup=False,
        workers=[],
    )

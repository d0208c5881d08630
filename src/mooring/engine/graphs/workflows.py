"""Workflows: graphs of models that are registered, run and unregistered together, as in TorchServe."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from mooring.core.errors import ModelExists, ModelNotFound, MooringError, WorkersFailed
from mooring.core.options import Scaling, declare
from mooring.core.requests import InferenceRequest
from mooring.core.service import (
    Done,
    ModelState,
    Ticket,
    WorkflowDescription,
    WorkflowRegistration,
    WorkflowService,
)
from mooring.engine.admission import refuse_request
from mooring.engine.engine import Engine
from mooring.observability.logs import get_logger
from mooring.repository.spec import ModelSpec
from mooring.repository.workflows import ResolvedWorkflow, WorkflowCatalog

log = get_logger(__name__)


class Workflows(WorkflowService):
    """The workflows of an engine. Each has models of its own, named ``WORKFLOW__NODE``, even where archives are the same."""

    def __init__(self, engine: Engine, catalog: WorkflowCatalog) -> None:
        self._engine = engine
        self._catalog = catalog
        self._workflows: dict[str, ResolvedWorkflow] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.missing: list[ModelState] = []
        """The workflows that the start named and that could not be registered then."""

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        model = self._engine.workflows.models.get(request.model)
        if model is None:
            return refuse_request(request, done, _not_registered_error(request.model))
        return self._engine.run_graph(model.find_version(""), request, done)

    def workflows(self) -> Sequence[WorkflowDescription]:
        return [self._workflows[name].description for name in sorted(self._workflows)]

    def describe(self, workflow: str) -> WorkflowDescription:
        resolved = self._workflows.get(workflow)
        if resolved is None:
            raise _not_registered_error(workflow)
        return resolved.description

    async def register(self, registration: WorkflowRegistration) -> str:
        resolved = await asyncio.to_thread(self._catalog.read_workflow, registration)
        name = resolved.spec.name
        async with self._lock_of(name):
            try:
                if name in self._workflows:
                    raise ModelExists(f"workflow '{name}' is registered already", model=name)
                await self._start_workflow(resolved)
            except MooringError:
                self._release_files(resolved)
                raise
            self._workflows[name] = resolved
        log.info("workflow ready", workflow=name, nodes=[node.name for node in resolved.spec.nodes])
        return name

    async def register_at_start(self, named: Sequence[tuple[str, str]], *, required: bool) -> None:
        """Register the workflows that a start names, each by its name (or none) and its archive.

        The engine is not ready before. Raises ``MooringError`` for one that cannot be registered; where they are not
        ``required`` that is logged, and the others are served.
        """

        async def register(name: str, archive: str) -> None:
            try:
                await self.register(WorkflowRegistration(url=archive, name=name))
            except MooringError as error:
                if required:
                    raise
                reason = error.message
                log.warning(f"Failed to load workflow: {archive}", reason=reason)  # noqa: G004 - as of a model
                missing = ModelState(
                    name or archive, "", "UNAVAILABLE", ready=False, is_default=False, reason=reason
                )
                self.missing.append(missing)

        self._engine.await_workflows(awaiting=True)
        await asyncio.gather(*(register(name, archive) for name, archive in named))
        self._engine.await_workflows(awaiting=False)

    async def unregister(self, workflow: str) -> None:
        self.describe(workflow)  # no lock for a name that no workflow has
        async with self._lock_of(workflow):
            resolved = self._workflows.pop(workflow, None)
            if resolved is None:
                raise _not_registered_error(workflow)
            await self._engine.retire_workflow(workflow)
            await self._retire_models(resolved.parts)
            self._release_files(resolved)
        log.info("workflow unloaded", workflow=workflow)

    async def _start_workflow(self, resolved: ResolvedWorkflow) -> None:
        """Deploy all models at the same time. Where one does not load, the others are unloaded again."""
        starting = [asyncio.ensure_future(self._deploy_model(part)) for part in resolved.parts]
        await asyncio.wait(starting)
        failed = [error for each in starting if (error := each.exception()) is not None]
        if failed:
            await self._retire_models(
                part for part, each in zip(resolved.parts, starting, strict=True) if each.exception() is None
            )
            raise _with_node(resolved.spec.name, failed[0])
        await self._engine.deploy_workflow(resolved.spec)

    async def _deploy_model(self, spec: ModelSpec) -> None:
        """Deploy a model and return when all its workers have loaded it. One that fails is unloaded; its files stay."""
        version = await self._engine.deploy_version(
            spec.with_options(declare(Scaling, min_workers=0)), suspended=True
        )
        try:
            await self._engine.resize_workers(version, spec.scaling.min_workers, spec.scaling.max_workers)
        except MooringError as error:
            log.error(  # noqa: TRY400 - the reason says it all, and the model's traceback is in the log already
                "workers not started", model=spec.name, version=spec.version, reason=error.message
            )
            await self._retire_models([spec])
            raise

    async def _retire_models(self, specs: Iterable[ModelSpec]) -> None:
        async def retire(spec: ModelSpec) -> None:
            with suppress(ModelNotFound):  # it was unloaded on its own
                await self._engine.retire_version(spec.name, spec.version)

        await asyncio.gather(*(retire(spec) for spec in specs))

    def _release_files(self, resolved: ResolvedWorkflow) -> None:
        for spec in (*resolved.parts, resolved.spec):
            self._catalog.release(spec)

    def _lock_of(self, workflow: str) -> asyncio.Lock:
        return self._locks.setdefault(workflow, asyncio.Lock())


def _with_node(workflow: str, error: BaseException) -> BaseException:
    """The error for a workflow whose models did not start, with the name of the workflow."""
    if not isinstance(error, WorkersFailed):
        return error
    text = f"Workflow Node {error.model.removeprefix(f'{workflow}__')} failed to register. Details: {error.message}"
    return WorkersFailed(text, model=workflow, detail=error.detail)


def _not_registered_error(workflow: str) -> ModelNotFound:
    return ModelNotFound(f"workflow '{workflow}' is not registered", model=workflow)

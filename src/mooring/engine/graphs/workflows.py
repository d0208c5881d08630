"""Workflows: graphs of models that are registered together, run together and go together."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from mooring.core.errors import ModelExists, ModelNotFound, MooringError, WorkersFailed
from mooring.core.options import Scaling, declare
from mooring.core.requests import InferenceRequest
from mooring.core.service import (
    Done,
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
    """The workflows of an engine. Each has models of its own, ``WORKFLOW__NODE``, whatever others ask the same archive."""

    def __init__(self, engine: Engine, catalog: WorkflowCatalog) -> None:
        self._engine = engine
        self._catalog = catalog
        self._opened: dict[str, ResolvedWorkflow] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        model = self._engine.workflows.models.get(request.model)
        if model is None:
            return refuse_request(request, done, _unknown(request.model))
        return self._engine.run(model.version(""), request, done)

    def workflows(self) -> Sequence[WorkflowDescription]:
        return [self._opened[name].description for name in sorted(self._opened)]

    def describe(self, workflow: str) -> WorkflowDescription:
        opened = self._opened.get(workflow)
        if opened is None:
            raise _unknown(workflow)
        return opened.description

    async def register(self, registration: WorkflowRegistration) -> str:
        opened = await asyncio.to_thread(self._catalog.read_workflow, registration)
        name = opened.spec.name
        async with self._changing(name):
            try:
                if name in self._opened:
                    raise ModelExists(f"workflow '{name}' is registered already", model=name)
                await self._start(opened)
            except MooringError:
                self._release(opened)
                raise
            self._opened[name] = opened
        log.info("workflow ready", workflow=name, nodes=[node.name for node in opened.spec.nodes])
        return name

    async def unregister(self, workflow: str) -> None:
        self.describe(workflow)  # a name that nothing has needs no lock
        async with self._changing(workflow):
            opened = self._opened.pop(workflow, None)
            if opened is None:
                raise _unknown(workflow)
            await self._engine.retire_workflow(workflow)
            await self._retire(opened.parts)
            self._release(opened)
        log.info("workflow unloaded", workflow=workflow)

    async def _start(self, opened: ResolvedWorkflow) -> None:
        """Every model at once; where one does not come up the others go again, too."""
        starting = [asyncio.ensure_future(self._deploy(part)) for part in opened.parts]
        await asyncio.wait(starting)
        failed = [error for each in starting if (error := each.exception()) is not None]
        if failed:
            await self._retire(
                part for part, each in zip(opened.parts, starting, strict=True) if each.exception() is None
            )
            raise _with_node(opened.spec.name, failed[0])
        await self._engine.deploy_workflow(opened.spec)

    async def _deploy(self, spec: ModelSpec) -> None:
        """Return when all workers of a model are there; of one that fails nothing is left but its files."""
        version = await self._engine.deploy(spec.with_options(declare(Scaling, min_workers=0)))
        try:
            await self._engine.resize(version, spec.scaling.min_workers, spec.scaling.max_workers)
        except MooringError as error:
            log.error(  # noqa: TRY400 - the reason says it all, and the model's traceback is in the log already
                "workers not started", model=spec.name, version=spec.version, reason=error.message
            )
            await self._retire([spec])
            raise

    async def _retire(self, specs: Iterable[ModelSpec]) -> None:
        async def retire(spec: ModelSpec) -> None:
            with suppress(ModelNotFound):  # somebody unloaded it by itself
                await self._engine.retire(spec.name, spec.version)

        await asyncio.gather(*(retire(spec) for spec in specs))

    def _release(self, opened: ResolvedWorkflow) -> None:
        for spec in (*opened.parts, opened.spec):
            self._catalog.release(spec)

    def _changing(self, workflow: str) -> asyncio.Lock:
        return self._locks.setdefault(workflow, asyncio.Lock())


def _with_node(workflow: str, error: BaseException) -> BaseException:
    """Why a workflow's models did not come up, with the name of the workflow."""
    if not isinstance(error, WorkersFailed):
        return error
    text = f"Workflow Node {error.model.removeprefix(f'{workflow}__')} failed to register. Details: {error.message}"
    return WorkersFailed(text, model=workflow, detail=error.detail)


def _unknown(workflow: str) -> ModelNotFound:
    return ModelNotFound(f"workflow '{workflow}' is not registered", model=workflow)

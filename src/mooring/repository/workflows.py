"""Workflows that could be run: their archives in the store, and the models that each needs of its own."""

from pathlib import Path
from typing import Any

import msgspec

from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, ModelNotFound, MooringError
from mooring.core.paths import real_path
from mooring.core.service import WorkflowDescription, WorkflowRegistration
from mooring.observability.logs import get_logger
from mooring.repository.fetch import is_remote
from mooring.repository.spec import Defaults, ModelSpec, Node
from mooring.repository.store import Store
from mooring.repository.workflow_spec import DEFAULTS, Workflow

log = get_logger(__name__)

# Key of a workflow's spec -> the field of a model, how much of the field's unit it counts, and the same key in the
# model's own config, which yields to what the workflow says and wins over its default.
_FIELDS = {
    "min-workers": ("min_workers", 1, "minWorkers"),
    "max-workers": ("max_workers", 1, "maxWorkers"),
    "batch-size": ("max_batch_size", 1, "batchSize"),
    "max-batch-delay": ("max_delay", 1000, "maxBatchDelay"),
}


class OpenedWorkflow(msgspec.Struct, frozen=True):
    """A workflow ready to run: the graph, what it is made of, and what is told of it."""

    spec: ModelSpec
    parts: list[ModelSpec]
    description: WorkflowDescription


class WorkflowCatalog:
    """Opens workflows by the names of their archives."""

    def __init__(self, store: Store, config: Config, defaults: Defaults) -> None:
        self._store = store
        self._models = config.model_store
        self._workflows = config.workflow_store or config.model_store
        self._defaults = defaults

    def open(self, registration: WorkflowRegistration) -> OpenedWorkflow:
        """A workflow with everything that it needs unpacked.

        Raises ``ModelNotFound`` where there is no such archive, ``SourceRefused``, ``FetchFailed`` or, for what is
        wrong with it or with a model that it names, ``ModelLoadFailed``.
        """
        folder = self._workflows
        if not registration.url or (
            not is_remote(registration.url) and (folder is None or not folder.is_dir())
        ):
            raise ModelNotFound(f"no '{registration.url}': there is no workflow store")
        workflow = self._store.open_workflow(
            real_path(folder or Path()), registration.url, name=registration.name
        )
        if workflow.unused:
            log.warning("models of a workflow on no path", workflow=workflow.name, models=workflow.unused)
        spec = ModelSpec(
            name=workflow.name,
            version="1.0",
            backend="workflow",
            platform="workflow",
            location=str(workflow.folder),
            url=workflow.shown,
        )
        parts: dict[str, ModelSpec] = {}
        try:
            for node in workflow.order:
                parts[node] = self._part(workflow, node, registration)
        except MooringError:
            for each in (spec, *parts.values()):
                self.release(each)
            raise
        nodes = [_node(workflow, node, parts[node]) for node in workflow.order]
        spec = msgspec.structs.replace(spec, nodes=nodes, stages=[each.model for each in nodes])
        # The graph asks again itself: a worker that dies must not make that twice as often.
        alone = [
            msgspec.structs.replace(part, retry=False, workflow=workflow.name) for part in parts.values()
        ]
        return OpenedWorkflow(spec, alone, _described(workflow))

    def release(self, spec: ModelSpec) -> None:
        """Remove what was unpacked for a workflow or a model of its own; a function's files are the workflow's."""
        if not spec.function:
            self._store.release(spec)

    def _part(self, workflow: Workflow, node: str, registration: WorkflowRegistration) -> ModelSpec:
        name = f"{workflow.name}__{node}"
        given = {
            "response_timeout": registration.response_timeout,
            "startup_timeout": registration.startup_timeout,
        }
        chosen = {key: value for key, value in given.items() if value is not None}
        defaults = msgspec.structs.replace(self._defaults, settings={}, **chosen)
        if node not in workflow.models:
            return _function(workflow, node, name, defaults)
        url = workflow.models[node]
        try:
            spec = self._open_model(url, name, defaults)
        except MooringError as error:
            where = f"{workflow.shown}/{workflow.spec_file}: models.{node}.url = {url!r}"
            raise ModelLoadFailed(f"{where}: {error.message}", detail=error.detail) from error
        return msgspec.structs.replace(spec, **_sizes(workflow, node, spec))

    def _open_model(self, url: str, name: str, defaults: Defaults) -> ModelSpec:
        if is_remote(url):
            return self._store.open_remote(url, name=name, defaults=defaults)
        if self._models is None or not self._models.is_dir():
            raise ModelNotFound("there is no model store to find it in")
        return self._store.open_archive(real_path(self._models), url, name=name, defaults=defaults)


def _function(workflow: Workflow, node: str, name: str, defaults: Defaults) -> ModelSpec:
    """A function of the workflow's handler as a model: one worker, a request at a time."""
    entry = f"{workflow.handler}:{node}"
    return ModelSpec(
        name=name,
        version="1.0",
        backend="handler",
        location=str(workflow.folder),
        entry=entry,
        url=workflow.shown,
        function=True,
        queue_size=defaults.queue_size,
        response_timeout=defaults.response_timeout,
        startup_timeout=defaults.startup_timeout,
        recycling=defaults.recycling,
        max_response_bytes=defaults.max_response_bytes,
        json_nan=defaults.json_nan,
        decode_input=defaults.decode_input,
        limit_image_pixels=defaults.limit_image_pixels,
        metrics_config=defaults.metrics_config,
        manifest={
            "runtime": "python",
            "model": {"modelName": name, "modelVersion": "1.0", "handler": entry},
        },
    )


def _sizes(workflow: Workflow, node: str, spec: ModelSpec) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, (field, scale, own) in _FIELDS.items():
        said = workflow.said(node, key)
        if said is None and own not in spec.config:
            said = DEFAULTS[key]
        if said is not None:
            changes[field] = said / scale if scale > 1 else said
    least = changes.get("min_workers", spec.min_workers)
    changes["max_workers"] = max(changes.get("max_workers", spec.max_workers), least)
    return changes


def _node(workflow: Workflow, node: str, part: ModelSpec) -> Node:
    retries, timeout = (
        DEFAULTS[key] if said is None else said
        for key, said in ((key, workflow.said(node, key)) for key in ("retry-attempts", "timeout-ms"))
    )
    return Node(
        name=node,
        model=part.name,
        parents=workflow.parents(node),
        timeout=timeout / 1000,
        # A step of a sequence changes what the next one finds.
        retries=retries if part.retry and part.sequence is None else 0,
    )


def _described(workflow: Workflow) -> WorkflowDescription:
    common = {**DEFAULTS, **workflow.common}
    return WorkflowDescription(
        name=workflow.name,
        url=workflow.shown,
        min_workers=common["min-workers"],
        max_workers=common["max-workers"],
        batch_size=common["batch-size"],
        max_delay=common["max-batch-delay"] / 1000,
        graph=workflow.dag,
    )

"""Workflows that can be run: their archives in the store, and the models that each has for itself."""

from contextlib import suppress
from pathlib import Path

import msgspec

from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, ModelNotFound, MooringError, Unsupported
from mooring.core.options import (
    Batching,
    ModelLimits,
    Scaling,
    Timeouts,
    declare,
    or_undeclared,
    override,
    resolve_options,
)
from mooring.core.paths import leads_out, real_path
from mooring.core.service import WorkflowDescription, WorkflowRegistration
from mooring.observability.logs import get_logger
from mooring.repository.fetch import is_remote
from mooring.repository.spec import Defaults, ModelSpec, Node
from mooring.repository.store import Store
from mooring.repository.workflow_spec import DEFAULTS, Workflow

log = get_logger(__name__)

# Key of a workflow's spec -> the same key in a model's own config, which yields to what the workflow says and wins over its
# default.
_KEYS = {
    "min-workers": "minWorkers",
    "max-workers": "maxWorkers",
    "batch-size": "batchSize",
    "max-batch-delay": "maxBatchDelay",
}


class ResolvedWorkflow(msgspec.Struct, frozen=True):
    """A workflow that can be run: its graph, the models of its nodes, and its description for clients."""

    spec: ModelSpec
    parts: list[ModelSpec]
    description: WorkflowDescription


class WorkflowCatalog:
    """Reads workflows by the names of their archives."""

    def __init__(self, store: Store, config: Config, defaults: Defaults) -> None:
        self._store = store
        self._models = config.model_store
        self._stores = [store for store in (config.workflow_store, config.model_store) if store is not None]
        self._defaults = defaults
        self._in_cluster = config.cluster_socket is not None

    def read_workflow(self, registration: WorkflowRegistration) -> ResolvedWorkflow:
        """Read a workflow and unpack everything that it needs.

        Raises ``ModelNotFound`` where there is no such archive, ``SourceRefused``, ``FetchFailed`` or, for what is
        wrong with it or with a model that it names, ``ModelLoadFailed``; ``Unsupported`` on a node of a cluster.
        """
        if self._in_cluster:
            raise Unsupported(
                "a cluster serves no workflows; serve the models of its nodes, and chains of them"
            )
        folder = self._store_of(registration.url)
        if not registration.url or (
            not is_remote(registration.url) and (folder is None or not folder.is_dir())
        ):
            raise ModelNotFound(f"no '{registration.url}': there is no workflow store")
        workflow = self._store.read_workflow_archive(
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
            options=self._defaults.options,
        )
        parts: dict[str, ModelSpec] = {}
        try:
            for node in workflow.order:
                parts[node] = self._read_part(workflow, node, registration)
        except MooringError:
            for each in (spec, *parts.values()):
                self.release(each)
            raise
        nodes = [_graph_node(workflow, node, parts[node]) for node in workflow.order]
        spec = msgspec.structs.replace(spec, nodes=nodes, stages=[each.model for each in nodes])
        # The graph asks again itself: a worker that dies must not make that twice as often.
        alone = [
            msgspec.structs.replace(part, workflow=workflow.name).with_options(
                declare(ModelLimits, retry=False)
            )
            for part in parts.values()
        ]
        return ResolvedWorkflow(spec, alone, _describe(workflow))

    def _store_of(self, url: str) -> Path | None:
        """The workflow store, or the model store where only that has such an archive of a workflow."""
        with suppress(OSError):  # a name too long
            for store in self._stores:
                if url.endswith(".war") and not leads_out(url) and (store / url).is_file():
                    return store
        return next(iter(self._stores), None)

    def release(self, spec: ModelSpec) -> None:
        """Remove what was unpacked for a workflow or a model of its own; a function's files are the workflow's."""
        if not spec.function:
            self._store.release(spec)

    def _read_part(self, workflow: Workflow, node: str, registration: WorkflowRegistration) -> ModelSpec:
        name = f"{workflow.name}__{node}"
        options = override(
            self._defaults.options,
            declare(
                Timeouts,
                response_timeout=or_undeclared(registration.response_timeout),
                startup_timeout=or_undeclared(registration.startup_timeout),
            ),
        )
        defaults = msgspec.structs.replace(self._defaults, settings={}, options=options)
        if node not in workflow.models:
            return _function_spec(workflow, node, name, defaults)
        url = workflow.models[node]
        try:
            spec = self._read_model(url, name, defaults)
        except MooringError as error:
            where = f"{workflow.shown}/{workflow.spec_file}: models.{node}.url = {url!r}"
            raise ModelLoadFailed(f"{where}: {error.message}", detail=error.detail) from error
        return _apply_sizes(workflow, node, spec)

    def _read_model(self, url: str, name: str, defaults: Defaults) -> ModelSpec:
        if is_remote(url):
            return self._store.read_remote(url, name=name, defaults=defaults)
        if self._models is None or not self._models.is_dir():
            raise ModelNotFound("there is no model store to find it in")
        return self._store.read_archive(real_path(self._models), url, name=name, defaults=defaults)


def _function_spec(workflow: Workflow, node: str, name: str, defaults: Defaults) -> ModelSpec:
    """Make a model of a function of the workflow's handler: one worker, one request at a time."""
    entry = f"{workflow.handler}:{node}"
    return ModelSpec(
        name=name,
        version="1.0",
        backend="handler",
        location=str(workflow.folder),
        entry=entry,
        url=workflow.shown,
        function=True,
        options=resolve_options(
            defaults.options,
            declare(Batching, max_batch_size=1),
            declare(Scaling, min_workers=1, max_workers=1),
        ),
        manifest={
            "runtime": "python",
            "model": {"modelName": name, "modelVersion": "1.0", "handler": entry},
        },
    )


def _apply_sizes(workflow: Workflow, node: str, spec: ModelSpec) -> ModelSpec:
    """Put the workflow's numbers of workers and rows over the model's own config."""
    numbers = {key: _declared_number(workflow, node, key, spec) for key in _KEYS}
    delay, least, most = numbers["max-batch-delay"], numbers["min-workers"], numbers["max-workers"]
    low = spec.scaling.min_workers if least is None else least
    high = spec.scaling.max_workers if most is None else most
    return spec.with_options(
        declare(
            Batching,
            max_batch_size=or_undeclared(numbers["batch-size"]),
            max_delay=or_undeclared(None if delay is None else delay / 1000),
        ),
        declare(Scaling, min_workers=low, max_workers=max(low, high), workers_by_default=False),
    )


def _declared_number(workflow: Workflow, node: str, key: str, spec: ModelSpec) -> int | None:
    """The workflow's number for a key, or the default; None where the model's own config has one."""
    number = workflow.declared(node, key)
    return DEFAULTS[key] if number is None and _KEYS[key] not in spec.config else number


def _graph_node(workflow: Workflow, node: str, part: ModelSpec) -> Node:
    retries, timeout = (
        DEFAULTS[key] if number is None else number
        for key, number in ((key, workflow.declared(node, key)) for key in ("retry-attempts", "timeout-ms"))
    )
    return Node(
        name=node,
        model=part.name,
        parents=workflow.parents(node),
        timeout=timeout / 1000,
        # A step of a sequence changes what the next one finds.
        retries=retries if part.limits.retry and not part.sequence.enabled else 0,
    )


def _describe(workflow: Workflow) -> WorkflowDescription:
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

"""What makes a server one of the nodes of a cluster: its connection to the node actor, and the service that knows other nodes.

Runs in the first process of a node server.
"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from mooring import __version__
from mooring.cluster.administration import ClusterAdministration, LocalReads
from mooring.cluster.assignments import Assignments
from mooring.cluster.cluster_service import ClusterService
from mooring.cluster.file_sources import FileSources
from mooring.cluster.link import ClusterLink
from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.packing import ModelPacker
from mooring.cluster.records import NodeAssignment, NodeStatus, VersionAssignment
from mooring.config.settings import Config
from mooring.core.errors import FetchFailed, MooringError
from mooring.core.options import RuntimeOptions, Scaling, declare
from mooring.engine.administration import Administration
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.metrics import Metrics
from mooring.repository.catalog import Catalog
from mooring.repository.fetch import Fetcher
from mooring.repository.spec import ModelSpec

# Seconds between two reports of the state of this node.
_REPORT_EVERY = 0.5
# Seconds from a change to the report of it: a node that loads a thousand models must not describe all of them at each step.
_REPORT_SOON = 0.02


class NodeServer:
    """Built where ``cluster_socket`` is set. ``stack`` closes it; ``find_address`` tells the address for inference once it listens.

    ``local`` manages the models of this process, and ``catalog`` reads their files.
    """

    def __init__(
        self,
        socket: Path,
        stack: AsyncExitStack,
        engine: Engine,
        arena: Arena,
        metrics: Metrics,
        *,
        config: Config,
        local: Administration,
        catalog: Catalog,
        find_address: Callable[[], str],
    ) -> None:
        files = socket.with_name("files")
        self.link = ClusterLink(socket, self.describe, files)
        self._catalog = catalog
        self._files = ModelFileCache(files, config.cluster_files_size)
        fetcher = Fetcher(config.allowed_urls)
        sources = FileSources(self._files, fetcher, self._fetch_file, self.link.node)
        self._assignments = Assignments(local, sources, self._read_version, self.report_soon)
        reads = LocalReads(local, self._assignments)
        counts = ClusterMetrics()
        metrics.registry.register(counts)
        self.service = ClusterService(
            engine,
            self.link,
            arena,
            counts,
            queue_size=config.job_queue_size,
            answer_question=reads.answer,
            is_settled=lambda: self._assignments.was_settled,
        )
        self.administration = ClusterAdministration(
            local,
            reads,
            self.service,
            catalog,
            ModelPacker(self._files, fetcher, config.model_store),
            self._files,
            self.link.node,
            self.link.ask,
            self.service.ask_node,
            lambda: self._assignments.latest.routing,
        )
        self._find_address = find_address
        self._reporting: asyncio.TimerHandle | None = None
        self._changed = False
        self._epoch = self._generation = 0
        self.link.on_assignment(self._take_assignment)
        stack.push_async_callback(self._assignments.close)
        stack.callback(self._close)

    def describe(self) -> NodeStatus:
        """The state of this node now."""
        return NodeStatus(
            self.link.node,
            __version__,
            self._find_address(),
            self._epoch,
            self._generation,
            self.service.ready(),
            self._assignments.describe(),
            {model: dict(counts) for model, counts in self.service.held().items()},
        )

    def listen(self) -> None:
        """Listen for the node actor, and report from now on. Raises ``OSError``."""
        self.link.listen()
        self._report()

    def report_soon(self) -> None:
        """Something has changed: report in a moment, once for all that changes until then."""
        if self._reporting is not None and not self._changed:
            self._changed = True
            self._reporting.cancel()
            self._reporting = asyncio.get_running_loop().call_later(_REPORT_SOON, self._report)

    def _take_assignment(self, assignment: NodeAssignment) -> None:
        self._epoch, self._generation = assignment.epoch, assignment.generation
        self._assignments.take(assignment)

    def _read_version(self, assigned: VersionAssignment, place: Path) -> list[ModelSpec]:
        """Read a version as it is assigned, with the workers that an operator has named. Blocks; raises ``MooringError``."""
        specs = self._catalog.read_assigned(
            place, assigned.model, assigned.version, assigned.options, assigned.config
        )
        if assigned.gpus:
            # Loaded once before the fork it would be on a GPU that no fork can use.
            alone = declare(RuntimeOptions, preload=False)
            specs = [msgspec.structs.replace(spec, gpus=assigned.gpus).with_options(alone) for spec in specs]
        least, most = assigned.min_workers, assigned.max_workers
        if least is None and most is None:
            return specs
        return [
            with_workers(spec, least, most) if spec.name == assigned.model and not spec.stages else spec
            for spec in specs
        ]

    async def _fetch_file(self, sha256: str, node: str) -> Path:
        try:
            return await self.link.fetch_file(sha256, node)
        except (OSError, MooringError) as error:
            raise FetchFailed(f"node '{node}': {error}") from error

    def _report(self) -> None:
        self._changed = False
        if self.link.attached:
            self.link.report(self.describe())
        self._reporting = asyncio.get_running_loop().call_later(_REPORT_EVERY, self._report)

    def _close(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
        self.service.close()
        self.link.close()


def with_workers(spec: ModelSpec, least: int | None, most: int | None) -> ModelSpec:
    """A version with the numbers of workers that an operator has named; None leaves one as it was, unless it must make way.

    >>> from mooring.core.options import ModelOptions
    >>> spec = ModelSpec(name="m", version="1", backend="builtin", location="", options=ModelOptions())
    >>> with_workers(spec, 3, None).scaling.max_workers
    3
    """
    low = least if least is not None else min(spec.scaling.min_workers, most or 0)
    high = most if most is not None else max(spec.scaling.max_workers, low)
    return spec.with_options(
        declare(Scaling, min_workers=low, max_workers=max(high, 1), workers_by_default=False)
    )

"""What makes a server one of the nodes of a cluster: its connection to the node actor, and the service that knows other nodes."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from mooring import __version__
from mooring.cluster.cluster_service import ClusterService
from mooring.cluster.link import ClusterLink
from mooring.cluster.records import NodeStatus, VersionStatus
from mooring.engine.engine import Engine
from mooring.ipc.arena import Arena
from mooring.observability.cluster_metrics import ClusterMetrics
from mooring.observability.metrics import Metrics

# Seconds between two reports of the state of this node.
_REPORT_EVERY = 0.5


class NodeServer:
    """Built where ``cluster_socket`` is set. ``stack`` closes it; ``find_address`` tells the address for inference once it listens.

    ``describe_versions`` says how far the versions are that this node is to serve.
    """

    def __init__(
        self,
        socket: Path,
        stack: AsyncExitStack,
        engine: Engine,
        arena: Arena,
        metrics: Metrics,
        *,
        queue_size: int,
        find_address: Callable[[], str],
        describe_versions: Callable[[], Sequence[VersionStatus]] = tuple,
    ) -> None:
        files = socket.with_name("files")
        self.link = ClusterLink(socket, self.describe, files)
        counts = ClusterMetrics()
        metrics.registry.register(counts)
        self.service = ClusterService(engine, self.link, arena, counts, queue_size=queue_size)
        self._find_address = find_address
        self._describe_versions = describe_versions
        self._reporting: asyncio.TimerHandle | None = None
        self._epoch = self._generation = 0
        self.link.on_assignment(lambda taken: self._note(taken.epoch, taken.generation))
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
            list(self._describe_versions()),
            {model: dict(counts) for model, counts in self.service.held().items()},
        )

    def listen(self) -> None:
        """Listen for the node actor, and report from now on. Raises ``OSError``."""
        self.link.listen()
        self._report()

    def report_soon(self) -> None:
        """Something has changed: report in this turn of the event loop."""
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = asyncio.get_running_loop().call_later(0, self._report)

    def _note(self, epoch: int, generation: int) -> None:
        self._epoch, self._generation = epoch, generation
        self.report_soon()

    def _report(self) -> None:
        if self.link.attached:
            self.link.report(self.describe())
        self._reporting = asyncio.get_running_loop().call_later(_REPORT_EVERY, self._report)

    def _close(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
        self.service.close()
        self.link.close()

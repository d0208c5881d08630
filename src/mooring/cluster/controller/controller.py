"""The controller of a cluster: it makes what nodes do match the desired state. Runs in the controller.

Its surroundings give it everything: Ray through a ``ClusterPort``, a store, a clock, and what nodes report.
"""

from collections.abc import Callable

from mooring.cluster.controller.cluster_port import ClusterPort
from mooring.cluster.records import Change, ClusterView, NodeStatus

TICK = 0.25
"""Seconds between two calls of ``tick``, where nothing happens sooner."""


class Controller:
    """Decides what every node serves. All its methods run on one event loop.

    Call ``start`` first, ``tick`` every ``TICK`` seconds, and ``report`` with everything that nodes say. When ``superseded`` is not 0, a
    later controller has given orders: this one does nothing more, and its actor should end.
    """

    def __init__(self, name: str, port: ClusterPort, clock: Callable[[], float]) -> None:
        self._name = name
        self._port = port
        self._clock = clock
        self.epoch = 0
        self.superseded = 0

    async def start(self) -> None:
        """Take an epoch above all that the store has seen, and read what is to be served.

        Raises ``StateStoreError`` when the store cannot be read or written.
        """
        raise NotImplementedError

    async def handle(self, change: Change) -> ClusterView:
        """Make a change, and return once it is done on all nodes concerned, or with ``wait=False`` once it is written.

        Raises a ``MooringError`` when it is refused, or when it failed and has been undone. What fits on no node is done as well: it is
        PENDING in the view, with the reason.
        """
        raise NotImplementedError

    def report(self, status: NodeStatus) -> None:
        """Note what a node says of itself. It may be late or come twice."""
        raise NotImplementedError

    async def tick(self) -> None:
        """Look at the nodes and do what is to be done next. It raises nothing; what could not be done is tried again."""
        raise NotImplementedError

    def view(self) -> ClusterView:
        """The cluster as it is known now."""
        raise NotImplementedError

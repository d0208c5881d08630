"""The controller of a cluster: it makes what nodes do match the desired state. Runs in the controller.

Its surroundings give it everything: Ray through a ``ClusterPort``, a store, a clock, and what nodes report.
"""

import asyncio
from collections.abc import Callable

from msgspec import structs

from mooring.cluster.controller.changes import apply_change, find_version
from mooring.cluster.controller.cluster_port import ClusterPort
from mooring.cluster.controller.completion import is_done
from mooring.cluster.controller.desired_state import DesiredState
from mooring.cluster.controller.placement import Key
from mooring.cluster.controller.reconciler import Reconciler, Timings
from mooring.cluster.controller.state_store import StateStore, StateStoreError, Superseded
from mooring.cluster.controller.views import describe_cluster
from mooring.cluster.records import (
    Change,
    ClusterView,
    DrainNode,
    NodeStatus,
    RegisterVersion,
    ScaleVersion,
    SetDefault,
    UnregisterVersion,
)
from mooring.core.errors import ClusterUnavailable, InvalidInput, ModelNotReady
from mooring.observability.logs import get_logger

log = get_logger(__name__)

TICK = 0.25
"""Seconds between two calls of ``tick``."""


class Controller:
    """Decides what every node serves. All its methods run on one event loop.

    Call ``start`` first, ``tick`` every ``TICK`` seconds, and ``report`` with everything that nodes say. When ``superseded`` is not 0, a
    later controller has given orders: this one does nothing more, and its process should end.

    A change becomes a new desired state, which is written before anything is done. Ticks do it, and a change waits for the tick that finds it done.
    """

    def __init__(
        self,
        name: str,
        port: ClusterPort,
        store: StateStore,
        clock: Callable[[], float],
        timings: Timings | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._clock = clock
        self._timings = timings or Timings()
        self._state = DesiredState()
        self._reconciler = Reconciler(port, clock, self._timings, self._supersede)
        self._lock = asyncio.Lock()
        self._ticked = asyncio.Condition()
        self._looks = 0
        self._started_at = self._checked_at = 0.0
        self._settled = False
        self.epoch = 0
        self.superseded = 0

    async def start(self) -> None:
        """Take an epoch above all that the store has seen, and read what is to be served.

        Raises ``StateStoreError`` when the store cannot be read or written, and ``Superseded``.
        """
        epoch, self._state = await self._store.take_epoch()
        self._reconciler.orders.epoch = epoch
        self._reconciler.orders.heard_generation(self._state.generation)
        self._started_at = self._checked_at = self._clock()
        self.epoch = epoch

    async def handle(self, change: Change) -> ClusterView:
        """Make a change, and return once it is done on all nodes concerned, or with ``wait=False`` once it is written.

        Raises a ``MooringError`` when it is refused, or when it failed and has been undone. What fits on no node is done as well: it is
        PENDING in the view, with the reason.
        """
        async with self._lock:
            self._check_acting()
            version = self._check_change(change)
            await self._write(apply_change(self._state, change))
            if isinstance(change, RegisterVersion | UnregisterVersion):
                self._reconciler.undone.pop(Key(change.model, version), None)
            looks = self._looks
        if isinstance(change, SetDefault) or change.wait:
            async with self._ticked:
                while not (self._looks > looks and self._is_done(change, version)):
                    await self._ticked.wait()
                    self._check_acting()
        return self.view()

    def report(self, status: NodeStatus) -> None:
        """Note what a node says of itself. It may be late or come twice."""
        self._reconciler.nodes.note_status(status, self._clock())
        self._reconciler.orders.heard_generation(status.generation)
        if status.epoch > self.epoch > 0:
            self._supersede(status.epoch)

    async def tick(self) -> None:
        """Look at the nodes and do what is to be done next. It raises nothing; what could not be done is tried again."""
        if self.epoch and not self.superseded:
            try:
                await self._reconciler.look()
                async with self._lock:
                    await self._act()
                await self._reconciler.request_nodes(self._state)
            except ClusterUnavailable as error:
                log.warning("the desired state is not kept, and so not changed", reason=str(error))
            except (
                Exception
            ):  # the supervisor of the cluster: one fault must not stop all that comes after it
                log.exception("a look at the cluster failed")
        async with self._ticked:
            self._ticked.notify_all()

    def view(self) -> ClusterView:
        """The cluster as it is known now."""
        return describe_cluster(self._name, self._state, self._reconciler, self._clock())

    async def _act(self) -> None:
        await self._look_for_others()
        if self.superseded or not await self._is_settled():
            return
        try:
            proposed = self._reconciler.propose(self._state)
            if proposed is not self._state:
                await self._write(proposed)
        finally:
            # What was written before holds on while the store cannot be reached: nodes that die are replaced all the same.
            if not self.superseded:
                self._reconciler.carry_out(self._state)
                self._looks += 1

    async def _look_for_others(self) -> None:
        """See now and then whether the store knows a later controller: no node may be left that would tell."""
        if self._clock() - self._checked_at < self._timings.check:
            return
        self._checked_at = self._clock()
        try:
            await self._store.check()
        except Superseded as error:
            self._supersede(error.epoch)
        except StateStoreError as error:
            log.warning("the store of the desired state cannot be read", reason=str(error))

    async def _is_settled(self) -> bool:
        """Whether it is known what nodes have: before that, what is right would be taken for missing."""
        if not self._settled:
            late = self._clock() - self._started_at >= self._timings.settle
            if not late and not self._reconciler.nodes.is_complete(self._clock()):
                return False
            await self._reconciler.reservations.load()
            self._settled = True
        return True

    async def _write(self, state: DesiredState) -> None:
        """Keep a state, and go by it from then on."""
        if state is self._state:
            return
        state = structs.replace(state, generation=self._reconciler.orders.generation)
        try:
            await self._store.write(state)
        except Superseded as error:
            self._supersede(error.epoch)
            raise ClusterUnavailable(str(error)) from error
        except StateStoreError as error:
            raise ClusterUnavailable(str(error)) from error
        self._state = state

    def _supersede(self, epoch: int) -> None:
        if not self.superseded:
            log.error("another controller has taken over", epoch=self.epoch, higher_epoch=epoch)
        self.superseded = max(self.superseded, epoch)

    def _check_acting(self) -> None:
        """Raise ``ClusterUnavailable`` where this controller may change nothing."""
        if self.superseded or not self.epoch:
            text = (
                f"another controller has the epoch {self.superseded}"
                if self.superseded
                else "the controller starts"
            )
            raise ClusterUnavailable(f"{text}; ask again")

    def _check_change(self, change: Change) -> str:
        """Refuse what nodes do not allow; return the version that a change concerns, "" for all of a model."""
        match change:
            case RegisterVersion() | UnregisterVersion():
                return change.version
            case ScaleVersion():
                return find_version(self._state, change.model, change.version)[0].version
            case SetDefault():
                key, version = find_version(self._state, change.model, change.version)
                serving = any(each.serves for each in self._reconciler.replicas.get(key, {}).values())
                if not serving and version.replicas:
                    raise ModelNotReady(
                        f"version '{key.version}' of model '{key.model}' is not ready on any node",
                        model=key.model,
                        version=key.version,
                    )
            case DrainNode():
                if (
                    self._reconciler.nodes.find(change.node) is None
                    and change.node not in self._state.drained
                ):
                    known = ", ".join(sorted(node.name for node in self._reconciler.nodes)) or "none"
                    raise InvalidInput(f"there is no node '{change.node}'; the nodes are: {known}")
        return ""

    def _is_done(self, change: Change, version: str) -> bool:
        return is_done(change, version, self._state, self._reconciler, self._clock())

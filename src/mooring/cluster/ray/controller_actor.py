"""The controller's actor: one of the cluster, found by its name. Runs in an actor that Ray starts again when it dies.

What it decides is in ``cluster/controller/``; here is its way to the outside.
"""

import asyncio
import time
from pathlib import Path

import msgspec
import ray

from mooring.cluster import messages
from mooring.cluster.controller.controller import TICK, Controller
from mooring.cluster.controller.state_store import open_state_store
from mooring.cluster.ray.orders import ControllerOrder, NodeFound
from mooring.cluster.ray.ray_port import RayPort
from mooring.cluster.records import Change, NodeStatus
from mooring.cluster.run_folder import default_cluster_dir, make_private_folder
from mooring.core.errors import ClusterUnavailable, ErrorRecord, MooringError
from mooring.observability.logs import get_logger

log = get_logger(__name__)


# Seconds until the state is tried to be read again.
_AGAIN = 2.0


class ControllerActor:
    """The controller as Ray calls it. ``order`` is a ``ControllerOrder`` as JSON; all methods run on one event loop."""

    def __init__(self, order: bytes) -> None:
        self._order = msgspec.json.decode(order, type=ControllerOrder)
        self._port = RayPort(self._order, self._take_status)
        self._controller: Controller | None = None
        self._started = asyncio.Event()  # or it is known why it cannot start
        self._failure = ""
        self._stopping = False
        self._work = asyncio.get_running_loop().create_task(self._run())

    async def order(self) -> bytes:
        """The ``ControllerOrder`` that it was made with, as JSON."""
        return msgspec.json.encode(self._order)

    async def actor_of(self, node: str) -> str:
        """The name of a node's actor. Raises ``NodeGone``."""
        return self._port.actor_of(node)

    async def report(self, found: bytes) -> None:
        """Take what a node actor says, a ``NodeFound`` as JSON."""
        self._port.report(msgspec.json.decode(found, type=NodeFound))

    async def ask(self, change: bytes) -> bytes:
        """Make a change (as JSON, null for none) and return how the cluster is then: a ``ControllerAnswer``."""
        try:
            await self._started.wait()
            if self._controller is None:
                raise ClusterUnavailable(self._failure)
            wanted = msgspec.json.decode(change, type=Change | None)
            view = self._controller.view() if wanted is None else await self._controller.handle(wanted)
            answer = messages.ControllerAnswer(0, view=view)
        except MooringError as error:
            answer = messages.ControllerAnswer(0, error=ErrorRecord.of(error))
        except Exception as error:  # the edge: who asks must be told, and Ray's own form says nothing
            log.exception("change not made")
            answer = messages.ControllerAnswer(
                0, error=ErrorRecord("ClusterUnavailable", f"the controller failed: {error}")
            )
        return msgspec.msgpack.encode(answer)

    async def stop(self, patience: float) -> list[str]:
        """End all node servers and their actors; the caller then ends this actor. Returns the addresses of nodes that did not answer."""
        self._stopping = True
        await self._port.look()
        return await self._port.stop_nodes(patience)

    def _take_status(self, status: NodeStatus) -> None:
        if self._controller is not None:
            self._controller.report(status)

    async def _run(self) -> None:
        self._watching = asyncio.get_running_loop().create_task(self._port.watch())
        controller = self._controller = await self._start()
        log.info("controller started", cluster=self._order.cluster, epoch=controller.epoch)
        while not self._stopping:
            await controller.tick()
            if controller.superseded:
                log.error("another controller has taken over", epoch=controller.superseded)
                # For good: started again, this one would take the cluster back.
                await asyncio.to_thread(ray.kill, ray.get_runtime_context().current_actor)
            await asyncio.sleep(TICK)

    async def _start(self) -> Controller:
        """Return a controller that has taken an epoch; try again while the state cannot be read."""
        while True:
            try:
                await self._port.look()
                store = open_state_store(self._order.state or self._default_state(), self._order.cluster)
                controller = Controller(self._order.cluster, self._port, store, time.monotonic)
                await controller.start()
            except Exception as error:  # the supervisor: whoever asks must be told why nothing happens
                self._failure = f"the controller cannot start: {error}"
                log.exception("controller not started", cluster=self._order.cluster)
                self._started.set()
                await asyncio.sleep(_AGAIN)
                continue
            self._started.set()
            return controller

    def _default_state(self) -> str:
        """Where the desired state is kept if nobody says it: on the machine that the controller runs on."""
        base = Path(self._order.cluster_dir or default_cluster_dir())
        make_private_folder(base, "state", self._order.cluster)
        return str(base / "state")

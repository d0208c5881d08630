"""What is reserved for replicas, as the controller knows it: asked for, held, refused, given back. Runs in the controller."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from mooring.cluster.controller.cluster_port import (
    ClusterPort,
    NotReserved,
    Reservation,
    ResourceRequest,
    Resources,
)
from mooring.cluster.controller.placement import Key
from mooring.observability.logs import get_logger

log = get_logger(__name__)

# Seconds for which a node is passed over that refused to reserve.
_REFUSED = 10.0

Seat = tuple[str, Key]
"""A version on a node."""


class Reservations:
    """All reservations. Each is asked for once and given back once nobody needs it; both take their time."""

    def __init__(self, port: ClusterPort, clock: Callable[[], float]) -> None:
        self._port = port
        self._clock = clock
        self._held: dict[Seat, Reservation] = {}
        self._tasks: dict[Seat, asyncio.Task[None]] = {}
        self._asked: dict[Seat, Resources] = {}
        self._refused: dict[Seat, tuple[float, str]] = {}

    async def load(self) -> None:
        """Learn what an earlier controller has reserved."""
        for each in await self._port.reservations():
            self._held[each.node, Key(each.model, each.version)] = each

    def find(self, seat: Seat, request: ResourceRequest) -> Reservation | None:
        """The reservation for a replica; None while it is being asked for."""
        node, key = seat
        if not request.resources:
            return Reservation(node, *key)
        if seat in self._held:
            return self._held[seat]
        until, _ = self._refused.get(seat, (0.0, ""))
        if seat not in self._tasks and self._clock() >= until:
            self._asked[seat] = request.resources
            self._start(seat, self._reserve(seat, request))
        return None

    def gpus_of(self, seat: Seat) -> list[int]:
        """The numbers of the GPUs that are held for a replica on its node."""
        held = self._held.get(seat)
        return held.gpus if held is not None else []

    def refused_by_version(self) -> dict[Key, dict[str, str]]:
        """The nodes that lately refused to reserve for each version, with the reason."""
        refused: dict[Key, dict[str, str]] = {}
        for (node, key), (until, reason) in self._refused.items():
            if self._clock() < until:
                refused.setdefault(key, {})[node] = reason
        return refused

    def held_by_node(self) -> dict[str, Resources]:
        """What this cluster holds on each node."""
        return _sum_by_node({seat: held.resources for seat, held in self._held.items()})

    def asked_by_node(self) -> dict[str, Resources]:
        """What is being asked for on each node, and not in Ray's accounts yet."""
        return _sum_by_node(self._asked)

    def release_others(self, needed: Collection[Seat]) -> None:
        """Give back what is held for none of these."""
        for seat in [seat for seat in self._held if seat not in needed and seat not in self._tasks]:
            self._start(seat, self._release(seat))
        for seat in [seat for seat, (until, _) in self._refused.items() if self._clock() >= until]:
            del self._refused[seat]

    def _start(self, seat: Seat, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[seat] = asyncio.get_running_loop().create_task(work)

    async def _reserve(self, seat: Seat, request: ResourceRequest) -> None:
        node, key = seat
        try:
            self._held[seat] = await self._port.reserve(node, *key, request)
        except NotReserved as error:
            self._refused[seat] = (self._clock() + _REFUSED, str(error))
        except Exception as error:  # the edge to Ray, whose errors are many
            self._refused[seat] = (self._clock() + _REFUSED, str(error))
            log.exception("nothing reserved", node=node, model=key.model, version=key.version)
        finally:
            del self._tasks[seat], self._asked[seat]

    async def _release(self, seat: Seat) -> None:
        node, key = seat
        try:
            await self._port.release(node, *key)
            self._held.pop(seat, None)
        except Exception:  # the edge to Ray: the next tick tries again
            log.exception("reservation not given back", node=node, model=key.model, version=key.version)
        finally:
            del self._tasks[seat]


def free_for_replicas(total: Resources, free: Resources, held: Resources, asked: Resources) -> Resources:
    """What new replicas may take on a node. Ray's account of what is free lags behind, so what is held is taken from the whole, too."""

    def left(name: str) -> float:
        unheld = total[name] - held.get(name, 0.0)
        return max(min(free.get(name, 0.0), unheld) - asked.get(name, 0.0), 0.0)

    return {name: left(name) for name in total}


def _sum_by_node(amounts: Mapping[Seat, Resources]) -> dict[str, Resources]:
    total: dict[str, Resources] = {}
    for (node, _), resources in amounts.items():
        sums = total.setdefault(node, {})
        for name, amount in resources.items():
            sums[name] = sums.get(name, 0.0) + amount
    return total

"""Moves connections between the first process and further fronts as balancing.py says."""

import asyncio
import socket
import time

from mooring.frontends import messages
from mooring.frontends.balancing import BalancePolicy, Load, Migration
from mooring.frontends.supervisor import FrontendProcess, FrontendSupervisor
from mooring.observability.load import IdleCores, ThreadLoad
from mooring.observability.logs import get_logger
from mooring.web.migration import SocketChannel
from mooring.web.server import Listener

log = get_logger(__name__)

# Below this share of a core nobody has to know how idle the machine is: that, too, costs something.
_EASY = 0.5


class ConnectionBalancer:
    """Gives ``listener``'s connections to fronts, and takes them back. Every way goes through this process."""

    def __init__(self, fronts: FrontendSupervisor, listener: Listener) -> None:
        self._fronts = fronts
        self._listener = listener
        self._dealing = BalancePolicy(len(fronts.processes) + 1)
        self._passages: dict[FrontendProcess, SocketChannel] = {}
        self._own = ThreadLoad()
        self._idle = IdleCores()
        self._attentive = False
        self._loop = asyncio.get_running_loop()
        self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._look)
        fronts.attach = self._attach
        fronts.divide(1)

    def _attach(self, front: FrontendProcess, sock: socket.socket) -> None:
        """A front was started. The other end of ``sock`` is its own."""
        for each in [each for each in self._passages if each.gone]:
            self._passages.pop(each).close()
        self._passages[front] = SocketChannel(sock, self._arrived)

    def stop(self) -> None:
        """Let every connection stay where it is."""
        self._ticker.cancel()
        for passage in self._passages.values():
            passage.keep()

    async def settle(self, limit: float) -> None:
        """Answer what fronts gave back while they ended, within so many seconds."""
        for passage in self._passages.values():
            passage.settle()
        await self._listener.settle()
        await self._listener.drain(max(limit, 0.0))

    def close(self) -> None:
        """Nothing is dealt out any more."""
        self._ticker.cancel()
        for passage in self._passages.values():
            passage.close()

    def _arrived(self, mark: int, sock: socket.socket) -> None:
        """A front gave a connection away: for this process, or for another front by its number."""
        if mark:
            passage = self._passages.get(self._fronts.processes[mark - 1])
            if passage is not None and passage.send(messages.CONNECTION, sock.fileno()):
                sock.close()
                return
        self._listener.adopt(sock)

    def _look(self) -> None:
        self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._look)
        processes = self._fronts.processes
        loads = [Load(self._own.look(), len(self._listener.connections)), *(each.load for each in processes)]
        attentive = loads[0].busy > _EASY or any(load.connections for load in loads[1:])
        if attentive:
            idle = self._idle.look()
            if not self._attentive:  # it is the mean of a longer time than the loads are
                idle = 0.0
            before = self._dealing.open
            self._dealing.present = [True, *(each in self._passages and not each.gone for each in processes)]
            moves = self._dealing.next(time.monotonic(), loads, idle)
            if self._dealing.open != before:
                self._open_and_close(before)
            for move in moves:
                self._move(move)
        self._attentive = attentive

    def _open_and_close(self, before: list[bool]) -> None:
        count = sum(self._dealing.open)
        log.info("connections are dealt out", processes=count)
        self._fronts.divide(count)
        for front, was, is_open in zip(
            self._fronts.processes, before[1:], self._dealing.open[1:], strict=True
        ):
            if is_open and not was:
                self._passages[front].send(messages.LISTENER, self._listener.listening.fileno())
            elif was and not is_open:
                front.tell(messages.StopAccepting())

    def _move(self, move: Migration) -> None:
        processes = self._fronts.processes
        if move.giver:
            processes[move.giver - 1].tell(messages.MigrateConnections(move.share, move.taker))
        else:
            passage = self._passages[processes[move.taker - 1]]
            passage.give(self._listener.connections, move.share, messages.CONNECTION)

"""Moves connections between the first process and frontend processes as balancing.py says."""

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
    """Gives ``listener``'s connections to frontends, and takes them back. Every way goes through this process."""

    def __init__(self, frontends: FrontendSupervisor, listener: Listener) -> None:
        self._frontends = frontends
        self._listener = listener
        self._policy = BalancePolicy(len(frontends.processes) + 1)
        self._channels: dict[FrontendProcess, SocketChannel] = {}
        self._own = ThreadLoad()
        self._idle = IdleCores()
        self._attentive = False
        self._loop = asyncio.get_running_loop()
        self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._update_view)
        frontends.attach = self._attach
        frontends.set_share(1)

    def _attach(self, frontend: FrontendProcess, sock: socket.socket) -> None:
        """A frontend was started. The other end of ``sock`` is its own."""
        for each in [each for each in self._channels if each.gone]:
            self._channels.pop(each).close()
        self._channels[frontend] = SocketChannel(sock, self._arrived)

    def stop(self) -> None:
        """Let every connection stay where it is."""
        self._ticker.cancel()
        for channel in self._channels.values():
            channel.cancel()

    async def settle(self, limit: float) -> None:
        """Answer what frontends gave back while they ended, within so many seconds."""
        for channel in self._channels.values():
            channel.receive_all()
        await self._listener.wait_adopted()
        await self._listener.drain(max(limit, 0.0))

    def close(self) -> None:
        """Nothing is dealt out any more."""
        self._ticker.cancel()
        for channel in self._channels.values():
            channel.close()

    def _arrived(self, mark: int, sock: socket.socket) -> None:
        """A frontend gave a connection away: for this process, or for another frontend by its number."""
        if mark:
            channel = self._channels.get(self._frontends.processes[mark - 1])
            if channel is not None and channel.send(messages.CONNECTION, sock.fileno()):
                sock.close()
                return
        self._listener.adopt(sock)

    def _update_view(self) -> None:
        self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._update_view)
        processes = self._frontends.processes
        loads = [Load(self._own.look(), len(self._listener.connections)), *(each.load for each in processes)]
        attentive = loads[0].busy > _EASY or any(load.connections for load in loads[1:])
        if attentive:
            idle = self._idle.look()
            if not self._attentive:  # it is the mean of a longer time than the loads are
                idle = 0.0
            before = self._policy.open
            self._policy.present = [True, *(each in self._channels and not each.gone for each in processes)]
            moves = self._policy.next(time.monotonic(), loads, idle)
            if self._policy.open != before:
                self._open_and_close(before)
            for move in moves:
                self._move(move)
        self._attentive = attentive

    def _open_and_close(self, before: list[bool]) -> None:
        count = sum(self._policy.open)
        log.info("connections are dealt out", processes=count)
        self._frontends.set_share(count)
        for frontend, was, is_open in zip(
            self._frontends.processes, before[1:], self._policy.open[1:], strict=True
        ):
            if is_open and not was:
                self._channels[frontend].send(messages.LISTENER, self._listener.listening.fileno())
            elif was and not is_open:
                frontend.send(messages.StopAccepting())

    def _move(self, move: Migration) -> None:
        processes = self._frontends.processes
        if move.giver:
            processes[move.giver - 1].send(messages.MigrateConnections(move.share, move.taker))
        else:
            channel = self._channels[processes[move.taker - 1]]
            channel.migrate(self._listener.connections, move.share, messages.CONNECTION)

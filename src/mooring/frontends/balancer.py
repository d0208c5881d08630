"""Distributes the connections of shared listeners over the processes, by the rules of balancing.py."""

import asyncio
import socket
import time
from collections.abc import Sequence

from mooring.frontends import messages
from mooring.frontends.balancing import BalancePolicy, Migration
from mooring.frontends.load import load_of
from mooring.frontends.supervisor import FrontendProcess, FrontendSupervisor
from mooring.observability.load import IdleCores, ThreadLoad
from mooring.observability.logs import get_logger
from mooring.web.migration import SocketChannel
from mooring.web.server import Listener

log = get_logger(__name__)

# Below this share of a core nobody has to know how idle the machine is: that, too, costs something.
_EASY = 0.5


class ConnectionBalancer:
    """Opens frontends for connections to ``listeners``, and moves those that can migrate.

    How this works. Every frontend gets the listening sockets when it starts, and is told when to accept from them.
    Plain connections of HTTP/1.1, which the first of ``listeners`` has, go from process to process; every way goes
    through this process. The listeners whose connections cannot migrate are paused in a process that is full.

    Without ``by_load`` frontends accept all the time from the sockets that they are given: those that they cannot bind
    for themselves. Nothing migrates then.
    """

    def __init__(
        self,
        frontends: FrontendSupervisor,
        listeners: Sequence[Listener],
        *,
        shared: Sequence[Listener],
        by_load: bool,
    ) -> None:
        self._frontends = frontends
        self._listeners = listeners
        self._shared = shared
        self._policy = BalancePolicy(len(frontends.processes) + 1)
        self._accepting: list[list[int]] = [[] for _ in frontends.processes]
        self._channels: dict[FrontendProcess, SocketChannel] = {}
        self._own = ThreadLoad()
        self._idle = IdleCores()
        self._attentive = False
        self._loop = asyncio.get_running_loop()
        self._ticker: asyncio.TimerHandle | None = None
        if by_load:
            frontends.set_share(1)
            self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._balance)

    def attach(self, frontend: FrontendProcess, sock: socket.socket) -> None:
        """Give a frontend that was started the sockets to listen on. The other end of ``sock`` is its own."""
        for each in [each for each in self._channels if each.gone]:
            self._channels.pop(each).close()
        channel = self._channels[frontend] = SocketChannel(sock, self._adopt)
        self._accepting[frontend.number - 1] = []
        for number, listener in enumerate(self._listeners):
            if listener in self._shared:
                for listening in listener.share_sockets():
                    channel.send(messages.LISTENER + number, listening.fileno())

    def stop(self) -> None:
        """Let every connection stay where it is."""
        self._cancel_ticker()
        for channel in self._channels.values():
            channel.cancel()

    async def settle(self, limit: float) -> None:
        """Answer what frontends gave back while they ended, within so many seconds."""
        for channel in self._channels.values():
            channel.receive_all()
        await self._listeners[0].wait_adopted()
        await self._listeners[0].drain(max(limit, 0.0))

    def close(self) -> None:
        """Stop, and let go of the channels."""
        self._cancel_ticker()
        for channel in self._channels.values():
            channel.close()

    def _cancel_ticker(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()

    def _adopt(self, mark: int, sock: socket.socket) -> None:
        """Take a connection that a frontend gave away: for this process, or for another frontend by its number."""
        if mark:
            channel = self._channels.get(self._frontends.processes[mark - 1])
            if channel is not None and channel.send(messages.CONNECTION, sock.fileno()):
                sock.close()
                return
        self._listeners[0].adopt(sock)

    def _balance(self) -> None:
        self._ticker = self._loop.call_later(messages.LOAD_EVERY, self._balance)
        processes = self._frontends.processes
        loads = [load_of(self._own.read_share(), self._listeners), *(each.load for each in processes)]
        policy = self._policy
        attentive = (
            loads[0].busy > _EASY or any(policy.open[1:]) or any(load.connections for load in loads[1:])
        )
        if attentive:
            idle = self._idle.read_idle_cores()
            if not self._attentive:  # it is the mean of a longer time than the loads are
                idle = 0.0
            before = policy.open
            policy.present = [True, *(each in self._channels and not each.gone for each in processes)]
            moves = policy.next(time.monotonic(), loads, idle)
            if policy.open != before:
                count = sum(policy.open)
                log.info("connections are dealt out", processes=count)
                self._frontends.set_share(count)
            self._set_accepting()
            for move in moves:
                self._move(move)
        self._attentive = attentive

    def _set_accepting(self) -> None:
        """Tell every process on which listeners it accepts, as the policy says."""
        policy = self._policy
        for listener in self._listeners:
            listener.set_accepting(listener.migratable or not policy.paused[0])
        for frontend in self._frontends.processes:
            number = frontend.number
            accepting = [
                at
                for at, listener in enumerate(self._listeners)
                if policy.open[number] and (listener.migratable or not policy.paused[number])
            ]
            if accepting != self._accepting[number - 1]:
                self._accepting[number - 1] = accepting
                frontend.send(messages.SetAccepting(accepting))

    def _move(self, move: Migration) -> None:
        processes = self._frontends.processes
        if move.giver:
            processes[move.giver - 1].send(messages.MigrateConnections(move.share, move.taker))
        else:
            channel = self._channels[processes[move.taker - 1]]
            channel.migrate(self._listeners[0].connections, move.share, messages.CONNECTION)

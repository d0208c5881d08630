"""Calls that the code of models makes of other models: a socket in a private folder, which only workers know.

    worker of A ── Call("B") ──▶ ModelCallServer ── submit ──▶ Engine ──▶ worker of B

While A waits for B there is an edge from A to B. A call that would close a circle of such edges is refused: all workers
could wait for each other for ever.
"""

import asyncio
import functools
import socket
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path

from mooring.core.errors import ErrorRecord, InvalidInput, ModelFailed, ModelNotFound, MooringError
from mooring.core.service import ModelAdministration, Outcome, Ticket
from mooring.core.tensors import release
from mooring.engine.engine import Engine
from mooring.ipc.call_messages import (
    AskReady,
    Call,
    CallCodec,
    CallOutcome,
    CancelCall,
    Done,
    LoadModel,
    ToModels,
    UnloadModel,
)
from mooring.ipc.framing import Frames, FrameWriter
from mooring.observability.logs import get_logger

log = get_logger(__name__)

_BACKLOG = 128


class OpenCalls:
    """Which model waits for which, and whether one more call would close a circle."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._edges: Counter[tuple[str, str]] = Counter()

    def add(self, caller: str, callee: str) -> None:
        """Note that ``caller`` waits for ``callee``. Raises ``InvalidInput`` where that waits for the caller."""
        path = self._find_path(callee, caller)
        if path:
            if len(path) == 1:
                reason = f"model '{caller}' calls itself"
            else:
                reason = f"model '{caller}' calls '{callee}' while it is waited for ({' -> '.join((caller, *path))})"
            raise InvalidInput(f"{reason}: models that wait for each other would wait for ever", model=callee)
        self._edges[caller, callee] += 1

    def remove(self, caller: str, callee: str) -> None:
        """Note that the call has ended."""
        self._edges[caller, callee] -= 1
        if not self._edges[caller, callee]:
            del self._edges[caller, callee]

    def _find_path(self, start: str, goal: str) -> tuple[str, ...]:
        """The models from ``start`` on that lead to ``goal``; empty where none do."""
        waiting: list[tuple[str, ...]] = [(start,)]
        seen = {start}
        while waiting:
            path = waiting.pop()
            if path[-1] == goal:
                return path
            for each in self._waited_for(path[-1]):
                if each not in seen:
                    seen.add(each)
                    waiting.append((*path, each))
        return ()

    def _waited_for(self, model: str) -> set[str]:
        """The models that have to answer before this one can: those that it calls now, and those that it consists of."""
        found = {callee for caller, callee in self._edges if caller == model}
        entry = self._engine.registry.models.get(model)
        for version in entry.versions.values() if entry is not None else ():
            found.update(version.spec.stages)
        return found


class ModelCallServer:
    """Takes calls of workers at a socket, and answers them by the engine."""

    def __init__(self, engine: Engine, administration: ModelAdministration) -> None:
        self.engine = engine
        self.administration = administration
        self.open_calls = OpenCalls(engine)
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._callers: set[_Caller] = set()

    def listen(self, path: Path) -> None:
        """Listen at ``path``, which is in a folder of the server's own. Raises ``OSError``."""
        self._sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.bind(str(path))
        sock.listen(_BACKLOG)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Take no more calls, and give up those that are open."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()
        for caller in list(self._callers):
            caller.close()

    def _accept(self) -> None:
        assert self._sock is not None
        try:
            sock, _ = self._sock.accept()
        except OSError as error:  # no descriptor is left, or who called has ended
            log.warning("call of a model not taken", reason=str(error))
            return
        sock.setblocking(False)
        self._callers.add(_Caller(self, sock))

    def forget(self, caller: "_Caller") -> None:
        """A worker is gone."""
        self._callers.discard(caller)


class _Caller:
    """The connection of one worker, with its open calls."""

    def __init__(self, server: ModelCallServer, sock: socket.socket) -> None:
        self._server = server
        self._sock = sock
        self._frames = Frames()
        self._codec = CallCodec()
        self._writer = FrameWriter(sock, self._codec)
        self._tickets: dict[int, Ticket] = {}
        self._edges: dict[int, tuple[str, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._receive)

    def _receive(self) -> None:
        try:
            count = self._frames.receive(self._sock)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        try:
            for message in [self._codec.to_models(frame, self._frames.attached) for frame in self._frames]:
                self._handle(message)
        except Exception:  # the supervisor: a model's code may write anything into the socket
            log.exception("call of a model not understood")
            self.close()

    def _handle(self, message: ToModels) -> None:
        if isinstance(message, Call):
            self._begin_call(message)
        elif isinstance(message, CancelCall):
            ticket = self._tickets.pop(message.key, None)
            self._end_call(message.key)
            if ticket is not None:
                ticket.cancel()
        elif isinstance(message, AskReady):
            self._send(self._answer_ready(message))
        else:
            task = self._loop.create_task(self._change(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _begin_call(self, call: Call) -> None:
        key, edge = call.key, (call.caller, call.request.model)
        try:
            self._server.open_calls.add(*edge)
        except InvalidInput as error:
            self._send(CallOutcome(key, ErrorRecord.of(error)))
            return
        self._edges[key] = edge
        ticket = self._server.engine.entry.submit(call.request, functools.partial(self._done, key))
        if key in self._edges:  # it may have been answered already
            self._tickets[key] = ticket

    def _done(self, key: int, outcome: Outcome) -> None:
        if isinstance(outcome, MooringError):
            self._end_call(key)
            self._send(CallOutcome(key, ErrorRecord.of(outcome)))
            return
        if outcome.final:
            self._end_call(key)
        self._send(CallOutcome(key, outcome))
        release(outcome.outputs)

    def _end_call(self, key: int) -> None:
        self._tickets.pop(key, None)
        edge = self._edges.pop(key, None)
        if edge is not None:
            self._server.open_calls.remove(*edge)

    def _answer_ready(self, message: AskReady) -> Done:
        try:
            return Done(message.key, self._server.engine.entry.ready(message.model, message.version))
        except ModelNotFound:
            return Done(message.key)
        except MooringError as error:
            return Done(message.key, error=ErrorRecord.of(error))

    async def _change(self, message: LoadModel | UnloadModel) -> None:
        """Load or unload a model, and answer when that is done."""
        try:
            await self._run_change(message)
        except MooringError as error:
            self._send(Done(message.key, error=ErrorRecord.of(error)))
        except Exception as error:  # the edge of the server: the caller must not wait for ever
            log.exception("change of a model failed", model=message.model, caller=message.caller)
            self._send(Done(message.key, error=ErrorRecord("ModelLoadFailed", str(error))))
        else:
            self._send(Done(message.key))

    def _run_change(self, message: LoadModel | UnloadModel) -> Coroutine[None, None, None]:
        if message.model == message.caller:
            raise InvalidInput(
                f"model '{message.model}' cannot load or unload itself: it would wait for its own end"
            )
        administration = self._server.administration
        if isinstance(message, LoadModel):
            return administration.load(message.model, config=message.config, files=message.files or None)
        return administration.unload(message.model, dependents=message.dependents)

    def _send(self, message: CallOutcome | Done) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            self._writer.send(message)
        except (MemoryError, OverflowError) as error:
            failed = ErrorRecord.of(ModelFailed(f"the answer cannot be sent: {error}"))
            self._writer.send(CallOutcome(message.key, failed))

    def close(self) -> None:
        """Give up what is open: nobody waits for it."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._writer.close()
        self._sock.close()
        for ticket in list(self._tickets.values()):
            ticket.cancel()
        for key in list(self._edges):
            self._end_call(key)
        self._server.forget(self)

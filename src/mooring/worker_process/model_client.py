"""The worker's end of the socket over which its model's code calls other models."""

import itertools
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mooring.core.errors import ErrorRecord, InvalidInput, ServerUnreachable
from mooring.core.requests import InferenceRequest
from mooring.core.service import Done, ModelAccess, Ticket
from mooring.ipc import call_messages
from mooring.ipc.call_messages import (
    AskReady,
    Call,
    CallCodec,
    CallOutcome,
    CancelCall,
    LoadModel,
    ToCaller,
    ToModels,
    UnloadModel,
)
from mooring.ipc.framing import Frames, send_whole

_GONE = ErrorRecord("ServerUnreachable", "the server does not take calls of models any more")


class ModelCalls(ModelAccess):
    """Calls of the model ``caller``, from any thread. The socket at ``path`` is connected with the first one.

    One thread of this process reads all answers, and hands each to the caller that waits for it.
    """

    def __init__(self, path: str, caller: str) -> None:
        self._path = path
        self._caller = caller
        self._keys = itertools.count(1)
        self._waiting: dict[int, Callable[[ToCaller | ErrorRecord], bool]] = {}
        self._lock = threading.Lock()
        self._codec = CallCodec()
        self._sock: socket.socket | None = None

    def submit(self, request: InferenceRequest, done: Done) -> Ticket:
        key = next(self._keys)

        def take(message: ToCaller | ErrorRecord) -> bool:
            outcome = message.outcome if isinstance(message, CallOutcome) else message
            if isinstance(outcome, ErrorRecord):
                done(outcome.error(model=request.model, version=request.version))
                return True
            assert not isinstance(outcome, call_messages.Done)
            done(outcome)
            return outcome.final

        self._send(key, Call(key, self._caller, request), take)
        return _CallTicket(self, key)

    def is_ready(self, model: str, version: str) -> bool:
        return self._ask(lambda key: AskReady(key, model, version)).ready

    def load(self, model: str, files: Mapping[str, bytes], config: Mapping[str, Any] | None) -> None:
        own = dict(config) if config is not None else None
        self._ask(lambda key: LoadModel(key, self._caller, model, dict(files), own))

    def unload(self, model: str, *, dependents: bool) -> None:
        self._ask(lambda key: UnloadModel(key, self._caller, model, dependents))

    def cancel(self, key: int) -> None:
        """Withdraw a call: its ``done`` is not called again."""
        with self._lock:
            if self._waiting.pop(key, None) is not None and self._sock is not None:
                with suppress(OSError):
                    send_whole(self._sock, self._codec, CancelCall(key))

    def _ask(self, build: Callable[[int], ToModels]) -> call_messages.Done:
        key = next(self._keys)
        answers: list[ToCaller | ErrorRecord] = []
        came = threading.Event()

        def take(message: ToCaller | ErrorRecord) -> bool:
            answers.append(message)
            came.set()
            return True

        self._send(key, build(key), take)
        came.wait()
        answer = answers[0]
        error = answer if isinstance(answer, ErrorRecord) else getattr(answer, "error", None)
        if error is not None:
            raise error.error()
        assert isinstance(answer, call_messages.Done)
        return answer

    def _send(self, key: int, message: ToModels, take: Callable[[ToCaller | ErrorRecord], bool]) -> None:
        """Send a message; ``take`` gets what is answered, and says whether that was the last."""
        with self._lock:
            try:
                sock = self._connect()
                self._waiting[key] = take
                send_whole(sock, self._codec, message)
            except (TypeError, ValueError, OverflowError) as error:
                self._waiting.pop(key, None)
                raise InvalidInput(f"the call cannot be sent: {error}") from error
            except OSError as error:
                self._waiting.pop(key, None)
                raise ServerUnreachable(f"{_GONE.message}: {error}") from error

    def _connect(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                raise
            self._sock = sock
            threading.Thread(target=self._read_answers, args=(sock,), name="model-calls", daemon=True).start()
        return self._sock

    def _read_answers(self, sock: socket.socket) -> None:
        frames, decode = Frames(), CallCodec().to_caller
        with suppress(OSError):
            while frames.receive(sock):
                for frame in frames:
                    self._hand_out(decode(frame, frames.attached))
        with self._lock:
            self._sock = None
            waiting, self._waiting = self._waiting, {}
        sock.close()
        for take in waiting.values():
            take(_GONE)

    def _hand_out(self, message: ToCaller) -> None:
        take = self._waiting.get(message.key)
        if take is not None and take(message):
            self._waiting.pop(message.key, None)


class _CallTicket:
    """A call on its way."""

    def __init__(self, calls: ModelCalls, key: int) -> None:
        self._calls = calls
        self._key = key

    def cancel(self) -> None:
        """Withdraw the call."""
        self._calls.cancel(self._key)

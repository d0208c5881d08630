"""Messages of gRPC methods: their bytes, and handlers that get and give objects of generated classes."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from mooring.core.buffers import Payload
from mooring.core.errors import InvalidInput
from mooring.protocols.grpc_server import UnaryHandler
from mooring.web.grpc.rpc import StreamingRpc, UnaryRpc

RequestT = TypeVar("RequestT", bound=Message)
Result = TypeVar("Result")


def parse_message(kind: type[RequestT], message: bytes) -> RequestT:
    """A message of this kind. Raises ``InvalidInput``."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {kind.DESCRIPTOR.name}: {error}") from None


def copy_bytes(payload: Payload) -> bytes:
    """The bytes of a message that is small, as a rule. Releases it."""
    if isinstance(payload, bytes):
        return payload
    try:
        return bytes(payload)
    finally:
        payload.release()


async def read_bytes(call: StreamingRpc) -> bytes | None:
    """Wait for the next message of a stream; None after the client's last."""
    message = await call.read_message()
    return None if message is None else copy_bytes(message)


def sync_handler(kind: type[RequestT], answer: Callable[[RequestT], Message]) -> UnaryHandler:
    """A handler that answers at once with what ``answer`` returns."""

    def handle(call: UnaryRpc) -> None:
        call.respond([answer(parse_message(kind, copy_bytes(call.take_message()))).SerializeToString()])

    return handle


def async_handler(
    kind: type[RequestT], answer: Callable[[RequestT], Coroutine[None, None, Message]]
) -> UnaryHandler:
    """A handler that takes its time. A client that goes away does not stop it: half a load would help nobody."""

    async def handle(call: UnaryRpc) -> None:
        message = await run_to_end(answer(parse_message(kind, copy_bytes(call.take_message()))))
        call.respond([message.SerializeToString()])

    return handle


async def run_to_end(work: Coroutine[None, None, Result]) -> Result:
    """Wait for work that goes on when its caller here is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_forget)
    return await asyncio.shield(task)


_running: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


def _forget(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # where the client has gone nobody else asks, and asyncio would complain


class StoppableReader:
    """Reads the messages of streams that are answered one by one, until the server stops."""

    def __init__(self) -> None:
        self.stopping = False
        self._reads: set[asyncio.Task[bytes | None]] = set()

    def stop(self) -> None:
        """Wait for no further messages: the server stops."""
        self.stopping = True
        for read in self._reads:
            read.cancel()

    async def read_bytes(self, call: StreamingRpc) -> bytes | None:
        """Wait for the next message of a stream; None after the client's last and once the server stops."""
        if self.stopping:
            return None
        read = asyncio.ensure_future(read_bytes(call))
        self._reads.add(read)
        try:
            await asyncio.wait([read])
            return None if read.cancelled() else read.result()
        finally:
            read.cancel()
            self._reads.discard(read)

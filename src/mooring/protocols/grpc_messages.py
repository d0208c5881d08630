"""Methods of small messages, for ``GrpcServer``: a message object in, a message object out."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mooring.core.errors import InvalidInput
from mooring.protocols.grpc_server import Context, Unary

Asked = TypeVar("Asked", bound=Message)


def read(kind: type[Asked], message: bytes) -> Asked:
    """A message of this kind. Raises ``InvalidInput``."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {kind.DESCRIPTOR.name}: {error}") from None


def answering(kind: type[Asked], answer: Callable[[Asked], Message]) -> Unary:
    """A method that answers at once."""

    async def method(message: bytes, _context: Context) -> bytes:
        return answer(read(kind, message)).SerializeToString()

    return method


def awaiting(kind: type[Asked], answer: Callable[[Asked], Coroutine[None, None, Message]]) -> Unary:
    """A method that takes its time. A client that goes away does not stop it: half a load would help nobody."""
    running: set[asyncio.Task[Message]] = set()  # the loop itself holds tasks only weakly

    async def method(message: bytes, _context: Context) -> bytes:
        task = asyncio.get_running_loop().create_task(answer(read(kind, message)))
        running.add(task)
        task.add_done_callback(forget)
        return (await asyncio.shield(task)).SerializeToString()

    def forget(task: asyncio.Task[Message]) -> None:
        running.discard(task)
        if not task.cancelled():
            task.exception()  # where the client has gone nobody else asks, and asyncio would complain

    return method

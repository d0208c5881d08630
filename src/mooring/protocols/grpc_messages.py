"""Methods of small messages, for ``GrpcServer``: a message object in, a message object out."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from mooring.core.errors import InvalidInput
from mooring.protocols.grpc_server import Work, taken
from mooring.web.grpc.call import Call

Asked = TypeVar("Asked", bound=Message)
Result = TypeVar("Result")


def read(kind: type[Asked], message: bytes) -> Asked:
    """A message of this kind. Raises ``InvalidInput``."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {kind.DESCRIPTOR.name}: {error}") from None


def answering(kind: type[Asked], answer: Callable[[Asked], Message]) -> Work:
    """A method that answers at once."""

    def work(call: Call) -> None:
        call.respond([answer(read(kind, taken(call.take()))).SerializeToString()])

    return work


def awaiting(kind: type[Asked], answer: Callable[[Asked], Coroutine[None, None, Message]]) -> Work:
    """A method that takes its time. A client that goes away does not stop it: half a load would help nobody."""

    async def work(call: Call) -> None:
        message = await unstopped(answer(read(kind, taken(call.take()))))
        call.respond([message.SerializeToString()])

    return work


async def unstopped(work: Coroutine[None, None, Result]) -> Result:
    """What comes of this work, which goes on when whoever waits for it here is cancelled."""
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_forget)
    return await asyncio.shield(task)


_running: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly


def _forget(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # where the client has gone nobody else asks, and asyncio would complain

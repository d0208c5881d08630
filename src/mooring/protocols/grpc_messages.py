"""Methods of small messages, for ``GrpcServer``: a message object in, a message object out."""

from collections.abc import Awaitable, Callable
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


def awaiting(kind: type[Asked], answer: Callable[[Asked], Awaitable[Message]]) -> Unary:
    """A method that takes its time."""

    async def method(message: bytes, _context: Context) -> bytes:
        return (await answer(read(kind, message))).SerializeToString()

    return method

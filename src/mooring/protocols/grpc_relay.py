"""gRPC calls that a frontend process has the first process answer: those that there is one place for."""

from collections.abc import Callable
from typing import Protocol

from mooring.core.service import Ticket
from mooring.protocols.grpc_messages import copy_bytes
from mooring.protocols.grpc_server import UnaryHandler
from mooring.web.grpc.rpc import Rpc, UnaryRpc
from mooring.web.grpc.status import Status


class CallRelay(Protocol):
    """Passes a call with one message on to the first process, and its answer back."""

    def __call__(
        self,
        call: Rpc,
        message: bytes,
        receive: Callable[[bytes], None],
        end_received: Callable[[Status, str], None],
    ) -> Ticket:
        """Have ``receive`` get each message of the answer, then ``end_received`` the status. The ticket cancels it."""
        ...


def relay_unary(relay: CallRelay, call: UnaryRpc, message: bytes) -> None:
    """Have the first process answer a call with this message."""
    answers: list[bytes] = []

    def end(status: Status, text: str) -> None:
        if status is Status.OK and answers:
            call.respond(answers)
        else:
            call.end(status, text)

    call.on_cancelled = relay(call, message, answers.append, end).cancel


def relaying_handler(relay: CallRelay) -> UnaryHandler:
    """The handler of a method that the first process has."""

    def handle(call: UnaryRpc) -> None:
        relay_unary(relay, call, copy_bytes(call.take_message()))

    return handle

"""The floor of gRPC in Python: grpc.aio on uvloop, messages as bytes, and nothing else.

    python bare_grpc.py PORT

``/bare/small`` answers with a few bytes, ``/bare/large`` with the message that came.
"""

import sys
from typing import Any

import grpc
import uvloop

SMALL = bytes(60)  # as many as a ModelInferResponse with one number has


async def small(_message: bytes, _context: Any) -> bytes:
    return SMALL


async def large(message: bytes, _context: Any) -> bytes:
    return message


async def main(port: int) -> None:
    server = grpc.aio.server(
        options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    )
    methods: dict[str, Any] = {
        each.__name__: grpc.unary_unary_rpc_method_handler(each) for each in (small, large)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

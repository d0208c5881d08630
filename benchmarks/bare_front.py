"""The floor of an HTTP server in Python: uvloop, httptools, a fixed answer, and nothing else.

    python bare_front.py PORT

It reads every request to its end. ``/large`` gets as many bytes as it sent, every other path a few bytes.
"""

import asyncio
import sys
from typing import cast

import httptools
import uvloop

SMALL = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n" + b'{"x":2.0}'
LARGE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"
ZEROS = memoryview(bytes(1 << 21))


class Front(asyncio.BufferedProtocol):
    """One connection. Its buffer is as large as the server's own, so that both read in equally many pieces."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class
        self._parser = httptools.HttpRequestParser(self)
        self._buffer = memoryview(bytearray(1 << 18))
        self._large = False
        self._size = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._parser.feed_data(self._buffer[:nbytes])

    def on_url(self, url: bytes) -> None:
        self._large = url == b"/large"
        self._size = 0

    def on_body(self, piece: bytes) -> None:
        self._size += len(piece)

    def on_message_complete(self) -> None:
        if self._large:
            self._transport.writelines([LARGE_HEAD % self._size, ZEROS[: self._size]])
        else:
            self._transport.write(SMALL)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Front, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

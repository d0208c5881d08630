"""A connection that asks many requests at once and reads every answer: cheap, so that the server is what is tested."""

import asyncio
from typing import NamedTuple


class Answer(NamedTuple):
    status: int
    head: bytes
    body: bytes


class Lines(asyncio.Protocol):
    """One connection. ``ask`` sends requests that were written elsewhere and returns their answers in order."""

    def __init__(self) -> None:
        self._data = b""
        self._wanted = 0
        self._answers: list[Answer] = []
        self._done: asyncio.Future[list[Answer]] | None = None
        self.transport: asyncio.Transport
        self.lost = False

    def connection_made(self, transport) -> None:
        self.transport = transport

    def connection_lost(self, exc) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server ended the connection"))

    async def ask(self, requests: list[bytes]) -> list[Answer]:
        self._answers, self._wanted = [], len(requests)
        self._done = asyncio.get_running_loop().create_future()
        self.transport.writelines(requests)
        return await asyncio.wait_for(self._done, 120)

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data if self._data else data
        at = 0
        while (end := data.find(b"\r\n\r\n", at)) >= 0:
            head = data[at:end].lower()
            status, start = int(head[9:12]), end + 4
            found = head.find(b"\r\ncontent-length: ")
            if found >= 0:
                stop = start + int(head[found + 18 :].partition(b"\r\n")[0])
                if stop > len(data):
                    break
                body = data[start:stop]
            elif b"\r\ntransfer-encoding: chunked" in head:
                body, stop = _chunks(data, start)
                if stop < 0:
                    break
            else:
                body, stop = b"", start
            at = stop
            self._answers.append(Answer(status, head, body))
        self._data = data[at:]
        if len(self._answers) >= self._wanted and self._done is not None and not self._done.done():
            self._done.set_result(self._answers)


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    """A chunked body and where it ends; -1 where its end has not come."""
    body = b""
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end], 16)
        at = end + 2 + size + 2
        if at > len(data):
            break
        if not size:
            return body, at
        body += data[end + 2 : end + 2 + size]
    return b"", -1

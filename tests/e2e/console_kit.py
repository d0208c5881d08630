"""A page's requests to the console: its interface, and its stream of events."""

import json
import time
from contextlib import contextmanager

from e2e_kit import PATIENCE, Wire, request

API = "/console/api"
JSON_BODY = "Content-Type: application/json"


class Events:
    """The events of one stream, as they come."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def next(self) -> tuple[str, dict] | None:
        """The next event and what it says; None at the end of the stream. Comments are passed over."""
        while True:
            lines = []
            while (line := self._line()) not in ("", None):
                lines.append(line)
            if line is None:
                return None
            if lines and lines[0].startswith("event: "):
                return lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))

    def until(self, name: str, found=lambda _data: True) -> dict:
        """The first event of this name for which ``found`` is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            event = self.next()
            assert event is not None, "the stream ended"
            if event[0] == name and found(event[1]):
                return event[1]
        raise AssertionError(f"no such event: {name}")

    _rest = b""

    def _line(self) -> str | None:
        while b"\n" not in self._rest:
            size = int(self._wire.line() or b"0", 16)
            if not size:
                return None
            data = b""
            while len(data) < size + 2:
                data += self._wire.read(size + 2 - len(data))
            self._rest += data[:size]
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


@contextmanager
def watching(server, *lines: str):
    """A stream of events of a server; its head has been checked."""
    with Wire(server.port) as wire:
        wire.send(request("GET", f"{API}/events", b"", *lines))
        answer = wire.answer(head=True)
        assert (answer.code, answer.headers["content-type"]) == (200, "text/event-stream")
        yield Events(wire)


def read(server, path: str, *lines: str) -> dict:
    """What the console answers to a page that reads."""
    answer = server.ask("GET", f"{API}/{path}", b"", *lines)
    assert answer.code == 200, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.json()


def post(server, path: str, body: object, *lines: str):
    """What it answers to a page that changes something."""
    return server.ask("POST", f"{API}/{path}", json.dumps(body).encode(), JSON_BODY, *lines)


def entry(state: dict, name: str) -> dict:
    """What the state says of a model."""
    (found,) = [each for each in state["models"] if each["name"] == name]
    return found

"""The files of the page, which are shipped in the package: read once, and sent with their ETag."""

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from mooring.console.answers import make_head
from mooring.console.headers import FOR_FILES
from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.protocols.status import NOT_FOUND
from mooring.tokens import Access
from mooring.web.http1 import Exchange, header_lines
from mooring.web.routing import Match

PAGE = "index.html"
FOLDER = Path(__file__).parent / "static"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_OTHER = "application/octet-stream"
_READING = frozenset({"GET", "HEAD"})
_TAG = re.compile(rb'(?:W/)?("[^"]*")')


class StaticFile(NamedTuple):
    """A file as it is sent. ``tag`` is its ETag, ``head`` has its header lines."""

    content: bytes
    tag: bytes
    head: bytes


class StaticFiles:
    """Serves the files of ``folder`` by their names. A name that is not there when they are read is 404, so no path leads out."""

    def __init__(self, responses: Responses, folder: Path = FOLDER) -> None:
        self._responses = responses
        self._folder = folder

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoints. They need no token: what they send is in every installation, and no data."""
        return [
            Endpoint("/console", self.send_page, Access.OPEN, methods=_READING),
            Endpoint("/console/static/{name*}", self.send_file, Access.OPEN, methods=_READING),
        ]

    def send_page(self, exchange: Exchange, _match: Match) -> None:
        """Answer with the page, whose links are relative to its path without a slash at the end."""
        if exchange.target.partition(b"?")[0].endswith(b"/"):
            self._responses.counter.count(308)
            head = self._responses.build_head(self._responses.read_request_id(exchange))
            exchange.respond(308, b"", head + header_lines([("location", "../console")]))
        else:
            self._send(exchange, PAGE)

    def send_file(self, exchange: Exchange, match: Match) -> None:
        """Answer with one of its files."""
        self._send(exchange, match.params["name"])

    @cached_property
    def files(self) -> dict[str, StaticFile]:
        """The files by name, read together when the first one is asked for: they belong to one version of the package."""
        return {
            path.relative_to(self._folder).as_posix(): _read_file(path)
            for path in sorted(self._folder.rglob("*"))
            if path.is_file()
        }

    def _send(self, exchange: Exchange, name: str) -> None:
        responses = self._responses
        file = self.files.get(name)
        if file is None:
            responses.send_refusal(exchange, NOT_FOUND)
            return
        head = make_head(responses, exchange, file.head)
        known = exchange.header(b"if-none-match")
        if known is not None and (known.strip() == b"*" or file.tag in _TAG.findall(known)):
            responses.counter.count(304)
            exchange.respond(304, b"", head)
        else:
            responses.counter.count(200)
            exchange.respond(200, file.content, head)


def _read_file(path: Path) -> StaticFile:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    kind = _TYPES.get(path.suffix, _OTHER)
    return StaticFile(
        content, tag.encode(), header_lines([("content-type", kind), ("etag", tag)]) + FOR_FILES
    )

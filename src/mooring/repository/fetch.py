"""Fetching archives from elsewhere: only from where the allow-list says, and no redirect leads further.

The list is TorchServe's ``allowed_urls``: regular expressions, one of which a URL must match as a whole. Empty, as it
is by default, it allows nothing.
"""

import re
import shutil
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from mooring.core.errors import FetchFailed, SourceRefused

_SCHEMES = ("http", "https", "file")
_CHUNK = 1 << 20


class FetchLimits(msgspec.Struct, frozen=True):
    """How large an archive may be and how long it may take; ``silence`` is the longest pause. Times are in seconds."""

    total_bytes: int = 16 << 30
    seconds: float = 1800.0
    silence: float = 30.0


def is_remote(url: str) -> bool:
    """Whether this names more than a file of the model store."""
    return "://" in url


def shown(url: str) -> str:
    """A URL as it may be told and logged: what stands behind ``?`` is often a signature that lets others in."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


class Fetcher:
    """Fetches what is allowed. ``allowed`` are regular expressions that compile."""

    def __init__(self, allowed: Sequence[str] = (), limits: FetchLimits | None = None) -> None:
        self._allowed = [re.compile(pattern) for pattern in allowed]
        self._limits = limits or FetchLimits()
        # Built by hand: the usual opener also knows ftp: and data:, and follows a redirect wherever it leads.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self),
        ):
            self._opener.add_handler(handler)

    def check(self, url: str) -> None:
        """Raises ``SourceRefused`` for what is not allowed, and for what may mean something else than it seems to."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise SourceRefused(f"'{url[:200]}' is no URL") from None
        path = unquote(parts.path)
        odd = not url.isprintable() or " " in url or "\\" in unquote(url) or "\0" in path
        if odd or "@" in parts.netloc or ".." in path.split("/") or parts.scheme not in _SCHEMES:
            raise SourceRefused(f"'{url[:200]}' is not fetched: give a plain http, https or file URL")
        if not any(pattern.fullmatch(url) for pattern in self._allowed):
            raise SourceRefused(
                f"'{shown(url)[:200]}' matches none of the allowed URLs; put the archive into the model store, "
                "or name where it comes from in allowed_urls"
            )

    def fetch(self, url: str, into: Path) -> Path:
        """The archive in a file of the folder ``into``, called as in the URL.

        Raises ``SourceRefused`` or ``FetchFailed``; ``into`` then holds an unknown part of it.
        """
        self.check(url)
        target = into / (Path(unquote(urlsplit(url).path)).name or "archive.mar")
        try:
            if urlsplit(url).scheme == "file":
                self._copy(url, target)
            else:
                self._download(url, target)
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, HTTPError):
                error.close()
            raise FetchFailed(f"'{shown(url)}' could not be fetched: {error}") from error
        return target

    def _copy(self, url: str, target: Path) -> None:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise SourceRefused(f"'{url}' names a file of another machine")
        place = Path(unquote(parts.path))
        real = place.resolve()
        # A link must lead to where one may fetch from, too.
        if real != place:
            self.check(f"file://{real}")
        if not real.is_file():
            raise FetchFailed(f"'{url}' is no file")
        shutil.copyfile(real, target)

    def _download(self, url: str, target: Path) -> None:
        limits = self._limits
        end = time.monotonic() + limits.seconds
        request = urllib.request.Request(url, headers={"User-Agent": "mooring"})  # noqa: S310 - checked above
        with self._opener.open(request, timeout=limits.silence) as source, target.open("wb") as sink:
            announced = source.headers.get("Content-Length") or ""
            size = int(announced) if announced.isdecimal() else 0
            if size > limits.total_bytes:
                raise FetchFailed(f"'{shown(url)}' has {size} bytes, more than {limits.total_bytes}")
            left = limits.total_bytes
            # read1: what has come, rather than all of a chunk that may never be full.
            while chunk := source.read1(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise FetchFailed(f"'{shown(url)}' has more than {limits.total_bytes} bytes")
                if time.monotonic() > end:
                    raise FetchFailed(f"'{shown(url)}' took longer than {limits.seconds:g} s")
                sink.write(chunk)
            if limits.total_bytes - left < size:
                raise FetchFailed(f"'{shown(url)}' broke off before its end")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to what is allowed itself."""

    max_redirections = 5

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            self._fetcher.check(newurl)
        except SourceRefused as error:
            fp.close()
            raise FetchFailed(f"'{shown(req.full_url)}' leads elsewhere: {error.message}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)

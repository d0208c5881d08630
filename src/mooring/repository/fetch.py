"""Fetching archives from elsewhere: only from where the allow-list says, and no redirect leads further.

The list is TorchServe's ``allowed_urls``: regular expressions, one of which a URL must match as a whole. Empty, as it
is by default, it allows nothing. Whatever it says, nothing is asked of the addresses under which clouds hand out a
machine's credentials, by whichever name they are reached.
"""

import http.client
import ipaddress
import re
import shutil
import socket
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from mooring.core.errors import FetchFailed, SourceRefused

_SCHEMES = ("http", "https", "file")
_CHUNK = 1 << 20


class FetchLimits(msgspec.Struct, frozen=True):
    """How large an archive may be, in bytes, and how long it may take, in seconds; ``silence`` is the longest pause."""

    total_bytes: int = 16 << 30
    seconds: float = 1800.0
    silence: float = 30.0


def is_remote(url: str) -> bool:
    """Whether a text is a URL, and no file of the model store."""
    return "://" in url


def _reason_of(error: Exception) -> str:
    """Return why nothing came, without what urllib puts around it."""
    reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)


def url_for_log(url: str) -> str:
    """The URL without what must not be shown or logged.

    What stands behind ``?`` is often a signature that lets others in, and what stands before ``@`` a password.

    >>> url_for_log("https://me:secret@models.example/a.mar?signature=secret#here")
    'https://models.example/a.mar'
    """
    scheme, separator, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    # Whatever the slashes: a password may hold some that nobody escaped.
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"[:200]


class Fetcher:
    """Fetches archives from allowed URLs. ``allowed`` are regular expressions that compile."""

    def __init__(self, allowed: Sequence[str] = (), limits: FetchLimits | None = None) -> None:
        self._allowed = [re.compile(pattern) for pattern in allowed]
        self._limits = limits or FetchLimits()
        # Built by hand: the usual opener also knows ftp: and data:, and follows a redirect wherever it leads.
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Http(),
            _Https(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _Redirects(self),
        ):
            self._opener.add_handler(handler)

    def check(self, url: str) -> None:
        """Raises ``SourceRefused`` for what is not allowed, and for what may mean something else than it seems to."""
        self.check_form(url)
        if not self.allows(url):
            raise SourceRefused(
                f"'{url_for_log(url)}' matches none of the allowed URLs; put the archive into the model store, "
                "or name where it comes from in allowed_urls"
            )

    def allows(self, url: str) -> bool:
        """Whether a URL is on the allow-list; it may be refused nevertheless (``check_form``)."""
        return any(pattern.fullmatch(url) for pattern in self._allowed)

    def check_form(self, url: str) -> None:
        """Raises ``SourceRefused`` for a URL that is fetched by no allow-list."""
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise SourceRefused(f"'{url_for_log(url)}' is not a URL") from None
        path = unquote(parts.path)
        odd = not url.isprintable() or " " in url or "\\" in unquote(url) or "\0" in path
        if odd or "@" in parts.netloc or ".." in path.split("/") or parts.scheme not in _SCHEMES:
            raise SourceRefused(f"'{url_for_log(url)}' is not fetched: give a plain http, https or file URL")
        _refuse_credentials(parts)

    def fetch(self, url: str, into: Path) -> Path:
        """Fetch the archive into the folder ``into``, under its name in the URL.

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
            raise FetchFailed(f"'{url_for_log(url)}' could not be fetched: {_reason_of(error)}") from error
        return target

    def _copy(self, url: str, target: Path) -> None:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise SourceRefused(f"'{url_for_log(url)}' names a file of another machine")
        place = Path(unquote(parts.path))
        real = place.resolve()
        # A link must lead to where one may fetch from, too.
        if real != place:
            self.check(f"file://{real}")
        if not real.is_file():
            raise FetchFailed(f"'{url_for_log(url)}' is not a file")
        shutil.copyfile(real, target)

    def _download(self, url: str, target: Path) -> None:
        limits = self._limits
        end = time.monotonic() + limits.seconds
        request = urllib.request.Request(url, headers={"User-Agent": "mooring"})  # noqa: S310 - checked above
        with self._opener.open(request, timeout=limits.silence) as source, target.open("wb") as sink:
            announced = source.headers.get("Content-Length") or ""
            size = int(announced) if announced.isdecimal() else 0
            if size > limits.total_bytes:
                raise FetchFailed(f"'{url_for_log(url)}' has {size} bytes, more than {limits.total_bytes}")
            left = limits.total_bytes
            # read1: what has come, rather than all of a chunk that may never be full.
            while chunk := source.read1(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise FetchFailed(f"'{url_for_log(url)}' has more than {limits.total_bytes} bytes")
                if time.monotonic() > end:
                    raise FetchFailed(f"'{url_for_log(url)}' took longer than {limits.seconds:g} s")
                sink.write(chunk)
            if limits.total_bytes - left < size:
                raise FetchFailed(f"'{url_for_log(url)}' broke off before its end")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect where its target is allowed, too."""

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
            raise FetchFailed(f"'{url_for_log(req.full_url)}' leads elsewhere: {error.message}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


# Beside the link-local addresses: where EC2 answers over IPv6, and where Alibaba's cloud does.
_CREDENTIALS = frozenset({"fd00:ec2::254", "100.100.100.200"})


# Networks whose addresses end in an IPv4 address: a gateway, or this machine, sends to that one.
# v4-compatible, v4-mapped, v4-translated (RFC 2765), NAT64 (RFC 6052) and its networks for local use (RFC 8215).
_EMBEDDING = tuple(
    ipaddress.IPv6Network(network)
    for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)


def _is_forbidden(address: str) -> bool:
    """Whether archives are never fetched from an IP address, whatever URLs are allowed."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return any(
        each.is_link_local or each.is_multicast or str(each) in _CREDENTIALS
        for each in (found, *_embedded_ipv4(found))
    )


def _embedded_ipv4(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses to which an IPv6 address may lead."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _refuse_credentials(parts: SplitResult) -> None:
    """Raises ``SourceRefused`` for a URL whose host is a forbidden address, or means one to a proxy.

    Without a proxy a name is looked up once, by who connects (``_connect``), so that it cannot change in between.
    """
    host = parts.hostname or ""
    for address in _addresses_of(host, look_up=_goes_through_proxy(parts)):
        if _is_forbidden(address):
            raise SourceRefused(f"'{host}' is at {address}, and nothing is fetched from there")


def _addresses_of(host: str, *, look_up: bool) -> list[str]:
    """The addresses of a host: itself where it is an address in any form that a resolver takes (``0xA9FEA9FE``)."""
    try:
        return [str(ipaddress.ip_address(host.partition("%")[0]))]
    except ValueError:
        pass
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except (OSError, UnicodeError):
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if look_up and host else []
    except (OSError, UnicodeError):  # only the proxy may know the name
        return []
    return [str(place[0]) for *_, place in found]


def _goes_through_proxy(parts: SplitResult) -> bool:
    proxies = urllib.request.getproxies()
    proxied = parts.scheme in proxies and parts.scheme != "file"
    return proxied and not urllib.request.proxy_bypass(parts.netloc)


def _connect(place: tuple[str, int], timeout: float | None, _source: object = None) -> socket.socket:
    """Connect to a host by the address that was checked: a second look-up could give another one."""
    failure: OSError | None = None
    for *_, found in socket.getaddrinfo(*place, type=socket.SOCK_STREAM):
        address = str(found[0])
        if _is_forbidden(address):
            raise OSError(f"'{place[0]}' is at {address}, and nothing is fetched from there")
        try:
            return socket.create_connection((address, place[1]), timeout)
        except OSError as error:
            failure = error
    raise failure or OSError(f"'{place[0]}' has no address")


class _Connection(http.client.HTTPConnection):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._create_connection = _connect


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._create_connection = _connect


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req)

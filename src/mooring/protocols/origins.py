"""Which web pages a listener answers: a browser lets any page of any site send requests to this machine.

It says in ``Origin`` where the page is from, in every request that is not GET or HEAD and in every websocket's; what
is no browser says nothing. So a request that would change what is served may come from no page but the server's own.
"""

import ipaddress
from urllib.parse import urlsplit

from mooring.protocols.status import Refusal
from mooring.web.http1 import Exchange

CROSS_SITE = Refusal(
    403,
    "ForbiddenException",
    "a page of another site (Origin) may not change what this server serves; ask without an Origin header,"
    " or name the site in cors_allowed_origin",
)


def from_elsewhere(
    exchange: Exchange, *, loopback: bool, trusted_origins: frozenset[bytes] = frozenset()
) -> bool:
    """Whether a page of another site asks, and not one of those that are ``named`` (in lower case).

    ``loopback``: the page must also have come under one of this machine's own names. A site may point its name at
    127.0.0.1 once its page is loaded, and then Origin and Host agree.
    """
    origin = exchange.header(b"origin")
    if origin is None or origin.lower() in trusted_origins:
        return False
    try:
        parts = urlsplit(origin.decode("latin-1").lower())
        host = parts.hostname or ""
    except ValueError:  # brackets that hold no address
        return True
    if not host or parts.netloc.encode("latin-1") != (exchange.header(b"host") or b"").lower():
        return True
    return loopback and not _names_this_machine(host)


def _names_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

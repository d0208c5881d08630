"""Protection from cross-site requests: a browser lets any page of any site send requests to this machine.

A browser sends ``Origin``, the page's site, with every websocket and every request other than GET and HEAD; other
clients send none. A request that would change what is served is refused if a page of another site sent it.
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


def is_cross_site(
    exchange: Exchange, *, loopback: bool, trusted_origins: frozenset[bytes] = frozenset()
) -> bool:
    """Return whether a page of another site sent this, other than ``trusted_origins`` (in lower case).

    With ``loopback`` the page's host must also be a name of this machine. Otherwise a site could point its name at
    127.0.0.1 after its page is loaded (DNS rebinding), and Origin and Host would agree.
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

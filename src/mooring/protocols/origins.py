"""Protection from cross-site requests: a browser lets any page of any site send requests to this machine.

A browser sends ``Origin``, the page's site, with every websocket and every request other than GET and HEAD, ``Sec-Fetch-Site``,
how that site and the server are related, with every request to this machine, and in ``Host`` the name under which the page
knows the server. Other clients send only the last. What manages models is refused where one of them is foreign::

                          Origin of      Sec-Fetch-Site    Host is no name of this
                          another site   of another site   machine, on loopback (*)
    changes               403            403               403
    reads of the console  403            403               403
    other reads           403, but *     -                 403

``*`` is cors_allowed_origin: it says that every page may read. (*) An address is never foreign, and no name is where a call needs a
token or TLS: a page with a name that was pointed at this machine has no token, and no certificate for that name.

A page can also have the browser go to a model's address, by a link, a form or a frame. What the model answers would then be a page
of the server's own, and could be markup that the other page has chosen. Such answers are shown in a sandbox: they are of no site.
"""

import ipaddress
from urllib.parse import urlsplit

import msgspec

from mooring.protocols.status import Refusal
from mooring.web.http1 import Exchange, header_lines

_KIND = "ForbiddenException"
CROSS_SITE = Refusal(
    403,
    _KIND,
    "a page of another site (Origin) may not change what this server serves; ask without an Origin header,"
    " or name the site in cors_allowed_origin",
)
CROSS_SITE_READ = Refusal(
    403,
    _KIND,
    "a page of another site (Origin, Sec-Fetch-Site) may not read this; ask without these headers, or name the site in"
    " cors_allowed_origin",
)
_MAX_SHOWN = 100  # characters of a Host header in the text of a refusal
_SAME_ORIGIN = b"same-origin"
_OWN_SITE = frozenset({_SAME_ORIGIN, b"none"})  # none: the user typed the address
_MODE = b"sec-fetch-mode"  # sent to this machine and over TLS
_NAVIGATES = b"upgrade-insecure-requests"  # sent wherever a browser goes, to whatever host

SANDBOX = header_lines(
    [
        (
            "content-security-policy",
            "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
        ),
        ("x-content-type-options", "nosniff"),
    ]
)
"""The header lines of an answer that is shown as a page of no site, and that is no page unless its type says so."""


class Sites(msgspec.Struct, frozen=True):
    """Which names and pages count as the server's own on one listener.

    ``loopback`` says that only this machine reaches the listener, and that nothing else guards it: pages must then be of this machine, too. With
    ``checks_host`` so must the Host header be: a site could otherwise point its name at 127.0.0.1 after its page is loaded
    (DNS rebinding), and would be the server's own site for the browser. ``own_host`` is the host that the listener was bound
    to, ``hosts`` are the names that a proxy in front of it may use, and ``origins`` the sites whose pages count as the
    server's own, all in lower case. With ``any_origin`` every page may read.
    """

    loopback: bool = False
    checks_host: bool = False
    own_host: str = ""
    hosts: frozenset[str] = frozenset()
    origins: frozenset[bytes] = frozenset()
    any_origin: bool = False


def refuse_foreign(exchange: Exchange, sites: Sites, *, changes: bool, same_site: bool) -> Refusal | None:
    """Return why a request that manages models is refused by its Host, its Origin or its Sec-Fetch-Site; None where it is not.

    ``changes`` and ``same_site`` are those of the endpoint.
    """
    if sites.checks_host and (host := _foreign_host(exchange, sites)):
        return Refusal(
            403,
            _KIND,
            f"this address is for this machine alone, and the Host header names '{host}': ask for localhost or 127.0.0.1,"
            " or name that host in trusted_hosts where a proxy in front of the server has it",
        )
    origin = exchange.header(b"origin")
    if origin is not None and origin.lower() in sites.origins:
        return None
    site = exchange.header(b"sec-fetch-site")
    if site is not None and site.lower() == _SAME_ORIGIN:
        return None  # the browser knows, also where a proxy has changed Host
    guarded = changes or same_site
    foreign = origin is not None and (guarded or not sites.any_origin) and is_cross_site(exchange, sites)
    if not foreign and guarded:
        foreign = site is not None and site.lower() not in _OWN_SITE
    if not foreign:
        return None
    return CROSS_SITE if changes else CROSS_SITE_READ


def is_foreign_navigation(exchange: Exchange, sites: Sites) -> bool:
    """Return whether a page of another site has the browser show the answer in a window or a frame."""
    fields = exchange.fields
    mode = fields.get(_MODE)
    if mode is None:
        return _NAVIGATES in fields and is_cross_site(exchange, sites)
    if mode.lower() != b"navigate" or fields.get(b"sec-fetch-site", b"none").lower() in _OWN_SITE:
        return False
    return fields.get(b"origin", b"").lower() not in sites.origins


def is_cross_site(exchange: Exchange, sites: Sites) -> bool:
    """Return whether a page of another site sent this, as its Origin says, other than those that are trusted."""
    origin = exchange.header(b"origin")
    if origin is None or origin.lower() in sites.origins:
        return False
    try:
        parts = urlsplit(origin.decode("latin-1").lower())
        host = parts.hostname or ""
    except ValueError:  # brackets that hold no address
        return True
    if not host or parts.netloc.encode("latin-1") != (exchange.header(b"host") or b"").lower():
        return True
    return sites.loopback and not _is_own_name(host, sites)


def _foreign_host(exchange: Exchange, sites: Sites) -> str:
    """Return the Host header where it names another host than this machine; empty where it does not, or there is none."""
    given = exchange.header(b"host")
    if not given:  # HTTP/1.0, which no browser speaks
        return ""
    text = given.decode("latin-1").lower()
    try:
        host = urlsplit(f"//{text}").hostname or ""
    except ValueError:
        host = ""
    if host and _is_own_name(host, sites):
        return ""
    return "".join(sign if sign.isprintable() and sign not in "'\"\\" else "?" for sign in text[:_MAX_SHOWN])


def _is_own_name(host: str, sites: Sites) -> bool:
    """Return whether no site could have this name: a site points a name of its own at this machine, and never an address."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost") or host in sites.hosts or host == sites.own_host:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

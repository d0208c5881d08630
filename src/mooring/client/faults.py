"""Why a server cannot be asked, and what to do about it: from the words of libraries and of servers that are not the one meant.

Pure rules. Whatever is wrong with the address or the connection is a ``ServerUnreachable``, never a fault of a model.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mooring.client.address import Address
from mooring.core.errors import ServerUnreachable, Unsupported

_NO_TLS = (
    "wrong version number",
    "wrong_version_number",
    "record layer failure",
    "unknown protocol",
    "http_request",
)
_REFUSED = ("connection refused", "connect call failed")
_NO_HOST = ("name or service not known", "nodename nor servname", "getaddrinfo failed", "name resolution",
            "dns resolution", "errors resolving", "no address associated", "domain name not found")  # fmt: skip
_WRONG_NAME = (
    "hostname mismatch",
    "ip address mismatch",
    "not valid for",
    "hostname verification",
    "peer name",
)
_UNTRUSTED = ("certificate_verify_failed", "certificate verify failed")
_WANTS_CERTIFICATE = (
    "certificate required",
    "certificate_required",
    "handshake failure",
    "handshake_failure",
)
_HTTP1 = ("http1.x server", "expected settings frame", "missing selected alpn")
_TLS_NEEDED = ("only accepts https", "http request to an https", "plain http request was sent to https")
_GRPC_ONLY = ("http/2 alone",)
_NOT_ACCEPTED = ("handshaker shutdown", "connection timed out", "timed out")
_REASON = re.compile(r"(?:certificate verify failed|CERTIFICATE_VERIFY_FAILED): ([^:(]+)")
# What a server answers that is not the one meant; a proxy in front of the one meant answers the others with a page, too.
_PROXY_STATUSES = frozenset({401, 403, 407, 408, 413, 429, 502, 503, 504})


def texts_of(error: BaseException | None) -> Iterator[str]:
    """Yield the text of an exception and of those that caused it."""
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def connection_error(address: Address, text: str) -> ServerUnreachable:
    """Build the error for a connection that could not be made or broke; ``text`` is all that is known of it."""
    lower = text.lower()
    refused = any(word in lower for word in _REFUSED)
    error = ServerUnreachable(
        f"the server cannot be reached: {_explain(address, lower, text, refused=refused)}"
    )
    error.repeat_after = 0.0 if refused else None  # nothing was sent
    return error


def explain_pieces(error: Unsupported, model: str) -> Unsupported:
    """Return the error that names the call to make, where a server has no room for an answer in pieces."""
    if "decoupled transaction policy" not in error.message:
        return error
    return Unsupported(
        f"model '{model}' answers in pieces: take them by stream() of the client, or mooring infer --stream",
        model=error.model,
        version=error.version,
    )


def _explain(address: Address, lower: str, text: str, *, refused: bool) -> str:
    at = address.authority
    rules = (
        (_HTTP1, f"{at} does not speak gRPC; if it speaks HTTP, use {address.other('https' if address.secure else 'http')}"),
        (_NO_TLS, f"{at} does not speak TLS; use {address.other('grpc' if address.grpc else 'http')}"),
        (_WRONG_NAME, f"the certificate of {at} is for another name: {_first_line(text)}"),
        (_UNTRUSTED, f"the certificate of {at} is not trusted{_reason(text)}; name who issued it by ca=FILE (--cacert FILE)"),
        (_WANTS_CERTIFICATE, f"{at} refuses the TLS handshake; if it asks for a certificate of the client, name one by certificate=FILE and key=FILE (--cert, --key)"),
        (_NOT_ACCEPTED, f"{at} did not accept a connection in time"),
        (_NO_HOST, f"no host '{address.host}' is known"),
    )  # fmt: skip
    if refused:
        port = "" if urlsplit(f"//{at}").port else f", port {443 if address.secure else 80}"
        return f"nothing listens at {at}{port}; is the server up?"
    for words, explanation in rules:
        if any(word in lower for word in words):
            return explanation
    if address.secure:
        hint = "it may have ended, or ask for a certificate of the client (certificate=FILE, key=FILE)"
    else:
        hint = f"it may have ended, or speak TLS ({address.other('grpcs' if address.grpc else 'https')})"
    return f"the connection to {at} broke ({_first_line(text)}); {hint}"


def _reason(text: str) -> str:
    found = _REASON.search(text)
    return f" ({found[1].strip()})" if found else ""


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else "without a reason"


def connect_timeout(address: Address, seconds: float) -> ServerUnreachable:
    """Build the error for a connection that nobody accepted in time."""
    return ServerUnreachable(
        f"the server cannot be reached: {address.authority} did not accept a connection within {seconds:g} s"
    )


def misdirected(
    address: Address, path: str, status: int, headers: Mapping[str, str], body: bytes
) -> ServerUnreachable | None:
    """Return the error where an HTTP answer is not from a server of the protocol; None where it may be from one."""
    text = body[:2000].decode(errors="replace").lower()
    explanation = ""
    if status == 505 and any(word in text for word in _GRPC_ONLY):
        explanation = (
            f"{address.authority} is a gRPC port; use {address.other('grpcs' if address.secure else 'grpc')}"
        )
    elif not address.secure and any(word in text for word in _TLS_NEEDED):
        explanation = f"{address.authority} speaks TLS; use {address.other('https')}"
    elif status == 404 and _is_unknown_path(body):
        explanation = f"{address.shown} has no {path}; give the inference address of a server of the Open Inference Protocol (Mooring's default is 8080)"
    elif is_page(headers) and status not in _PROXY_STATUSES:
        explanation = f"{address.shown} answers {path} with a page ({status}); it is not a server of the Open Inference Protocol"
    return ServerUnreachable(explanation, code=status) if explanation else None


def _is_unknown_path(body: bytes) -> bool:
    """Return whether a 404 names no model: its body is not the error of the protocol, or says that of the path alone."""
    try:
        document: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return True
    error = document.get("error") if isinstance(document, dict) else None
    return not isinstance(error, str) or error.strip().lower() in ("", "not found")


def is_page(headers: Mapping[str, str]) -> bool:
    """Return whether an answer is for people."""
    return headers.get("content-type", "").startswith("text/html")


def foreign_service(address: Address, text: str) -> ServerUnreachable:
    """Build the error for a gRPC server that does not have the protocol's service."""
    return ServerUnreachable(
        f"{address.shown} speaks gRPC, but not the Open Inference Protocol ({text}); give the inference address (Mooring's default is 7070)"
    )

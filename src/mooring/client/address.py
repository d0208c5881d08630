"""Which server a URL means, and which protocol is spoken with it."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mooring.core.errors import InvalidInput

DEFAULT_URL = "http://127.0.0.1:8080"
GRPC_PORT = 7070
_SCHEMES = ("http", "https", "grpc", "grpcs")


class Address(msgspec.Struct, frozen=True):
    """A URL, read; without a scheme it is HTTP. ``authority`` is host and port."""

    url: str
    scheme: str
    authority: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises ``InvalidInput``."""
        if not isinstance(url, str):
            raise InvalidInput(f"the URL of a server is a string, not {type(url).__name__}")
        whole = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(whole)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"'{url}' is not a URL: {error}") from None
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise InvalidInput(f"'{url}' is not the URL of a server: give {', '.join(_SCHEMES)}://HOST:PORT")
        authority = parts.netloc.rpartition("@")[2]
        if parts.scheme.startswith("grpc") and port is None:
            authority = f"{authority.rstrip(':')}:{GRPC_PORT}"
        return cls(whole.rstrip("/"), parts.scheme, authority)

    @property
    def shown(self) -> str:
        """The URL as people may see it: without a password that is in it."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{self.authority}{rest[slash:] if (slash := rest.find('/')) >= 0 else ''}"

    @property
    def host(self) -> str:
        """The host alone."""
        return urlsplit(f"//{self.authority}").hostname or ""

    def other(self, scheme: str) -> str:
        """Return the URL of the same port in another scheme."""
        return f"{scheme}://{self.authority}"

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken there."""
        return self.scheme in ("https", "grpcs")

    @property
    def grpc(self) -> bool:
        """Whether gRPC is spoken there, and not HTTP."""
        return self.scheme.startswith("grpc")


class Trust(msgspec.Struct, frozen=True):
    """Files, all PEM. ``ca``: whom to trust in place of what the machine trusts; ``certificate`` and ``key``: who asks.

    Without ``key`` the key is in the file of the certificate.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""


def verification(trust: Trust, *, secure: bool = True) -> Any:
    """Return httpx's ``verify``: True, or a context with the trusted roots and the client's certificate. Raises ``InvalidInput``.

    Without TLS it is False: nothing is to be verified, and reading the machine's roots takes 50 ms.
    """
    roots, certificate, _ = identities(trust)
    if roots is None and certificate is None:
        return secure
    try:
        context = ssl.create_default_context(cadata=None if roots is None else roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{trust.ca} holds no certificates: {error}") from None
    if certificate is not None:
        try:
            context.load_cert_chain(trust.certificate, trust.key or None, password=lambda: b"")
        except ssl.SSLError as error:
            reason = error.reason or "is the key encrypted?"
            raise InvalidInput(f"{trust.certificate} and its key cannot be used: {reason}") from None
    return context


def identities(trust: Trust) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Return the contents of ``ca``, ``certificate`` and key, None for those not set. Raises ``InvalidInput``."""
    if trust.key and not trust.certificate:
        raise InvalidInput(f"the key {trust.key} is of use only with its certificate")
    key = trust.key or trust.certificate
    return _read_file(trust.ca), _read_file(trust.certificate), _read_file(key)


def _read_file(file: str) -> bytes | None:
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from None

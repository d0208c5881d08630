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
    """A URL, read. ``authority`` is host and port."""

    url: str
    scheme: str
    authority: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises ``InvalidInput``."""
        whole = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(whole)
            port = parts.port
        except ValueError as error:
            raise InvalidInput(f"'{url}' is no URL: {error}") from None
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise InvalidInput(f"'{url}' is no URL of a server: give {', '.join(_SCHEMES)}://HOST:PORT")
        authority = parts.netloc.rpartition("@")[2]
        if parts.scheme.startswith("grpc") and port is None:
            authority = f"{authority.rstrip(':')}:{GRPC_PORT}"
        return cls(whole.rstrip("/"), parts.scheme, authority)

    @property
    def grpc(self) -> bool:
        """Whether gRPC is spoken there, and not HTTP."""
        return self.scheme.startswith("grpc")


def verification(ca: str) -> Any:
    """What HTTP checks a server's certificate with: ``ca``, a file of certificates, or what the machine trusts.

    Raises ``InvalidInput``.
    """
    roots = certificates(ca)
    if roots is None:
        return True
    try:
        return ssl.create_default_context(cadata=roots.decode("latin-1"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{ca} holds no certificates: {error}") from None


def certificates(ca: str) -> bytes | None:
    """The content of a file of certificates, None for none. Raises ``InvalidInput``."""
    try:
        return Path(ca).read_bytes() if ca else None
    except OSError as error:
        raise InvalidInput(f"{ca}: {error.strerror}") from None

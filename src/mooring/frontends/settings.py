"""What a frontend process is told before it begins, over its standard input."""

from typing import Any

import msgspec

from mooring.config.settings import Address, Config
from mooring.tokens import Access, Token


class RelayedEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of the first process. A frontend checks token and site for it, before a large body has come."""

    pattern: str
    access: Access
    methods: frozenset[str] | None
    changes: bool = False
    same_site: bool = False


class SharedAddress(msgspec.Struct, frozen=True):
    """An address that all processes serve, with its real port.

    ``sockets`` is how many listening sockets a frontend gets for it; where that is 0 it binds the address itself.
    """

    address: Address
    sockets: int


class FrontendSettings(msgspec.Struct, frozen=True):
    """What a frontend is told before it begins; ``tokens`` is None where clients need none.

    ``addresses`` are in the order of the listeners' numbers. ``relay_socket`` is the first process's private socket,
    ``relayed`` what it serves there; ``relayed_methods`` are service, name
    and access of every unary method of its gRPC server.
    """

    config: Config
    addresses: list[SharedAddress]
    relay_socket: str
    relayed: list[RelayedEndpoint]
    relayed_methods: list[tuple[str, str, Access]]
    extensions: list[str]  # of v2, which ServerMetadata lists
    tokens: dict[Access, Token] | None = None
    renewable: tuple[Access, ...] = ()

    def encoded(self) -> bytes:
        """As bytes, for ``decoded``."""
        return msgspec.msgpack.encode(self, enc_hook=str)

    @classmethod
    def decoded(cls, data: bytes) -> "FrontendSettings":
        """The inverse of ``encoded``."""
        return msgspec.msgpack.decode(data, type=cls, dec_hook=_decoded)


def _decoded(kind: type, value: Any) -> Any:
    return Address.parse(value, 0) if kind is Address else kind(value)

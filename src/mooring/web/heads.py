"""What a request's head must be: the rules, without a connection or its parser."""

from mooring.web import http1_format
from mooring.web.exchange import Exchange
from mooring.web.listener import RECEIVE, Limits

_MAX_VALID_HOSTS = 1024
# What may follow the prefix of a path: more of it, a query, a fragment or nothing.
_PATH_ENDS = frozenset({b"/", b"?", b"#", b""})


class Refusal(Exception):
    """A request that is not taken: status, kind and message of the answer."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(status, kind, message)
        self.status = status
        self.kind = kind
        self.message = message


def without_root(target: bytes, root: bytes) -> bytes:
    """Return the target without the prefix of all paths; unchanged if it does not begin with that.

    >>> without_root(b"/triton/v2?x", b"/triton"), without_root(b"/triton", b"/triton"), without_root(b"/tritons", b"/triton")
    (b'/v2?x', b'/', b'/tritons')
    """
    origin = http1_format.ORIGIN.match(target) if root and not target.startswith(b"/") else None
    before, path = (target[: origin.end()], target[origin.end() :]) if origin is not None else (b"", target)
    rest = path[len(root) :]
    if not root or not path.startswith(root) or rest[:1] not in _PATH_ENDS:
        return target
    return before + (rest if rest.startswith(b"/") else b"/" + rest)


def check_head(exchange: Exchange, limits: Limits, valid_hosts: set[bytes], before: int) -> None:
    """Raise ``Refusal`` if the head is not valid. A new host that is valid is added to ``valid_hosts``.

    ``before`` is how many of its bytes came in earlier chunks: where none did, it is not larger than a chunk.
    """
    headers, fields = exchange.headers, exchange.fields
    if len(exchange.target) > limits.max_url_bytes:
        raise Refusal(414, "too_long", "Request URL is too long.")
    if len(headers) > limits.max_header_count:
        raise Refusal(431, "too_large", "Request has too many headers.")
    if before or limits.max_header_bytes < RECEIVE:
        size = len(exchange.target) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > limits.max_header_bytes:
            raise Refusal(431, "too_large", "Request header is too large.")
    if len(fields) != len(headers):
        _check_repeated(headers)
    if fields.get(b"host") not in valid_hosts:
        _check_host(exchange, valid_hosts)
    if exchange.version != "1.1" or exchange.method == "CONNECT":
        _check_version(exchange)


def _check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers if http1_format.LOWER[name] in http1_format.SINGLE]
    if len(names) != len({http1_format.LOWER[name] for name in names}):
        raise Refusal(400, "invalid", "Invalid HTTP message.")


def _check_host(exchange: Exchange, valid_hosts: set[bytes]) -> None:
    host = exchange.fields.get(b"host")
    if host is None:
        if exchange.version == "1.1":
            raise Refusal(400, "invalid", "Invalid HTTP message.")
    elif not http1_format.HOST.fullmatch(host):
        raise Refusal(400, "invalid", "Invalid HTTP message.")
    elif len(valid_hosts) < _MAX_VALID_HOSTS:
        valid_hosts.add(host)


def _check_version(exchange: Exchange) -> None:
    if exchange.version not in {"1.0", "1.1"}:
        raise Refusal(505 if exchange.version > "1.1" else 400, "invalid", "Invalid HTTP message.")
    # CONNECT asks for a tunnel; HTTP/1.0 has no transfer codings (RFC 9112, 6.1).
    if exchange.method == "CONNECT" or (
        exchange.version == "1.0" and b"transfer-encoding" in exchange.fields
    ):
        raise Refusal(400, "invalid", "Invalid HTTP message.")

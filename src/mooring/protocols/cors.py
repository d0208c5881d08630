"""Cross-origin resource sharing: which web pages may read what the server answers.

``*`` lets every page ask and read. Only a site that is named may change what is served as well (see ``origins``).
"""

from collections.abc import Iterable, Mapping

from mooring.web.http1 import AdmissionCheck, App, Exchange, add_headers, header_lines

# What a page may read of an answer beside its body: a binary one cannot be taken apart without the first.
_EXPOSED = (
    "Inference-Header-Content-Length",
    "x-request-id",
    "Retry-After",
    "ts_stream_next",
    "ts_request_sequence_id",
)
_ORIGIN = "access-control-allow-origin"


class Cors:
    """What is said to pages: ``headers`` on every response, and by ``telling`` what depends on who asks."""

    def __init__(
        self, origins: Iterable[str], methods: Iterable[str] = (), headers: Iterable[str] = ()
    ) -> None:
        listed = tuple(origins)
        self.any_origin = "*" in listed
        self.named_origins = frozenset(
            origin.encode("latin-1", "replace") for origin in listed if origin != "*"
        )
        # What TorchServe says to everybody, whoever asks; of several origins, only the asking one may be said.
        one = "*" if self.any_origin else listed[0] if len(listed) == 1 else ""
        said = {
            _ORIGIN: one,
            "access-control-allow-methods": ", ".join(methods),
            "access-control-allow-headers": ", ".join(headers),
            "access-control-expose-headers": ", ".join(_EXPOSED),
        }
        self.headers: Mapping[str, str] = (
            {name: text for name, text in said.items() if text} if listed else {}
        )

    @property
    def reserved(self) -> frozenset[str]:
        """Header names that no handler may set."""
        return frozenset([*self.headers, _ORIGIN]) if self.headers or self.named_origins else frozenset()

    def telling(self, app: App) -> App:
        """``app``, its answers with the header for the one of several sites that asks."""
        if self.any_origin or len(self.named_origins) < 2:
            return app

        def told(exchange: Exchange) -> None:
            exchange.head_cache = None  # a handler called in place of this would leave the header out
            add_headers(exchange, self.lines_for(exchange.header(b"origin") or b""))
            app(exchange)

        return told

    def lines_for(self, origin: bytes) -> bytes:
        """The header lines for a page of ``origin``, where they depend on it."""
        if self.any_origin or len(self.named_origins) < 2:
            return b""
        named = [(_ORIGIN, origin.decode("latin-1"))] if origin.lower() in self.named_origins else []
        return header_lines([("vary", "Origin"), *named])

    def checking(self, admission_check: AdmissionCheck | None) -> AdmissionCheck | None:
        """``admission_check``, its refusals with the same header."""
        if admission_check is None or self.any_origin or len(self.named_origins) < 2:
            return admission_check

        def checked(exchange: Exchange) -> App | None:
            refuse = admission_check(exchange)
            return None if refuse is None else self.telling(refuse)

        return checked

"""Cross-origin resource sharing: which web pages may read the server's answers.

``*`` lets every page send requests and read answers. Changing models takes a site that is listed by name (see
``origins``).
"""

from collections.abc import Iterable, Mapping

from mooring.web.http1 import AdmissionCheck, App, Exchange, add_headers, header_lines

# Response headers that a page may read. Without the first one it cannot split a v2 answer with binary data.
_EXPOSED_HEADERS = (
    "Inference-Header-Content-Length",
    "x-request-id",
    "Retry-After",
    "ts_stream_next",
    "ts_request_sequence_id",
    "Server-Timing",
)
_ORIGIN = "access-control-allow-origin"


class Cors:
    """The CORS headers: ``headers`` are those of every response; ``wrap_app`` adds those that depend on the Origin."""

    def __init__(
        self, origins: Iterable[str], methods: Iterable[str] = (), headers: Iterable[str] = ()
    ) -> None:
        listed = tuple(origins)
        self.any_origin = "*" in listed
        self.named_origins = frozenset(
            origin.encode("latin-1", "replace") for origin in listed if origin != "*"
        )
        # TorchServe sends one origin in every response. Of several origins only the request's own may be sent.
        single_origin = "*" if self.any_origin else listed[0] if len(listed) == 1 else ""
        all_headers = {
            _ORIGIN: single_origin,
            "access-control-allow-methods": ", ".join(methods),
            "access-control-allow-headers": ", ".join(headers),
            "access-control-expose-headers": ", ".join(_EXPOSED_HEADERS),
        }
        self.headers: Mapping[str, str] = (
            {name: text for name, text in all_headers.items() if text} if listed else {}
        )

    @property
    def reserved_headers(self) -> frozenset[str]:
        """Names of headers that no handler may set."""
        return frozenset([*self.headers, _ORIGIN]) if self.headers or self.named_origins else frozenset()

    def wrap_app(self, app: App) -> App:
        """Return ``app`` with the headers for the request's Origin added to its answers."""
        if self.any_origin or len(self.named_origins) < 2:
            return app

        def app_with_headers(exchange: Exchange) -> None:
            exchange.head_cache = None  # a cached handler would bypass this function and leave the header out
            add_headers(exchange, self.header_lines_for(exchange.header(b"origin") or b""))
            app(exchange)

        return app_with_headers

    def header_lines_for(self, origin: bytes) -> bytes:
        """Return the header lines for a page of ``origin``; empty where they do not depend on it."""
        if self.any_origin or len(self.named_origins) < 2:
            return b""
        allow = [(_ORIGIN, origin.decode("latin-1"))] if origin.lower() in self.named_origins else []
        return header_lines([("vary", "Origin"), *allow])

    def timing_lines_for(self, origin: bytes) -> bytes:
        """Return the header lines that let a page of ``origin`` see the timings of an answer."""
        if not self.any_origin and origin.lower() not in self.named_origins:
            return b""
        allowed = "*" if self.any_origin else origin.decode("latin-1")
        return header_lines([("timing-allow-origin", allowed)])

    def wrap_admission_check(self, admission_check: AdmissionCheck | None) -> AdmissionCheck | None:
        """Return ``admission_check`` with the same headers added to its refusals."""
        if admission_check is None or self.any_origin or len(self.named_origins) < 2:
            return admission_check

        def check_with_headers(exchange: Exchange) -> App | None:
            refuse = admission_check(exchange)
            return None if refuse is None else self.wrap_app(refuse)

        return check_with_headers

"""What a path means that an address does not serve: another address has it, or it has another name here."""

from collections.abc import Iterable, Mapping

from mooring.protocols.endpoints import Endpoint
from mooring.protocols.status import NOT_FOUND, Refusal, speaks_console, speaks_v2
from mooring.web.routing import Route, Router

# What people try first, and the paths that have it.
_DESCRIPTION = "/openapi.json describes this API"
_HEALTH = "/ping tells whether the models are well, /v2/health/ready whether the server is ready"
_PREDICTION = "/predictions/MODEL answers with a prediction of the model of that name"
_USUAL: Mapping[str, str] = {
    **dict.fromkeys(("/docs", "/redoc", "/swagger", "/swagger-ui", "/api"), _DESCRIPTION),
    **dict.fromkeys(("/health", "/healthz", "/livez", "/readyz", "/live", "/ready", "/status"), _HEALTH),
    **dict.fromkeys(("/predict", "/infer", "/prediction"), _PREDICTION),
}
_LONGEST = 200  # characters of a path that are repeated


class Elsewhere:
    """The endpoints of all addresses of a server, by what serves them and where.

    >>> from mooring.protocols.endpoints import Endpoint
    >>> from mooring.tokens import Access
    >>> metrics = Endpoint("/metrics", lambda exchange, match: None, Access.METRICS)
    >>> Elsewhere([("metrics are", "http://127.0.0.1:8082", [metrics])]).explain(b"/metrics?name=x")
    'nothing is served at /metrics here; metrics are served at http://127.0.0.1:8082/metrics'
    """

    def __init__(self, addresses: Iterable[tuple[str, str, Iterable[Endpoint]]]) -> None:
        self._addresses: list[tuple[str, str, Router]] = []
        for what, url, endpoints in addresses:
            router = Router()
            for pattern in dict.fromkeys(each.pattern for each in endpoints):
                router.add(Route(pattern, lambda _exchange, _match: None))
            self._addresses.append((what, url, router))

    def refusal(self, target: bytes) -> Refusal:
        """Return the 404 for a request target that the address which was asked does not serve."""
        text = self.explain(target)
        plain = speaks_v2(target) or speaks_console(target)
        return Refusal(NOT_FOUND.status, NOT_FOUND.type, text, error=text if plain else "")

    def explain(self, target: bytes) -> str:
        """Return what to ask instead of a request target."""
        path = target.partition(b"?")[0].decode("latin-1")
        shown = path if len(path) <= _LONGEST else f"{path[:_LONGEST]}..."
        return f"nothing is served at {shown} here; {self._find(target, path)}"

    def _find(self, target: bytes, path: str) -> str:
        usual = _USUAL.get(path.rstrip("/").lower())
        if usual:
            return usual
        for what, url, router in self._addresses:
            if router.find(target) is not None:
                return f"{what} served at {url}{path}"
        return _DESCRIPTION

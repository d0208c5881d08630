"""One listener's requests to the endpoints that answer them, and the last word when one of them fails."""

from collections.abc import Callable, Iterable

import msgspec

from mooring.core.errors import MooringError
from mooring.observability.logs import get_logger
from mooring.protocols import status as statuses
from mooring.protocols.access import Check, Gate
from mooring.protocols.endpoints import Endpoint, Prepare
from mooring.protocols.inflater import ENCODING, Inflater
from mooring.protocols.origins import CROSS_SITE, from_elsewhere
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal, Target
from mooring.tokens import Access
from mooring.web.http1 import AdmissionCheck, App, Exchange, HeadCache, header_lines
from mooring.web.routing import Handler, Match, Route, Router

log = get_logger(__name__)

OverloadCheck = Callable[[str, str], MooringError | None]

_PREFLIGHT = b"access-control-request-method"


class Application:
    """The app of an ``HttpServer``. Endpoints of one pattern share its methods among them.

    Where responses carry CORS headers, what a browser asks before it asks is answered with them, on every path.
    Pages of other sites reach no endpoint that changes what is served; with ``loopback``, which says that only this
    machine reaches the listener, a page's site must be this machine as well. Sites that are ``named`` count as this
    one's own. Endpoints are put behind the ``gate`` here. ``overload_error`` says of a model and a version why a request to it
    would be refused now, so that large bodies are not received in vain. What no endpoint answers goes to ``fallback_app``,
    if there is such an app, and so does every question what there is to ask. Compressed bodies are inflated behind the
    gate by ``inflater``, before any endpoint's handler sees them.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        responses: Responses,
        *,
        gate: Gate | None = None,
        loopback: bool = False,
        trusted_origins: frozenset[bytes] = frozenset(),
        overload_error: OverloadCheck | None = None,
        fallback_app: App | None = None,
        inflater: Inflater | None = None,
    ) -> None:
        self._responses = responses
        self._inflater = inflater or Inflater(responses)
        self._fallback_app = fallback_app
        self._overload_error = overload_error
        self._asking: set[str] = set()  # the patterns of endpoints that ask a model
        self._gate = gate or Gate()
        self._loopback = loopback
        self._trusted_origins = trusted_origins
        self._router = Router()
        self._checks: dict[str, dict[str, Check]] = {}  # by pattern and method, "" for any
        self._prepares: dict[str, dict[str, Prepare]] = {}
        by_pattern: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_pattern.setdefault(endpoint.pattern, []).append(endpoint)
        for pattern, sharing in by_pattern.items():
            self._router.add(Route(pattern, self._one_of(sharing)))

    def __call__(self, exchange: Exchange) -> None:
        """Answer now or later; never raises."""
        head_cache = exchange.head_cache
        try:
            if head_cache is not None:
                if head_cache.handler is not None:
                    head_cache.handler(exchange)
                    return
                if not head_cache.prepared:
                    self._prepare(exchange, head_cache)
            match = self._router.find(exchange.target)
            if exchange.method == "OPTIONS" and self._options(exchange):
                return
            if match is None:
                if self._fallback_app is None:
                    self._responses.send_refusal(exchange, statuses.NOT_FOUND)
                else:
                    self._fallback_app(exchange)
            elif ENCODING in exchange.fields:
                self._inflate(exchange, match)
            else:
                match.handler(exchange, match)
        except Exception as error:  # the protocol edge: a fault of ours is this request's 500, and no other's
            self._failed(exchange, error)

    def _failed(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, MooringError):
            asked = Target(error.model, error.version)
            self._responses.send_refusal(exchange, statuses.refusal_for_target(error, asked, exchange.target))
            return
        method, target = exchange.method, exchange.target.decode("latin-1")
        log.error("request failed", method=method, target=target, exc_info=error)
        self._responses.send_fault(exchange, error)

    @property
    def admission_check(self) -> AdmissionCheck | None:
        """What the listener asks about large bodies before it receives them; None where nothing could be said."""
        return self._admission_refusal if self._checks or (self._overload_error and self._asking) else None

    def _admission_refusal(self, exchange: Exchange) -> App | None:
        match = self._router.find(exchange.target)
        if match is None:
            return None
        checks = self._checks.get(match.route.pattern, {})
        check = checks.get(exchange.method) or checks.get("")
        refusal = _lacking(check, exchange, match) if check is not None else None
        if refusal is None and self._overload_error is not None and match.route.pattern in self._asking:
            asked = Target(match.params["model_name"], match.params.get("model_version", ""))
            error = self._overload_error(*asked)
            if error is not None:
                refusal = statuses.refusal_for_target(error, asked, exchange.target)
        return None if refusal is None else lambda refused: self._responses.send_refusal(refused, refusal)

    def _prepare(self, exchange: Exchange, head_cache: HeadCache) -> None:
        """Find the fast path of all requests after this one that have the same head."""
        head_cache.prepared = True
        match = self._router.find(exchange.target)
        if match is not None and exchange.method != "OPTIONS" and ENCODING not in exchange.fields:
            prepares = self._prepares.get(match.route.pattern, {})
            prepare = prepares.get(exchange.method) or prepares.get("")
            head_cache.handler = None if prepare is None else prepare(exchange, match)
            head_cache.on_error = self._failed

    def _options(self, exchange: Exchange) -> bool:
        """Answer what a browser asks before it asks, and hand other questions on; False where an endpoint is to."""
        if self._responses.reserved and exchange.header(_PREFLIGHT):
            self._responses.send_body(exchange, b"", "")
            return True
        if self._fallback_app is None:
            return False
        self._fallback_app(exchange)
        return True

    def _one_of(self, endpoints: list[Endpoint]) -> Handler:
        if len(endpoints) == 1 and endpoints[0].methods is None:
            return self._handler(endpoints[0])
        by_method: dict[str, Handler] = {}
        otherwise: Handler | None = None
        for endpoint in endpoints:
            if endpoint.methods is None:
                otherwise = self._handler(endpoint)
            else:
                by_method.update(dict.fromkeys(endpoint.methods, self._handler(endpoint)))
        fallback = otherwise or self._not_allowed(by_method)

        def dispatch(exchange: Exchange, match: Match) -> None:
            by_method.get(exchange.method, fallback)(exchange, match)

        return dispatch

    def _handler(self, endpoint: Endpoint) -> Handler:
        check, handler = self._gate.check(endpoint.access), endpoint.handler
        if endpoint.prepare is not None and check is None and not endpoint.changes:
            prepares = self._prepares.setdefault(endpoint.pattern, {})
            prepares.update(dict.fromkeys(endpoint.methods or ("",), endpoint.prepare))
        if endpoint.access is Access.INFERENCE and "{model_name}" in endpoint.pattern:
            self._asking.add(endpoint.pattern)
        if check is not None:
            checks = self._checks.setdefault(endpoint.pattern, {})
            checks.update(dict.fromkeys(endpoint.methods or ("",), check))
            handler = self._behind(check, handler)
        return self._of_this_site(handler) if endpoint.changes else handler

    def _inflate(self, exchange: Exchange, match: Match) -> None:
        """Let the endpoint answer when the body is inflated, unless the request would be refused whatever its body."""
        refuse = self._admission_refusal(exchange)
        if refuse is not None:
            refuse(exchange)
        else:
            self._inflater.open(exchange, match, self._not_inflated)

    def _not_inflated(self, exchange: Exchange, match: Match, error: MooringError) -> None:
        asked = Target(match.params.get("model_name", ""), match.params.get("model_version", ""))
        self._responses.send_refusal(exchange, statuses.refusal_for_target(error, asked, exchange.target))

    def _behind(self, check: Check, handler: Handler) -> Handler:
        def allowed(exchange: Exchange, match: Match) -> None:
            refusal = _lacking(check, exchange, match)
            if refusal is None:
                handler(exchange, match)
            else:
                self._responses.send_refusal(exchange, refusal)

        return allowed

    def _of_this_site(self, handler: Handler) -> Handler:
        def guarded(exchange: Exchange, match: Match) -> None:
            if from_elsewhere(exchange, loopback=self._loopback, trusted_origins=self._trusted_origins):
                self._responses.send_refusal(exchange, CROSS_SITE)
            else:
                handler(exchange, match)

        return guarded

    def _not_allowed(self, methods: Iterable[str]) -> Handler:
        fallback_app = self._fallback_app
        if fallback_app is not None:
            return lambda exchange, _: fallback_app(exchange)
        allow = header_lines([("allow", ", ".join(sorted(methods)))])
        refusal = msgspec.structs.replace(statuses.NOT_ALLOWED, head=allow)
        return lambda exchange, _: self._responses.send_refusal(exchange, refusal)


def _lacking(check: Check, exchange: Exchange, match: Match) -> Refusal | None:
    """Why the check does not let this request pass, in the words of its protocol; None where it does."""
    refusal = check(exchange.header(b"authorization"))
    if refusal is not None and match.route.pattern.startswith("/v1/"):  # KServe's clients look there
        refusal = msgspec.structs.replace(refusal, error=refusal.message)
    return refusal


def https_only(responses: Responses) -> App:
    """The app of those who speak plain HTTP to a listener that speaks TLS: it says so, and ends the connection."""

    def refuse(exchange: Exchange) -> None:
        exchange.keep_alive = False
        responses.send_json(exchange, statuses.HTTPS_ONLY, status=403)

    return refuse

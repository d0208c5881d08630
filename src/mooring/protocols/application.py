"""The application of one listener: routing, token checks, CORS preflights, and the answer to failures of endpoints."""

from collections.abc import Callable, Iterable

import msgspec

from mooring.core.errors import MooringError
from mooring.core.timing import HEADER, asks_for_timing
from mooring.observability.logs import get_logger
from mooring.protocols import status as statuses
from mooring.protocols.access import Check, Gate
from mooring.protocols.endpoints import Endpoint, Prepare
from mooring.protocols.inflater import ENCODING, Inflater
from mooring.protocols.origins import SANDBOX, Sites, is_foreign_navigation, refuse_foreign
from mooring.protocols.responses import Responses
from mooring.protocols.status import Refusal, Target
from mooring.tokens import Access
from mooring.web.http1 import (
    AdmissionCheck,
    App,
    Exchange,
    HeadCache,
    add_headers,
    header_lines,
    time_exchange,
)
from mooring.web.routing import Handler, Match, Route, Router

log = get_logger(__name__)

OverloadCheck = Callable[[str, str], MooringError | None]
NotFound = Callable[[bytes], Refusal]

_PREFLIGHT = b"access-control-request-method"
_MANAGING = frozenset({Access.MANAGEMENT, Access.RENEWAL})


class Application:
    """The app of an ``HttpServer``. Endpoints with one pattern share its methods.

    How this works: at construction every endpoint's handler is wrapped by the checks that it needs (the token; for
    management Host and Origin) and entered into the router under its pattern, so that a handler without checks is called
    directly. A request is routed by its target, then by its method. If the connection has seen the same head before,
    the prepared handler of that head answers, without routing. A compressed body is inflated behind the checks.

    ``gate`` has the token checks. ``sites`` says which names and web pages count as the server's own: what manages models
    is refused to others. Without it only Origins are looked at, and only where something changes.
    ``overload_error`` returns the error with which a request to a model and version would be refused now, so that
    large bodies are not received in vain. ``not_found`` makes the 404 for a target. ``fallback_app`` answers paths and
    methods without an endpoint, and OPTIONS. With CORS headers set, preflights are answered on every path. Answers of models have
    timings where the client asks for them, or with ``times_all``; ``timing_lines_for`` are the header lines that let pages of an
    origin see them. Answers of models that a page of another site has a browser show are shown in a sandbox.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        responses: Responses,
        *,
        gate: Gate | None = None,
        sites: Sites | None = None,
        overload_error: OverloadCheck | None = None,
        fallback_app: App | None = None,
        inflater: Inflater | None = None,
        not_found: NotFound = lambda _target: statuses.NOT_FOUND,
        times_all: bool = False,
        timing_lines_for: Callable[[bytes], bytes] = lambda _origin: b"",
    ) -> None:
        self._not_found = not_found
        self._times_all = times_all
        self._timing_lines_for = timing_lines_for
        self._inference_patterns: set[str] = set()
        self._responses = responses
        self._inflater = inflater or Inflater(responses)
        self._fallback_app = fallback_app
        self._overload_error = overload_error
        self._model_patterns: set[str] = set()  # patterns of the endpoints that run a model
        self._gate = gate or Gate()
        self._sites = sites
        self._own_sites = sites or Sites()
        self._router = Router()
        self._checks: dict[str, dict[str, Check]] = {}  # by pattern and method, "" for any
        self._prepares: dict[str, dict[str, Prepare]] = {}
        by_pattern: dict[str, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_pattern.setdefault(endpoint.pattern, []).append(endpoint)
        for pattern, group in by_pattern.items():
            self._router.add(Route(pattern, self._dispatch_methods(group)))

    def __call__(self, exchange: Exchange) -> None:
        """Answer now or later; never raises."""
        head_cache = exchange.head_cache
        try:
            if head_cache is not None:
                if head_cache.handler is not None:
                    head_cache.handler(exchange)
                    return
                if not head_cache.prepared:
                    self._fill_head_cache(exchange, head_cache)
            match = self._router.find(exchange.target)
            if exchange.method == "OPTIONS" and self._answer_options(exchange):
                return
            if match is None:
                if self._fallback_app is None:
                    self._responses.send_refusal(exchange, self._not_found(exchange.target))
                else:
                    self._fallback_app(exchange)
            else:
                if self._times_all or HEADER in exchange.fields:
                    self._begin_timing(exchange, match)
                if match.route.pattern in self._inference_patterns and is_foreign_navigation(
                    exchange, self._own_sites
                ):
                    add_headers(exchange, SANDBOX)
                if ENCODING in exchange.fields:
                    self._inflate_first(exchange, match)
                else:
                    match.handler(exchange, match)
        except Exception as error:  # the protocol edge: a fault of ours is this request's 500, and no other's
            self._answer_error(exchange, error)

    def _begin_timing(self, exchange: Exchange, match: Match) -> None:
        """Have the answer say where the time went, if a model answers and the client, or the setting, asks for it."""
        asked = self._times_all or asks_for_timing(exchange.fields.get(HEADER))
        if asked and match.route.pattern in self._inference_patterns:
            time_exchange(exchange, self._timing_lines_for(exchange.fields.get(b"origin", b"")))

    def _answer_error(self, exchange: Exchange, error: Exception) -> None:
        if isinstance(error, MooringError):
            target = Target(error.model, error.version)
            self._responses.send_refusal(
                exchange, statuses.refusal_for_target(error, target, exchange.target)
            )
            return
        method, request_target = exchange.method, exchange.target.decode("latin-1")
        log.error("request failed", method=method, target=request_target, exc_info=error)
        self._responses.send_fault(exchange, error)

    @property
    def admission_check(self) -> AdmissionCheck | None:
        """Return the check before a large body is received; None where no request is ever refused there."""
        return (
            self._admission_refusal
            if self._checks or (self._overload_error and self._model_patterns)
            else None
        )

    def _admission_refusal(self, exchange: Exchange) -> App | None:
        match = self._router.find(exchange.target)
        if match is None:
            return None
        checks = self._checks.get(match.route.pattern, {})
        check = checks.get(exchange.method) or checks.get("")
        refusal = _check_token(check, exchange, match) if check is not None else None
        if (
            refusal is None
            and self._overload_error is not None
            and match.route.pattern in self._model_patterns
        ):
            target = Target(match.params["model_name"], match.params.get("model_version", ""))
            error = self._overload_error(*target)
            if error is not None:
                refusal = statuses.refusal_for_target(error, target, exchange.target)
        return None if refusal is None else lambda refused: self._responses.send_refusal(refused, refusal)

    def _fill_head_cache(self, exchange: Exchange, head_cache: HeadCache) -> None:
        """Store the prepared handler (a fast path) for all further requests with the same head."""
        head_cache.prepared = True
        match = self._router.find(exchange.target)
        if match is not None and exchange.method != "OPTIONS" and ENCODING not in exchange.fields:
            prepares = self._prepares.get(match.route.pattern, {})
            prepare = prepares.get(exchange.method) or prepares.get("")
            if self._checks.get(match.route.pattern) and exchange.header(b"authorization") is not None:
                prepare = None  # a token that is shown is checked each time
            if self._times_all or asks_for_timing(exchange.fields.get(HEADER)):
                prepare = None  # each request has a timing of its own
            if is_foreign_navigation(exchange, self._own_sites):
                prepare = None  # its answer has further headers
            head_cache.handler = None if prepare is None else prepare(exchange, match)
            head_cache.on_error = self._answer_error

    def _answer_options(self, exchange: Exchange) -> bool:
        """Answer a CORS preflight, and pass other OPTIONS to the fallback; False where an endpoint has to answer."""
        if self._responses.reserved_headers and exchange.header(_PREFLIGHT):
            self._responses.send_body(exchange, b"", "")
            return True
        if self._fallback_app is None:
            return False
        self._fallback_app(exchange)
        return True

    def _dispatch_methods(self, endpoints: list[Endpoint]) -> Handler:
        if len(endpoints) == 1 and endpoints[0].methods is None:
            return self._mount_endpoint(endpoints[0])
        by_method: dict[str, Handler] = {}
        any_method: Handler | None = None
        for endpoint in endpoints:
            if endpoint.methods is None:
                any_method = self._mount_endpoint(endpoint)
            else:
                by_method.update(dict.fromkeys(endpoint.methods, self._mount_endpoint(endpoint)))
        fallback = any_method or self._method_not_allowed(by_method)

        def dispatch_method(exchange: Exchange, match: Match) -> None:
            by_method.get(exchange.method, fallback)(exchange, match)

        return dispatch_method

    def _mount_endpoint(self, endpoint: Endpoint) -> Handler:
        check, handler = self._gate.check(endpoint.access), endpoint.handler
        unchecked = check is None or self._gate.is_optional(endpoint.access)
        if endpoint.prepare is not None and unchecked and not endpoint.changes:
            prepares = self._prepares.setdefault(endpoint.pattern, {})
            prepares.update(dict.fromkeys(endpoint.methods or ("",), endpoint.prepare))
        if endpoint.access is Access.INFERENCE and "{model_name}" in endpoint.pattern:
            self._model_patterns.add(endpoint.pattern)
        if endpoint.infers:
            self._inference_patterns.add(endpoint.pattern)
        if check is not None:
            checks = self._checks.setdefault(endpoint.pattern, {})
            checks.update(dict.fromkeys(endpoint.methods or ("",), check))
            handler = self._require_token(check, handler)
        managing = endpoint.access in _MANAGING and self._sites is not None
        if managing or endpoint.changes or endpoint.same_site:
            return self._require_own_site(endpoint, handler)
        return handler

    def _inflate_first(self, exchange: Exchange, match: Match) -> None:
        """Inflate the body, then call the endpoint's handler; refuse first what is refused whatever its body."""
        refuse = self._admission_refusal(exchange)
        if refuse is not None:
            refuse(exchange)
        else:
            self._inflater.inflate_body(exchange, match, self._refuse_body)

    def _refuse_body(self, exchange: Exchange, match: Match, error: MooringError) -> None:
        target = Target(match.params.get("model_name", ""), match.params.get("model_version", ""))
        self._responses.send_refusal(exchange, statuses.refusal_for_target(error, target, exchange.target))

    def _require_token(self, check: Check, handler: Handler) -> Handler:
        def handle_with_token(exchange: Exchange, match: Match) -> None:
            refusal = _check_token(check, exchange, match)
            if refusal is None:
                handler(exchange, match)
            else:
                exchange.timing = None  # how long the check took is nobody's business
                self._responses.send_refusal(exchange, refusal)

        return handle_with_token

    def _require_own_site(self, endpoint: Endpoint, handler: Handler) -> Handler:
        sites, changes, same_site = self._own_sites, endpoint.changes, endpoint.same_site

        def handle_of_own_site(exchange: Exchange, match: Match) -> None:
            refusal = refuse_foreign(exchange, sites, changes=changes, same_site=same_site)
            if refusal is None:
                handler(exchange, match)
            else:
                self._responses.send_refusal(exchange, refusal)

        return handle_of_own_site

    def _method_not_allowed(self, methods: Iterable[str]) -> Handler:
        fallback_app = self._fallback_app
        if fallback_app is not None:
            return lambda exchange, _: fallback_app(exchange)
        allow = header_lines([("allow", ", ".join(sorted(methods)))])
        refusal = msgspec.structs.replace(statuses.NOT_ALLOWED, head=allow)
        return lambda exchange, _: self._responses.send_refusal(exchange, refusal)


def _check_token(check: Check, exchange: Exchange, match: Match) -> Refusal | None:
    """Return why the check refuses this request, in the form of its protocol; None where it is allowed."""
    refusal = check(exchange.header(b"authorization"))
    if refusal is None:
        return None
    if match.route.pattern.startswith("/v1/"):  # KServe's clients look there
        return msgspec.structs.replace(refusal, error=refusal.message)
    # The console's page asks for a token where the status is 401.
    if refusal.status == 400 and match.route.pattern.startswith("/console/"):
        return msgspec.structs.replace(refusal, status=401, message=f"{refusal.message}: {refusal.detail}")
    return refusal


def https_only(responses: Responses) -> App:
    """Return the app for plain HTTP on a listener that speaks TLS: it answers 403 and closes the connection."""

    def refuse(exchange: Exchange) -> None:
        exchange.keep_alive = False
        responses.send_json(exchange, statuses.HTTPS_ONLY, status=403)

    return refuse

"""Answers to OPTIONS on paths that have no endpoint for it: the allowed methods."""

from collections.abc import Iterable

from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.tokens import Access
from mooring.web.http1 import Exchange, header_lines
from mooring.web.routing import Handler, Match

_OPTIONS = frozenset({"OPTIONS"})


def options_endpoints(endpoints: Iterable[Endpoint], responses: Responses) -> list[Endpoint]:
    """Return an endpoint for every pattern whose methods are listed and do not include OPTIONS."""
    methods: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.methods is not None:
            methods.setdefault(endpoint.pattern, set()).update(endpoint.methods)
    return [
        Endpoint(pattern, _options_handler(known, responses), Access.OPEN, methods=_OPTIONS)
        for pattern, known in methods.items()
        if "OPTIONS" not in known
    ]


def _options_handler(methods: set[str], responses: Responses) -> Handler:
    listed = ",".join(["OPTIONS", *sorted(methods)])
    lines = [("allow", listed)]
    if (
        "access-control-allow-origin" in responses.reserved_headers
        and "access-control-allow-methods" not in responses.reserved_headers
    ):
        lines.append(("access-control-allow-methods", listed))
    head = header_lines(lines)

    def answer_options(exchange: Exchange, _: Match) -> None:
        responses.counter.count(200)
        exchange.respond(
            200, b"", responses.build_head(responses.read_request_id(exchange), "text/plain") + head
        )

    return answer_options

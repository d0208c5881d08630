"""OPTIONS on paths that have nothing better to say to it: which methods there are."""

from collections.abc import Iterable

from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import Responses
from mooring.tokens import Access
from mooring.web.http1 import Exchange, header_lines
from mooring.web.routing import Handler, Match

_OPTIONS = frozenset({"OPTIONS"})


def answering_options(endpoints: Iterable[Endpoint], responses: Responses) -> list[Endpoint]:
    """One more endpoint for every pattern whose methods are listed and do not have OPTIONS among them."""
    methods: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.methods is not None:
            methods.setdefault(endpoint.pattern, set()).update(endpoint.methods)
    return [
        Endpoint(pattern, _telling(known, responses), Access.OPEN, methods=_OPTIONS)
        for pattern, known in methods.items()
        if "OPTIONS" not in known
    ]


def _telling(methods: set[str], responses: Responses) -> Handler:
    listed = ",".join(["OPTIONS", *sorted(methods)])
    lines = [("allow", listed)]
    if (
        "access-control-allow-origin" in responses.reserved
        and "access-control-allow-methods" not in responses.reserved
    ):
        lines.append(("access-control-allow-methods", listed))
    head = header_lines(lines)

    def tell(exchange: Exchange, _: Match) -> None:
        responses.counter.count(200)
        exchange.respond(
            200, b"", responses.build_head(responses.read_request_id(exchange), "text/plain") + head
        )

    return tell

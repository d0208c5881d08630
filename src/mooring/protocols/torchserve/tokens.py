"""``/token`` of the management port: with the API key a client has a new token written to the key file."""

from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.status import Refusal
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.registration import parse_query
from mooring.tokens import Access, Tokens
from mooring.web.http1 import Exchange
from mooring.web.routing import Match


class TokenRenewal:
    """The endpoint of token renewal. The answer does not hold the new token: it is read from the key file."""

    def __init__(self, tokens: Tokens, responses: Responses) -> None:
        self._tokens = tokens
        self._responses = responses

    def endpoints(self) -> list[Endpoint]:
        """Return the endpoint."""
        return [Endpoint("/token", self.renew_token, Access.RENEWAL, calls.RENEW, methods=frozenset({"GET"}))]

    def renew_token(self, exchange: Exchange, match: Match) -> None:
        """Replace the inference or the management token; the old one is refused from then on."""
        name = parse_query(match.query).get("type", "")
        kind = next((kind for kind in self._tokens.renewable if kind.value == name), None)
        if kind is None:
            known = " or ".join(sorted(kind.value for kind in self._tokens.renewable))
            message = f"Token Authentication failed. The type is to be {known}, and not {name!r}"
            self._responses.send_refusal(exchange, Refusal(400, "InvalidKeyException", message))
            return
        self._tokens.renew(kind)
        self._responses.send_body(exchange, b"\n", JSON)

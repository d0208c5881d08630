"""``/token`` of the management port: whoever has the API key gets another token written to the key file."""

from mooring.protocols.endpoints import Endpoint
from mooring.protocols.responses import JSON, Responses
from mooring.protocols.status import Refusal
from mooring.protocols.torchserve import operations as calls
from mooring.protocols.torchserve.registration import texts_of
from mooring.tokens import Access, Tokens
from mooring.web.http1 import Exchange
from mooring.web.routing import Match


class TokenRenewal:
    """The endpoint. The answer does not hold the token: who may read the file has it."""

    def __init__(self, tokens: Tokens, responses: Responses) -> None:
        self._tokens = tokens
        self._responses = responses

    def endpoints(self) -> list[Endpoint]:
        """Everything mounted."""
        return [Endpoint("/token", self.renew, Access.RENEWAL, calls.RENEW, methods=frozenset({"GET"}))]

    def renew(self, exchange: Exchange, match: Match) -> None:
        """Put another token in the place of the inference or the management token, which is of no use from then on."""
        asked = texts_of(match.query).get("type", "")
        kind = next((kind for kind in self._tokens.renewable if kind.value == asked), None)
        if kind is None:
            known = " or ".join(sorted(kind.value for kind in self._tokens.renewable))
            message = f"Token Authentication failed. The type is to be {known}, and not {asked!r}"
            self._responses.send_refusal(exchange, Refusal(400, "InvalidKeyException", message))
            return
        self._tokens.renew(kind)
        self._responses.send_body(exchange, b"\n", JSON)

"""Which calls need a token on one listener: a gate that handlers are put behind when they are mounted.

A handler that needs no check is mounted as it is, so that a request pays nothing where tokens are off.
"""

from collections.abc import Callable

from mooring.protocols.status import FORBIDDEN, Refusal, unauthorized_refusal
from mooring.tokens import Access, TokenTable

Check = Callable[[bytes | None], Refusal | None]
"""Takes the Authorization header; returns why a call is refused, or None where it is allowed."""


class Gate:
    """The token checks of one listener.

    ``closed`` refuses all management: other machines reach the listener, and no management token is set.
    """

    def __init__(
        self, tokens: TokenTable | None = None, *, closed: bool = False, protect_metrics: bool = False
    ) -> None:
        self._tokens = tokens
        self._closed = closed
        self._protect_metrics = protect_metrics

    def needs_token(self, access: Access) -> bool:
        """Return whether a call of this kind needs a token here."""
        if self._tokens is None or (access is Access.METRICS and not self._protect_metrics):
            return False
        return self._tokens.guards(access)

    def check(self, access: Access) -> Check | None:
        """Return the check for every call of this kind; None where every call is allowed."""
        tokens = self._tokens
        if tokens is not None and self.needs_token(access):

            def check_token(authorization: bytes | None) -> Refusal | None:
                why = tokens.lacking(access, authorization)
                return unauthorized_refusal(access.value, why, tokens.how(access)) if why else None

            return check_token
        if self._closed and access is Access.MANAGEMENT:
            return lambda _: FORBIDDEN
        return None

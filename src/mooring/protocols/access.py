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

    ``closed`` refuses all management: other machines reach the listener, and no management token is set. Where the
    generated tokens are not ``demanded``, a call without an Authorization header needs none; one with a wrong header is refused.
    ``status`` answers a missing or wrong token.
    """

    def __init__(
        self,
        tokens: TokenTable | None = None,
        *,
        closed: bool = False,
        protect_metrics: bool = False,
        demanded: bool = True,
        status: int = 401,
    ) -> None:
        self._tokens = tokens
        self._closed = closed
        self._protect_metrics = protect_metrics
        self._demanded = demanded
        self.status = status

    def needs_token(self, access: Access) -> bool:
        """Return whether a call of this kind needs a token here."""
        return self._checks_tokens(access) and not self.is_optional(access)

    def is_optional(self, access: Access) -> bool:
        """Return whether a call of this kind is checked only where it shows a token."""
        if self._tokens is None or self._demanded:
            return False
        return self._checks_tokens(access) and not self._tokens.is_given(access)

    def _checks_tokens(self, access: Access) -> bool:
        if self._tokens is None or (access is Access.METRICS and not self._protect_metrics):
            return False
        return self._tokens.guards(access)

    def check(self, access: Access) -> Check | None:
        """Return the check for every call of this kind; None where every call is allowed."""
        tokens = self._tokens
        if tokens is not None and self._checks_tokens(access):
            optional = self.is_optional(access)

            def check_token(authorization: bytes | None) -> Refusal | None:
                # Tokens that nobody can read, for want of a key file, are gone by then.
                if optional and (authorization is None or not tokens.guards(access)):
                    return None
                why = tokens.lacking(access, authorization)
                if not why:
                    return None
                return unauthorized_refusal(access.value, why, tokens.how(access), status=self.status)

            return check_token
        if self._closed and access is Access.MANAGEMENT:
            return lambda _: FORBIDDEN
        return None

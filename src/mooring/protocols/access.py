"""Who may make which call on one listener: a gate that handlers are put behind when they are mounted.

What needs no gate is mounted as it is, so that a request pays nothing where tokens are off.
"""

from collections.abc import Callable

from mooring.protocols.status import FORBIDDEN, Refusal, unauthorized
from mooring.tokens import Access, TokenTable

Check = Callable[[bytes | None], Refusal | None]
"""Given the Authorization header, why a call is refused; None where it is allowed."""


class Gate:
    """What one listener asks of whoever calls.

    ``closed``: other machines reach it and no token guards the management of models, so that it is not done here.
    """

    def __init__(
        self, tokens: TokenTable | None = None, *, closed: bool = False, protect_metrics: bool = False
    ) -> None:
        self._tokens = tokens
        self._closed = closed
        self._protect_metrics = protect_metrics

    def guards(self, access: Access) -> bool:
        """Whether a call of this kind needs a token here."""
        if self._tokens is None or (access is Access.METRICS and not self._protect_metrics):
            return False
        return self._tokens.guards(access)

    def check(self, access: Access) -> Check | None:
        """What to ask before every call of this kind; None where there is nothing to ask."""
        tokens = self._tokens
        if tokens is not None and self.guards(access):

            def allowed(authorization: bytes | None) -> Refusal | None:
                why = tokens.lacking(access, authorization)
                return unauthorized(access.value, why, tokens.how(access)) if why else None

            return allowed
        if self._closed and access is Access.MANAGEMENT:
            return lambda _: FORBIDDEN
        return None

"""How much work a client may make that asks for nothing: the rule, without a clock."""


class FrameBudget:
    """Counts frames that ask for nothing, or that take back what was asked (CVE-2023-44487, CVE-2025-8671).

    The budget is full again after every sweep of the listener.
    """

    __slots__ = ("_left", "_size")

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def charge(self, cost: int) -> bool:
        """Count a frame; whether the budget is overdrawn now."""
        self._left -= cost
        return self._left < 0

    def refill(self) -> None:
        """Begin again with a full budget."""
        self._left = self._size

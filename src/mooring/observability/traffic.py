"""How many bytes a server has received and sent."""


class Traffic:
    """Bytes over all connections of one protocol, heads and framing included; of TLS, what is within it.

    Who reads from a connection or writes to it adds to the numbers.
    """

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0

    def take(self) -> list[int]:
        """Return and reset what was received and sent."""
        counted = [self.received, self.sent]
        self.received = self.sent = 0
        return counted

    def add(self, counted: list[int]) -> None:
        """Add what ``take`` returned in another process."""
        self.received += counted[0]
        self.sent += counted[1]

"""How far a worker is, in memory that it shares with the server: right even when one of the two is dead."""

from mooring.ipc.arena import map_shared

_HALF = 32
_LOW = (1 << _HALF) - 1


class Progress:
    """Two numbers by channel of one worker, 16 bytes each.

    The worker writes which requests of a channel's message it has done and started, so that after its death everybody
    knows which may have run: in one number, so that both are of the same moment. The channel's other end writes how many it has sent and not heard of, so that several senders
    can spread what they have over workers that nobody keeps busy.
    """

    def __init__(self, fd: int, channels: int) -> None:
        self._cells = map_shared(fd, self.size(channels)).cast("q")
        self._sent = self._cells[1::2]

    @staticmethod
    def size(channels: int) -> int:
        """Bytes of memory for so many channels."""
        return 16 * channels

    def start(self, channel: int, done: int, count: int) -> None:
        """Of the channel's message the first ``done`` requests are done, and those up to ``count`` are running."""
        self._cells[2 * channel] = done << _HALF | count

    def started(self, channel: int) -> int:
        """How many are running or done."""
        return int(self._cells[2 * channel]) & _LOW

    def done(self, channel: int) -> int:
        """How many are done, whether or not they have been answered."""
        return int(self._cells[2 * channel]) >> _HALF

    def send(self, channel: int, count: int) -> None:
        """So many are sent and not answered; none of them is started."""
        self._cells[2 * channel] = 0
        self._cells[2 * channel + 1] = count

    def wanted_by_others(self, channel: int) -> bool:
        """Whether another channel has something in the worker."""
        return sum(self._sent) != self._sent[channel]

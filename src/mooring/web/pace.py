"""How fast a body must come: the rules, without a clock."""

from mooring.web.listener import Limits


class Pace:
    """One body on its way, looked at now and then; ``begun`` is when that was first done, and ``received`` what had come.

    It is too slow where a whole window brings less than the least rate. A client that pauses for less than a window, or
    whose network is slow but moves, is not.
    """

    __slots__ = ("_begun", "_received", "_since")

    def __init__(self, now: float, received: int) -> None:
        self._begun = self._since = now
        self._received = received

    def fault(self, now: float, received: int, limits: Limits) -> str:
        """Return what is wrong if so many bytes have come by ``now``, in seconds; empty if nothing is."""
        if limits.body_time_limit and now - self._begun > limits.body_time_limit:
            return f"Request body took longer than {limits.body_time_limit:g} seconds (body_time_limit)."
        span = now - self._since
        if span < limits.body_window:
            return ""
        if received - self._received < limits.min_body_rate * span:
            return (
                f"Request body came too slowly: less than {limits.min_body_rate} bytes a second (min_body_rate)"
                f" for {span:.0f} seconds."
            )
        self._since, self._received = now, received
        return ""

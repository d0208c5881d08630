"""What a process has to do, as the balancer is told of it."""

from collections.abc import Sequence

from mooring.frontends.balancing import Load
from mooring.web.server import Listener


def load_of(busy: float, listeners: Sequence[Listener]) -> Load:
    """The load of a process whose loop uses so much of a core, and that has the connections of these listeners."""
    movable = sum(len(each.connections) for each in listeners if each.migratable)
    return Load(busy, movable, sum(len(each.connections) for each in listeners) - movable)

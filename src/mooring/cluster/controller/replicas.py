"""How far the replicas of a version are, and which of them serve, drain or go: pure rules. Runs in the controller."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from mooring.cluster.records import ReplicaState, VersionStatus


class Replica(NamedTuple):
    """A version on a usable node.

    It ``serves`` if it answers requests, be it as it was assigned before, and is ``done`` if it does so as it is assigned now. ``failed`` says why
    it cannot. It is ``idle`` while it has no requests.
    """

    serves: bool = False
    done: bool = False
    failed: str = ""
    idle: bool = True


ABSENT = Replica()


def read_replica(status: VersionStatus | None, *, fresh: bool) -> Replica:
    """What a report says of a replica. It is ``fresh`` where its node knew what is assigned now when it reported."""
    if status is None or status.state is ReplicaState.UNLOADING:
        return ABSENT
    serves = status.state is ReplicaState.READY
    failed = status.state is ReplicaState.FAILED or (status.behind and bool(status.reason))
    return Replica(
        serves,
        serves and fresh and not status.behind,
        (status.reason or "it failed") if failed and fresh else "",
        not (status.waiting or status.in_flight),
    )


def seat_replicas(
    targets: Collection[str],
    holders: Mapping[str, Replica],
    emptied: Collection[str],
    *,
    unwanted: bool = False,
) -> dict[str, bool]:
    """The nodes that a version is assigned to now; True for those on which it drains.

    ``holders`` are the nodes that have it, ``targets`` those that should. Others go on serving until all targets serve, drain then, and
    go once they are ``emptied``; if the version is ``unwanted``, all of them drain. So a version never loses its last replica to a move. What does
    not serve yet just goes.
    """
    seats = dict.fromkeys(targets, False)
    covered = unwanted or (bool(targets) and all(holders.get(name, ABSENT).serves for name in targets))
    for name, replica in holders.items():
        if name not in seats and name not in emptied and replica.serves:
            seats[name] = covered
    return seats

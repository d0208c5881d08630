"""Which replicas serve, drain and go, and what a report says of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster.controller.replicas import ABSENT, Replica, read_replica, seat_replicas
from mooring.cluster.records import ReplicaState, VersionStatus

READY, FAILED, LOADING = ReplicaState.READY, ReplicaState.FAILED, ReplicaState.LOADING
names = st.sampled_from("abcd")


@pytest.mark.parametrize(
    ("status", "fresh", "replica"),
    [
        (None, True, ABSENT),
        ({"state": ReplicaState.UNLOADING, "in_flight": 1}, True, ABSENT),
        ({"state": LOADING}, True, ABSENT),
        ({"state": READY}, True, Replica(serves=True, done=True)),
        ({"state": READY}, False, Replica(serves=True)),
        ({"state": READY, "in_flight": 1}, True, Replica(serves=True, done=True, idle=False)),
        ({"state": READY, "behind": True}, True, Replica(serves=True)),
        ({"state": READY, "behind": True, "reason": "no"}, True, Replica(serves=True, failed="no")),
        ({"state": FAILED, "reason": "no"}, True, Replica(failed="no")),
        # A failure that was before the order says nothing of what is ordered now.
        ({"state": FAILED, "reason": "no"}, False, ABSENT),
    ],
)
def test_a_report_is_read(status, fresh, replica):
    reported = None if status is None else VersionStatus("m", "1", **status)
    assert read_replica(reported, fresh=fresh) == replica


@given(
    st.sets(names),
    st.dictionaries(names, st.builds(Replica, serves=st.booleans())),
    st.sets(names),
    st.booleans(),
)
def test_the_last_replica_that_serves_is_never_taken_by_a_move(targets, holders, emptied, unwanted):
    seats = seat_replicas(targets, holders, emptied, unwanted=unwanted)
    assert targets <= set(seats)
    assert not any(seats[name] for name in targets)
    serving = {name for name, replica in holders.items() if replica.serves}
    if serving - emptied and not unwanted:
        assert any(name in serving and not draining for name, draining in seats.items())
    if unwanted:
        assert all(draining for name, draining in seats.items() if name not in targets)

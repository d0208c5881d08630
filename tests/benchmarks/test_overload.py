"""More than a model can do, by the benchmark's own means: all that is too much is refused, and nothing is lost."""

from overload import phases, table


def test_every_request_of_a_flood_is_answered_or_refused_and_neighbors_are_served():
    found = phases(1.0, (("HTTP", 10.0), ("gRPC", 10.0), ("HTTP", 0.5)))
    for phase in found:
        right, refused = phase.seen.share(phase.good), phase.seen.share(phase.full)
        assert (phase.seen.hung, phase.seen.broken, phase.seen.sent - right - refused) == (0, 0, 0)
        assert phase.watch.neighbor
        assert phase.watch.failed == 0
    flood, calls, calm = found
    # No more than wait, run or are done meanwhile; on a slow machine fewer.
    for phase in (flood, calls):
        assert 100 <= phase.seen.share(phase.good) <= 102 + 50 * phase.seen.seconds * 2
        assert phase.seen.share(phase.full) >= phase.seen.sent / 2
    assert sum(flood.seen.after.values()) == flood.seen.share("503")
    assert all(1 <= int(after) <= 60 for after in flood.seen.after)
    assert calm.seen.share("200") == calm.seen.sent
    assert table(found).count("\n") == 4

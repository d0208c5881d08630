"""More than a model can do, by the benchmark's own means: all that is too much is refused, and nothing is lost."""

from overload import format_table, run_phases


def test_every_request_of_a_flood_is_answered_or_refused_and_neighbors_are_served():
    phases = run_phases(1.0, (("HTTP", 10.0), ("gRPC", 10.0), ("HTTP", 0.5)))
    for phase in phases:
        right, refused = phase.result.count(phase.good), phase.result.count(phase.full)
        assert (phase.result.hung, phase.result.broken, phase.result.sent - right - refused) == (0, 0, 0)
        assert phase.observations.neighbor
        assert phase.observations.failed == 0
    flood, calls, calm = phases
    # No more than wait, run or are done meanwhile; on a slow machine fewer.
    for phase in (flood, calls):
        assert 100 <= phase.result.count(phase.good) <= 102 + 50 * phase.result.seconds * 2
        assert phase.result.count(phase.full) >= phase.result.sent / 2
    assert sum(flood.result.after.values()) == flood.result.count("503")
    assert all(1 <= int(after) <= 60 for after in flood.result.after)
    assert calm.result.count("200") == calm.result.sent
    assert format_table(phases).count("\n") == 4

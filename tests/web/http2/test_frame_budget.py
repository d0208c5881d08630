"""The budget of frames that ask for nothing."""

from mooring.web.http2.frame_budget import FrameBudget


def test_a_budget_is_overdrawn_by_the_frame_after_the_last_and_full_after_a_sweep():
    budget = FrameBudget(10)
    assert [budget.charge(4), budget.charge(4), budget.charge(2)] == [False, False, False]
    assert budget.charge(1)
    budget.refill()
    assert not budget.charge(10)
    assert budget.charge(1)

"""How fast a body must come: slow but honest links live, those that only hold a place do not."""

import pytest

from mooring.web.listener import Limits
from mooring.web.pace import Pace

LIMITS = Limits(min_body_rate=1000, body_window=30.0, body_time_limit=600.0)


def first_fault(arrivals, limits=LIMITS, until=2000):
    """When a body that has so many bytes at a second is found fault with, and how; looked at once a second."""
    pace = Pace(0.0, arrivals(0))
    for second in range(1, until):
        fault = pace.fault(float(second), arrivals(second), limits)
        if fault:
            return second, fault
    return None


def test_a_byte_now_and_then_is_too_slow_after_one_window():
    second, fault = first_fault(lambda second: second // 15)
    assert second == 30
    assert (
        fault == "Request body came too slowly: less than 1000 bytes a second (min_body_rate) for 30 seconds."
    )


def test_a_body_that_stops_in_the_middle_is_too_slow_within_two_windows():
    second, _ = first_fault(lambda second: 50_000 * min(second, 40))
    assert second <= 90


@pytest.mark.parametrize("every", [1, 5, 20, 29])
def test_a_link_that_brings_its_bytes_in_bursts_is_not(every):
    assert first_fault(lambda second: 1500 * 30 * (second // every), until=600) is None


def test_the_whole_body_has_a_time_however_fast_it_comes():
    second, fault = first_fault(lambda second: 1_000_000 * second)
    assert second == 601
    assert fault == "Request body took longer than 600 seconds (body_time_limit)."


def test_both_can_be_switched_off():
    limits = Limits(min_body_rate=0, body_time_limit=0.0)
    assert first_fault(lambda _: 0, limits) is None

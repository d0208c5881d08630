"""The benchmark of the console: what it says of what it counted."""

import os
import time

import pytest
from console import ConsoleFigures, format_console, growth, thread_seconds


def test_the_cost_is_the_mean_of_the_turns_side_by_side():
    figures = ConsoleFigures(9, 5000.0, without=[0.10, 0.12], watched=[0.11, 0.125])
    assert figures.cost == pytest.approx(0.0075)
    assert figures.error == pytest.approx(0.0025)
    text = format_console(figures)
    assert "costs the server 0.75% of a core" in text
    assert "heap" not in text


def test_a_page_that_was_not_measured_says_why():
    figures = ConsoleFigures(9, 5000.0, [0.1], [0.1], skipped="no browser")
    assert "not measured: no browser." in format_console(figures)


def test_growth_is_per_minute_once_the_page_is_there():
    assert growth([]) == 0.0
    heap = [(0.0, 9_000_000), *((10.0 * at, 1_000_000 + 1_000 * at) for at in range(1, 12))]
    assert growth(heap) == pytest.approx(6_000)


def test_the_first_thread_of_a_process_is_charged():
    before = thread_seconds(os.getpid())
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    assert thread_seconds(os.getpid()) - before >= 0.015

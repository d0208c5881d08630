"""When workers that failed are tried again: the row of failures, and what ends it."""

import pytest

from mooring.core.errors import ModelLoadFailed, WorkerDied
from mooring.workers.failures import FailureHistory

DIED = WorkerDied("Worker died.")


@pytest.fixture
def history():
    return FailureHistory()


def test_the_pause_before_a_retry_grows_with_the_failures_in_a_row(history):
    pauses = []
    for second in range(5):
        history.record(DIED, float(second), loading=False)
        pauses.append(history.retry_delay(float(second)))
    assert pauses == [0.0, 1.0, 1.0, 2.0, 3.0]


def test_the_row_keeps_the_time_of_its_first_failure(history):
    history.record(DIED, 10.0, loading=False)
    history.record(DIED, 20.0, loading=False)
    assert (history.in_a_row, history.since) == (2, 10.0)


def test_an_answer_of_a_worker_started_after_the_last_failure_ends_the_row(history):
    history.record(DIED, 10.0, loading=False)
    history.record_answer(worker_started=11.0)
    assert (history.in_a_row, history.since) == (0, None)


@pytest.mark.parametrize("started", [9.0, 10.0])
def test_an_answer_of_an_older_worker_ends_nothing(history, started):
    history.record(DIED, 10.0, loading=False)
    history.record_answer(worker_started=started)
    assert history.in_a_row == 1


@pytest.mark.parametrize(("later", "row"), [(60.0, 2), (60.5, 1)])
def test_a_pool_that_had_all_its_workers_for_a_minute_has_recovered(history, later, row):
    history.record(DIED, 10.0, loading=False)
    history.record_complete(20.0)
    history.record(DIED, 20.0 + later, loading=False)
    assert history.in_a_row == row


def test_a_minute_before_a_failure_does_not_count_after_it(history):
    history.record_complete(0.0)
    history.record(DIED, 30.0, loading=False)
    history.record(DIED, 100.0, loading=False)  # the pool was not complete since
    assert history.in_a_row == 2


def test_failures_to_load_are_counted_apart_and_over_all_time(history):
    error = ModelLoadFailed("no weights")
    history.record(error, 1.0, loading=True)
    history.record(DIED, 2.0, loading=False)
    history.record_answer(worker_started=3.0)
    assert (history.load_failures, history.last_load_error) == (1, error)


def test_a_machine_without_room_delays_every_start(history):
    for second in (0.0, 1.0, 2.0):
        history.record(DIED, second, loading=True)
    history.record_no_room(2.0)
    assert history.pause(2.5) == 0.5
    assert history.retry_delay(2.5) == 1.0  # the row's own pause is longer
    assert history.pause(9.0) < 0

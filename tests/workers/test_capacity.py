"""How many worker processes there may be, and that a refusal says why."""

import pytest

from mooring.workers import capacity
from mooring.workers.capacity import Capacity, machine_capacity


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores and 64 GB that limits nothing; ``machine`` changes what it is."""

    def change(*, cores=4, memory=64 << 30, tasks=None, descriptors=1 << 20):
        monkeypatch.setattr(capacity, "count_cores", lambda: cores)
        monkeypatch.setattr(capacity, "count_pool_threads", lambda: cores + 4)
        monkeypatch.setattr(capacity, "usable_memory", lambda: memory)
        monkeypatch.setattr(capacity, "most_processes", lambda: tasks)
        monkeypatch.setattr(capacity, "highest_limit", lambda: descriptors)
        return machine_capacity()

    return change


def test_the_scarcest_of_what_workers_need_is_the_bound(machine):
    assert machine() == Capacity(1024, "256 for each core")
    assert machine(memory=2 << 30) == Capacity(128, "16 MB of memory for each")
    # A worker is a process and a thread; 12 are the server's, 4 those of libraries and 8 those of a pool.
    assert machine(tasks=400) == Capacity(188, "2 of the 400 processes and threads that there may be")
    assert machine(tasks=20) == Capacity(0, "2 of the 20 processes and threads that there may be")
    assert machine(descriptors=256) == Capacity(64, "256 file descriptors")


def test_a_setting_is_the_bound_whatever_the_machine_is(machine):
    machine(cores=1)
    assert machine_capacity(5000) == Capacity(5000, "max_worker_processes is 5000")


def test_a_refusal_names_the_bound_its_reason_and_what_to_do():
    bound = Capacity(64, "16 MB of memory for each")
    assert bound.refusal_reason(64) == bound.refusal_reason(10, others=54) == ""
    text = bound.refusal_reason(100_000)
    for part in ("100000 workers", "room for 64", "16 MB of memory for each", "max_worker_processes"):
        assert part in text
    assert "beside 60 of other models" in bound.refusal_reason(5, others=60)

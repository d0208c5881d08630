"""How many worker processes there may be, and that a refusal says why."""

import resource

import pytest

from mooring.workers import capacity
from mooring.workers.capacity import Capacity, machine_capacity


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores and 64 GB that limits nothing; ``machine`` changes what it is."""

    def change(*, cores=4, memory=64 << 30, pids=None, nproc=resource.RLIM_INFINITY, descriptors=1 << 20):
        monkeypatch.setattr(capacity, "count_cores", lambda: cores)
        monkeypatch.setattr(capacity, "memory_limit", lambda: memory)
        monkeypatch.setattr(capacity, "process_limit", lambda: pids)
        monkeypatch.setattr(capacity, "highest_limit", lambda: descriptors)
        monkeypatch.setattr(resource, "getrlimit", lambda _: (nproc, nproc))
        return machine_capacity()

    return change


def test_the_scarcest_of_what_workers_need_is_the_bound(machine):
    assert machine() == Capacity(1024, "256 for each core")
    assert machine(memory=2 << 30) == Capacity(128, "16 MB of memory for each")
    assert machine(pids=400) == Capacity(200, "half of the 400 processes that there may be")
    assert machine(pids=400, nproc=300) == Capacity(150, "half of the 300 processes that there may be")
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

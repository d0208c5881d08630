"""The server may open as many files as the system allows; what it starts is given back what it had."""

import resource

import pytest

from mooring import descriptors


@pytest.fixture
def limits(monkeypatch):
    """Of a made-up process: ``limits.now`` are its soft and hard limit."""

    class Limits:
        now = (1024, 20_000)

        def get(self, _):
            return self.now

        def set(self, _, wanted):
            if wanted[0] > 1 << 30:
                raise ValueError("not permitted")
            self.now = wanted

    made = Limits()
    monkeypatch.setattr(resource, "getrlimit", made.get)
    monkeypatch.setattr(resource, "setrlimit", made.set)
    return made


def test_the_soft_limit_is_raised_to_the_hard_one(limits):
    assert descriptors.raise_limit() == 20_000
    assert limits.now == (20_000, 20_000)


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 1 << 30])
def test_a_limit_that_is_none_is_not_taken_as_a_number(limits, hard):
    limits.now = (1024, hard)
    assert descriptors.raise_limit() == 1 << 20
    assert limits.now == (1 << 20, hard)


def test_what_is_high_enough_stays(limits):
    limits.now = (20_000, 20_000)
    assert descriptors.raise_limit() == 20_000


def test_a_soft_limit_can_be_given_back(limits):
    limits.now = (20_000, 20_000)
    descriptors.set_soft_limit(1024)
    assert limits.now == (1024, 20_000)
    descriptors.set_soft_limit(50_000)  # more than the system allows
    assert limits.now == (1024, 20_000)

"""Which scheduler a version gets: the plain one, unless its model says more."""

import pytest
from fakes import FakeMemory, FakePool
from model_kit import model_spec

from mooring.core.options import QueuePolicy
from mooring.engine.queue_policy import PolicyScheduler
from mooring.engine.response_cache import CachingScheduler, ResponseCache
from mooring.engine.scheduler import Scheduler
from mooring.engine.scheduler_choice import make_scheduler
from mooring.observability.statistics import ModelStatistics


@pytest.mark.parametrize(
    ("options", "size", "kind"),
    [
        ({}, 1000, Scheduler),
        ({"queue_policy": QueuePolicy()}, 1000, PolicyScheduler),
        ({"response_cache": True}, 1000, CachingScheduler),
        ({"response_cache": True, "queue_policy": QueuePolicy()}, 1000, CachingScheduler),
        ({"response_cache": True}, 0, Scheduler),
        ({"response_cache": True}, None, Scheduler),
        ({"response_cache": True, "decoupled": True}, 1000, Scheduler),
    ],
)
async def test_no_request_pays_for_what_its_model_does_not_have(options, size, kind):
    cache = None if size is None else ResponseCache(size)
    scheduler = make_scheduler(
        model_spec(backend="x", **options),
        ModelStatistics("m", "1"),
        FakeMemory().allocate,
        print,
        lambda owner: FakePool(owner, 1),
        cache=cache,
    )
    assert type(scheduler) is kind

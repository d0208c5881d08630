"""Answers that are kept: which requests are the same, what is given again, and what makes room."""

import asyncio

import pytest
from scheduler_kit import Stage

from mooring.core.buffers import LARGE, Buffer, view_of
from mooring.core.errors import ModelFailed, ModelNotReady
from mooring.core.requests import (
    BodyKind,
    InferenceRequest,
    InferenceResponse,
    Operation,
    RequestedOutput,
    UndecodedBody,
)
from mooring.core.tensors import Tensor
from mooring.core.timing import RequestTiming
from mooring.engine import response_cache
from mooring.engine.response_cache import CachingScheduler, ResponseCache, hash_request


def tensor(data=b"1234", name="x", shape=(1,), datatype="FP32", **more):
    return Tensor(name, datatype, [*shape], data, **more)


def request(*inputs, **fields):
    return InferenceRequest("m", "", fields.pop("id", "7"), list(inputs) or [tensor()], **fields)


def answer(size=4, **fields):
    return InferenceResponse([tensor(b"a" * size, "y")], **fields)


def stage(size=1 << 20, **spec):
    made = Stage(CachingScheduler, response_cache=True, **spec)
    made.scheduler.set_cache(ResponseCache(size))
    return made


def run(made):
    made.loop.turn()
    while busy := [worker for worker in made.pool.workers if worker.outstanding]:
        for worker in busy:
            worker.answer(*[answer() for _ in worker.outstanding])
        made.loop.turn()


def test_the_same_request_is_answered_without_a_worker_and_under_its_own_id():
    made = stage()
    made.ask("first")
    run(made)
    made.ask("second")
    assert made.answered == ["first", "second"]
    assert [outcome.id for (outcome,) in made.outcomes.values()] == ["first", "second"]
    assert [len(worker.names) for worker in made.pool.workers] == [1]
    counts = made.statistics.counts
    assert (counts.cache, counts.outcomes, sum(made.statistics.counts.requests)) == ([1, 1], [0, 2], 2)


def test_equal_requests_that_come_at_once_all_run():
    made = stage()
    made.arrive("a")
    made.arrive("b")
    made.loop.turn()
    run(made)
    assert made.statistics.counts.cache == [2, 0]


@pytest.mark.parametrize(
    "other",
    [
        request(tensor(b"4321")),
        request(tensor(name="y")),
        request(tensor(datatype="INT32")),
        request(tensor(shape=(1, 1))),
        request(tensor(parameters={"a": 1})),
        request(tensor(), tensor(name="z")),
        request(outputs=[RequestedOutput("y")]),
        request(outputs=[RequestedOutput("y", {"classification": 1})]),
        request(parameters={"a": 1}),
        request(parameters={"a": True}),
        request(layout=1),
        request(null_for_nan=True),
        request(tensor([b"1234"], datatype="BYTES")),
        InferenceRequest("m", "", "7", [], body=UndecodedBody(BodyKind.V2, b"1234")),
    ],
)
def test_what_an_answer_depends_on_is_in_the_hash(other):
    assert hash_request(other) != hash_request(request())


def test_what_it_does_not_depend_on_is_not():
    same = request(tensor(Buffer(memoryview(b"1234"))), id="8", deadline=1.0, priority=3)
    assert hash_request(same) == hash_request(request())


def test_headers_are_in_the_hash_where_the_model_reads_them():
    one, two = (request(headers=[(b"x-user", name)]) for name in (b"a", b"b"))
    assert hash_request(one) == hash_request(two)
    assert hash_request(one, headers=True) != hash_request(two, headers=True)
    assert hash_request(one, headers=True) == hash_request(request(headers=[(b"x-user", b"a")]), headers=True)


def test_texts_are_told_apart_by_where_they_end():
    one, two = (
        tensor([b"ab", b"c"], datatype="BYTES", shape=(2,)),
        tensor([b"a", b"bc"], datatype="BYTES", shape=(2,)),
    )
    assert hash_request(request(one)) != hash_request(request(two))


def test_the_answer_unused_longest_makes_room():
    cache = ResponseCache(3 * 1124)
    for key in (b"a", b"b", b"c"):
        cache.keep((1, key), answer(100))
    assert cache.find((1, b"a")) is not None
    cache.keep((1, b"d"), answer(100))
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.find((1, key))] == [b"a", b"c", b"d"]
    assert cache.used == 3 * 1124
    cache.forget(1)
    assert (len(cache), cache.used) == (0, 0)


def test_an_answer_too_large_is_not_kept():
    cache = ResponseCache(1 << 30)
    cache.keep((1, b"a"), answer(1 << 20))
    small = ResponseCache(1000)
    small.keep((1, b"a"), answer(10))
    assert (len(cache), len(small)) == (0, 0)


def test_a_kept_answer_stays_as_it_was_whatever_its_readers_do():
    cache = ResponseCache(1 << 20)
    memory = bytearray(b"a" * (LARGE + 1))
    kept = InferenceResponse([tensor(Buffer(memoryview(memory)), "y")], {"p": 1})
    cache.keep((1, b"a"), kept)
    memory[:1] = b"b"
    first = cache.find((1, b"a"))
    first.parameters.pop("p")
    first.outputs[0].shape.append(3)
    first.outputs[0].name = "z"
    second = cache.find((1, b"a"))
    assert (second.parameters, second.outputs[0].shape, second.outputs[0].name) == ({"p": 1}, [1], "y")
    assert bytes(view_of(second.outputs[0].data)) == b"a" * (LARGE + 1)


def test_neither_errors_nor_streams_nor_explanations_are_kept():
    made = stage()
    made.ask("error")
    made.worker.answer(ModelFailed("no"))
    made.ask("stream")
    made.worker.sent[-1][0].piece(answer(final=False))
    made.worker.answer(answer())
    made.ask("explained", operation=Operation.EXPLAIN)
    made.worker.answer(answer())
    assert len(made.scheduler.answers._cache) == 0
    assert made.statistics.counts.cache == [0, 0]


def test_a_version_that_refuses_requests_gives_no_kept_answer_either():
    made = stage()
    made.ask("first")
    run(made)
    made.scheduler.refuse_new(ModelNotReady("gone"))
    made.ask("second")
    assert made.told("second") == [ModelNotReady]
    made.scheduler.answers.forget_all()
    assert len(made.scheduler.answers._cache) == 0


async def test_a_large_request_is_hashed_in_a_thread_and_counts_meanwhile():
    made = stage()
    large = [tensor(b"1234" * LARGE, shape=(LARGE,))]
    made.arrive("first", inputs=large)
    assert not made.scheduler.idle
    assert made.queue == []
    while not made.queue:
        await asyncio.sleep(0.001)
    made.loop.turn()
    run(made)
    ticket = made.arrive("gone", inputs=large)
    ticket.cancel()
    made.arrive("second", inputs=large)
    while made.answered != ["first", "second"]:
        await asyncio.sleep(0.001)
    assert made.statistics.counts.cache == [1, 1]
    assert made.scheduler.idle


def test_a_request_that_takes_too_long_to_hash_is_not_looked_up(monkeypatch):
    monkeypatch.setattr(response_cache, "_MAX_REQUEST", 8)
    made = stage()
    for name in ("first", "second"):
        made.ask(name, inputs=[tensor(b"123456789")])
        run(made)
    assert made.statistics.counts.cache == [0, 0]


def test_a_parameter_that_no_message_can_hold_is_left_to_who_sends_it():
    made = stage()
    made.ask("first", parameters={"p": 1 << 70})
    run(made)
    assert made.answered == ["first"]
    assert made.statistics.counts.cache == [0, 0]


def test_kept_answer_says_so_where_the_client_asks_for_timings():
    made = stage()
    first, second = RequestTiming(), RequestTiming()
    for timing in (first, second):
        made.submit(request(timing=timing))
        run(made)
    assert first.cache is None
    assert second.cache is not None

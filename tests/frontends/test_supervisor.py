"""Frontend processes as the first process keeps them."""

import asyncio
import os
import socket
import time
from unittest.mock import Mock

import pytest
from model_kit import model_spec

from mooring.core.errors import ErrorRecord
from mooring.core.options import QueuePolicy
from mooring.core.requests import InferenceRequest
from mooring.engine.admission import NO_LOAD
from mooring.frontends import messages
from mooring.frontends.service import FrontendService
from mooring.frontends.supervisor import FrontendSupervisor, shareable
from mooring.ipc.arena import Arena
from mooring.observability.metrics import MAX_UNSERVED, Metrics


async def test_what_a_frontend_is_told_before_it_runs_waits_for_it():
    frontends = FrontendSupervisor(1, Arena(65_536), Metrics("prometheus", system=False))
    frontend = frontends.processes[0]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frontend.attach_worker(7, "9000", ours, frontend.arena, 2)
        heard = []
        # In place of its process, which would inherit these two.
        messages.Link(
            frontend._their_link, messages.ToFrontend, heard.append, lambda: None
        )._receive_messages()
        _, descriptors, _, _ = socket.recv_fds(frontend._their_descriptors, 1, 2)
        with socket.socket(fileno=descriptors[0]) as channel:
            channel.sendall(b"answer")
            assert theirs.recv(10) == b"answer"
        os.close(descriptors[1])
    assert heard == [messages.AttachWorker(7, "9000", 2)]
    await frontends.close()


@pytest.fixture
async def first_process():
    """The first process's end of the link of a frontend, which runs here, and what has come over it."""
    ours, theirs = socket.socketpair()
    descriptors, kept = socket.socketpair()
    heard = []
    keeper = messages.Link(ours, messages.ToSupervisor, heard.append, lambda: None)
    frontend = FrontendService(
        1, theirs, descriptors, Arena(65_536), Metrics("prometheus", system=False), Mock()
    )
    with ours, theirs, descriptors, kept:
        keeper.frontend = frontend
        yield keeper, heard
        frontend.close()
        keeper.close()


async def done_orders(heard, count):
    while (
        len(done := [message.order for message in heard if isinstance(message, messages.OrderDone)]) < count
    ):
        await asyncio.sleep(0.01)
    return sorted(done)


async def test_a_frontend_answers_everybody_who_waits_until_it_has_left_a_version(first_process):
    keeper, heard = first_process
    keeper.send(messages.ServeVersion(7, model_spec(name="m", version="1", location="", backend="onnx")))
    keeper.send(messages.RetireVersion(7, 1))
    keeper.send(messages.RetireVersion(7, 2))
    assert await asyncio.wait_for(done_orders(heard, 2), 5) == [1, 2]


async def test_a_frontend_has_left_a_version_that_it_does_not_serve_any_more(first_process):
    keeper, heard = first_process
    keeper.send(messages.RetireVersion(7, 1))
    keeper.send(messages.DetachWorker(7, "9000", 2))
    keeper.send(messages.WorkerDied(7, "9000", ErrorRecord("WorkerDied", "Worker died."), retry=False))
    keeper.send(messages.DetachWorker(7, "9001", 3))
    assert await asyncio.wait_for(done_orders(heard, 3), 5) == [1, 2, 3]


async def test_a_frontend_reports_what_waits_and_runs_there_and_no_more_once_it_is_answered(first_process):
    keeper, heard = first_process
    keeper.send(messages.ServeVersion(7, model_spec(name="m", version="1", location="", backend="onnx")))

    async def reported(wanted):
        while not (reports := [each for each in heard if isinstance(each, messages.CountsReport)]) or (
            (load := reports[-1].loads.get(7, NO_LOAD)).waiting != wanted
        ):
            await asyncio.sleep(0.01)
        return load

    frontend = keeper.frontend
    while not frontend._served:
        await asyncio.sleep(0.01)
    began = time.monotonic()
    scheduler = frontend._served[7].scheduler
    tickets = [scheduler.submit(InferenceRequest("m", "1", "", []), lambda _outcome: None, 1) for _ in "ab"]
    load = await asyncio.wait_for(reported(2), 5)
    assert began <= load.oldest <= time.monotonic()
    for ticket in tickets:
        ticket.cancel()
    assert await asyncio.wait_for(reported(0), 5) == NO_LOAD


async def test_a_frontend_forgets_the_counts_of_versions_that_it_does_not_serve_any_more(first_process):
    keeper, heard = first_process
    count = MAX_UNSERVED + 50
    for number in range(count):
        spec = model_spec(name=f"m{number}", version="1", location="", backend="onnx")
        keeper.send(messages.ServeVersion(number, spec))
        keeper.send(messages.RetireVersion(number, number))
    assert len(await asyncio.wait_for(done_orders(heard, count), 20)) == count
    keeper.send(
        messages.ServeVersion(count, model_spec(name="last", version="1", location="", backend="onnx"))
    )
    while not keeper.frontend._served:
        await asyncio.sleep(0.01)
    assert len(keeper.frontend._metrics.all_statistics()) <= MAX_UNSERVED + 1


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({}, True),
        ({"queue_policy": QueuePolicy(levels=2)}, True),
        ({"queue_policy": QueuePolicy(ordered=True)}, False),
        ({"stepwise": True}, False),
        ({"job_ticket": True}, False),
        ({"stages": ("one", "two")}, False),
    ],
)
def test_models_whose_requests_depend_on_each_other_are_the_first_process_s_alone(options, shared):
    assert shareable(model_spec(backend="onnx", **options)) is shared

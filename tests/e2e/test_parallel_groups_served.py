"""Workers that are parallel groups: several processes under torchrun's environment, which answer, fail and end as one."""

import os
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from e2e_kit import Server, Wire, assert_gone, pack, request, runs_as, until

# What a handler of TorchServe's does under torchrun: the ranks meet, and every call is a collective operation.
SUM = """
import os
import torch
import torch.distributed as dist
from ts.torch_handler.base_handler import BaseHandler


class Sum(BaseHandler):
    def initialize(self, context):
        dist.init_process_group("gloo")
        print("met the others")

    def handle(self, data, context):
        texts = [bytes(row["body"]).decode() for row in data]
        part = torch.tensor([10.0 ** dist.get_rank()])
        dist.all_reduce(part)
        if "fail" in texts:
            raise ValueError("asked to")
        session = os.getsid(0)
        return [{"sum": part.item(), "world": dist.get_world_size(), "pid": os.getpid(), "session": session} for _ in texts]
"""

# No torch, which takes seconds to import: what is shown with these needs none.
STREAM = """
import os, time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    if len(data[0]["body"]) > 1_000_000:
        return [bytes(row["body"]) for row in data]
    context.metrics.add_counter("Asked", len(data))
    if bytes(data[0]["body"]) == b"slow":
        print("sleeping")
        time.sleep(60)
    rank = os.environ["RANK"]
    for number in range(2):
        send_intermediate_predict_response([f"{rank}{number} "] * len(data), context.request_ids, "ok", 200, context)
    return [f"{rank} {os.getpid()}"] * len(data)
"""

BAD = """
import os

def handle(data, context):
    if data is None and os.environ["RANK"] == "1":
        raise RuntimeError("this rank has no weights")
    return data
"""

GROUP = (
    "minWorkers: 1\nmaxWorkers: 4\nretryRequests: false\nparallelType: tp\ntorchrun:\n  nproc-per-node: 2\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    (folder / "store").mkdir()
    (folder / "group.yaml").write_text(GROUP)
    (folder / "batch.yaml").write_text(
        GROUP.replace("false", "true") + "batchSize: 3\nmaxBatchDelay: 500\nexactBatchDelay: true\n"
    )
    (folder / "two.yaml").write_text(GROUP.replace("nproc-per-node: 2", "nproc-per-node: 2\n  nnodes: 2"))
    for name, source in {"sum": SUM, "stream": STREAM, "bad": BAD}.items():
        (folder / f"{name}_handler.py").write_text(source)
    archives = {"sum": "batch", "stream": "group", "bad": "group", "two": "two"}
    for name, config in archives.items():
        handler = folder / f"{'bad' if name == 'two' else name}_handler.py"
        pack(folder / "store", name, str(handler), "--config-file", folder / f"{config}.yaml")
    server = Server(folder, "--model-store=store", "--models=sum.mar,stream.mar", "--heartbeat-timeout=1")
    try:
        yield server.started()
        assert server.stop() == 0
        assert not [fault for fault in server.faults() if "model=bad" not in fault]
    finally:
        server.kill()


def ask_management(server, method, target):
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        return wire.answer()


def group_of(server, model):
    """The processes of a model's only worker: that of the worker, rank 0, rank 1."""
    (worker,) = map(psutil.Process, server.workers(model))
    ranks = [each for each in worker.children() if runs_as(each, "rank", "mooring.worker_process.rank")]
    return [worker, *sorted(ranks, key=lambda each: int(each.environ()["RANK"]))]


def came_back(server, model, group):
    """Return when another group serves in place of this one, of which nothing is left."""
    until(lambda: group[0].pid not in server.workers(model) and len(server.workers(model)) == 1)
    assert_gone(group)
    assert server.predict(model, "x").code == 200


def test_every_rank_takes_part_in_an_answer_in_a_session_of_their_own(server):
    answer = server.predict("sum", "x").json()
    worker, first, second = group_of(server, "sum")
    assert answer == {"sum": 11.0, "world": 2, "pid": first.pid, "session": worker.pid}
    assert os.getsid(second.pid) == os.getpgid(second.pid) == worker.pid != os.getsid(server.process.pid)
    assert "[rank0] met the others" in server.log
    assert "[rank1] met the others" in server.log


def test_a_group_is_described_as_one_worker(server):
    (document,) = ask_management(server, "GET", "/models/sum").json()
    assert (document["parallelType"], document["parallelLevel"]) == ("tp", 2)
    (worker,) = document["workers"]
    group = group_of(server, "sum")
    assert worker["pid"] == group[0].pid
    assert worker["memoryUsage"] > sum(each.memory_info().rss for each in group) * 0.8
    assert "without effect" not in server.log


def test_a_bad_request_in_a_batch_fails_alone_and_the_ranks_stay_in_step(server):
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda text: server.predict("sum", text).code, ("a", "fail", "b")))
    assert answers == [200, 500, 200]
    assert server.predict("sum", "x").json()["sum"] == 11.0


def test_pieces_and_metrics_are_those_of_rank_0(server):
    answer = server.predict("stream", "x").body.decode()
    assert "00 " in answer
    assert "01 " in answer
    assert "10 " not in answer
    with Wire(server.ports[2]) as wire:
        wire.send(request("GET", "/metrics"))
        metrics = wire.answer().body.decode()
    (line,) = [line for line in metrics.splitlines() if line.startswith("Asked{")]
    assert float(line.rpartition(" ")[2]) == 1.0


def test_large_payloads_reach_the_ranks_and_come_back(server):
    body = os.urandom(3_000_000)
    for _ in range(3):  # the first large answer shows that the next ones want a slot of the shared memory
        answer = server.predict("stream", body)
        assert (answer.code, answer.body == body) == (200, True)


def test_a_rank_that_dies_takes_its_group_along_and_another_comes(server):
    group = group_of(server, "stream")
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.predict, "stream", "slow")
        until(lambda: "[rank1] sleeping" in server.log)
        group[2].kill()
        answer = running.result()
    assert answer.code in (500, 503)
    assert "Worker died" in answer.body.decode()
    came_back(server, "stream", group)
    assert "rank 1 was killed by signal 9: the parallel group of 2 ends with it" in server.log


def test_an_idle_rank_that_a_signal_has_stopped_is_noticed(server):
    group = group_of(server, "stream")
    group[2].suspend()
    came_back(server, "stream", group)


def test_groups_are_scaled_and_leave_nothing_behind(server):
    before = group_of(server, "stream")
    assert ask_management(server, "PUT", "/models/stream?min_worker=2&synchronous=true").code == 200
    both = [each for pid in server.workers("stream") for each in psutil.Process(pid).children()]
    assert len(both) == 4
    assert (
        ask_management(server, "PUT", "/models/stream?min_worker=1&max_worker=1&synchronous=true").code == 200
    )
    until(lambda: sum(each.is_running() for each in both) == 2)
    assert server.predict("stream", "x").code == 200
    assert ask_management(server, "DELETE", "/models/stream").code == 200
    assert_gone([*before, *both], within=5.0)


def test_a_rank_that_cannot_load_gives_its_reason(server):
    answer = ask_management(server, "POST", "/models?url=bad.mar&initial_workers=1&synchronous=true")
    assert answer.code == 500
    assert "rank 1: RuntimeError: this rank has no weights" in answer.body.decode()


def test_a_group_on_several_machines_is_refused(server):
    answer = ask_management(server, "POST", "/models?url=two.mar&initial_workers=1&synchronous=true")
    assert answer.code >= 400
    assert "torchrun.nnodes is 2, and a parallel group runs on one machine here" in answer.body.decode()


def test_a_signal_to_the_servers_process_group_leaves_the_ranks_to_it(tmp_path):
    slow = "import time\n\ndef handle(data, context):\n    if data:\n        print('begun')\n        time.sleep(1.0)\n    return data and ['done'] * len(data)\n"
    (tmp_path / "slow_handler.py").write_text(slow)
    (tmp_path / "group.yaml").write_text(GROUP)
    (tmp_path / "store").mkdir()
    pack(
        tmp_path / "store",
        "slow",
        str(tmp_path / "slow_handler.py"),
        "--config-file",
        tmp_path / "group.yaml",
    )
    server = Server(tmp_path, "--model-store=store", "--models=all")
    try:
        server.started()
        family = server.family()
        group = os.getpgid(server.process.pid)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(server.predict, "slow", "x")
            until(lambda: "[rank1] begun" in server.log)
            for process in family:
                if os.getpgid(process.pid) == group:
                    process.terminate()
            assert (running.result().code, running.result().body) == (200, b"done")
        assert server.process.wait(20) == 0
        assert_gone(family)
    finally:
        server.kill()

"""The worker of a parallel group, in this process, with ranks that are real processes and need no torch."""

import json
import os
import textwrap
import threading
import time

import pytest
from model_kit import model_spec

from mooring.core.errors import InvalidOutput, ModelLoadFailed, MooringError
from mooring.core.options import Parallel, ParallelType
from mooring.core.requests import Form, InferenceRequest
from mooring.core.service import LoadContext
from mooring.core.tensors import Tensor
from mooring.ipc.log_records import decode_record
from mooring.worker_process import group as group_module
from mooring.worker_process.group import GroupBackend, choose_gpus

pytestmark = pytest.mark.processes

HANDLER = """
import json, os, signal, threading, time

RANK = int(os.environ["RANK"])
calls = 0

def handle(data, context):
    global calls
    if data is None:
        return None
    calls += 1
    context.metrics.add_counter("Rows", len(data))
    return [answer(bytes(row["body"]).decode(), context) for row in data]

def answer(text, context):
    if text == "facts":
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID")
        usual = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        return {**{name: os.environ[name] for name in names}, "usual": usual, "pid": os.getpid()}
    if text == "calls":
        return calls
    if text == "fail":
        raise ValueError("asked to")
    if text == f"stuck unless {RANK}":
        raise ValueError("this rank is out of step")
    if text.startswith("stuck"):
        time.sleep(60)
    if text.startswith("fails in "):
        if RANK == int(text[-1]):
            raise ValueError("this rank only")
    return f"{text} {RANK}"
"""


class Pieces:
    """The ``Reply`` of a call."""

    def __init__(self):
        self.pieces = []
        self.metrics = []

    def emit(self, row, piece):
        self.pieces.append((row, bytes(piece.outputs[0].data[0])))

    def cancelled(self, row):
        return False

    def record_metric(self, metric):
        self.metrics.append(metric)


@pytest.fixture
def start(tmp_path):
    """Loads a handler in a group; ``start.ranks`` are the pids of its processes."""
    groups = []

    def load(source=HANDLER, level=2, kind=ParallelType.TENSOR, **spec):
        (tmp_path / "handler.py").write_text(textwrap.dedent(source))
        model = model_spec(
            name="m",
            backend="handler",
            location=str(tmp_path),
            entry="handler.py",
            max_batch_size=4,
            parallel=Parallel(type=kind, level=level),
            **spec,
        )
        load.ranks = []
        backend = GroupBackend(load.ranks.extend)
        groups.append(backend)
        backend.load(model, LoadContext(worker="9000", threads=4))
        return backend

    yield load
    for group in groups:
        group.close()


def ask(group, *texts, reply=None):
    """The JSON or text of each answer; an error as it is."""
    requests = [
        InferenceRequest(
            "m", "", f"r{index}", [Tensor("body", "BYTES", [1], [text.encode()])], form=Form.BODY
        )
        for index, text in enumerate(texts)
    ]
    outcomes = group.infer(requests, reply or Pieces())
    return [
        each if isinstance(each, MooringError) else bytes(each.outputs[0].data[0]).decode()
        for each in outcomes
    ]


def test_every_rank_gets_every_call_and_rank_0_answers_for_all(start):
    group = start()
    reply = Pieces()
    (text,) = ask(group, "facts", reply=reply)
    facts = json.loads(text)
    assert facts.pop("pid") == start.ranks[0]
    assert facts == {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "2",
        "TORCHELASTIC_RUN_ID": "m_9000", "usual": True,
    }  # fmt: skip
    assert [record[:2] for record in reply.metrics if record[0] == "Rows"] == [("Rows", 1.0)]
    assert ask(group, "a", "b") == ["a 0", "b 0"]


def test_metrics_of_rank_0_keep_the_request_that_they_belong_to(start):
    group = start(metric_lines=True)
    reply = Pieces()
    ask(group, "a", reply=reply)
    assert [metric.request_id for metric in reply.metrics if metric.name == "Rows"] == ["r0"]


def test_a_failure_of_rank_0_is_the_calls_and_one_of_another_is_said(start, capfd):
    group = start()
    (failure,) = ask(group, "fails in 0")
    assert "ValueError: this rank only" in failure.message
    assert ask(group, "fails in 1") == ["fails in 1 0"]
    assert "rank 1 failed a call: ValueError: this rank only" in capfd.readouterr().err


def test_a_batch_that_fails_is_given_back_so_that_each_request_runs_in_all_ranks(start):
    group = start()
    with pytest.raises(MooringError, match="asked to"):
        ask(group, "a", "fail")
    assert ask(group, "a") == ["a 0"]
    # The same would be answered at once where requests must not run again.
    once = start(retry=False)
    assert [type(each).__name__ for each in ask(once, "a", "fail")] == ["ModelFailed", "ModelFailed"]


def test_of_a_pipeline_only_the_first_rank_is_asked(start, capfd):
    group = start(kind=ParallelType.PIPELINE)
    ask(group, "fails in 1")
    assert "rank 1 failed" not in capfd.readouterr().err


SPEAKS = """
import logging, os, sys

print("hello from", os.environ["RANK"])
logging.getLogger("m").warning("careful")
sys.stdout.write("half a line, ")
sys.stdout.flush()
logging.warning("a record")

def handle(data, context):
    return data
"""


def test_what_the_ranks_print_and_log_is_shown_with_their_number(start, capfd):
    start(SPEAKS).close()
    lines = capfd.readouterr().out.split("\n")  # a record begins with what splitlines takes for an end
    for rank in ("[rank0]", "[rank1]"):
        assert f"{rank} hello from {rank[5]}" in lines
        assert f"{rank} half a line, " in lines
        records = [record for line in lines if (record := decode_record(line.encode()))]
        assert {f"{rank} careful", f"{rank} a record"} <= {record.text for record in records}


IDLE = "def handle(data, context):\n    return data\n"
FAILS = "import os\nif os.environ['RANK'] == '1':\n    raise OSError('no disk')\n" + IDLE
DIES = "import os, time\nif os.environ['RANK'] == '1':\n    os.kill(os.getpid(), 9)\ntime.sleep(60)\n"
# Rank 1 has loaded the model, and ends while rank 0 still loads it.
DIES_LATE = (
    """
import os, threading, time

if os.environ["RANK"] == "1":
    threading.Timer(0.5, os._exit, (3,)).start()
else:
    time.sleep(1.5)
"""
    + IDLE
)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (FAILS, "rank 1: .*OSError: no disk"),
        (DIES, "rank 1 was killed by signal 9 while the group loaded the model"),
        (DIES_LATE, "rank 1 ended with status 3 while the group loaded the model"),
        (f"async {IDLE}", "an asynchronous handler cannot run in a parallel group"),
    ],
)
def test_a_group_that_cannot_load_says_which_rank_and_why(start, source, reason):
    with pytest.raises(ModelLoadFailed, match=reason):
        start(source)


def test_continuous_batching_is_refused_before_anything_is_started(start):
    with pytest.raises(ModelLoadFailed, match="continuousBatching cannot run in a parallel group"):
        start(stepwise=True)
    assert start.ranks == []


@pytest.fixture
def ended(monkeypatch):
    """What the worker says as it ends, in place of ending."""
    said, happened = [], threading.Event()

    def end(_group, why):
        said.append(why)
        happened.set()
        raise InvalidOutput(why)

    monkeypatch.setattr(GroupBackend, "_end", end)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    return said, happened


def test_the_group_ends_with_any_of_its_ranks(start, ended):
    start()
    os.kill(start.ranks[1], 9)
    assert ended[1].wait(10)
    assert ended[0] == ["rank 1 was killed by signal 9"]


def test_ranks_that_wait_for_one_that_has_failed_are_not_waited_for(start, ended, monkeypatch):
    monkeypatch.setattr(group_module, "_OUT_OF_STEP", 0.2)
    group = start()
    with pytest.raises(
        InvalidOutput, match=r"rank 1 failed a call \(.*out of step\), and ranks 0 have not ended it"
    ):
        ask(group, "stuck unless 1")


def test_ranks_close_with_their_worker(start):
    group = start()
    group.close()
    end = time.monotonic() + 5
    while any(rank.process.poll() is None for rank in group._ranks):
        assert time.monotonic() < end


def test_gpus_go_round_among_the_workers():
    two = Parallel(level=2)
    assert [choose_gpus(two, place, "0,1,2,3,4,5") for place in range(4)] == [
        {"CUDA_VISIBLE_DEVICES": gpus} for gpus in ("0,1", "2,3", "4,5", "0,1")
    ]
    assert choose_gpus(Parallel(level=2, devices=[4, 5]), 3, "0,1") == {"CUDA_VISIBLE_DEVICES": "4,5"}
    assert choose_gpus(Parallel(level=2, device_type="cpu"), 0, "0,1") == {}
    assert choose_gpus(two, 0, "") == {}

"""Servers that Python starts: from a script, a notebook's cells, threads and forked processes, and how they end."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest
from e2e_kit import PATIENCE, assert_gone, until

import mooring
from mooring.config.settings import ConfigError

pytestmark = pytest.mark.processes

SCRIPT = """
import sys
import mooring
import numpy as np

def double(x: np.ndarray):
    return {"doubled": x * 2}

if __name__ == "__main__":
    mooring.serve(double, port=0, block=True, log_level="warning")
    print("after", flush=True)
"""


def double(x: np.ndarray):
    return {"doubled": x * 2}


@pytest.fixture(scope="module")
def server():
    with mooring.serve(
        {"double": double, "triple": lambda inputs: {"output": inputs["x"] * 3}}, port=0, quiet=True
    ) as server:
        yield server
    assert not server.running


def children_of(pid):
    return psutil.Process(pid).children(recursive=True)


class Script:
    """A script that serves, as a program of its own."""

    def __init__(self, folder, text, name="script.py"):
        self.file = folder / name
        self.file.write_text(text)
        self.output = folder / "output"
        # Tests that run in the background of a shell inherit that SIGINT is ignored; a program in front does not.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with self.output.open("wb") as output:
                self.process = psutil.Popen(
                    [sys.executable, self.file], cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)
        self.family = []

    @property
    def text(self):
        return self.output.read_text()

    def says(self, words):
        def reached():
            assert self.process.poll() is None or words in self.text, self.text
            return words in self.text

        until(reached, within=3 * PATIENCE)
        self.family = self.process.children(recursive=True)
        return self

    def kill(self):
        for each in [self.process, *self.family]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait(PATIENCE)


@pytest.fixture
def script(tmp_path):
    started = []

    def start(text):
        started.append(Script(tmp_path, text))
        return started[-1]

    yield start
    for each in started:
        each.kill()


def test_functions_of_a_file_and_lambdas_are_served_side_by_side(server):
    assert server.running
    assert sorted(server.models) == ["double", "triple"]
    with server.client() as client:
        assert list(client.infer("double", {"x": [1, 2]})["doubled"]) == [2, 4]
        assert list(client.infer("triple", {"x": [1, 2]})["output"]) == [3, 6]
    assert repr(server) == (
        f"<mooring.RunningServer {server.url} models={server.models} running as process {server.pid}>"
    )


def test_every_address_of_the_server_is_told(server):
    assert server.url.startswith("http://127.0.0.1:")
    with mooring.Client(server.grpc_url) as client:
        assert client.ready("double")
    ports = {
        url.rpartition(":")[2]
        for url in (server.url, server.management_url, server.metrics_url, server.grpc_url)
    }
    assert len(ports) == 4


def test_two_servers_run_at_once_and_each_is_stopped_alone(server):
    with mooring.serve(lambda x: x, port=0, quiet=True) as other:
        assert other.models == ["lambda"]
        assert other.url != server.url
        family = [psutil.Process(other.pid), *children_of(other.pid)]
    assert_gone(family)
    assert server.running


def test_a_server_goes_on_when_the_thread_that_started_it_ends():
    started = []
    thread = threading.Thread(target=lambda: started.append(mooring.serve(double, port=0, quiet=True)))
    thread.start()
    thread.join()
    (server,) = started
    time.sleep(1.2)  # twice as long as the server takes to notice that its parent is gone
    with server, server.client() as client:
        assert client.ready("double")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_leaves_the_server_alone(server):
    child = os.fork()
    if not child:
        try:
            with server:
                pass
            os._exit(3 if server.running else 0)
        finally:
            os._exit(4)
    assert os.waitpid(child, 0)[1] == 0
    with server.client() as client:
        assert client.ready("double")


FORKED = """
import os
import sys
import mooring

def same(x: int) -> int:
    return x

def ask(client, first):
    return [client.infer("same", number).value for number in range(first, first + 20)]

if __name__ == "__main__":
    standard = os.dup(1)
    for descriptor in (0, 1):  # as a daemon has it
        os.close(descriptor)
    with mooring.serve(same, port=0, quiet=True) as server:
        for url in (server.url, server.grpc_url):
            client = mooring.Client(url)
            client.infer("same", 1)
            child = os.fork()
            if not child:
                os._exit(ask(client, 100) != list(range(100, 120)))
            mine = ask(client, 200) == list(range(200, 220))
            os.write(standard, f"{mine} {os.waitpid(child, 0)[1]}\\n".encode())
            client.close()
"""


def test_a_client_of_a_forked_process_gets_the_answers_to_its_own_questions(script):
    running = script(FORKED)
    running.process.wait(3 * PATIENCE)
    assert running.text.splitlines()[-2:] == ["True 0", "True 0"]


def test_waiting_for_a_server_that_runs_times_out(server):
    with pytest.raises(TimeoutError, match=r"still runs after 0\.1 s"):
        server.wait(0.1)


def test_cells_of_a_notebook_are_served_in_a_running_event_loop(monkeypatch):
    shown = io.StringIO()  # as a notebook's, it is no file
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(sys, "stdout", shown)
    cells = [
        "from __future__ import annotations\nimport dataclasses, mooring, numpy as np\noffset = 10",
        """
class Adder:
    def load(self, context):
        self.step = offset
    def infer(self, x: np.ndarray) -> np.ndarray:
        print("asked")
        return x + self.step
""",
        """
@dataclasses.dataclass
class Order:
    item: str
    tags: list[str] = dataclasses.field(default_factory=list)
def order(order: Order, count: int = 1) -> list[Order]:
    return [order] * count
""",
        "server = mooring.serve({'adder': Adder, 'order': order}, port=0)",
        """
with server, server.client() as client:
    answer = list(client.infer("adder", {"x": [1, 2]})["output"])
    orders = client.infer("order", {"order": {"item": "tea"}, "count": 2})["output"]
""",
    ]
    notebook = {"__name__": "__main__"}

    async def run_cells():
        for cell in cells:
            exec(compile(cell, "<cell>", "exec"), notebook)

    asyncio.run(run_cells())
    assert notebook["answer"] == [11, 12]
    assert notebook["orders"] == [{"item": "tea", "tags": []}] * 2
    assert "Mooring is up." in shown.getvalue()
    assert "asked" in shown.getvalue()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
def test_a_blocking_script_ends_cleanly_with_its_server(script, ending):
    running = script(SCRIPT).says("Mooring is up.")
    running.process.send_signal(ending)
    assert running.process.wait(PATIENCE) == 0
    assert running.text.rstrip().endswith("after")
    assert "Traceback" not in running.text
    assert_gone(running.family)


def test_a_blocking_script_that_is_interrupted_while_models_load_leaves_nothing(script):
    text = SCRIPT.replace(
        "def double",
        "import time\nif __name__ != '__main__':\n    print('loads', flush=True)\n    time.sleep(60)\n\ndef double",
    )
    running = script(text.replace("warning", "info")).says("loads")
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(PATIENCE) == 130
    assert "Traceback" not in running.text
    assert_gone(running.family)


def test_a_killed_caller_leaves_no_process_and_no_file(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = SCRIPT.replace("serve(double", "serve({'d': double, 'l': lambda x: x}")
    running = script(text).says("Mooring is up.")
    left = list(tmp_path.glob("mooring-*"))
    assert len(left) == 2  # the server's own, and that of the pickle
    running.process.kill()
    assert_gone(running.family, within=10.0)
    assert not list(tmp_path.glob("mooring-*"))


def test_a_script_without_a_guard_is_told_to_write_one(script):
    text = SCRIPT.replace('if __name__ == "__main__":', "if True:")
    running = script(text)
    assert running.process.wait(3 * PATIENCE) == 1
    assert "script.py calls mooring.serve() while a worker imports it" in running.text
    assert 'put the call under if __name__ == "__main__":' in running.text


def test_a_model_that_cannot_be_loaded_is_refused_with_its_reason():
    class Broken:
        def load(self, context):
            raise ValueError("no weights here")

        def infer(self, x):
            return x

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(
        mooring.ModelLoadFailed, match=r"model 'Broken' cannot be loaded: ValueError: no weights here"
    ):
        mooring.serve(Broken, port=0, quiet=True)
    assert_gone(set(psutil.Process().children(recursive=True)) - before)
    with mooring.serve({"broken": Broken, "double": double}, port=0, quiet=True, keep_going=True) as server:
        assert server.models == ["double"]


def test_what_is_wrong_with_the_arguments_is_said_before_anything_starts(tmp_path):
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'job_que_size'; did you mean 'job_queue_size'\?"
    ):
        mooring.serve(double, port=0, job_que_size=3)
    with pytest.raises(ConfigError, match="job_queue_size = "):
        mooring.serve(double, port=0, job_queue_size=0)
    with pytest.raises(mooring.ModelNotFound, match=r"nothere\.py"):
        mooring.serve(tmp_path / "nothere.py", port=0, quiet=True)


def test_an_address_in_use_is_an_os_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        mooring.serve(double, port=taken.getsockname()[1], quiet=True)


def test_settings_are_keyword_arguments_and_the_log_goes_to_a_file(tmp_path, capfd):
    log = tmp_path / "server.log"
    with mooring.serve(
        double, port=0, workers=2, log=log, log_format="json", enable_metrics_api=False
    ) as server:
        assert server.metrics_url == ""
        with mooring.Client(server.url) as client:
            assert client.ready("double")
        assert len(children_of(server.pid)) >= 3
    lines = log.read_text().splitlines()
    assert "stopped" in json.loads(lines[-1]).values()
    assert capfd.readouterr() == ("", "")

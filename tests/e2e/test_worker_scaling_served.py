"""Models with a target for their queue, on a real server: a burst gets workers, a pause takes them away, nothing is lost."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from e2e_kit import Wire, frontends, request, serving, until

SLEEPER = """
import os, time

def infer(inputs):
    time.sleep(float(inputs["seconds"][0]))
    return {"pid": [os.getpid()]}
"""
HANDLER = """
import time

def handle(data, context):
    time.sleep(0.05)
    return ["done"] * len(data or [])  # it is called once without data, as in TorchServe
"""
SCALING = "[scaling]\ntarget_queue_ms = 100\nwindow = 0.5\ncool_down = 1.0\n"
BODY = b'{"seconds": [0.05]}'


def declare(folder, name, text, source=SLEEPER):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.toml").write_text(f"{text}\n{SCALING}")
    (folder / name / "1" / "model.py").write_text(source)


def archive(folder):
    """An unpacked archive, with TorchServe's keys."""
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "handler", "handler": "h.py", "configFile": "model-config.yaml"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    (folder / "h.py").write_text(HANDLER)
    (folder / "model-config.yaml").write_text(
        "minWorkers: 0\nmaxWorkers: 4\ntargetQueueMs: 100\nscalingWindowInSec: 1\nscalingCoolDownInSec: 1\n"
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving_models(tmp_path_factory.mktemp("scaled")) as server:
        yield server


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    extra = "--frontends=2", "--deal-connections=evenly"
    with serving_models(tmp_path_factory.mktemp("scaled"), *extra) as server:
        assert len(frontends(server)) == 1
        yield server


@contextmanager
def serving_models(place, *extra):
    declare(place / "models", "sleeper", "queue_size = 1000\n[workers]\nmin = 1\nmax = 4")
    declare(place / "models", "napper", "queue_size = 1000\n[workers]\nmin = 0\nmax = 2")
    declare(place / "models", "stepper", "[workers]\nmin = 0\nmax = 2\n[sequences]")
    archive(place / "handler")
    with serving(place, "--model-repository", place / "models", *extra, place / "handler") as server:
        yield server


def gauges(server, model):
    """The metrics of a model by family; of counters by family and direction."""
    with Wire(server.ports[2]) as wire:
        wire.send(request("GET", "/metrics"))
        text = wire.answer().body.decode()
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if f'model="{model}"' in rest or f'model_name="{model}"' in rest:
            label = next((each for each in ("up", "down") if f'direction="{each}"' in rest), "")
            found[f"{name} {label}".strip()] = float(rest.rpartition("} ")[2])
    return found


def ask_for(server, model, seconds, clients):
    """Clients that ask again and again for so long; all answers, by their status."""
    end = time.monotonic() + seconds

    def ask(_):
        codes = []
        with Wire(server.port) as wire:
            while time.monotonic() < end:
                wire.send(request("POST", f"/predictions/{model}", BODY))
                codes.append(wire.answer().code)
        return codes

    with ThreadPoolExecutor(clients) as pool:
        return [code for codes in pool.map(ask, range(clients)) for code in codes]


@pytest.mark.parametrize("processes", ["server", "two_processes"])
def test_a_burst_gets_workers_and_they_go_when_it_is_over(processes, request):
    server = request.getfixturevalue(processes)
    until(lambda: len(server.workers("sleeper")) == 1)
    before = gauges(server, "sleeper")
    with ThreadPoolExecutor(1) as aside:
        asked = aside.submit(ask_for, server, "sleeper", 3.0, 6)
        began = time.monotonic()
        until(lambda: len(server.workers("sleeper")) == 4)
        assert time.monotonic() - began < 2.5
        codes = asked.result()
    assert set(codes) == {200}
    assert len(codes) > 80  # one worker would have answered 60
    seen = gauges(server, "sleeper")
    assert seen["mooring_queue_target_seconds"] == 0.1
    assert seen["mooring_queue_p95_seconds"] <= 0.1  # of the last half second
    assert seen["mooring_workers_limit"] == 4
    assert 1 <= seen["mooring_scaling_events_total up"] - before["mooring_scaling_events_total up"] <= 3
    until(lambda: len(server.workers("sleeper")) == 1)
    gone = gauges(server, "sleeper")
    assert gone["mooring_scaling_events_total down"] - before["mooring_scaling_events_total down"] in (2, 3)
    assert gone["mooring_workers_wanted"] == 1


def test_workers_that_leave_answer_what_they_have(server):
    with ThreadPoolExecutor(9) as clients:
        times = [3.0, *[0.4] * 7]
        long = [clients.submit(server.predict, "sleeper", f'{{"seconds": [{each}]}}') for each in times]
        until(lambda: len(server.workers("sleeper")) > 2)
        assert [each.result().code for each in long] == [200] * 8
    until(lambda: len(server.workers("sleeper")) == 1)


@pytest.mark.parametrize(
    ("processes", "model"), [("server", "napper"), ("server", "handler"), ("two_processes", "napper")]
)
def test_a_model_without_a_least_has_no_process_while_nobody_asks_and_holds_the_first_requests(
    processes, model, request
):
    server = request.getfixturevalue(processes)
    until(lambda: server.workers(model) == [])
    assert server.ask("GET", "/ping").code == 200
    assert server.ask("GET", f"/v2/models/{model}/ready").code == 200
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: server.predict(model, BODY), range(8)))
    assert [answer.code for answer in answers] == [200] * 8
    until(lambda: server.workers(model) == [])


def test_a_model_that_keeps_state_keeps_a_worker(server):
    time.sleep(0.1)
    assert gauges(server, "stepper")["mooring_workers_wanted"] == 1


def test_an_operator_s_numbers_win(server):
    with Wire(server.ports[1]) as wire:
        wire.send(request("PUT", "/models/sleeper?min_worker=2&max_worker=2&synchronous=true"))
        assert wire.answer().code == 200
        assert set(ask_for(server, "sleeper", 1.0, 6)) == {200}
        assert len(server.workers("sleeper")) == 2
        wire.send(request("PUT", "/models/sleeper?min_worker=0&max_worker=0&synchronous=true"))
        assert wire.answer().code == 200
        assert server.predict("sleeper", BODY).code == 503
        wire.send(request("PUT", "/models/sleeper?min_worker=1&max_worker=4&synchronous=true"))
        assert wire.answer().code == 200
    assert len(server.workers("sleeper")) == 1

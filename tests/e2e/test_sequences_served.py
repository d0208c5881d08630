"""Models that keep state, asked over every protocol: no step is lost, none is moved, none is counted twice."""

import http.client
import json
import os
import queue
import signal
import threading
from contextlib import closing
from itertools import accumulate
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from e2e_kit import Server, free_ports, pack, until
from tritonclient.utils import InferenceServerException

from mooring.codecs.proto import torchserve_inference_pb2 as pb

SEQUENCES, STEPS = 100, 50
RIGHT = list(accumulate(range(1, STEPS + 1)))
SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"

ADDER = """
import os


class Model:
    def load(self, context):
        self.totals = {}

    def infer(self, x, sequence_id, sequence_start, sequence_end):
        assert len(set(sequence_id)) == len(x), sequence_id
        for row, name in enumerate(sequence_id):
            self.totals[name] = x[row, 0] + (0 if sequence_start[row] else self.totals[name])
            x[row, 0] = self.totals[name]
            if sequence_end[row]:
                del self.totals[name]
        return {"total": x, "pid": x * 0 + os.getpid()}
"""
ASYNC = """
import asyncio


class Tally:
    def __init__(self):
        self.totals = {}

    async def handle(self, data, context):
        name = context.get_sequence_id(0)
        start = context.get_request_header(0, context.header_key_sequence_start)
        before = 0 if start == "true" else self.totals[name]
        await asyncio.sleep(0.001)  # a second step of the sequence would be lost here
        self.totals[name] = before + int(data[0].get("body") or data[0].get("data"))
        return [str(self.totals[name])]
"""
ADDER_CONFIG = """
max_batch_size = 8
[workers]
min = 4
max = 4
[sequences]
{settings}
[[inputs]]
name = "x"
datatype = "FP64"
shape = [-1, 1]
"""


class Served(Server):
    """A server with a port for gRPC that is known."""

    def __init__(self, folder, *arguments):
        (self.rpc,) = free_ports(1)
        super().__init__(folder, *arguments, f"--grpc-address=127.0.0.1:{self.rpc}")

    def say(self, model, number, *headers):
        """A step, as TorchServe's clients send it."""
        return self.predict(model, str(number), *headers)

    def open_sequences(self, model):
        """How many there are, as the metrics page has it."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.ports[2], timeout=60)) as connection:
            connection.request("GET", "/metrics?name[]=mooring_sequences")
            lines = connection.getresponse().read().decode().splitlines()
        (line,) = [line for line in lines if f'model_name="{model}"' in line]
        return float(line.rpartition(" ")[2])

    def manage(self, method, target):
        with closing(http.client.HTTPConnection("127.0.0.1", self.ports[1], timeout=60)) as connection:
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def v2(self, model, number, **parameters):
        """A step, as clients of the Open Inference Protocol send it."""
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [number]}
        if model == "tally":
            tensor = {"name": "data", "shape": [1], "datatype": "BYTES", "data": [str(number)]}
        body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        return self.ask("POST", f"/v2/models/{model}/infer", body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    for name, settings in (
        ("tally", {"minWorkers": 4, "batchSize": 8, "maxNumSequence": 200, "maxSequenceJobQueueSize": 4}),
        ("few", {"minWorkers": 1, "maxWorkers": 2, "batchSize": 1, "maxNumSequence": 3}),
        ("brief", {"minWorkers": 1, "batchSize": 1, "sequenceMaxIdleMSec": 200}),
    ):
        file = folder / f"{name}.yaml"
        file.write_text(json.dumps({"sequenceBatching": True, **settings}))
        pack(folder, name, "tally_handler.py", "--config-file", file)
    (folder / "async").mkdir()
    (folder / "async/handler.py").write_text(ASYNC)
    settings = {"sequenceBatching": True, "minWorkers": 2, "asyncCommunication": True, "maxNumSequence": 50}
    (folder / "async/model-config.yaml").write_text(json.dumps(settings))
    for name, settings in (("adder", ""), ("narrow", "max = 1\nmax_idle = 60")):
        (folder / f"models/{name}/1").mkdir(parents=True)
        (folder / f"models/{name}/config.toml").write_text(ADDER_CONFIG.format(settings=settings))
        (folder / f"models/{name}/1/model.py").write_text(ADDER)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    names = ("tally", "few", "brief")
    server = Served(
        folder,
        *(folder / f"{name}.mar" for name in names),
        f"async={folder / 'async'}",
        "--model-repository",
        folder / "models",
    )
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        assert not server.faults(), server.log[-9000:]
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def whole(server):
    """Every worker is there when a test begins."""
    for name, count in (("tally", 4), ("adder", 4), ("few", 1)):
        until(lambda name=name, count=count: len(server.workers(name)) == count)


def marks(name, start=False, end=False):
    lines = [f"ts_request_sequence_id: {name}"] if name else []
    return lines + ["ts_request_sequence_start: true"] * start + ["ts_request_sequence_end: true"] * end


def over_http(server, ask, count=SEQUENCES // 10):
    """Ten clients with so many sequences each, a step of every one under way at once: the answers by sequence."""
    answers, faults = {}, []

    def client(number):
        names = [f"{number}-{index}" for index in range(count)]
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in names]
        try:
            for step in range(1, STEPS + 1):
                for name, connection in zip(names, connections, strict=True):
                    connection.request("POST", *ask(name, step))
                for name, connection in zip(names, connections, strict=True):
                    answer = connection.getresponse()
                    answers.setdefault(name, []).append((answer.status, json.loads(answer.read())))
        except Exception as error:
            faults.append(error)
        finally:
            for connection in connections:
                connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults
    assert len(answers) == 10 * count
    return answers


def test_a_hundred_sequences_over_torchserves_http(server):
    def ask(name, step):
        lines = {"ts_request_sequence_id": name} | (
            {"ts_request_sequence_end": "true"} if step == STEPS else {}
        )
        return "/predictions/tally", str(step), lines

    workers = set()
    for name, steps in over_http(server, ask).items():
        assert [status for status, _ in steps] == [200] * STEPS
        assert [said["total"] for _, said in steps] == RIGHT
        assert {said["id"] for _, said in steps} == {name}
        assert [said["start"] for _, said in steps] == ["true"] + [None] * (STEPS - 1)
        assert len({said["pid"] for _, said in steps}) == 1
        workers.add(steps[0][1]["pid"])
    assert workers == set(server.workers("tally"))


def test_a_hundred_sequences_over_v2_rest(server):
    def ask(name, step):
        parameters = {"sequence_id": name, "sequence_start": step == 1, "sequence_end": step == STEPS}
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [step]}
        return "/v2/models/adder/infer", json.dumps({"inputs": [tensor], "parameters": parameters})

    workers = set()
    for name, steps in over_http(server, ask).items():
        assert [status for status, _ in steps] == [200] * STEPS, steps
        outputs = [{each["name"]: each["data"] for each in said["outputs"]} for _, said in steps]
        assert [output["total"] for output in outputs] == [[total] for total in RIGHT]
        assert {said["parameters"]["sequence_id"] for _, said in steps} == {name}
        assert len({output["pid"][0] for output in outputs}) == 1
        workers.add(outputs[0]["pid"][0])
    assert workers == set(server.workers("adder"))


def test_a_hundred_sequences_over_one_stream_of_v2_grpc(server):
    answers, got = {}, queue.Queue()
    with closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}")) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        tensor = tritonclient.grpc.InferInput("x", [1, 1], "FP64")
        for step in range(1, STEPS + 1):
            tensor.set_data_from_numpy(np.array([[step]], np.float64))
            for name in range(1, SEQUENCES + 1):
                client.async_stream_infer(
                    "adder", [tensor], request_id=str(name), sequence_id=name,
                    sequence_start=step == 1, sequence_end=step == STEPS,
                )  # fmt: skip
        for _ in range(SEQUENCES * STEPS):
            result, error = got.get(timeout=60)
            assert error is None, error
            answers.setdefault(result.get_response().id, []).append(result.as_numpy("total").item())
    assert answers == {str(name): RIGHT for name in range(1, SEQUENCES + 1)}


def test_a_hundred_sequences_over_one_stream_of_torchserves_grpc(server):
    asked = [
        pb.PredictionsRequest(
            model_name="tally", sequence_id=f"g{name}", input={"data": b"%d" % step}
        ).SerializeToString()
        for step in range(1, STEPS + 1)
        for name in range(SEQUENCES)
    ]
    totals, workers = {}, set()
    with grpc.insecure_channel(f"127.0.0.1:{server.rpc}") as channel:
        for message in channel.stream_stream(f"{SERVICE}StreamPredictions2")(iter(asked), timeout=120):
            answer = pb.PredictionResponse.FromString(message)
            assert not answer.HasField("status"), answer
            said = json.loads(answer.prediction)
            assert said["id"] == answer.sequence_id
            totals.setdefault(answer.sequence_id, []).append(said["total"])
            workers.add((answer.sequence_id, said["pid"]))
    assert totals == {f"g{name}": RIGHT for name in range(SEQUENCES)}
    assert len(workers) == SEQUENCES
    for name in range(SEQUENCES):
        assert server.say("tally", 0, *marks(f"g{name}", end=True)).code == 200


@pytest.mark.parametrize("model", ["tally"])
def test_one_sequence_may_be_asked_over_every_protocol(server, model):
    with (
        grpc.insecure_channel(f"127.0.0.1:{server.rpc}") as channel,
        closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}")) as triton,
    ):
        first = server.say(model, 1, *marks("77", start=True))
        assert first.headers["ts_request_sequence_id"] == "77"
        second = server.v2(model, 2, sequence_id=77).json()
        assert json.loads(second["outputs"][0]["data"][0])["total"] == 3
        asked = pb.PredictionsRequest(model_name=model, sequence_id="77", input={"data": b"3"})
        third = channel.unary_unary(f"{SERVICE}Predictions")(asked.SerializeToString(), timeout=30)
        assert json.loads(pb.PredictionResponse.FromString(third).prediction)["total"] == 6
        tensor = tritonclient.grpc.InferInput("data", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"4"], object))
        last = triton.infer(model, [tensor], sequence_id="77", sequence_end=True)
        assert json.loads(last.as_numpy(last.get_response().outputs[0].name)[0])["total"] == 10
        assert last.get_response().parameters["sequence_id"].string_param == "77"
    assert server.v2(model, 5, sequence_id=77).code == 400


def test_a_request_without_an_id_begins_a_sequence_and_is_told_its_name(server):
    first = server.say("tally", 5)
    name = first.headers["ts_request_sequence_id"]
    assert name.startswith("ts-seq-")
    assert (first.json()["id"], first.json()["start"]) == (name, "true")
    assert server.say("tally", 6, *marks(name, end=True)).json()["total"] == 11
    with grpc.insecure_channel(f"127.0.0.1:{server.rpc}") as channel:
        asked = pb.PredictionsRequest(model_name="tally", input={"data": b"3"}).SerializeToString()
        answer = pb.PredictionResponse.FromString(
            channel.unary_unary(f"{SERVICE}Predictions")(asked, timeout=30)
        )
        assert json.loads(answer.prediction)["id"] == answer.sequence_id
        asked = pb.PredictionsRequest(
            model_name="tally", sequence_id=answer.sequence_id, input={"data": b"4"}
        )
        ends = channel.unary_unary(f"{SERVICE}Predictions")(
            asked.SerializeToString(), timeout=30, metadata=[("ts_request_sequence_end", "true")]
        )
        assert json.loads(pb.PredictionResponse.FromString(ends).prediction)["end"] == "true"


def test_v2_wants_an_id_and_a_start_as_triton_does(server):
    unnamed = server.v2("adder", 1)
    assert unnamed.code == 400
    assert "must specify a non-zero or non-empty correlation ID" in unnamed.json()["error"]
    unknown = server.v2("adder", 1, sequence_id="nobody")
    assert unknown.code == 400
    assert "for sequence nobody to model 'adder' must specify the START flag" in unknown.json()["error"]
    assert server.v2("adder", 1, sequence_id=[1]).code == 400
    assert server.v2("adder", 1, sequence_id="x", sequence_start="perhaps").code == 400
    with closing(tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}")) as client:
        tensor = tritonclient.http.InferInput("x", [1, 1], "FP64")
        tensor.set_data_from_numpy(np.array([[1.0]]))
        with pytest.raises(InferenceServerException, match="must specify the START flag"):
            client.infer("adder", [tensor], sequence_id=9)
        for step, total in ((0, 1.0), (1, 2.0), (2, 3.0)):
            found = client.infer(
                "adder", [tensor], sequence_id=9, sequence_start=step == 0, sequence_end=step == 2
            )
            assert found.as_numpy("total").item() == total


def test_a_large_body_says_in_itself_which_sequence_it_belongs_to(server):
    for number, total in ((1, 1.0), (2, 3.0)):
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [number]}
        parameters = {"sequence_id": "large", "sequence_start": number == 1, "padding": "x" * 70_000}
        answer = server.ask(
            "POST",
            "/v2/models/adder/infer",
            json.dumps({"inputs": [tensor], "parameters": parameters}).encode(),
        )
        assert {each["name"]: each["data"] for each in answer.json()["outputs"]}["total"] == [total]
    assert server.v2("adder", 1, sequence_id="large", sequence_end=True).code == 200


def test_more_sequences_than_there_may_be_are_refused_at_once_and_an_end_frees_a_slot(server):
    for name in "abc":
        assert server.say("few", 1, *marks(name)).code == 200
    full = server.say("few", 1, *marks("d"))
    assert full.code == 503
    assert full.json()["message"].startswith('Model "few" has no worker to serve inference request.')
    assert "model 'few' has 3 sequences open" in full.json()["error"]
    assert full.headers["retry-after"] == "1"
    over_v2 = server.v2("few", 1, sequence_id="d", sequence_start=True)
    assert (over_v2.code, "3 sequences open" in over_v2.json()["error"]) == (503, True)
    assert server.say("few", 1, *marks("a", end=True)).code == 200
    assert server.say("few", 1, *marks("d", end=True)).code == 200
    for name in "bc":
        assert server.say("few", 1, *marks(name, end=True)).code == 200


def test_a_sequence_that_nobody_goes_on_with_gives_its_slot_back(server):
    assert server.say("brief", 1, *marks("a")).code == 200
    until(lambda: server.say("brief", 1, *marks("b", end=True)).code == 200)
    again = server.say("brief", 1, *marks("a", end=True)).json()
    assert (again["start"], again["total"]) == ("true", 1)


def test_a_killed_worker_loses_its_sequences_and_says_so_until_they_start_anew(server):
    names = [f"k{number}" for number in range(20)]
    places = {name: server.say("tally", 1, *marks(name)).json()["pid"] for name in names}
    victim = places["k0"]
    lost = [name for name in names if places[name] == victim]
    answers = []
    ask = threading.Thread(target=lambda: answers.append(server.say("tally", -1, *marks("k0"))))
    ask.start()
    asleep = Path(psutil.Process(victim).cwd(), "asleep")
    until(asleep.exists)
    waits = threading.Thread(target=lambda: answers.append(server.say("tally", 1, *marks("k0"))))
    waits.start()
    until(lambda: server.manage("GET", "/models/tally")[1][0]["jobQueueStatus"]["pendingRequests"] == 1)
    os.kill(victim, signal.SIGKILL)
    ask.join()
    waits.join()
    died, gone = sorted(answers, key=lambda answer: answer.code)
    assert (died.code, died.json()["message"]) == (500, "Worker died.")
    assert gone.code == 503
    assert "that had the state of sequence 'k0' is gone" in gone.json()["error"]
    for name in names:
        if name not in lost:
            assert server.say("tally", 1, *marks(name)).json() | {"pid": 0} == {
                "id": name, "total": 2, "start": None, "end": None, "pid": 0,
            }  # fmt: skip
    refused = server.say("tally", 1, *marks("k0"))
    assert refused.code == 503
    assert "start the sequence anew" in refused.json()["error"]
    assert server.v2("tally", 1, sequence_id="k0").code == 409
    for name in lost:
        assert server.say("tally", 1, *marks(name)).code == 503
        assert server.say("tally", 7, *marks(name, start=True)).json()["total"] == 7
        assert server.say("tally", 1, *marks(name)).json()["total"] == 8
    for name in names:
        assert server.say("tally", 1, *marks(name, end=True)).code == 200


def test_what_a_model_is_and_what_the_server_can_says_so(server):
    _, (described,) = server.manage("GET", "/models/tally")
    assert {key: described[key] for key in ("stateful", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence",
                                            "maxSequenceJobQueueSize")} == {
        "stateful": True, "sequenceMaxIdleMSec": 0, "sequenceTimeoutMSec": 0, "maxNumSequence": 200,
        "maxSequenceJobQueueSize": 4,
    }  # fmt: skip
    assert {"sequence", "sequence(string_id)"} <= set(server.ask("GET", "/v2").json()["extensions"])
    config = server.ask("GET", "/v2/models/narrow/config").json()
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 60_000_000
    assert "dynamic_batching" not in config


def test_a_worker_that_is_too_many_stays_until_its_sequences_are_over(server):
    assert server.manage("PUT", "/models/few?min_worker=2&max_worker=2&synchronous=true")[0] == 200
    places = {name: server.say("few", 1, *marks(name)).json()["pid"] for name in "ab"}
    assert len(set(places.values())) == 2
    assert server.manage("PUT", "/models/few?min_worker=1&max_worker=1")[0] == 202
    for _ in range(5):
        for name in "ab":
            assert server.say("few", 1, *marks(name)).json()["pid"] == places[name]
    assert server.say("few", 1, *marks("a", end=True)).json()["total"] == 7
    until(lambda: server.workers("few") == [places["b"]])
    assert server.say("few", 1, *marks("b", end=True)).json()["total"] == 7


def test_kserves_clients_say_it_in_headers_too(server):
    def ask(number, **what):
        body = json.dumps({"instances": [{"data": str(number)}]}).encode()
        answer = server.ask("POST", "/v1/models/tally:predict", body, *marks("v1", **what))
        return json.loads(answer.json()["predictions"][0])["total"]

    assert (ask(3), ask(4, end=True)) == (3, 7)
    several = json.dumps({"instances": [{"data": "1"}] * 9}).encode()
    refused = server.ask("POST", "/v1/models/tally:predict", several, *marks("v1"))
    assert refused.code == 400
    assert "at most 8 instances for model 'tally', not 9" in refused.json()["error"]


def test_a_step_that_fails_is_not_tried_again_and_the_sequence_goes_on(server):
    assert server.say("tally", 5, *marks("fails")).json()["total"] == 5
    assert server.say("tally", "no number", *marks("fails")).code == 500
    assert server.say("tally", 6, *marks("fails", end=True)).json()["total"] == 11


def test_a_sequence_whose_name_nobody_heard_takes_no_slot(server):
    for _ in range(5):
        assert server.say("few", "no number").code == 500
    assert server.say("few", 1, *marks("", end=True)).code == 200


def test_a_model_that_is_loaded_anew_says_that_its_sequences_are_lost(server):
    assert server.v2("narrow", 1, sequence_id="a", sequence_start=True).code == 200
    until(lambda: server.open_sequences("narrow") == 1)
    assert server.open_sequences("few") == 0
    assert server.ask("POST", "/v2/repository/models/narrow/load").code == 200
    lost = server.v2("narrow", 1, sequence_id="a")
    assert lost.code == 409
    assert "the state of sequence 'a' of model 'narrow' is lost" in lost.json()["error"]
    anew = server.v2("narrow", 4, sequence_id="a", sequence_start=True, sequence_end=True).json()
    assert {each["name"]: each["data"] for each in anew["outputs"]}["total"] == [4]


def test_a_model_with_open_sequences_can_be_unloaded(server):
    assert server.v2("narrow", 1, sequence_id="open", sequence_start=True).code == 200
    assert server.ask("POST", "/v2/repository/models/narrow/unload").code == 200
    assert server.v2("narrow", 1, sequence_id="open").code == 404
    assert server.ask("POST", "/v2/repository/models/narrow/load").code == 200


def test_the_headers_may_have_other_names(folder):
    file = folder / "config.properties"
    file.write_text(
        "ts_header_key_sequence_id=X-Seq\nts_header_key_sequence_start=X-Seq-Start\n"
        "ts_header_key_sequence_end=X-Seq-End\n"
    )
    server = Served(folder, folder / "few.mar", "--config", file)
    try:
        server.started()
        assert server.say("few", 1, "x-seq: s").headers["x-seq"] == "s"
        with grpc.insecure_channel(f"127.0.0.1:{server.rpc}") as channel:
            asked = pb.PredictionsRequest(model_name="few", sequence_id="s", input={"data": b"2"})
            answer = channel.unary_unary(f"{SERVICE}Predictions")(
                asked.SerializeToString(), timeout=30, metadata=[("x-seq-end", "true")]
            )
        said = json.loads(pb.PredictionResponse.FromString(answer).prediction)
        assert (said["id"], said["total"], said["end"]) == ("s", 3, "true")
        assert server.stop() == 0
    finally:
        server.kill()


def test_an_asynchronous_handler_gets_a_step_of_a_sequence_at_a_time(server):
    asked = [
        pb.PredictionsRequest(
            model_name="async", sequence_id=f"a{name}", input={"data": b"%d" % step}
        ).SerializeToString()
        for step in range(1, 21)
        for name in range(20)
    ]
    totals = {}
    with grpc.insecure_channel(f"127.0.0.1:{server.rpc}") as channel:
        for message in channel.stream_stream(f"{SERVICE}StreamPredictions2")(iter(asked), timeout=120):
            answer = pb.PredictionResponse.FromString(message)
            assert not answer.HasField("status"), answer
            totals.setdefault(answer.sequence_id, []).append(int(answer.prediction))
    assert totals == {f"a{name}": RIGHT[:20] for name in range(20)}


def test_steps_sent_ahead_run_one_after_the_other_without_anybody_elses_help(server):
    got = queue.Queue()
    with closing(tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.rpc}")) as client:
        client.start_stream(lambda result, error: got.put((result, error)))
        tensor = tritonclient.grpc.InferInput("x", [1, 1], "FP64")
        tensor.set_data_from_numpy(np.array([[1.0]]))
        for step in range(5):
            client.async_stream_infer(
                "adder", [tensor], sequence_id="ahead", sequence_start=step == 0, sequence_end=step == 4
            )
        answers = [got.get(timeout=20) for _ in range(5)]
    assert [result.as_numpy("total").item() for result, _ in answers] == [1.0, 2.0, 3.0, 4.0, 5.0]

"""Three real node servers, joined by a switch in Ray's place: each answers for the models of the others as for its own."""

import http.client
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from node_servers_kit import MODELS, WHERE, frontends, replicas_of, running_nodes
from tritonclient.utils import InferenceServerException

from mooring.codecs.proto import torchserve_inference_pb2 as pb

pytestmark = pytest.mark.processes

JSON = "content-type: application/json"
ONE = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}).encode()
EVERYWHERE = {"twins": ["b", "c"], "where": ["b"], "count": ["b"], "mirror": ["b"], "rows": ["b"], "sums": ["b", "c"], "alone": ["a"], "line": ["b"], "told": ["b"]}  # fmt: skip
LINE = "".join(
    f'[[models]]\nname = "{name}"\nplatform = "builtin"\nentry = "echo"\n' for name in ("half", "whole")
)
TWINS = {
    "twins/1/model.py": WHERE,
    "twins/config.toml": "queue_size = 8\n[workers]\nmin = 1\nmax = 1\n",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Nodes by label, the switch, and the function that calls on its loop. ``a`` has almost nothing, ``b`` everything."""
    folder = tmp_path_factory.mktemp("cluster")
    models = {
        "a": {"alone/1/model.py": WHERE},
        "b": {**MODELS, **TWINS, "line/config.toml": 'name = "line"\n' + LINE},
        "c": {"where/2/model.py": WHERE, **TWINS, "sums/1/model.py": MODELS["sums/1/model.py"], "sums/config.toml": MODELS["sums/config.toml"]},
    }  # fmt: skip
    with running_nodes(folder, models, {"c": ["--frontends=2", "--deal-connections=evenly"]}) as (
        nodes,
        switch,
        call,
    ):
        yield Cluster(nodes, switch, call)


class Cluster:
    """What a test does with the cluster."""

    def __init__(self, nodes, switch, call):
        self.nodes, self.switch, self.call = nodes, switch, call
        self.generation = 0
        self.assign(EVERYWHERE)
        self.a, self.b, self.c = (nodes[label].server for label in "abc")
        for _ in range(100):
            if all(self.a.ask("GET", f"/v2/models/{model}").code == 200 for model in EVERYWHERE):
                break
            time.sleep(0.05)

    def assign(self, where, **more):
        self.generation += 1
        table = replicas_of(self.nodes, where, generation=self.generation, **more)
        self.call(self.switch.assign, table)
        time.sleep(0.05)

    def name(self, label):
        return self.nodes[label].name


def v2(model, values, server, *lines, parameters=None, datatype="FP32", shape=None):
    tensor = {"name": "x", "datatype": datatype, "shape": shape or [len(values)], "data": values}
    body = {"inputs": [tensor], **({"parameters": parameters} if parameters else {})}
    return server.ask("POST", f"/v2/models/{model}/infer", json.dumps(body).encode(), JSON, *lines)


def outputs(answer):
    assert answer.code == 200, answer.body
    return {each["name"]: each["data"] for each in answer.json()["outputs"]}


# The protocols


def test_v2_over_rest_reaches_a_model_of_another_node(cluster):
    assert outputs(v2("where", [1.0, 2.0], cluster.a)) == {"node": ["b"], "x": [1.0, 2.0]}
    assert outputs(v2("alone", [3.0], cluster.b)) == {"node": ["a"], "x": [3.0]}


def test_torchserves_and_v1s_routes_reach_it_too(cluster):
    answer = cluster.a.predict("mirror", json.dumps({"text": ["it"]}), JSON)
    assert (answer.code, answer.body) == (
        200,
        cluster.b.predict("mirror", json.dumps({"text": ["it"]}), JSON).body,
    )
    body = json.dumps({"instances": [[1.0], [2.0], [3.0]]}).encode()
    answer = cluster.a.ask("POST", "/v1/models/rows:predict", body, JSON)
    assert [row["y"] for row in answer.json()["predictions"]] == [[2.0], [4.0], [6.0]]


def test_grpc_reaches_it(cluster):
    client = tritonclient.grpc.InferenceServerClient(cluster.a.grpc)
    given = tritonclient.grpc.InferInput("x", [3], "FP32")
    given.set_data_from_numpy(np.arange(3, dtype=np.float32))
    answer = client.infer("where", [given])
    assert list(answer.as_numpy("node")) == [b"b"]
    assert client.is_model_ready("where")
    assert client.get_model_metadata("where").name == "where"
    with pytest.raises(InferenceServerException, match="nowhere"):
        client.infer("nowhere", [given])
    client.close()


def test_torchserves_grpc_reaches_it(cluster):
    with grpc.insecure_channel(cluster.a.grpc) as channel:
        predict = channel.unary_unary(
            "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions",
            request_serializer=pb.PredictionsRequest.SerializeToString,
            response_deserializer=pb.PredictionResponse.FromString,
        )
        answer = predict(
            pb.PredictionsRequest(model_name="mirror", input={"data": b'{"text": ["it"]}'}), timeout=10
        )
    assert b"it" in answer.prediction


def test_streams_come_piece_by_piece(cluster):
    body = json.dumps({"to": [5], "parameters": {"seconds": 0.1}}).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.a.port, timeout=30)) as connection:
        began = time.monotonic()
        connection.request(
            "POST", "/v2/models/count/generate_stream", body, {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        first = answer.readline()
        early = time.monotonic() - began
        rest = answer.read()
    lines = (first + rest).decode().split("data: ")[1:]
    assert [json.loads(line)["n"] for line in lines] == [0, 1, 2, 3, 4]
    assert early < 0.4, "the first piece waited for the others"


def test_streams_over_grpc_come_in_order(cluster):
    client = tritonclient.grpc.InferenceServerClient(cluster.a.grpc)
    heard, done = [], threading.Event()

    def take(result, error):
        heard.append(error or int(result.as_numpy("n")[0]))
        if len(heard) == 50:
            done.set()

    client.start_stream(take)
    given = tritonclient.grpc.InferInput("to", [1], "INT32")
    given.set_data_from_numpy(np.array([50], np.int32))
    client.async_stream_infer("count", [given])
    assert done.wait(20), heard
    client.stop_stream()
    client.close()
    assert heard == list(range(50))


def test_explanations_reach_it(cluster):
    body = json.dumps({"instances": [[1.0], [2.0]]}).encode()
    here = cluster.b.ask("POST", "/v1/models/told:explain", body, JSON)
    there = cluster.a.ask("POST", "/v1/models/told:explain", body, JSON)
    assert (there.code, there.body) == (here.code, here.body)
    assert here.json()["explanations"] == [[-1.0], [-2.0]]


@pytest.mark.parametrize("size", [100, 60_000, 200_000, 3_000_000])
def test_large_tensors_travel_whole_both_ways(cluster, size):
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{cluster.a.port}")
    values = np.random.default_rng(size).random(size // 4, np.float32)
    given = tritonclient.http.InferInput("x", [len(values)], "FP32")
    for binary in (True, False):
        given.set_data_from_numpy(values, binary_data=binary)
        wanted = [tritonclient.http.InferRequestedOutput("x", binary_data=binary)]
        found = client.infer("mirror", [given], outputs=wanted).as_numpy("x")
        np.testing.assert_array_equal(found, values)
    client.close()


def test_texts_of_any_size_travel(cluster):
    texts = ["x" * 200_000, "", "ü" * 100]
    found = outputs(v2("mirror", texts, cluster.a, datatype="BYTES"))
    assert found["x"] == texts


def test_a_chain_is_asked_as_any_model_with_the_times_of_its_stages(cluster):
    assert cluster.a.ask("GET", "/v2/models/line/ready").code == 200
    answer = v2("line", [1], cluster.a, "server-timing: 1", datatype="UINT32")
    assert answer.json()["outputs"][0]["data"] == [3]
    timings = answer.headers["server-timing"]
    assert timings.count(".model;dur=") == 2, timings


def test_frontend_processes_answer_for_other_nodes_too(cluster):
    assert frontends(cluster.c)
    for _ in range(20):  # each connection comes to any of the processes
        assert outputs(v2("where", [1.0], cluster.c))["node"] == ["b"]
        assert cluster.c.ask("GET", "/v2/models/rows").json()["inputs"][0]["name"] == "x"


# What holds on one machine


def test_requests_of_all_nodes_share_calls(cluster):
    def ask(at):
        server = (cluster.a, cluster.c, cluster.b)[at % 3]
        return outputs(v2("rows", [float(at)], server, datatype="FP64", shape=[1, 1]))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert [answer["y"] for answer in answers] == [[2.0 * at] for at in range(8)]
    assert max(answer["rows"][0] for answer in answers) > 3


def test_bad_input_and_unknown_models_are_told_as_on_one_machine(cluster):
    for server in (cluster.a, cluster.b):
        answer = v2("rows", [1.0], server, datatype="FP64", shape=[1, 2])
        assert (answer.code, "x" in answer.json()["error"]) == (400, True)
        assert server.ask("GET", "/v2/models/where/versions/9").code == 404
        assert v2("nowhere", [1.0], server).code == 404
        assert server.ask("POST", "/v2/models/where/versions/9/infer", b"{}", JSON).code == 404
    here, there = (server.predict("count", b'{"to": ["x"]}', JSON) for server in (cluster.b, cluster.a))
    assert (there.code, there.body) == (here.code, here.body)


def test_metadata_readiness_and_the_index_know_all_models(cluster):
    for label in "abc":
        server = cluster.nodes[label].server
        assert server.ask("GET", "/v2/health/ready").code == 200
        assert server.ask("GET", "/v2/models/rows/ready").code == 200
        assert server.ask("GET", "/v2/models/rows").json()["inputs"] == [
            {"name": "x", "datatype": "FP64", "shape": [-1, 1]}
        ]
        assert {"rows", "alone", "twins"} <= set(server.ask("GET", "/v1/models").json()["models"])


def test_a_request_without_a_version_goes_to_the_clusters_default(cluster):
    both = {**EVERYWHERE, "where/2": ["c"]}
    for version, label in (("2", "c"), ("1", "b"), ("2", "c")):
        cluster.assign(both, defaults={**dict.fromkeys(EVERYWHERE, "1"), "where": version})
        wait_for(lambda: cluster.a.ask("GET", "/v2/models/where/versions/2").code == 200)
        answer = v2("where", [1.0], cluster.a)
        assert (outputs(answer)["node"], answer.json()["model_version"]) == ([label], version)
        # A node that has the other version does not take its own for the default one.
        assert outputs(v2("where", [1.0], cluster.b))["node"] == [label]
    assert (
        cluster.a.ask("POST", "/v2/models/where/versions/1/infer", ONE, JSON).json()["model_version"] == "1"
    )
    cluster.assign(EVERYWHERE)


def test_where_the_time_goes_is_told(cluster):
    answer = v2("where", [1.0], cluster.a, "server-timing: 1", parameters={"seconds": 0.2})
    parts = dict(
        part.split(";dur=")
        for part in answer.headers["server-timing"].replace(';desc="1 row"', "").split(", ")
    )
    assert 200 <= float(parts["model"]) <= float(parts["total"]) < 2000
    assert (
        sum(float(value) for name, value in parts.items() if name != "total") <= float(parts["total"]) + 0.01
    )


def test_a_deadline_holds_and_the_other_node_hears_of_it(cluster):
    client = tritonclient.grpc.InferenceServerClient(cluster.a.grpc)
    given = tritonclient.grpc.InferInput("x", [1], "FP32")
    given.set_data_from_numpy(np.ones(1, np.float32))
    began = time.monotonic()
    with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
        client.infer("where", [given], parameters={"seconds": 1.0}, client_timeout=0.3)
    assert time.monotonic() - began < 0.9
    client.close()


def test_queued_requests_of_a_client_that_left_are_withdrawn_there(cluster):
    def busy():
        return v2("where", [1.0], cluster.b, parameters={"seconds": 1.0})

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(busy)
        time.sleep(0.2)
        connections = []
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", cluster.a.port)
            tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
            body = json.dumps({"inputs": [tensor], "parameters": {"seconds": 1.0}})
            connection.request("POST", "/v2/models/where/infer", body, {"content-type": "application/json"})
            connections.append(connection)
        wait_for(lambda: waiting(cluster.b, "where") == 5)
        for connection in connections:
            connection.close()
        wait_for(lambda: waiting(cluster.b, "where") == 0)
        assert running.result().code == 200


def test_a_stream_ends_there_when_its_client_leaves(cluster):
    connection = http.client.HTTPConnection("127.0.0.1", cluster.a.port)
    body = json.dumps({"to": [1000], "parameters": {"seconds": 0.02}})
    connection.request("POST", "/v2/models/count/generate_stream", body, {"content-type": "application/json"})
    assert connection.getresponse().readline()
    assert waiting(cluster.b, "count", "mooring_in_flight_requests") == 1
    connection.close()
    wait_for(lambda: waiting(cluster.b, "count", "mooring_in_flight_requests") == 0)


def test_a_model_that_is_faster_than_the_way_loses_nothing(cluster):
    body = json.dumps({"to": [40], "parameters": {"size": 2_000_000}}).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.a.port, timeout=60)) as connection:
        connection.request(
            "POST", "/v2/models/count/generate_stream", body, {"content-type": "application/json"}
        )
        text = connection.getresponse().read().decode()
    pieces = [json.loads(piece) for piece in text.split("data: ")[1:]]
    assert [piece["n"] for piece in pieces] == list(range(40))
    assert {len(piece["text"]) for piece in pieces} == {2_000_000}


def waiting(server, model, metric="mooring_waiting_requests"):
    with closing(http.client.HTTPConnection("127.0.0.1", server.ports[2], timeout=30)) as connection:
        connection.request("GET", f"/metrics?name[]={metric}")
        lines = connection.getresponse().read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if f'model_name="{model}"' in line)


def wait_for(condition, within=10.0):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_less_loaded_of_two_nodes_gets_a_request(cluster):
    def ask(_):
        return outputs(v2("twins", [1.0], cluster.a, parameters={"seconds": 0.1}))["node"][0]

    with ThreadPoolExecutor(8) as pool:
        nodes = list(pool.map(ask, range(40)))
    assert 14 <= nodes.count("b") <= 26, nodes


def test_a_full_queue_is_full_everywhere_and_says_so(cluster):
    def ask(_):
        return v2("twins", [1.0], cluster.a, parameters={"seconds": 0.4})

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    codes = [answer.code for answer in answers]
    assert set(codes) == {200, 503}
    # Two that run, a queue of 8 on b and of 4 on c, whose two processes share one, and what the first ones leave.
    assert 14 <= codes.count(200) <= 20
    refused = next(answer for answer in answers if answer.code == 503)
    assert "the queue of model 'twins' is full" in refused.json()["error"]
    assert int(refused.headers["retry-after"]) >= 1


# Sequences


def step(server, name, number, **flags):
    parameters = {"sequence_id": name, **flags}
    return v2("sums", [float(number)], server, datatype="FP64", shape=[1, 1], parameters=parameters)


def test_a_sequence_has_one_node_whichever_node_is_asked(cluster):
    servers = [cluster.a, cluster.b, cluster.c]
    pids = set()
    for name in range(1, 21):
        totals = []
        for at in range(6):
            found = outputs(
                step(servers[(name + at) % 3], name, 1, sequence_start=at == 0, sequence_end=at == 5)
            )
            totals.append(found["total"][0])
            pids.add((name, found["pid"][0]))
        assert totals == [1, 2, 3, 4, 5, 6]
    assert len(pids) == 20
    assert len({pid for _, pid in pids}) == 2, "all sequences went to one node"


def test_a_step_of_a_sequence_that_nobody_began_is_refused_as_on_one_machine(cluster):
    answer = step(cluster.a, 999, 1)
    assert answer.code == 400
    assert "must specify the START flag" in answer.json()["error"]


# Faults, last of all: each mends what it broke


@contextmanager
def frozen(node):
    node.server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.server.process.send_signal(signal.SIGCONT)


class Load:
    """Clients that ask a model without a pause, and what became of each request."""

    def __init__(self, server, model, clients=4):
        self.answers, self.slowest = [], 0.0
        self._stop = threading.Event()
        self._server, self._model = server, model
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a request hangs"

    def _run(self, client):
        number = client * 1_000_000
        while not self._stop.is_set():
            number += 1
            began = time.monotonic()
            answer = v2(self._model, [float(number)], self._server, datatype="FP64")
            self.slowest = max(self.slowest, time.monotonic() - began)
            right = answer.code == 200 and outputs(answer)["x"] == [float(number)]
            self.answers.append("right" if right else f"{answer.code} {answer.body}")

    @property
    def wrong(self):
        return [answer for answer in self.answers if answer != "right"]


def test_a_node_that_freezes_costs_no_request(cluster):
    with Load(cluster.a, "twins") as load:
        time.sleep(0.5)
        with frozen(cluster.nodes["c"]):
            time.sleep(2.5)
            before = len(load.answers)
            time.sleep(0.5)
            assert len(load.answers) > before, "the other node answers nothing"
        time.sleep(1.0)
    assert load.wrong == []
    assert load.slowest < 2.5
    # What the frozen one answered later is dropped, and it is asked again.
    wait_for(lambda: "c" in {outputs(v2("twins", [1.0], cluster.a))["node"][0] for _ in range(10)})


def test_a_partition_costs_no_request_whether_it_is_told_or_not(cluster):
    pair = frozenset((cluster.name("a"), cluster.name("b")))
    for broken in (cluster.switch.cut, cluster.switch.swallowed):
        with Load(cluster.a, "twins") as load:
            time.sleep(0.3)
            broken.add(pair)
            time.sleep(2.0)
            broken.discard(pair)
            time.sleep(0.5)
        assert load.wrong == []
        assert load.slowest < 2.5
        wait_for(lambda: "b" in {outputs(v2("twins", [1.0], cluster.a))["node"][0] for _ in range(10)})


def test_requests_wait_for_a_replica_that_is_starting(cluster):
    without = {model: where for model, where in EVERYWHERE.items() if model != "where"}
    cluster.assign(without, starting={"where": ["1"]}, defaults=dict.fromkeys(EVERYWHERE, "1"))
    with ThreadPoolExecutor(5) as pool:
        held = [pool.submit(v2, "where", [float(number)], cluster.a) for number in range(5)]
        time.sleep(0.7)
        assert not any(each.done() for each in held)
        port = cluster.switch.ports[cluster.name("a")]
        assert port.reports[-1].held == {"where": {"1": 5}}
        cluster.assign(EVERYWHERE)
        assert [outputs(each.result(10))["x"] for each in held] == [[float(number)] for number in range(5)]


def test_a_model_that_fits_nowhere_says_what_is_missing(cluster):
    cluster.assign(
        EVERYWHERE, pending={"big": {"1": "it needs 1 GPU, and no node has one"}}, defaults={"big": "1"}
    )
    answer = v2("big", [1.0], cluster.a)
    assert answer.code == 503
    assert "it needs 1 GPU, and no node has one" in answer.json()["error"]
    cluster.assign(EVERYWHERE)


def test_without_its_actor_a_node_serves_on_what_it_has(cluster):
    port = cluster.switch.ports[cluster.name("a")]
    cluster.call(port.relay.close)
    time.sleep(0.2)
    assert outputs(v2("alone", [1.0], cluster.a))["node"] == ["a"]
    assert cluster.a.ask("GET", "/v2/health/ready").code == 200
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(v2, "where", [1.0], cluster.a)
        time.sleep(0.3)
        port.relay._closed = False
        cluster.call(port.relay.start)
        assert outputs(held.result(10))["node"] == ["b"]


def test_a_node_that_is_killed_costs_no_request_and_is_asked_again_when_it_is_back(cluster):
    node = cluster.nodes["c"]
    began = outputs(step(cluster.a, 7, 1, sequence_start=True))["total"] == [1]
    assert began
    sequences = [name for name in range(100, 130) if outputs(step(cluster.a, name, 1, sequence_start=True))]
    with Load(cluster.a, "twins") as load:
        time.sleep(0.5)
        node.server.kill()
        time.sleep(1.5)
        cluster.assign({**EVERYWHERE, "twins": ["b"], "sums": ["b"]})
        time.sleep(0.3)
    assert load.wrong == []
    assert load.slowest < 2.5
    codes = {step(cluster.a, name, 1).code for name in sequences}
    assert codes == {200, 409}  # those of b go on, those of c are lost
    node.start(node.folder / "models")
    node.server.started()
    wait_for(lambda: cluster.switch.ports[node.name].relay.is_attached)
    cluster.assign(EVERYWHERE)
    cluster.c = node.server
    wait_for(lambda: "c" in {outputs(v2("twins", [1.0], cluster.a))["node"][0] for _ in range(10)})


def test_the_metrics_tell_of_the_way(cluster):
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.a.ports[2], timeout=30)) as connection:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    assert f'mooring_cluster_requests_sent_total{{node="{cluster.name("b")}"}}' in page
    assert "mooring_cluster_attached 1" in page
    assert "mooring_cluster_held_requests 0" in page

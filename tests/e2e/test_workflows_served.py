"""TorchServe's workflows at a real server: archives of the real kind, registered, asked and taken away again."""

import json
import os
import re
import signal
import subprocess
import threading
import zipfile

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc as triton
from e2e_kit import PATIENCE, SCRIPTS, Server, Wire, assert_gone, free_ports, pack, refused, request, until
from tritonclient.utils import InferenceServerException

from mooring.codecs.proto import torchserve_inference_pb2 as pb

# What models and functions do is in the request: a folder in which events are files.
HANDLER = '''
import json
import os
import pathlib
import time


def told(data):
    body = data[0].get("body")
    return json.loads(body) if isinstance(body, (bytes, bytearray)) else body


def wait_for(place):
    while not place.exists():
        time.sleep(0.005)


def pre(data, context):
    if data is None:
        return None
    body = data[0].get("body") or data[0].get("data")
    return [f"pre({body})" if isinstance(body, str) else f"pre({bytes(body).decode()})"]


def post(data, context):
    if data is None:
        return None
    return [f"post({bytes(data[0]['body']).decode()})"]


def join(data, context):
    if data is None:
        return None
    return [json.dumps({name: bytes(value).decode() for name, value in sorted(data[0].items())})]


def split(data, context):
    if data is None:
        return None
    return [json.dumps(told(data))]


def meet(data, own, other):
    folder = pathlib.Path(told(data)["folder"])
    (folder / own).touch()
    wait_for(folder / other)
    return [f"{own} met {other}"]


def left(data, context):
    return None if data is None else meet(data, "left", "right")


def right(data, context):
    return None if data is None else meet(data, "right", "left")


def hold(data, context):
    """Says that it runs, and who runs it, and goes on when it is told to."""
    if data is None:
        return None
    folder = pathlib.Path(told(data)["folder"])
    number = len(list(folder.glob("held-*")))
    (folder / f"held-{number}").write_text(str(os.getpid()))
    wait_for(folder / "go-on")
    return [json.dumps(told(data))]


def flaky(data, context):
    """Fails as often as it is told to."""
    if data is None:
        return None
    asked = told(data)
    folder = pathlib.Path(asked["folder"])
    number = len(list(folder.glob("tried-*")))
    (folder / f"tried-{number}").touch()
    if number < asked["fails"]:
        raise ValueError(f"try {number} fails as it should")
    return [f"after {number}"]


def sleepy(data, context):
    """Stays away at its first call, and answers at the second."""
    if data is None:
        return None
    folder = pathlib.Path(told(data)["folder"])
    first = not (folder / "slept").exists()
    (folder / "slept").touch()
    if first:
        wait_for(folder / "go-on")
    return ["awake"]


def count(data, context):
    return data


again = count


def parts(data, context):
    return None if data is None else [f"fields {sorted(data[0])}"]
'''
MODEL = """
def handle(data, context):
    if data is None:
        return None
    return [f"{context.manifest['model']['modelName']}({bytes(row['body']).decode()})" for row in data]
"""
SEQUENCE = "models:\n  m1: {url: m1.mar, batch-size: 2}\ndag:\n  pre: [m1]\n  m1: [post]\n"
GRAPHS = {
    "wfseq": SEQUENCE,
    "diamond": "dag:\n  split: [left, right]\n  left: [join]\n  right: [join]\n",
    "leaves": "dag:\n  split: [left, right]\n",
    "starts": "dag:\n  pre: [join]\n  parts: [join]\n",
    "rows": "dag: {count: [], again: []}\n",
    "flaky": "models: {retry-attempts: 2}\ndag: {flaky: []}\n",
    "sleepy": "models: {timeout-ms: 200, retry-attempts: 1}\ndag: {sleepy: []}\n",
    "impatient": "models: {timeout-ms: 200, retry-attempts: 0}\ndag: {hold: [post]}\n",
    "holding": "models: {retry-attempts: 1}\ndag: {hold: [post]}\n",
    "once": "models: {retry-attempts: 0}\ndag: {hold: [post]}\n",
    "siblings": "models: {retry-attempts: 0}\ndag:\n  split: [flaky, hold]\n  flaky: [join]\n  hold: [join]\n",
    "nosuch": "dag: {nothing_of_that_name: []}\n",
    "nomodel": "models: {m1: {url: gone.mar}}\ndag: {m1: []}\n",
    "cyclic": "dag: {pre: [post], post: [pre]}\n",
    "halfway": "models: {m1: {url: m1.mar}}\ndag: {pre: [m1], m1: [nothing_of_that_name]}\n",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflows")
    (folder / "functions.py").write_text(HANDLER)
    (folder / "model.py").write_text(MODEL)
    models = folder / "store"
    models.mkdir()
    pack(models, "m1", str(folder / "model.py"))
    for name, spec in GRAPHS.items():
        (folder / "spec.yaml").write_text(spec)
        manifest = {"workflow": {"workflowName": name, "specFile": "spec.yaml", "handler": "functions.py"}}
        with zipfile.ZipFile(models / f"{name}.war", "w") as war:
            war.write(folder / "spec.yaml", "spec.yaml")
            war.write(folder / "functions.py", "functions.py")
            war.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
    return models


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "scratch").mkdir()
    (port,) = free_ports(1)
    places = ("--model-store", store, "--temporary-folder", folder / "scratch")
    server = Server(folder, *places, f"--grpc-address=127.0.0.1:{port}")
    server.grpc = f"127.0.0.1:{port}"
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        # Workers that are killed, and a handler without a function, are in the log with their tracebacks.
        told = (" worker failed ", " model says ")
        faults = [line for line in server.faults() if not any(each in line for each in told)]
        assert not faults, faults
    finally:
        server.kill()


@pytest.fixture
def workflows(server):
    """The URL of the workflows; whatever is registered at the end of a test goes, and leaves nothing behind."""
    url = f"http://127.0.0.1:{server.ports[1]}/workflows"
    yield url
    for each in requests.get(url, timeout=PATIENCE).json()["workflows"]:
        gone = requests.delete(f"{url}/{each['workflowName']}", timeout=PATIENCE)
        assert gone.json() == {"status": f'Workflow "{each["workflowName"]}" unregistered'}
    assert left_behind(server) == ([], [])


def left_behind(server):
    """Models and unpacked archives of a server that should have none."""
    archives = (server.folder / "scratch").glob("mooring-*/archives/*")
    return server.ask("GET", "/v2/models").json()["models"], list(archives)


def register(workflows, name, **more):
    answer = requests.post(workflows, params={"url": f"{name}.war"} | more, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    return answer.json()["status"]


def ask(server, name, body, *lines):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.ask("POST", f"/wfpredict/{name}", body, *lines)


def test_a_workflow_tells_where_the_time_went_node_by_node(server, workflows):
    register(workflows, "wfseq")
    answer = ask(server, "wfseq", b"x", "server-timing: 1")
    told = re.findall(r"([^ ,;]+);dur=", answer.headers["server-timing"])
    nodes = {name.partition(".")[0] for name in told} - {"total"}
    assert {f"{node}.model" for node in nodes} <= {*told}
    assert (len(nodes), told[-1]) == (3, "total")
    assert "server-timing" not in ask(server, "wfseq", b"x").headers


def test_a_sequence_of_a_function_a_model_and_a_function_answers_as_torchserve_does(server, workflows):
    said = register(workflows, "wfseq")
    assert said == "Workflow wfseq has been registered and scaled successfully."
    for lines in ([], ["Content-Type: text/plain"]):
        answer = ask(server, "wfseq", b"x", *lines)
        assert (answer.status, answer.body) == ("200 OK", b"post(wfseq__m1(pre(x)))")
        assert answer.headers["content-type"] == "application/json"
    assert server.ask("GET", "/wfpredict/wfseq", b"y").body == b"post(wfseq__m1(pre(y)))"
    form = requests.post(f"{server.url}/wfpredict/wfseq", data={"data": "z"}, timeout=PATIENCE)
    assert form.text == "post(wfseq__m1(pre(z)))"


def test_what_torchserve_says_of_workflows_is_said_here(server, workflows):
    register(workflows, "wfseq")
    listed = [{"workflowName": "wfseq", "workflowUrl": "wfseq.war"}]
    assert requests.get(workflows, timeout=PATIENCE).json() == {"workflows": listed}
    page = requests.get(workflows, params={"limit": 1}, timeout=PATIENCE).text
    assert json.loads(page) == {"nextPageToken": "1", "workflows": listed}
    assert page.index("nextPageToken") < page.index("workflows")
    described = {
        "workflowName": "wfseq",
        "workflowUrl": "wfseq.war",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 50,
        "workflowDag": "{pre=[m1], m1=[post]}",
    }
    assert requests.get(f"{workflows}/wfseq", timeout=PATIENCE).json() == [described]
    models = requests.get(workflows.replace("workflows", "models"), timeout=PATIENCE).json()
    assert models == {"models": [{"modelName": "wfseq__m1", "modelUrl": "m1.mar"}]}
    (model,) = requests.get(workflows.replace("workflows", "models/wfseq__m1"), timeout=PATIENCE).json()
    assert (model["batchSize"], model["maxBatchDelay"], len(model["workers"])) == (2, 50, 1)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind", "message"),
    [
        ("GET", "/gone", "404 Not Found", "WorkflowNotFoundException", "Workflow not found: gone"),
        ("DELETE", "/gone", "404 Not Found", "WorkflowNotFoundException", "Workflow not found: gone"),
        ("POST", "", "400 Bad Request", "BadRequestException", "Parameter url is required."),
        (
            "POST", "?url=nope.war", "404 Not Found", "WorkflowNotFoundException",
            "Workflow not found in workflow store: nope.war",
        ),
        (
            "POST", "?url=../m1.mar", "404 Not Found", "WorkflowNotFoundException",
            "Workflow not found in workflow store: ../m1.mar",
        ),
        (
            "POST", "?url=http://127.0.0.1/w.war", "404 Not Found", "ModelNotFoundException",
            "Given URL http://127.0.0.1/w.war does not match any allowed URL(s)",
        ),
        (
            "POST", "?url=m1.mar", "400 Bad Request", "InvalidWorkflowException",
            "'m1.mar' is not a workflow archive: it has no WAR-INF/MANIFEST.json",
        ),
        (
            "POST", "?url=cyclic.war", "400 Bad Request", "InvalidWorkflowException",
            "cyclic.war/spec.yaml: dag: pre -> post -> pre is a cycle",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_torchserves_words(
    server, workflows, method, path, status, kind, message
):
    answer = getattr(requests, method.lower())(f"{workflows}{path}", timeout=PATIENCE)
    triple = {"code": int(status[:3]), "type": kind, "message": message}
    assert answer.status_code == int(status[:3])
    assert answer.json() | triple == answer.json()


def test_other_methods_are_not_allowed_and_an_unknown_workflow_is_not_found(server, workflows):
    for path in ("", "/wfseq"):
        assert requests.put(f"{workflows}{path}", timeout=PATIENCE).status_code == 405
    answer = ask(server, "gone", b"x")
    assert answer == refused("404 Not Found", "WorkflowNotFoundException", "Workflow not found: gone")


def test_a_workflow_takes_the_name_it_is_given_in_a_json_body_and_only_once(server, workflows):
    body = {"url": "wfseq.war", "workflow_name": "other"}
    said = requests.post(workflows, json=body, timeout=PATIENCE).json()["status"]
    assert said == "Workflow other has been registered and scaled successfully."
    assert ask(server, "other", b"x").body == b"post(other__m1(pre(x)))"
    again = requests.post(workflows, json=body, timeout=PATIENCE)
    conflict = {
        "code": 409,
        "type": "ConflictStatusException",
        "message": "Workflow other is already registered.",
    }
    assert again.json() == conflict | {"requestId": again.headers["x-request-id"]}
    assert ask(server, "other", b"x").body == b"post(other__m1(pre(x)))"


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("nosuch", 500, "functions.py has no function 'nothing_of_that_name'"),
        ("halfway", 500, "functions.py has no function 'nothing_of_that_name'"),
        ("nomodel", 400, "nomodel.war/spec.yaml: models.m1.url = 'gone.mar'"),
    ],
)
def test_a_registration_that_fails_leaves_nothing_behind(server, workflows, name, status, reason):
    answer = requests.post(workflows, params={"url": f"{name}.war"}, timeout=PATIENCE)
    assert answer.status_code == status
    assert reason in answer.json()["message"]
    if status == 500:
        assert answer.json()["message"].startswith(f"Workflow {name} has failed to register. Failures: [")
    assert requests.get(workflows, timeout=PATIENCE).json() == {"workflows": []}


def test_nodes_of_one_level_run_at_the_same_time_and_are_joined_by_name(server, workflows, tmp_path):
    register(workflows, "diamond")  # each of the two waits for the other
    answer = ask(server, "diamond", {"folder": str(tmp_path)})
    assert answer.json() == {"left": "left met right", "right": "right met left"}


def test_several_leaves_are_an_object_of_texts(server, workflows, tmp_path):
    register(workflows, "leaves")
    answer = ask(server, "leaves", {"folder": str(tmp_path)})
    assert answer.json() == {"left": "left met right", "right": "right met left"}
    assert answer.headers["content-type"] == "application/json"


def test_every_node_that_nothing_comes_before_gets_the_request(server, workflows):
    register(workflows, "starts")
    big = b"x" * 300_000  # beyond what is copied
    for body in (b"x", big):
        joined = ask(server, "starts", body).json()
        assert joined == {"pre": f"pre({body.decode()})", "parts": "fields ['body']"}


def test_a_node_that_fails_is_asked_again_as_often_as_the_spec_says(server, workflows, tmp_path):
    register(workflows, "flaky")
    assert ask(server, "flaky", {"folder": str(tmp_path), "fails": 2}).body == b"after 2"
    other = tmp_path / "other"
    other.mkdir()
    failed = ask(server, "flaky", {"folder": str(other), "fails": 3})
    assert failed == refused("500 Internal Server Error", "InternalServerException", "Error executing flaky")
    assert len(list(other.iterdir())) == 3
    assert "try 2 fails as it should" in server.log


def test_a_node_that_takes_too_long_is_asked_again(server, workflows, tmp_path):
    # Of two workers one still sleeps when the other is asked.
    register(workflows, "sleepy")
    scaled = requests.put(
        workflows.replace("workflows", "models/sleepy__sleepy"),
        params={"min_worker": 2, "synchronous": "true"},
        timeout=PATIENCE,
    )
    assert scaled.status_code == 200
    try:
        assert ask(server, "sleepy", {"folder": str(tmp_path)}).body == b"awake"
    finally:
        (tmp_path / "go-on").touch()


def test_a_node_that_takes_too_long_without_another_try_has_failed(server, workflows, tmp_path):
    register(workflows, "impatient")
    try:
        answer = ask(server, "impatient", {"folder": str(tmp_path)})
        assert answer == refused(
            "500 Internal Server Error", "InternalServerException", "Error executing hold"
        )
    finally:
        (tmp_path / "go-on").touch()


def test_a_worker_that_is_killed_in_a_node_costs_a_try_and_no_more(server, workflows, tmp_path):
    register(workflows, "holding")
    with Wire(server.port) as wire:
        wire.send(request("POST", "/wfpredict/holding", json.dumps({"folder": str(tmp_path)}).encode()))
        kill_holder(tmp_path, "held-0")
        until((tmp_path / "held-1").exists)  # on another worker
        (tmp_path / "go-on").touch()
        assert wire.answer().code == 200


def test_a_worker_that_is_killed_in_a_node_of_one_try_fails_it(server, workflows, tmp_path):
    register(workflows, "once")
    with Wire(server.port) as wire:
        wire.send(request("POST", "/wfpredict/once", json.dumps({"folder": str(tmp_path)}).encode()))
        kill_holder(tmp_path, "held-0")
        answer = wire.answer()
    assert (answer.code, answer.json()["message"]) == (500, "Error executing hold")
    assert not (tmp_path / "held-1").exists()


def kill_holder(folder, name):
    until(lambda: (folder / name).exists() and (folder / name).read_text())
    os.kill(int((folder / name).read_text()), signal.SIGKILL)


def test_a_node_that_fails_answers_at_once_and_its_siblings_are_withdrawn(server, workflows, tmp_path):
    register(workflows, "siblings")
    answer = ask(server, "siblings", {"folder": str(tmp_path), "fails": 9})
    assert answer.json()["message"] == "Error executing flaky"
    (tmp_path / "go-on").touch()  # one that had begun ends by itself


def test_a_client_that_goes_away_takes_its_nodes_with_it(server, workflows, tmp_path):
    register(workflows, "holding")
    body = json.dumps({"folder": str(tmp_path)}).encode()
    queue = workflows.replace("workflows", "models/holding__hold")

    def waiting():
        return requests.get(queue, timeout=PATIENCE).json()[0]["jobQueueStatus"]["pendingRequests"]

    with Wire(server.port) as first:
        first.send(request("POST", "/wfpredict/holding", body))
        until((tmp_path / "held-0").exists)
        with Wire(server.port) as second:
            second.send(request("POST", "/wfpredict/holding", body))
            until(lambda: waiting() == 1)
        until(lambda: waiting() == 0)
        (tmp_path / "go-on").touch()
        assert first.answer().code == 200
    assert not (tmp_path / "held-1").exists()


def test_unregistering_lets_what_was_asked_be_answered(server, workflows, tmp_path):
    register(workflows, "holding")
    answers = []
    asked = threading.Thread(
        target=lambda: answers.append(ask(server, "holding", {"folder": str(tmp_path)}).code)
    )
    asked.start()
    until((tmp_path / "held-0").exists)
    gone = []
    removing = threading.Thread(
        target=lambda: gone.append(requests.delete(f"{workflows}/holding", timeout=PATIENCE).status_code)
    )
    removing.start()
    until(lambda: requests.get(f"{workflows}/holding", timeout=PATIENCE).status_code == 404)
    assert ask(server, "holding", b"{}").code == 404
    assert (gone, answers) == ([], [])
    (tmp_path / "go-on").touch()
    asked.join(PATIENCE)
    removing.join(PATIENCE)
    assert (gone, answers) == ([200], [200])


def test_unregistering_under_load_fails_no_request_that_was_accepted(server, workflows):
    register(workflows, "wfseq")
    answers = []

    def keep_asking():
        with requests.Session() as session:
            while not answers or answers[-1][0] == 200:
                answer = session.post(f"{server.url}/wfpredict/wfseq", b"x", timeout=PATIENCE)
                answers.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 50)
    assert requests.delete(f"{workflows}/wfseq", timeout=PATIENCE).status_code == 200
    for thread in threads:
        thread.join(PATIENCE)
    answered = {text for code, text in answers if code == 200}
    assert answered == {"post(wfseq__m1(pre(x)))"}
    assert {code for code, _ in answers} == {200, 404}


def test_a_workflow_is_reached_by_its_name_as_a_model_is(server, workflows):
    register(workflows, "wfseq")
    assert server.predict("wfseq", "x").body == b"post(wfseq__m1(pre(x)))"
    tensor = {"name": "body", "datatype": "BYTES", "shape": [1], "data": ["x"]}
    asked = json.dumps({"id": "7", "inputs": [tensor]}).encode()
    answer = server.ask("POST", "/v2/models/wfseq/infer", asked).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "wfseq", "1.0")
    assert answer["outputs"][0]["data"] == ["post(wfseq__m1(pre(x)))"]
    assert server.ask("GET", "/v2/models/wfseq/ready").code == 200


def test_a_workflow_is_reached_over_grpc_by_the_rpcs_of_every_protocol(server, workflows, tmp_path):
    register(workflows, "wfseq")
    register(workflows, "once")
    service = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
    with grpc.insecure_channel(server.grpc) as channel, triton.InferenceServerClient(server.grpc) as client:

        def asked(name, text):
            message = pb.PredictionsRequest(model_name=name, input={"data": text}).SerializeToString()
            answer = channel.unary_unary(f"{service}Predictions")(message, timeout=PATIENCE)
            (piece,) = channel.unary_stream(f"{service}StreamPredictions")(message, timeout=PATIENCE)
            assert piece == answer
            return pb.PredictionResponse.FromString(answer).prediction

        assert asked("wfseq", b"x") == b"post(wfseq__m1(pre(x)))"
        tensor = triton.InferInput("body", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"y"], object))
        answer = client.infer("wfseq", [tensor], request_id="7")
        (output,) = answer.get_response().outputs
        assert answer.as_numpy(output.name).tolist() == [b"post(wfseq__m1(pre(y)))"]
        assert (answer.get_response().id, answer.get_response().model_name) == ("7", "wfseq")
        assert client.is_model_ready("wfseq")
        assert client.get_model_metadata("wfseq").platform == "workflow"

        with pytest.raises(grpc.RpcError) as failed:  # its first node reads JSON
            asked("once", b"no json")
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        assert (
            failed.value.details() == "Error executing hold\norg.pytorch.serve.http.InternalServerException"
        )
        with pytest.raises(InferenceServerException, match="Error executing hold") as refused:
            client.infer("once", [tensor])
        assert refused.value.status() == "StatusCode.INTERNAL"


def test_every_instance_of_kserves_v1_goes_through_the_graph(server, workflows):
    register(workflows, "rows")
    asked = json.dumps({"instances": [1, "x"]}).encode()
    answer = server.ask("POST", "/v1/models/rows:predict", asked)
    assert answer.json() == {"predictions": [{"count": 1, "again": 1}, {"count": "x", "again": "x"}]}


def test_an_archive_of_mooring_archive_is_registered_and_asked(server, workflows, store):
    (store.parent / "made.yaml").write_text(GRAPHS["wfseq"])
    command = [
        SCRIPTS / "mooring",
        "archive",
        "--workflow",
        "--workflow-name",
        "made",
        "--spec-file",
        "made.yaml",
    ]
    more = ["--handler", "functions.py", "--extra-files", "model.py", "--export-path", "store"]
    made = subprocess.run(
        [*command, *more], cwd=store.parent, capture_output=True, timeout=PATIENCE, check=False
    )
    assert made.returncode == 0, made.stderr.decode()
    register(workflows, "made")
    assert ask(server, "made", b"x").body == b"post(made__m1(pre(x)))"


def test_a_model_that_somebody_takes_out_of_a_workflow_is_a_node_that_fails(server, workflows):
    register(workflows, "wfseq")
    for node in ("pre", "m1"):
        gone = requests.delete(workflows.replace("workflows", f"models/wfseq__{node}"), timeout=PATIENCE)
        assert gone.status_code == 200
        answer = ask(server, "wfseq", b"x")
        assert (answer.code, answer.json()["message"]) == (500, "Error executing pre")
    register(workflows, "wfseq", workflow_name="whole")  # its files are its own
    assert ask(server, "whole", b"x").code == 200


def test_the_workers_of_a_workflow_end_with_it(server, workflows):
    register(workflows, "wfseq")
    pids = [pid for node in ("pre", "m1", "post") for pid in server.workers(f"wfseq__{node}")]
    workers = [psutil.Process(pid) for pid in pids]
    assert len(workers) == 3
    assert requests.delete(f"{workflows}/wfseq", timeout=PATIENCE).status_code == 200
    assert_gone(workers)


def test_of_two_registrations_at_once_one_wins(server, workflows):
    answers = []

    def add():
        answer = requests.post(workflows, params={"url": "wfseq.war"}, timeout=PATIENCE)
        answers.append(answer.status_code)

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(answers) == [200, 409, 409]
    assert ask(server, "wfseq", b"x").body == b"post(wfseq__m1(pre(x)))"


def test_tokens_guard_workflows_as_they_guard_models_and_the_model_api_does_not(store, tmp_path):
    for kind in ("management", "inference"):
        (tmp_path / kind).write_text(f"{kind}-token")
    tokens = [f"--{kind}-token-file={tmp_path / kind}" for kind in ("management", "inference")]
    server = Server(
        tmp_path, "--model-store", tmp_path, "--workflow-store", store, "--no-enable-model-api", *tokens
    )
    (tmp_path / "m1.mar").write_bytes((store / "m1.mar").read_bytes())
    try:
        server.started()
        url = f"http://127.0.0.1:{server.ports[1]}/workflows"
        inference, management = (
            {"Authorization": f"Bearer {kind}-token"} for kind in ("inference", "management")
        )
        for headers, status in ((None, 401), (inference, 401), (management, 200)):
            answer = requests.post(url, params={"url": "wfseq.war"}, headers=headers, timeout=PATIENCE)
            assert answer.status_code == status, answer.text
        place = f"{server.url}/wfpredict/wfseq"
        for headers, status in ((None, 401), (inference, 200), (management, 200)):
            assert requests.post(place, b"x", headers=headers, timeout=PATIENCE).status_code == status
        for headers, status in ((inference, 401), (management, 200)):
            assert requests.delete(f"{url}/wfseq", headers=headers, timeout=PATIENCE).status_code == status
        assert server.stop() == 0
    finally:
        server.kill()

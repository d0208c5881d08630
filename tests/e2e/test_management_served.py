"""TorchServe's management API at a real server: what an operator's scripts do, while clients go on asking."""

import json
import subprocess
import threading
import time

import pytest
import requests
from e2e_kit import PATIENCE, Server, pack, until

HANDLER = """
import time


def handle(data, context):
    if data is None:
        return None
    time.sleep(0.02)
    return ["{answer} " + context.manifest["model"]["modelVersion"]] * len(data)
"""
DESCRIBING = """
from ts.torch_handler.base_handler import BaseHandler


class Telling(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        if self._is_describe():
            self.context = context
        return super().handle(data, context)

    def describe_handle(self):
        return {"inputs": ["digit"], "classes": 10}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("managed")
    sources = folder / "sources"
    sources.mkdir()
    models = folder / "store"
    models.mkdir()
    (sources / "talker.py").write_text(HANDLER.format(answer="talker"))
    (sources / "broken.py").write_text("import a_module_that_is_not_there\n")
    (sources / "telling.py").write_text(DESCRIBING)
    for version in ("1.0", "2.0"):
        pack(models, "talker", str(sources / "talker.py"), "--version", version, "--force")
        (models / "talker.mar").rename(models / f"talker-{version}.mar")
    pack(models, "broken", str(sources / "broken.py"))
    pack(models, "telling", str(sources / "telling.py"))
    pack(sources, "linked", str(sources / "talker.py"))
    (models / "linked.mar").symlink_to(sources / "linked.mar")  # as DVC and Hugging Face's cache make them
    return models


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("management"), "--model-store", store)
    try:
        yield server.started()
        assert server.stop() == 0, server.log
        # That a model cannot be loaded is in the log with its traceback, as it should be.
        faults = [line for line in server.faults() if " worker failed " not in line]
        assert not faults, faults
    finally:
        server.kill()


@pytest.fixture
def models(server):
    """The URL of the models; whatever is registered at the end of a test goes."""
    url = f"http://127.0.0.1:{server.ports[1]}/models"
    yield url
    for each in requests.get(url, timeout=PATIENCE).json()["models"]:
        versions = requests.get(f"{url}/{each['modelName']}/all", timeout=PATIENCE).json()
        for version in sorted(versions, key=lambda version: version["defaultVersion"]):
            path = f"{url}/{each['modelName']}/{version['modelVersion']}"
            assert requests.delete(path, timeout=PATIENCE).status_code == 200


def curl(*arguments):
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments],
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    body, _, code = done.stdout.rpartition("\n")
    document = json.loads(body)
    if int(code) >= 400:
        assert document.pop("requestId")  # beside TorchServe's own keys
    return int(code), document


def status(text):
    return {"status": text}


def predict(server, path="talker"):
    return requests.post(f"{server.url}/predictions/{path}", data=b"x", timeout=PATIENCE)


def test_an_operator_goes_through_torchserves_documentation_with_curl(server, models):
    assert curl("-X", "POST", f"{models}?url=talker-1.0.mar") == (
        200,
        status('Model "talker" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for '
               "the model."),
    )  # fmt: skip
    assert predict(server).status_code == 503
    assert server.ask("GET", "/ping").code == 200
    assert server.ask("GET", "/v2/health/ready").code == 200
    assert curl("-X", "PUT", f"{models}/talker?min_worker=2&synchronous=true") == (
        200,
        status("Workers scaled to 2 for model: talker"),
    )
    assert len(server.workers("talker")) == 2
    assert predict(server).text == "talker 1.0"
    assert curl("-X", "POST", f"{models}?url=talker-1.0.mar") == (
        409,
        {
            "code": 409, "type": "ConflictStatusException",
            "message": "Model version 1.0 is already registered for model talker",
        },
    )  # fmt: skip
    assert curl("-X", "POST", f"{models}?url=talker-2.0.mar&initial_workers=1") == (
        200,
        status('Model "talker" Version: 2.0 registered with 1 initial workers'),
    )
    assert [predict(server, path).text for path in ("talker", "talker/2.0")] == ["talker 1.0", "talker 2.0"]
    assert curl("-X", "DELETE", f"{models}/talker")[0] == 403
    assert curl("-X", "PUT", f"{models}/talker/2.0/set-default") == (
        200,
        status('Default version successfully updated for model "talker" to "2.0"'),
    )
    assert predict(server).text == "talker 2.0"
    assert curl("-X", "PUT", f"{models}/talker/7.0/set-default")[1]["message"] == (
        "Model version 7.0 does not exist for model talker"
    )
    assert curl("-X", "DELETE", f"{models}/talker/1.0") == (200, status('Model "talker" unregistered'))
    assert curl("-X", "DELETE", f"{models}/talker") == (200, status('Model "talker" unregistered'))
    assert predict(server).status_code == 404


def test_workers_come_and_go_under_load_and_no_request_fails(server, models):
    assert (
        requests.post(f"{models}?url=talker-1.0.mar&initial_workers=1", timeout=PATIENCE).status_code == 200
    )
    answers, stop = [], threading.Event()

    def ask():
        with requests.Session() as session:
            while not stop.is_set():
                reply = session.post(f"{server.url}/predictions/talker", data=b"x", timeout=PATIENCE)
                answers.append((reply.status_code, reply.text))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        for workers in (3, 1, 2, 1):
            reply = requests.put(f"{models}/talker?min_worker={workers}&synchronous=true", timeout=PATIENCE)
            assert reply.json() == status(f"Workers scaled to {workers} for model: talker")
            assert len(server.workers("talker")) == workers
            time.sleep(0.2)
        assert requests.put(f"{models}/talker?min_worker=2", timeout=PATIENCE).status_code == 202
        until(lambda: len(server.workers("talker")) == 2)
    finally:
        stop.set()
        for asker in askers:
            asker.join()
    assert set(answers) == {(200, "talker 1.0")}
    assert len(answers) > 20


def test_scaling_to_none_answers_what_was_accepted(server, models):
    requests.post(f"{models}?url=talker-1.0.mar&initial_workers=1", timeout=PATIENCE)
    codes = []
    askers = [threading.Thread(target=lambda: codes.append(predict(server).status_code)) for _ in range(8)]
    for asker in askers:
        asker.start()
    time.sleep(0.1)
    reply = requests.put(f"{models}/talker?min_worker=0&synchronous=true", timeout=PATIENCE)
    for asker in askers:
        asker.join()
    assert reply.json() == status("Workers scaled to 0 for model: talker")
    assert codes == [200] * 8
    assert predict(server).status_code == 503
    assert server.ask("GET", "/ping").code == 200


@pytest.mark.parametrize("wait", ["true", "false"])
def test_a_registration_that_fails_leaves_nothing_behind(server, models, wait):
    asked = f"{models}?url=broken.mar&initial_workers=1&synchronous={wait}"
    for _ in range(2):  # a retry is no conflict
        reply = requests.post(asked, timeout=PATIENCE)
        if wait == "true":
            assert (reply.status_code, reply.json()["message"]) == (
                500, "Failed to start workers for model broken version: 1.0"
            )  # fmt: skip
            assert "a_module_that_is_not_there" in reply.json()["error"]
        else:
            assert (reply.status_code, reply.json()) == (202, status("Processing worker updates..."))
            until(lambda: requests.get(f"{models}/broken", timeout=PATIENCE).status_code == 404)
        assert requests.get(models, timeout=PATIENCE).json()["models"] == []
    assert server.ask("GET", "/ping").code == 200
    assert "a_module_that_is_not_there" in server.log


def test_a_scale_that_fails_changes_nothing(server, models):
    assert requests.post(f"{models}?url=broken.mar", timeout=PATIENCE).status_code == 200
    reply = requests.put(f"{models}/broken?min_worker=2&synchronous=true", timeout=PATIENCE)
    assert reply.json()["message"] == "Failed to start workers for model broken version: 1.0"
    (described,) = requests.get(f"{models}/broken", timeout=PATIENCE).json()
    assert (described["minWorkers"], described["workers"]) == (0, [])
    assert "a_module_that_is_not_there" in described["reason"]


def test_an_archive_that_is_a_link_in_the_store_is_registered_as_any_other(server, models):
    assert requests.post(f"{models}?url=linked.mar&initial_workers=1", timeout=PATIENCE).status_code == 200
    until(lambda: predict(server, "linked").status_code == 200)
    (described,) = requests.get(f"{models}/linked", timeout=PATIENCE).json()
    assert described["modelUrl"] == "linked.mar"


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("", 404, "empty url"),
        ("none.mar", 404, "Model not found at: none.mar"),
        ("../sources/talker.py", 404, "Relative path is not allowed in url: ../sources/talker.py"),
        ("/etc/passwd", 404, "Relative path is not allowed in url: /etc/passwd"),
        ("file:///etc/passwd", 404, "Given URL file:///etc/passwd does not match any allowed URL(s)"),
        (
            "http://127.0.0.1:1/m.mar",
            404,
            "Given URL http://127.0.0.1:1/m.mar does not match any allowed URL(s)",
        ),
        ("talker-1.0.mar&runtime=python4", 400, "Invalid RuntimeType value: python4"),
    ],
)
def test_models_come_from_the_store_and_from_nowhere_else(models, url, code, message):
    reply = requests.post(f"{models}?url={url}", timeout=PATIENCE)
    assert (reply.status_code, reply.json()["message"]) == (code, message)
    assert requests.get(models, timeout=PATIENCE).json()["models"] == []


def test_what_the_registration_says_counts(server, models):
    body = {
        "url": "talker-1.0.mar", "model_name": "renamed", "batch_size": 4, "max_batch_delay": 7, "initial_workers": 1,
        "response_timeout": 33,
    }  # fmt: skip
    assert requests.post(models, json=body, timeout=PATIENCE).status_code == 200
    (described,) = requests.get(f"{models}/renamed", timeout=PATIENCE).json()
    found = [described[key] for key in ("batchSize", "maxBatchDelay", "minWorkers", "responseTimeout")]
    assert found == [4, 7, 1, 33]
    assert predict(server, "renamed").text == "talker 1.0"


def test_the_handler_describes_its_model(models):
    requests.post(f"{models}?url=telling.mar&initial_workers=1", timeout=PATIENCE)
    (described,) = requests.get(f"{models}/telling?customized=true", timeout=PATIENCE).json()
    assert described["customizedMetadata"] == {"inputs": ["digit"], "classes": 10}

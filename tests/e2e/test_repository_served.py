"""A repository at a real server, as its owner means it: versions, what is missing, what is a link, over every protocol."""

import json
import shutil
import threading

import pytest
import requests
import tritonclient.grpc
from e2e_kit import PATIENCE, Server, free_ports, until

SAYS = "def infer(inputs):\n    return {{'y': [{number}]}}\n"
BODY = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}]}


@pytest.fixture
def serve(tmp_path):
    """Starts a server of the repository ``models``."""
    servers = []
    (tmp_path / "models").mkdir()

    def serve(*flags, ping=200):
        (port,) = free_ports(1)
        authority = f"127.0.0.1:{port}"
        server = Server(
            tmp_path, "--model-repository", tmp_path / "models", f"--grpc-address={authority}", *flags
        )
        server.grpc_authority = authority
        servers.append(server)
        return server.started(ping=ping)

    try:
        yield serve
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "models"


def write(repository, name, *versions, config=None):
    for version in versions:
        folder = repository / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.py").write_text(SAYS.format(number=version))
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)


def answered(server, name, version=""):
    path = f"versions/{version}/infer" if version else "infer"
    done = requests.post(f"{server.url}/v2/models/{name}/{path}", json=BODY, timeout=PATIENCE)
    return done.json()["outputs"][0]["data"][0] if done.status_code == 200 else done.status_code


def index(server):
    done = requests.post(f"{server.url}/v2/repository/index", timeout=PATIENCE).json()
    return {(each["name"], each.get("version", "")): (each["state"], each.get("reason", "")) for each in done}


def code(server, path):
    return requests.get(f"{server.url}{path}", timeout=PATIENCE).status_code


def over_every_protocol(server, name):
    """What a model that is asked without a version answers, by protocol."""
    grpc = tritonclient.grpc.InferenceServerClient(server.grpc_authority)
    tensor = tritonclient.grpc.InferInput("x", [1], "INT64")
    tensor._raw_content = bytes(8)
    found = {
        "v2": answered(server, name),
        "gRPC": int(grpc.infer(name, [tensor]).as_numpy("y")[0]),
        "v1": requests.post(
            f"{server.url}/v1/models/{name}:predict", json={"instances": [[0]]}, timeout=PATIENCE
        ).json()["predictions"][0],
        "torchserve": requests.post(
            f"{server.url}/predictions/{name}", json={"x": [0]}, timeout=PATIENCE
        ).json(),
    }
    grpc.close()
    return {protocol: json.dumps(answer) for protocol, answer in found.items()}


def test_who_names_no_version_is_answered_by_the_highest_one_over_every_protocol(serve, repository):
    write(repository, "plain", 1, 2, 10)
    write(
        repository,
        "specific",
        1,
        2,
        10,
        config='backend: "python" version_policy { specific { versions: [ 1, 2 ] } }',
    )
    (repository / "every").mkdir()
    write(repository, "every", 1, 9, 10)
    (repository / "every" / "config.toml").touch()
    server = serve()
    assert {key for key in index(server) if key[0] != "every"} == {
        ("plain", "10"), ("specific", "1"), ("specific", "2"),
    }  # fmt: skip
    assert [answered(server, "every", version) for version in (1, 9, 10)] == [1, 9, 10]
    for name, version in (("plain", 10), ("specific", 2), ("every", 10)):
        answers = over_every_protocol(server, name)
        assert all(str(version) in answer for answer in answers.values()), answers
    config = requests.get(f"{server.url}/v2/models/specific/config", timeout=PATIENCE).json()
    assert config["version_policy"] == {"specific": {"versions": [1, 2]}}
    management = f"http://127.0.0.1:{server.ports[1]}/models"
    (described,) = requests.get(f"{management}/every", timeout=PATIENCE).json()
    assert (described["modelVersion"], described["defaultVersion"]) == ("10", True)
    assert (described["defaultVersionRule"], described["versionPolicy"]) == (
        "the highest that is ready",
        "all",
    )
    assert requests.put(f"{management}/every/1/set-default", timeout=PATIENCE).status_code == 200
    assert answered(server, "every") == 1
    assert server.stop() == 0


def test_a_new_version_takes_over_from_one_whose_folder_goes_and_nobody_notices(serve, repository):
    write(repository, "m", 1)
    server = serve("--repository-monitoring")
    answers = []
    ended = threading.Event()

    def keep_asking():
        while not ended.is_set():
            answers.append(answered(server, "m"))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        write(repository, "m", 2)
        shutil.rmtree(repository / "m" / "1")
        until(lambda: set(index(server)) == {("m", "2")})
    finally:
        ended.set()
        asking.join(PATIENCE)
    assert answers == sorted(answers)
    assert set(answers) <= {1, 2}
    assert answered(server, "m") == 2
    shutil.rmtree(repository / "m" / "2")
    until(lambda: index(server).get(("m", ""), ("",))[0] == "UNAVAILABLE")
    assert answered(server, "m") == 404
    assert server.stop() == 0


def test_a_server_is_not_ready_while_a_model_that_it_was_started_with_is_missing(serve, repository):
    write(repository, "good", 1)
    write(repository, "typo", 1, config='backend: "python"\nmax_batchsize: 8\n')
    (repository / "is_dangling_link").symlink_to("/nowhere")
    server = serve(ping=500)
    assert [code(server, path) for path in ("/v2/health/live", "/v2/health/ready", "/ping")] == [
        200,
        503,
        500,
    ]
    found = index(server)
    assert found["good", "1"] == ("READY", "")
    assert found["typo", ""][0] == found["is_dangling_link", ""][0] == "UNAVAILABLE"
    assert "max_batchsize" in found["typo", ""][1]
    assert "leads nowhere" in found["is_dangling_link", ""][1]
    client = tritonclient.grpc.InferenceServerClient(server.grpc_authority)
    assert not client.is_server_ready()
    assert {(each.name, each.state, each.reason) for each in client.get_model_repository_index().models} == {
        (name, *state) for (name, _), state in found.items()
    }
    client.close()
    model = f"{server.url}/v2/models/typo"
    for asked in (
        requests.post(f"{model}/infer", json=BODY, timeout=PATIENCE),
        *(requests.get(f"{model}{path}", timeout=PATIENCE) for path in ("", "/ready", "/config", "/stats")),
    ):
        assert asked.status_code == 404
        assert "max_batchsize" in asked.json()["error"], asked.url
    assert server.log.count("model left out") == 2

    write(repository, "typo", 1, config='backend: "python"\nmax_batch_size: 8\n')
    load = f"{server.url}/v2/repository/models"
    assert requests.post(f"{load}/typo/load", timeout=PATIENCE).status_code == 200
    assert code(server, "/v2/health/ready") == 503
    assert requests.post(f"{load}/is_dangling_link/unload", timeout=PATIENCE).status_code == 200
    assert [code(server, path) for path in ("/v2/health/ready", "/ping")] == [200, 200]
    assert server.stop() == 0


def test_who_would_rather_serve_what_there_is_says_so(serve, repository):
    write(repository, "good", 1)
    write(repository, "typo", 1, config='backend: "python"\nmax_batchsize: 8\n')
    write(repository, "broken", 1)
    (repository / "broken" / "1" / "model.py").write_text("raise RuntimeError('no')")
    server = serve("--no-strict-readiness", ping=500)
    until(lambda: code(server, "/v2/health/ready") == 200)
    assert answered(server, "good") == 1
    assert index(server)["typo", ""][0] == "UNAVAILABLE"
    server.kill()

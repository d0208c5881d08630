"""``mooring serve --cluster`` on hosts with a real Ray: models on any node, asked at any node, while actors, raylets and the head die."""

import json
import sys
import urllib.error
import urllib.request

import pytest
from hosts import Network, until, why_no_ray_hosts

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_no_ray_hosts()), reason=why_no_ray_hosts() or "there can be hosts with Ray"),
    pytest.mark.xdist_group("ray"),
]

MODELS = """
def double(x: float) -> float:
    return 2 * x


def triple(x: float) -> float:
    return 3 * x
"""
SEER = """
import os


def infer(x: float) -> float:
    return float(os.environ["CUDA_VISIBLE_DEVICES"])
"""
GPUS = ["--num-gpus=2"]
MOORING = [sys.executable, "-m", "mooring"]
ASK = "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], method=sys.argv[2]), timeout=60).read().decode())"


class Cluster:
    """Two hosts with Ray, and the commands that are run on them."""

    def __init__(self, network):
        self.network = network
        self.one, self.two = network.hosts
        self.code = network.folder / "code" / "models.py"
        self.code.parent.mkdir()
        self.code.write_text(MODELS)

    def serve(self, *arguments, host=None, check=True):
        """Run ``mooring serve --cluster``; return its exit status and what it prints."""
        command = [*MOORING, "serve", "--cluster", self.network.ray_address, *arguments]
        done = (host or self.one).try_to_run(*command, timeout=120)
        assert not check or not done.returncode, done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def run(self, *arguments, host=None, check=True):
        """Run ``mooring cluster``; return what it prints."""
        name, *rest = arguments
        command = [*MOORING, "cluster", name, "--address", self.network.ray_address, *rest]
        done = (host or self.one).try_to_run(*command, timeout=120)
        assert not check or not done.returncode, done.stdout + done.stderr
        return done.stdout + done.stderr

    def make_model(self, name, placement):
        """A model's folder with such a ``[placement]``; it answers with the number of its GPU."""
        folder = self.network.folder / "code" / name
        (folder / "1").mkdir(parents=True)
        (folder / "config.toml").write_text(
            f'name = "{name}"\nplatform = "python"\n[placement]\n{placement}\n'
        )
        (folder / "1" / "model.py").write_text(SEER)
        return folder

    def view(self):
        return json.loads(self.run("status", "--json", check=False))

    def states(self):
        return [node["state"] for node in self.view()["nodes"]]

    def epoch(self):
        """The epoch of the controller; 0 while there is none that answers."""
        text = self.run("status", "--json", check=False)
        return json.loads(text)["epoch"] if text.startswith("{") else 0

    def node_of(self, host):
        """The name of the node on a host."""
        return next(node["node"] for node in self.view()["nodes"] if host.address in node["address"])

    def settle(self):
        """Wait until both nodes are ready, and every version too."""

        def is_settled():
            text = self.run("status", "--json", check=False)
            view = json.loads(text) if text.startswith("{") else {"nodes": []}
            ready = [node for node in view["nodes"] if node["state"] == "READY"]
            return len(ready) == 2 and all(each["state"] == "READY" for each in view["versions"])

        until(is_settled, within=40, what="a whole cluster")


def start_ray(network):
    """Start Ray on both hosts; the second one has GPUs, as far as Ray is told."""
    one, two = network.hosts
    one.start_ray()
    two.start_ray(head=one, options=GPUS)


def ask(host, model, x, *, version="", timeout=30.0):
    """Ask a model at a host; return what it answers."""
    path = f"models/{model}{f'/versions/{version}' if version else ''}/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [x]}]}
    url = f"http://{host.address}:8080/v2/{path}"
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(body).encode()), timeout=timeout
    ) as answer:
        return json.load(answer)["outputs"][0]["data"][0]


def answers(host, model, x, expected):
    """Whether a model answers rightly at a host."""
    try:
        return ask(host, model, x, timeout=10) == expected
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def manage(host, path, method="GET"):
    """Call the management of a host, from that host; return the answer."""
    return json.loads(host.run(sys.executable, "-c", ASK, f"http://127.0.0.1:8081/{path}", method))


def server_of(host):
    """The process of the node server of a host, the first of its server."""
    (pid,) = host.find("mooring serve --config")
    return pid


@pytest.fixture(scope="module")
def cluster():
    with Network(2) as network:
        start_ray(network)
        yield Cluster(network)


@pytest.fixture(scope="module")
def served(cluster):
    """The cluster with ``double`` on one of its nodes, and what the command printed."""
    cluster.printed = cluster.serve(f"{cluster.code}:double")[1]
    cluster.settle()
    return cluster


def test_a_model_on_one_node_is_asked_at_every_node(served):
    for host in served.network.hosts:
        assert f"http://{host.address}:8080" in served.printed
        assert ask(host, "double", 21.0) == 42.0
    (version,) = served.view()["versions"]
    assert len(version["replicas"]) == 1


def test_a_second_command_adds_a_model_and_says_that_settings_stay(served):
    text = served.serve(f"{served.code}:triple", "--job-queue-size", "7", host=served.two)[1]
    assert (
        "'mooring' runs already, and goes on with the settings that it was started with; different here: job_queue_size;"
        in text
    )
    assert [ask(host, "triple", 2.0) for host in served.network.hosts] == [6.0, 6.0]
    assert ask(served.one, "double", 1.0) == 2.0


def test_management_at_any_node_is_of_the_whole_cluster(served):
    for host in served.network.hosts:
        names = [each["modelName"] for each in manage(host, "models")["models"]]
        assert names == ["double", "triple"]
        (described,) = manage(host, "models/double")
        assert described["state"] == "READY"
    manage(served.two, "models/double?min_worker=2&synchronous=true", "PUT")
    (described,) = manage(served.one, "models/double")
    assert len(described["workers"]) == 2


def test_models_are_scaled_to_nodes_and_away_from_a_drained_one(served):
    assert served.run("scale", "double", "--replicas", "2", "--workers", "1") == "double is scaled\n"
    text = served.run("models", host=served.two)
    assert "2 of 2 (2-2)" in text
    node = served.node_of(served.one)
    assert served.run("drain", node) == f"{node} is drained\n"
    lines = {line.split()[0]: line.split()[1:4] for line in served.run("status").splitlines()}
    assert lines[node] == ["DRAINED", f"http://{served.one.address}:8080", "0"]
    assert [ask(host, "double", 4.0) for host in served.network.hosts] == [8.0, 8.0]
    served.run("drain", node, "--undo")
    served.settle()
    until(lambda: "2 of 2 (2-2)" in served.run("models"), within=20)


def test_a_model_with_a_gpu_goes_where_one_is_and_sees_that_one_alone(served):
    folder = served.make_model("seer", "num_gpus = 1\nnum_cpus = 1")
    served.serve(str(folder))
    (version,) = [each for each in served.view()["versions"] if each["model"] == "seer"]
    assert [each["node"] for each in version["replicas"]] == [served.node_of(served.two)]
    assert [ask(host, "seer", 0.0) for host in served.network.hosts] in ([0.0, 0.0], [1.0, 1.0])


def test_a_model_that_fits_nowhere_waits_and_says_what_is_missing(served):
    folder = served.make_model("huge", "num_gpus = 4")
    status, text = served.serve(str(folder), check=False)
    assert status == 3
    assert "huge 1 waits for room: needs 4 GPUs on one node" in text
    assert "PENDING" in served.run("models")
    assert ask(served.one, "double", 1.0) == 2.0
    served.two.run(sys.executable, "-c", ASK, "http://127.0.0.1:8081/models/huge", "DELETE")
    assert "huge" not in served.run("models")


def test_a_server_goes_on_without_its_actor_and_the_next_actor_adopts_it(served):
    servers = [server_of(host) for host in served.network.hosts]
    (actor,) = served.two.find("ray::NodeActor")
    served.two.kill(actor)
    assert ask(served.two, "double", 5.0) == 10.0
    until(lambda: served.two.find("ray::NodeActor"))
    until(lambda: answers(served.two, "triple", 1.0, 3.0) and answers(served.one, "triple", 1.0, 3.0))
    assert [server_of(host) for host in served.network.hosts] == servers


def test_a_controller_that_dies_comes_back_and_knows_everything(served):
    before = served.view()
    served.one.kill(*served.one.find("ray::ControllerActor"))
    assert [ask(host, "triple", 5.0) for host in served.network.hosts] == [15.0, 15.0]
    until(lambda: served.epoch() > before["epoch"], within=40)
    served.settle()
    assert [each["model"] for each in served.view()["versions"]] == [
        each["model"] for each in before["versions"]
    ]


def test_a_server_goes_on_without_its_raylet_and_is_adopted_when_that_is_started_again(served):
    server = server_of(served.two)
    served.two.stop_ray()
    assert ask(served.two, "double", 6.0) == 12.0
    assert ask(served.one, "double", 6.0) == 12.0
    served.two.start_ray(head=served.one, options=GPUS)
    served.settle()
    assert server_of(served.two) == server
    until(lambda: answers(served.two, "triple", 3.0, 9.0))


def test_servers_go_on_without_ray_and_a_command_brings_back_what_they_served(served):
    servers = [server_of(host) for host in served.network.hosts]
    for host in served.network.hosts:  # what was started again is found by its peers while there is a head
        until(lambda host=host: answers(host, "triple", 1.0, 3.0), within=30)
    served.one.kill_head()
    assert [ask(host, "triple", 7.0) for host in served.network.hosts] == [21.0, 21.0]
    for host in served.network.hosts:
        host.stop_ray()
    assert [ask(host, "double", 7.0) for host in served.network.hosts] == [14.0, 14.0]
    start_ray(served.network)
    assert "is up" in served.serve()[1]
    served.settle()
    assert [server_of(host) for host in served.network.hosts] == servers
    for host in served.network.hosts:
        until(lambda host=host: answers(host, "double", 1.0, 2.0) and answers(host, "triple", 1.0, 3.0))


def test_a_server_that_is_killed_is_started_again_with_its_models(served):
    server = server_of(served.two)
    served.two.kill(server)
    until(lambda: served.two.find("mooring serve --config") not in ([], [server]), within=20)
    until(lambda: answers(served.two, "double", 8.0, 16.0), within=30)


def test_a_node_with_other_messages_is_refused_by_name_of_its_version(served):
    other = served.network.add_host()
    patch = other.folder / "patch"
    patch.mkdir()
    # As if another version were installed there.
    (patch / "mooring_other.pth").write_text("")
    (patch / "sitecustomize.py").write_text("import mooring.cluster.records as r; r.PROTOCOL = 99\n")
    environment = served.network.environment(other) | {"PYTHONPATH": str(patch)}
    other.start_ray(head=served.one, env=environment)
    until(lambda: "REFUSED" in served.states(), within=30)
    shown = served.run("status", check=False)
    assert "this node has Mooring 0.1.0 (messages 99), the controller Mooring 0.1.0 (messages 1)" in shown
    assert ask(served.one, "double", 1.0) == 2.0


def test_stop_ends_all_servers_and_their_actors(served):
    assert served.run("stop", "--timeout", "10") == "mooring is stopped\n"
    for host in served.network.hosts:
        assert host.find("mooring serve --config") == []
    until(lambda: not any(host.find("ray::NodeActor") for host in served.network.hosts))
    text = served.run("status", check=False)
    assert "no Mooring called 'mooring' runs on this Ray cluster: mooring serve --cluster starts one" in text

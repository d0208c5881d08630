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
MOORING = [sys.executable, "-m", "mooring"]
ASK = "import sys, urllib.request as r; print(r.urlopen(r.Request(sys.argv[1], method=sys.argv[2]), timeout=60).read().decode())"


class Cluster:
    """Two hosts with Ray, and the commands that are run on them."""

    def __init__(self, network):
        self.network = network
        self.one, self.two = network.hosts
        self.code = network.folder / "models.py"
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

    def view(self):
        return json.loads(self.run("status", "--json", check=False))

    def states(self):
        return [node["state"] for node in self.view()["nodes"]]


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
        network.start_ray()
        yield Cluster(network)


@pytest.fixture(scope="module")
def served(cluster):
    status, text = cluster.serve(f"{cluster.code}:double")
    assert f"http://{cluster.two.address}:8080" in text
    until(lambda: cluster.states() == ["READY", "READY"], within=30)
    return cluster


def test_a_model_on_one_node_is_asked_at_every_node(served):
    assert [ask(host, "double", 21.0) for host in served.network.hosts] == [42.0, 42.0]
    (version,) = served.view()["versions"]
    assert len(version["replicas"]) == 1

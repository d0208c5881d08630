"""Ray's real autoscaler with its fake node provider: a burst starts nodes, idleness ends them, and no request fails.

``ray.cluster_utils.AutoscalingCluster`` stops every Ray of the machine when it starts, so the same is done here on a host of
its own. Its nodes are raylets with one address; each node server takes free ports.
"""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hosts import RAY_PORT, Network, until, why_no_ray_hosts

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_no_ray_hosts()), reason=why_no_ray_hosts() or "there can be hosts with Ray"),
    pytest.mark.xdist_group("ray"),
]

MOORING = [sys.executable, "-m", "mooring"]
SLEEPER = """
import time

def infer(seconds: float) -> str:
    time.sleep(seconds)
    return "done"
"""
CONFIG = """
queue_size = 1000
[workers]
min = 1
max = 1
[placement]
min_replicas = {least}
max_replicas = 3
num_cpus = 1
[scaling]
target_queue_ms = 200
window = 1.0
cool_down = 2.0
"""
MOST_NODES = 2  # beside the head


def autoscaler_config(address):
    """As ``AutoscalingCluster`` has it: one type of node, which has one CPU, and is ended after three seconds without use."""
    types = {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": MOST_NODES,
        },
    }
    provider = {
        "type": "fake_multinode",
        "gcs_address": f"{address}:{RAY_PORT}",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "use_node_id_as_ip": True,
        "foreground_node_launch": False,
        "worker_liveness_check": True,
        "worker_rpc_drain": True,
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake_multinode",
        "max_workers": MOST_NODES,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.05,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


class AutoscaledCluster:
    """A host with Ray's head and its autoscaler, which starts more raylets there."""

    def __init__(self, network):
        self.network, (self.host,) = network, network.hosts
        config = network.folder / "autoscaler.json"
        config.write_text(json.dumps(autoscaler_config(self.host.address)))
        fake = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        environment = network.environment
        network.environment = lambda host: environment(host) | fake
        self.host.start_ray(cpus=2, options=[f"--autoscaling-config={config}"])

    def declare(self, name, least):
        folder = self.network.folder / name
        (folder / "1").mkdir(parents=True)
        (folder / "config.toml").write_text(CONFIG.format(least=least))
        (folder / "1" / "model.py").write_text(SLEEPER)
        return folder

    def serve(self, *targets):
        flags = ["--port=0", "--management-address=127.0.0.1:0", "--host=0.0.0.0", "--cluster-idle-timeout=1"]
        return self.host.run(
            *MOORING,
            "serve",
            "--cluster",
            self.network.ray_address,
            "--insecure",
            *flags,
            *map(str, targets),
            timeout=120,
        )

    def view(self):
        command = ["cluster", "status", "--json", "--address", self.network.ray_address]
        return json.loads(self.host.try_to_run(*MOORING, *command, timeout=60).stdout)

    def ready(self, model):
        """How many replicas of a model are READY."""
        (version,) = (each for each in self.view()["versions"] if each["model"] == model)
        return sum(each["status"]["state"] == "READY" for each in version["replicas"])

    def raylets(self):
        return len(self.host.find("raylet/raylet"))

    def servers(self):
        return len(self.host.find("mooring serve --config"))


class Clients:
    """Ask a model at an address again and again. ``found`` counts what they got."""

    def __init__(self, url, model, seconds=0.1):
        self._url = f"{url}/v2/models/{model}/infer"
        tensor = {"name": "seconds", "datatype": "FP64", "shape": [1], "data": [seconds]}
        self._body = json.dumps({"inputs": [tensor]}).encode()
        self.over = threading.Event()
        self.found = Counter()

    def ask_on(self):
        while not self.over.is_set():
            self.found[self.ask()] += 1

    def ask(self):
        """One request; the status, or the error that there was in place of one."""
        try:
            asked = urllib.request.Request(self._url, self._body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read()[:200]}"
        except OSError as error:
            return repr(error)


@contextmanager
def asking(url, model, count):
    """So many clients that ask meanwhile."""
    clients = Clients(url, model)
    threads = [threading.Thread(target=clients.ask_on) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def cluster(long_run):
    if not long_run:
        pytest.skip("nodes are started and are idle until they end, which takes a minute: make long")
    with Network(1) as network:
        found = AutoscaledCluster(network)
        found.serve(found.declare("burst", 1), found.declare("rare", 0))
        yield found


def test_a_burst_starts_nodes_and_idleness_ends_them_and_no_request_fails(cluster):
    (node,) = cluster.view()["nodes"]
    assert cluster.raylets() == cluster.servers() == 1
    began = time.monotonic()
    with asking(node["address"], "burst", 8) as clients:
        until(lambda: cluster.raylets() == 1 + MOST_NODES, within=60, what="the second node")
        nodes = time.monotonic() - began
        until(
            lambda: cluster.ready("burst") == 3,
            within=60,
            every=0.5,
            what=f"three replicas: {cluster.view()}",
        )
        ready = time.monotonic() - began
        time.sleep(2.0)
    assert set(clients.found) == {200}
    ended = time.monotonic()
    until(lambda: cluster.raylets() == 1, within=90, every=0.5, what="the end of the nodes")
    assert Clients(node["address"], "burst").ask() == 200
    print(
        f"nodes {nodes:.1f} s, replicas {ready:.1f} s, ended {time.monotonic() - ended:.1f} s, {clients.found}"
    )


def test_without_a_replica_the_first_requests_are_held_where_they_come(cluster):
    (node, *_) = (each for each in cluster.view()["nodes"] if each["state"] == "READY")
    until(lambda: cluster.ready("rare") == 0, within=60, every=0.5, what="the end of the last replica")
    clients = Clients(node["address"], "rare")
    with ThreadPoolExecutor(4) as asked:
        assert list(asked.map(lambda _: clients.ask(), range(4))) == [200] * 4
    assert cluster.ready("rare") == 1

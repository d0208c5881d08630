"""A cluster on hosts with a real Ray: three network namespaces, each with a raylet and a node server.

``near`` is on every host, ``far`` on the second and the third: what is asked of it at the first goes to another host. The third
host's clock is a day ahead, in everything that is Python there.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from accounting import Load
from stage import Stage
from subjects import NotHere, archive

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

from hosts import Host, Network, until, why_no_ray_hosts

PORT = 8080
SKEW = 86_400
FAR = {"nodes": 2, "labels": {"far": "yes"}}
_SKEWED = f"""
import time
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + {SKEW}
time.time_ns = lambda: _time_ns() + {SKEW} * 10**9
"""
_OTHER_SOFTWARE = """
import mooring.cluster.records as records
records.PROTOCOL = 99
"""


class FaultNetwork(Network):
    """Hosts whose Python runs some lines of ours first."""

    def __init__(self, count: int) -> None:
        self.first_lines: dict[int, str] = {}
        super().__init__(count)

    def environment(self, host: Host) -> dict[str, str]:
        """As on other hosts, and with the lines for this one."""
        inherited = super().environment(host)
        lines = self.first_lines.get(host.number)
        if lines is None:
            return inherited
        folder = host.folder / "first"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(lines)
        return inherited | {"PYTHONPATH": str(folder)}


class RayCluster:
    """Three hosts that serve. Raises ``NotHere`` where there can be none."""

    def __init__(self, stack: ExitStack) -> None:
        if reason := why_no_ray_hosts():
            raise NotHere(reason)
        self.network = network = stack.enter_context(FaultNetwork(3))
        network.first_lines[3] = _SKEWED
        self.head, self.second, self.third = network.hosts
        for host in network.hosts:
            self.start_ray(host)
        store = network.folder / "store"
        store.mkdir()
        workers = {"minWorkers": 2, "maxWorkers": 2}
        archive(store, "near", {**workers, "placement": {"nodes": "all"}})
        archive(store, "far", {**workers, "placement": FAR})
        targets = [str(store / f"{name}.mar") for name in ("near", "far")]
        self.run(self.head, "serve", "--cluster", network.ray_address, *targets)
        for host in network.hosts:
            until(lambda host=host: self.pings(host), within=60, what=f"host {host.number}")

    def start_ray(self, host: Host, **more: str) -> None:
        """``ray start`` on a host, for the first time or again."""
        head = None if host is self.network.hosts[0] else self.network.hosts[0]
        labels = {"host": str(host.number)} | ({} if head is None else {"far": "yes"}) | more
        host.start_ray(head=head, cpus=2, labels=labels)

    def add_host_of_other_software(self) -> Host:
        """One more host, whose messages have another number."""
        self.network.first_lines[4] = _OTHER_SOFTWARE
        host = self.network.add_host(4)
        self.start_ray(host, far="no")
        return host

    def run(self, host: Host, *words: str) -> str:
        """Run ``mooring`` on a host, and return what it prints."""
        return host.run(sys.executable, "-m", "mooring", *words, timeout=180)

    def view(self) -> dict:
        """What ``mooring cluster status`` knows."""
        words = ("cluster", "status", "--json", "--address", self.network.ray_address)
        done = self.head.try_to_run(sys.executable, "-m", "mooring", *words, timeout=60)
        return json.loads(done.stdout)

    def states(self) -> dict[str, list[str]]:
        """The states of the nodes at each address, and of nodes that have none."""
        found: dict[str, list[str]] = {}
        for node in self.view()["nodes"]:
            found.setdefault(node["address"].partition("//")[2].partition(":")[0], []).append(node["state"])
        return found

    def await_ready(self, *hosts: Host) -> None:
        """Wait until these hosts are READY in the cluster's own view."""
        until(
            lambda: all("READY" in self.states().get(host.address, []) for host in hosts),
            within=60,
            every=0.5,
            what=f"the hosts ready, and not {self.view()['nodes']},",
        )

    def pings(self, host: Host) -> bool:
        """Whether both models answer at a host."""
        load = Load(PORT, "far", host=host.address, clients=0)
        other = Load(PORT, "near", host=host.address, clients=0)
        return all(each.answers() for each in (load, other))

    def server_of(self, host: Host) -> int:
        """The process id of the node server of a host."""
        (file,) = host.folder.glob("**/server.json")
        return int(json.loads(file.read_text())["pid"])

    def log_of(self, host: Host) -> str:
        """What the node server of a host has logged."""
        return "".join(file.read_text(errors="replace") for file in host.folder.glob("**/server.log"))

    @contextmanager
    def load(self, stage: Stage, host: Host, model: str = "far", **how) -> Iterator[Load]:
        """Clients of a host, in the account of this case."""
        load = Load(PORT, model, host=host.address, **how)
        try:
            with load:
                yield load
        finally:
            stage.account.add(load.account)

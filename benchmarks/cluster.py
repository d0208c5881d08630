"""A cluster on this machine: added latency of a remote replica, and throughput over hosts, beside Ray Serve in one run.

    make bench-cluster                          some ten minutes; needs root, for network namespaces as hosts
    make bench-cluster ARGS="--quick"
    make bench-cluster ARGS="--record 2026-01-31"     keep the tables as results/2026-01-31-cluster.md

Each cluster has hosts of its own, network namespaces with a real ``ray start`` in each. The clients are processes on the host
that is asked. Ray Serve runs as it comes, and once more with HAProxy and its throughput-optimized settings (Debian's
haproxy); its environment is made by ``peers/install.py ray_serve``. All clusters run at once and are asked by turns.

- *latency*: a model that returns how many bytes came, with one replica on the host that is asked and one on another host.
  One request at a time; what a remote replica adds is the difference of the medians, turn by turn.
- *throughput*: a model that sleeps 50 ms on one worker a host, so that the cores of this machine do not matter. The hosts are
  asked by as many clients as keep all busy, all through the first host.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/cluster"))

from hosts import Host, Network, why_no_ray_hosts
from peers.install import installed, python

HERE = Path(__file__).parent
SLEEP = 0.05
SIZES = {"100 B": 100, "600 KB": 602_112}
LENGTH = "def length(body: bytes) -> dict[str, int]:\n    return {'bytes': len(body)}\n"
SLEEPING = f"import time\n\n\ndef sleep(body: bytes) -> dict[str, float]:\n    time.sleep({SLEEP})\n    return {{'slept': {SLEEP}}}\n"
RAY_SERVE = {
    "Ray Serve": {},
    "Ray Serve, HAProxy": {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": shutil.which("haproxy") or "",
    },
}


HAPROXY_FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_BASE": "haproxy",
    "SERVER_STATE_FILE": "haproxy/server-state",
}


class Entry:
    """The host that is asked, and the paths of its models."""

    def __init__(self, name: str, network: Network, port: int, paths: dict[str, str]) -> None:
        self.name, self.network, self.port, self.paths = name, network, port, paths

    @property
    def host(self) -> Host:
        """The first host of the cluster."""
        return self.network.hosts[0]

    def time_requests(self, model: str, size: int, count: int) -> list[float]:
        """Seconds of each of ``count`` requests of ``size`` bytes, one after another, by a client on the host that is asked."""
        return self._ask("latency", model, size, count)

    def count_answers(self, seconds: float, clients: int) -> float:
        """Answers per second of the model that sleeps, to ``clients`` that ask again at once."""
        [rate] = self._ask("rate", "sleep", 100, seconds, clients)
        return rate

    def wait_until_answered(self, model: str, within: float) -> None:
        """Return when a model answers. Raises ``RuntimeError`` when it does not in time."""
        end = time.monotonic() + within
        while True:
            try:
                self.time_requests(model, 100, 1)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(1)
            else:
                return

    def _ask(self, *arguments: object) -> list[float]:
        words = [
            str(each)
            for each in (
                arguments[0],
                self.host.address,
                self.port,
                self.paths[str(arguments[1])],
                *arguments[2:],
            )
        ]
        done = self.host.try_to_run(sys.executable, str(HERE / "cluster_client.py"), *words, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{self.name}, {arguments}: {done.stderr[-2000:]}")
        figures: list[float] = json.loads(done.stdout)
        return figures


class PeerNetwork(Network):
    """Hosts on which Ray runs in a peer's environment, with settings of its own."""

    def __init__(self, count: int, settings: Mapping[str, str]) -> None:
        self.settings = settings
        super().__init__(count)

    def environment(self, host: Host) -> dict[str, str]:
        """As on other hosts, but with the peer's programs first."""
        inherited = super().environment(host)
        own = {f"RAY_SERVE_HAPROXY_{key}": str(host.folder / name) for key, name in HAPROXY_FILES.items()}
        return inherited | {"PATH": f"{python('ray_serve').parent}:{inherited['PATH']}"} | own | self.settings


def start_ray(network: Network) -> None:
    """Ray on every host, labelled host=1, host=2 and so on, with resources for Ray Serve's placement."""
    first, *others = network.hosts
    first.start_ray(cpus=4, labels={"host": "1"}, options=["--resources", '{"entry": 1}'])
    for host in others:
        resources = '{"other": 1}' if host.number == 2 else "{}"
        host.start_ray(
            head=first, cpus=4, labels={"host": str(host.number)}, options=["--resources", resources]
        )


def write_models(folder: Path, hosts: int) -> None:
    """A repository of the models, with their placement."""
    for name, placement in {
        "bytes_here": 'nodes = 1\nlabels = {host = "1"}',
        "bytes_there": 'nodes = 1\nlabels = {host = "2"}',
        "sleep": f"nodes = {hosts}",
    }.items():
        if name == "bytes_there" and hosts == 1:
            continue
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.py").write_text(SLEEPING if name == "sleep" else LENGTH)
        function = "sleep" if name == "sleep" else "length"
        (folder / name / "config.toml").write_text(
            f'entry = "model.py:{function}"\n[workers]\nmin = 1\nmax = 1\n[placement]\n{placement}\n'
        )


@contextmanager
def serve_with_mooring(hosts: int) -> Iterator[Entry]:
    """A cluster of ours."""
    with Network(hosts) as network:
        start_ray(network)
        repository = network.folder / "models"
        write_models(repository, hosts)
        first = network.hosts[0]
        mooring = str(Path(sys.executable).with_name("mooring"))
        first.run(
            mooring,
            "serve",
            "--cluster",
            network.ray_address,
            "--model-repository",
            str(repository),
            timeout=180,
        )
        paths = {name: f"/predictions/{name}" for name in ("bytes_here", "bytes_there", "sleep")}
        yield Entry("Mooring", network, 8080, paths)


@contextmanager
def serve_with_ray(name: str, hosts: int) -> Iterator[Entry]:
    """A cluster of Ray Serve's. Ray runs in the peer's environment there."""
    with PeerNetwork(hosts, RAY_SERVE[name]) as network:
        start_ray(network)
        first = network.hosts[0]
        command = [
            str(python("ray_serve")),
            str(HERE / "peers/ray_serve_app.py"),
            network.ray_address,
            first.address,
            str(hosts),
        ]
        serving = first.start(*command, stdout=subprocess.PIPE)
        assert serving.stdout is not None
        for line in serving.stdout:
            if line == b"ready\n":
                break
        else:
            raise RuntimeError(f"{name} does not serve: {serving.wait()}")
        paths = {model: f"/{model}" for model in ("bytes_here", "bytes_there", "sleep")}
        yield Entry(name, network, 8000, paths)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of requests to a local worker and to another host's, and the difference of their medians turn by turn."""

    local: list[float]
    remote: list[float]
    added: list[float]


def measure_latency(entries: Sequence[Entry], size: int, turns: int, count: int) -> dict[str, Latency]:
    """Every cluster by turns, each first its local replica, then the remote one."""
    found = {entry.name: Latency([], [], []) for entry in entries}
    for _ in range(turns):
        for entry in entries:
            local = entry.time_requests("bytes_here", size, count)
            remote = entry.time_requests("bytes_there", size, count)
            kept = found[entry.name]
            kept.local.extend(local)
            kept.remote.extend(remote)
            kept.added.append(statistics.median(remote) - statistics.median(local))
    return found


def latency_rows(latencies: Mapping[str, Latency], label: str) -> Iterator[Sequence[str]]:
    """Lines of the table, in milliseconds."""
    for name, each in latencies.items():
        remote = [f"{percentile(each.remote, q) * 1e3:.2f}" for q in (0.5, 0.99)]
        local = [f"{percentile(each.local, q) * 1e3:.2f}" for q in (0.5, 0.99)]
        yield label, name, *local, *remote, f"{statistics.median(each.added) * 1e3:.2f}"


def percentile(values: Sequence[float], q: float) -> float:
    """The value below which the share ``q`` of them lies."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def format_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(" | ".join(("", *row, "")).strip() for row in (titles, ["---"] * len(titles), *rows))


def measure(quick: bool, ray_serve: bool) -> str:
    """Run it all, and return the tables."""
    turns, count, seconds = (2, 100, 3.0) if quick else (5, 400, 8.0)
    peers = list(RAY_SERVE) if ray_serve else []
    latency: list[Sequence[str]] = []
    rates: dict[tuple[str, int], list[float]] = {}
    for hosts in (2, 1, 3):
        with ExitStack() as stack:
            entries = [stack.enter_context(serve_with_mooring(hosts))]
            entries += [stack.enter_context(serve_with_ray(name, hosts)) for name in peers]
            for entry in entries:
                for model in ("bytes_here", "sleep", *(["bytes_there"] if hosts > 1 else [])):
                    entry.wait_until_answered(model, 60)
                entry.time_requests("bytes_here", 100, count)  # warm
            if hosts == 2:
                for label, size in SIZES.items():
                    for entry in entries:
                        entry.time_requests("bytes_there", size, count // 4)
                    rows = list(latency_rows(measure_latency(entries, size, turns, count), label))
                    print(*rows, sep="\n", file=sys.stderr, flush=True)
                    latency += rows
            for _ in range(turns):
                for entry in entries:
                    rate = entry.count_answers(seconds, 8 * hosts)
                    rates.setdefault((entry.name, hosts), []).append(rate)
                    print(f"{entry.name}, {hosts} hosts: {rate:.1f} answers/s", file=sys.stderr, flush=True)
    titles = ["body", "cluster", "local p50 ms", "local p99", "remote p50", "remote p99", "added p50"]
    parts = [format_table(titles, latency)]
    names = ["Mooring", *peers]
    middle = {key: statistics.median(values) for key, values in rates.items()}
    throughput = [
        (
            name,
            *(f"{middle[name, n]:.1f}" for n in (1, 2, 3)),
            *(f"{middle[name, n] / middle[name, 1]:.2f}" for n in (2, 3)),
        )
        for name in names
    ]
    parts.append(
        format_table(["cluster", "1 host, answers/s", "2 hosts", "3 hosts", "2 / 1", "3 / 1"], throughput)
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument("--alone", action="store_true", help="without Ray Serve")
    parser.add_argument("--record", metavar="NAME", help="keep the tables as results/NAME-cluster.md")
    options = parser.parse_args()
    if reason := why_no_ray_hosts():
        sys.exit(reason)
    if not options.alone and not installed("ray_serve"):
        sys.exit("Ray Serve is not installed: python benchmarks/peers/install.py ray_serve, or --alone")
    text = measure(options.quick, not options.alone)
    print(text)
    if options.record:
        title = f"# Benchmark of a cluster, {options.record}"
        (HERE / f"results/{options.record}-cluster.md").write_text(f"{title}\n\n{text}\n")


if __name__ == "__main__":
    main()

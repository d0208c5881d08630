"""Hosts on one machine: network namespaces on a bridge, with a real ``ray start`` in each.

A host has an address of its own, 10.X.Y.N, which this machine reaches too, and which the other hosts reach over the
bridge. What runs on it are the processes of its namespace: killing them all is the death of the host, stopping them its
freeze. A partition gives two hosts a wrong hardware address of each other, so that their packets get lost silently, as by a
broken switch; nobody is told.

Everything has the number of the process that made it in its name. So parallel runs do not meet, and what a killed run has
left is removed by the next one.
"""

import atexit
import fcntl
import importlib.util
import ipaddress
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

RAY_PORT = 6399
_LOCK = Path(tempfile.gettempdir(), "mooring-hosts.lock")
_OURS = re.compile(r"mh([0-9a-f]+)-(\d+)")
_NOWHERE = "02:00:00:00:00:01"
_MEMORY = 100_000_000  # bytes of each host's object store


@cache
def why_no_hosts() -> str:
    """Why there can be no hosts on this machine; empty where there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "the command ip (iproute2) is missing"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return f"network namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


@cache
def why_no_ray_hosts() -> str:
    """Why there can be no hosts with Ray on this machine; empty where there can."""
    if reason := why_no_hosts():
        return reason
    return "" if importlib.util.find_spec("ray") else "ray is not installed"


def _run(*arguments: str) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with _LOCK.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Host:
    """One host of a ``Network``: a namespace with an address."""

    def __init__(self, network: "Network", number: int) -> None:
        self.network, self.number = network, number
        self.name = f"{network.name}-{number}"
        self.address = str(network.subnet[number])
        self.folder = network.folder / str(number)
        self.folder.mkdir()

    def command(self, *arguments: str) -> list[str]:
        """The command that runs another one on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, timeout: float = 60.0, check: bool = True, **more) -> str:
        """Run a command on this host and return what it prints. Raises ``AssertionError`` with that if it fails."""
        done = self.try_to_run(*arguments, timeout=timeout, **more)
        assert not check or not done.returncode, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def try_to_run(self, *arguments: str, timeout: float = 60.0, **more) -> subprocess.CompletedProcess[str]:
        """Run a command on this host and return how it ended."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True, text=True, timeout=timeout, check=False,
            **{"env": self.network.environment(self), **more},
        )  # fmt: skip

    def start(self, *arguments: str, **more) -> subprocess.Popen[bytes]:
        """Start a command on this host. At the latest it ends with the network."""
        started = subprocess.Popen(
            self.command(*arguments), **{"env": self.network.environment(self), **more}
        )
        self.network.started.append(started)
        return started

    # Ray

    def start_ray(
        self,
        *,
        head: "Host | None" = None,
        cpus: int = 1,
        memory: int = _MEMORY,
        labels: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """``ray start`` on this host: as the head, or as a node of the cluster of ``head``."""
        place = ["--head", f"--port={RAY_PORT}", "--include-dashboard=false"]
        if head is not None:
            place = [f"--address={head.address}:{RAY_PORT}"]
        if labels:
            place += ["--labels", ",".join(f"{key}={value}" for key, value in labels.items())]
        self.run(
            "ray", "start", *place,
            f"--node-ip-address={self.address}", f"--temp-dir={self.folder / 'r'}", f"--num-cpus={cpus}",
            f"--object-store-memory={memory}", "--disable-usage-stats", *options,
            timeout=90, env=env or self.network.environment(self),
        )  # fmt: skip

    def stop_ray(self) -> None:
        """Kill Ray's own processes of this host, and what they started, as ``ray stop --force`` does; other processes go on."""
        self.kill(*(pid for pid, line in self.processes() if "/ray/" in line or line.startswith("ray::")))

    # Processes

    def processes(self) -> list[tuple[int, str]]:
        """The processes of this host, each with its command line."""
        found = []
        for pid in map(int, _run("ip", "netns", "pids", self.name).split()):
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if line:  # one that has ended, and waits for its parent, has none
                    found.append((pid, line.strip()))
        return found

    def find(self, part: str) -> list[int]:
        """The processes of this host whose command line has this text."""
        return [pid for pid, line in self.processes() if part in line]

    def kill(self, *pids: int) -> None:
        """Kill processes at once, and return when they are gone."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        left = set(pids)
        until(lambda: not (left & {pid for pid, _ in self.processes()}), within=10)

    def kill_raylet(self) -> None:
        """Kill this host's raylet: its agents and Ray's workers end with it, the server of this host does not."""
        self.kill(*self.find("raylet/raylet"))

    def kill_head(self) -> None:
        """Kill Ray's control service (GCS), which this host must have."""
        self.kill(*self.find("gcs/gcs_server"))

    def die(self) -> None:
        """Kill every process of this host, and cut its cable, as a loss of power does."""
        self.unplug()
        while pids := [pid for pid, _ in self.processes()]:
            self.kill(*pids)

    def freeze(self) -> None:
        """Stop every process of this host."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the processes of this host run again."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid, _ in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    # The network

    def unplug(self) -> None:
        """Cut this host off from all others, and from this machine."""
        _run("ip", "link", "set", self.network.port(self), "down")

    def plug(self) -> None:
        """Undo ``unplug``."""
        _run("ip", "link", "set", self.network.port(self), "up")


class Network:
    """Hosts on a bridge. A context manager: at its end the hosts are gone, with all that ran on them."""

    _made = 0

    def __init__(self, count: int) -> None:
        if reason := why_no_hosts():
            raise RuntimeError(reason)
        Network._made += 1
        self.name = f"mh{os.getpid():x}-{Network._made}"
        # Unix sockets of Ray lie in it, and their paths may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="mh-", dir="/tmp"))
        self.token = secrets.token_hex(32)
        self.hosts: list[Host] = []
        self.started: list[subprocess.Popen[bytes]] = []
        atexit.register(self.close)
        try:
            with _one_at_a_time():
                _remove_leftovers()
                self.subnet = _find_subnet()
                self._bridge = self._link("b")
                _run("ip", "link", "add", self._bridge, "type", "bridge")
                _run("ip", "addr", "add", f"{self.subnet[254]}/24", "dev", self._bridge)
                _run("ip", "link", "set", self._bridge, "up")
            for number in range(1, count + 1):
                self.add_host(number)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def add_host(self, number: int | None = None) -> Host:
        """Add a host, and return it."""
        host = Host(self, number or len(self.hosts) + 1)
        self.hosts.append(host)
        port, inside = self.port(host), self._link(f"i{host.number}")
        _run("ip", "netns", "add", host.name)
        _run("ip", "link", "add", port, "type", "veth", "peer", "name", inside)
        _run("ip", "link", "set", inside, "netns", host.name)
        host.run("ip", "link", "set", inside, "name", "eth0")
        host.run("ip", "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            host.run("ip", "link", "set", device, "up")
        # Nothing answers there, but what asks the kernel for its own address gets this host's, as on a real one.
        host.run("ip", "route", "add", "default", "via", str(self.subnet[254]))
        _run("ip", "link", "set", port, "master", self._bridge)
        _run("ip", "link", "set", port, "up")
        return host

    def start_ray(self, **options) -> None:
        """``ray start`` on every host; the first one is the head. Options are those of ``Host.start_ray``."""
        head, *others = self.hosts
        head.start_ray(**options)
        for host in others:
            host.start_ray(head=head, **options)

    @property
    def ray_address(self) -> str:
        """The address of Ray's head, on the first host."""
        return f"{self.hosts[0].address}:{RAY_PORT}"

    def environment(self, host: Host) -> dict[str, str]:
        """The environment of what runs on a host: this one, with what Ray needs, and folders of the host's own."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return os.environ | {
            "PATH": path,
            "HOME": str(host.folder),
            "TMPDIR": str(host.folder),
            "RAY_TMPDIR": str(host.folder / "r"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",  # this machine's memory is that of other tests, too
            "RAY_ADDRESS": "",
        }

    def partition(self, one: Host, other: Host) -> None:
        """Lose every packet between two hosts, without a word; each still reaches all others."""
        for here, there in ((one, other), (other, one)):
            here.run(
                "ip", "neigh", "replace", there.address, "lladdr", _NOWHERE, "dev", "eth0", "nud", "permanent"
            )

    def heal(self, one: Host, other: Host) -> None:
        """Undo ``partition``."""
        for here, there in ((one, other), (other, one)):
            here.run("ip", "neigh", "del", there.address, "dev", "eth0")

    def port(self, host: Host) -> str:
        """The bridge's end of a host's cable."""
        return self._link(f"h{host.number}")

    def _link(self, end: str) -> str:
        # 15 characters at most.
        return f"{self.name}{end}"

    def close(self) -> None:
        """Kill what runs on the hosts, and remove them. Does nothing the second time."""
        atexit.unregister(self.close)
        for host in self.hosts:
            with suppress(RuntimeError):
                host.thaw()
                _kill_all(host.name)
        _remove(self.name)
        while self.started:
            self.started.pop().wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def until(
    reached: Callable[[], object], *, within: float = 20.0, every: float = 0.05, what: str = ""
) -> None:
    """Return as soon as the condition holds. Raises ``AssertionError`` when it does not in time."""
    end = time.monotonic() + within
    while not reached():
        assert time.monotonic() < end, f"{what or 'the condition'} did not come in {within:g} s"
        time.sleep(every)


def _kill_all(name: str) -> None:
    """Kill every process of a namespace, also those that are started meanwhile."""
    for _ in range(100):
        pids = list(map(int, _run("ip", "netns", "pids", name).split()))
        if not pids:
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _find_subnet() -> ipaddress.IPv4Network:
    """A network of 254 addresses that this machine has no route to."""
    routes = _run("ip", "-o", "route")
    first = os.getpid()
    for number in range(first, first + 16384):
        x, y = 64 + (number >> 8) % 64, number & 255
        if f"10.{x}.{y}." not in routes:
            return ipaddress.IPv4Network(f"10.{x}.{y}.0/24")
    raise RuntimeError("no network of 10.64.0.0/10 is free")


def _remove_leftovers() -> None:
    """Remove the hosts of test runs that were killed."""
    names = {
        match[0]
        for match in map(_OURS.match, _run("ip", "netns", "list").splitlines())
        if match and not Path(f"/proc/{int(match[1], 16)}").exists()
    }
    for name in names:
        _remove(name)


def _remove(network: str) -> None:
    """Remove the namespaces and the bridge of a network, as far as they are there."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.strip() else ""
        if name.startswith(f"{network}-"):
            with suppress(RuntimeError):
                _kill_all(name)
                _run("ip", "netns", "del", name)  # and with it both ends of its cable
    with suppress(RuntimeError):
        _run("ip", "link", "del", f"{network}b")

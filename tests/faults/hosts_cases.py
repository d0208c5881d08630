"""Three hosts with a real Ray serve digits (a handler of TorchServe's) and ResNet-18, and one of them a small model for all. Each host
is asked for each model over five protocols, while two hosts lose each other and one host dies.
"""

import json
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from accounting import Account
from five_protocols import PROTOCOLS, ProtocolLoad, Puzzle, judge_puzzle
from ray_cluster import FaultNetwork, RayCluster
from stage import Stage, case
from subjects import NotHere, archive

from hosts import Host, until, why_no_ray_hosts  # isort: skip - where ray_cluster finds it

ROOT = Path(__file__).parents[2]
PARTED = 3.0
SEVERAL = 5
"""Pictures that ResNet is asked about, of different answers."""
_DIGITS = ROOT / "examples/digits"
_RESNET = """
platform = "pytorch_torchscript"
inputs = [{ name = "x", datatype = "FP32", shape = [-1, 3, -1, -1] }]
outputs = [{ name = "y", datatype = "FP32", shape = [-1, 1000] }]
placement = { nodes = "all" }
workers = { min = 1, max = 1 }
"""


class ThreeHosts(RayCluster):
    """Hosts of which the first has Ray's head, and one of the others the model ``alone``."""

    def __init__(self, stack: ExitStack) -> None:
        if reason := why_no_ray_hosts():
            raise NotHere(reason)
        self.network = network = stack.enter_context(FaultNetwork(3))
        self.head, self.second, self.third = network.hosts
        for host in network.hosts:
            self.start_ray(host)
        store, repository = network.folder / "store", network.folder / "repository"
        store.mkdir()
        one = {"minWorkers": 1, "maxWorkers": 1}
        archive(store, "alone", {**one, "placement": {"nodes": 1, "labels": {"far": "yes"}}})
        _put_digits_everywhere(store / "digits.mar", {**one, "batchSize": 4, "maxBatchDelay": 5})
        self.pictures = _make_resnet(repository / "resnet18")
        targets = [repository / "resnet18", store / "digits.mar", store / "alone.mar"]
        self.run(self.head, "serve", "--cluster", network.ray_address, *map(str, targets))

    def host_of(self, model: str) -> Host:
        """The host that has a model alone."""
        view = self.view()
        (version,) = [each for each in view["versions"] if each["model"] == model]
        (replica,) = version["replicas"]
        (address,) = [each["address"] for each in view["nodes"] if each["node"] == replica["node"]]
        return next(host for host in self.network.hosts if f"//{host.address}:" in address)

    def puzzles(self) -> dict[str, list[Puzzle]]:
        """What each model is asked."""
        digits = [
            Puzzle("digits", (_DIGITS / f"samples/{n}.png").read_bytes(), "image/png", _is_digit(str(n)))
            for n in range(10)
        ]
        pictures = [
            Puzzle("resnet18", picture, "application/x-npy", _is_class(scores))
            for picture, scores in self.pictures
        ]
        numbers = [
            Puzzle("alone", json.dumps({"n": n}).encode(), "application/json", _is_answer(n))
            for n in range(1000)
        ]
        return {"digits": digits, "resnet18": pictures, "alone": numbers}


def _put_digits_everywhere(file: Path, config: dict[str, object]) -> None:
    with zipfile.ZipFile(_DIGITS / "digits.mar") as given, zipfile.ZipFile(file, "w") as packed:
        for name in given.namelist():
            if name != "model-config.yaml":
                packed.writestr(name, given.read(name))
        packed.writestr("model-config.yaml", json.dumps({**config, "placement": {"nodes": "all"}}))


def _make_resnet(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write ResNet-18 as TorchScript; return pictures, and what it makes of each."""
    try:
        import torch
    except ModuleNotFoundError:
        raise NotHere("torch is not installed") from None
    sys.path.append(str(ROOT / "benchmarks/peers"))
    import models

    (folder / "1").mkdir(parents=True)
    program = models.traced("resnet18")
    program.save(str(folder / "1/model.pt"))
    (folder / "config.toml").write_text(_RESNET)
    rng = np.random.default_rng(7)
    pictures = [rng.integers(0, 10, (1, 3, 96, 96)).astype(np.float32) for _ in range(SEVERAL)]
    with torch.inference_mode():
        return [(each, program(torch.from_numpy(each)).numpy().ravel()) for each in pictures]


def _is_digit(digit: str):
    return lambda found: found["class"] == digit and found["probability"] > 0.5


def _is_answer(n: int):
    return lambda found: (found["n"], found["answer"]) == (n, 3 * n + 1)


def _is_class(scores: np.ndarray):
    def is_right(found: object) -> bool:
        told = np.ravel(found["y"] if isinstance(found, dict) else found)
        return told.shape == scores.shape and np.allclose(told, scores, rtol=1e-3, atol=1e-3)

    return is_right


def answers(host: Host, puzzle: Puzzle) -> bool:
    """Whether a model answers at a host; this counts nowhere."""
    load = ProtocolLoad("KServe v2 REST", host.address, [puzzle], mortal=True)
    try:
        connection = load.connect()
    except OSError:
        return False
    try:
        return judge_puzzle(Account(), connection, puzzle) == "right"
    finally:
        connection.close()


class Crowd:
    """A client of each protocol for each model at each host."""

    def __init__(self, cluster: ThreeHosts, victim: Host) -> None:
        self.loads: list[tuple[Host, str, ProtocolLoad]] = []
        for host in cluster.network.hosts:
            for model, puzzles in cluster.puzzles().items():
                for protocol in PROTOCOLS:
                    pause = 0.3 if model == "resnet18" else 0.1
                    load = ProtocolLoad(protocol, host.address, puzzles, mortal=host is victim, pause=pause)
                    self.loads.append((host, model, load))

    def start(self, stack: ExitStack) -> None:
        """Have all ask until the end of the stack, and wait until each has been answered."""
        for _, _, load in self.loads:
            stack.enter_context(load)

    def slowest(self, *hosts: Host, models: Sequence[str]) -> float:
        """The longest time that a request for these models took at these hosts, in seconds."""
        return max(load.account.slowest for host in hosts for load in self.at(host, *models))

    def forget_slowest(self) -> float:
        """The longest time that a request took since the last call, in seconds."""
        longest = max(load.account.slowest for _, _, load in self.loads)
        for _, _, load in self.loads:
            load.account.slowest = 0.0
        return longest

    def at(self, host: Host, *models: str) -> list[ProtocolLoad]:
        """The clients of a host, of all models or of these."""
        return [
            load for where, model, load in self.loads if where is host and (not models or model in models)
        ]

    def by_protocol(self) -> list[str]:
        """Right answers and others of all hosts, for each protocol."""
        lines = []
        for protocol in PROTOCOLS:
            counts: Counter[str] = Counter()
            for _, _, load in self.loads:
                if load.protocol == protocol:
                    counts += load.account.verdicts
            lines.append(
                f"{protocol} {', '.join(f'{count} {verdict}' for verdict, count in sorted(counts.items()))}"
            )
        return lines


@case(
    "Ray cluster: digits and ResNet-18 on three hosts, over five protocols: two hosts lose each other, one dies"
)
def three_hosts(stage: Stage) -> None:
    with ExitStack() as hosts:
        cluster = ThreeHosts(hosts)
        head, victim = cluster.head, cluster.host_of("alone")
        (other,) = {cluster.second, cluster.third} - {victim}
        alone = cluster.puzzles()["alone"][0]
        for host in cluster.network.hosts:
            until(lambda host=host: answers(host, alone), within=30)
        with ExitStack() as stack:
            crowd = Crowd(cluster, victim)
            stack.callback(lambda: [stage.account.add(load.account) for _, _, load in crowd.loads])
            crowd.start(stack)
            stage.wait()
            crowd.forget_slowest()  # the first calls of a model take their time
            stage.strike()
            cluster.network.partition(other, victim)
            time.sleep(PARTED)
            cluster.network.heal(other, victim)
            for load in crowd.at(other):
                load.until_right(2)
            parted = crowd.forget_slowest()
            died = time.monotonic()
            victim.die()
            for load in crowd.at(victim):
                load.abandon()
            until(lambda: answers(head, alone) and answers(other, alone), within=60)
            moved = time.monotonic() - died
            for host in (head, other):
                for load in crowd.at(host):
                    load.until_right(3)
            slowest = crowd.slowest(head, other, models=("digits", "resnet18"))
            waited = crowd.slowest(head, other, models=("alone",))
            cluster.network.partition(head, other)
            time.sleep(PARTED)
            cluster.network.heal(head, other)
            for host in (head, other):
                for load in crowd.at(host):
                    load.until_right(3)
    for host in (head, other):
        for load in crowd.at(host, "digits", "resnet18"):
            assert not load.account.honest, (load.protocol, load.account.remarks)
    stage.notes += crowd.by_protocol()
    stage.notes.append(
        f"the slowest request took {parted:.2f} s while two hosts had lost each other, {slowest:.2f} s after the death of one;"
        f" its model answered elsewhere after {moved:.1f} s, what was asked of it waited {waited:.1f} s at most"
    )

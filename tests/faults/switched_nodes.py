"""Node servers on this machine whose only neighbours are those of a switch: a cluster without Ray, with cables to cut."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stage import Stage
from subjects import Mooring, archive, until

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

from switch import running_switch, table_of

MODEL_VERSION = "1.0"


class SwitchedNodes:
    """Node servers by number, and who serves what: the test is their controller."""

    def __init__(self, nodes: Sequence[Mooring], switch, call) -> None:
        self.nodes = nodes
        self.switch = switch
        self.call = call
        self._generation = 0
        self._replicas: dict[str, list[str]] = {}

    def name_of(self, node: Mooring) -> str:
        """What the cluster calls a node."""
        return (node.folder / "node").read_text().strip()

    def route(self, replicas: Mapping[str, Sequence[Mooring]]) -> None:
        """Tell every node that is attached who serves which model."""
        self._generation += 1
        self._replicas = {
            f"{model}/{MODEL_VERSION}": [self.name_of(node) for node in where]
            for model, where in replicas.items()
        }
        names = [self.name_of(node) for node in self.nodes]
        table = table_of(self._replicas, generation=self._generation, nodes=names)
        self.call(self.switch.assign, table)

    def swallow(self, one: Mooring, other: Mooring) -> None:
        """Lose every message between two nodes from now on, without a word to either."""
        self.switch.swallowed.add(frozenset((self.name_of(one), self.name_of(other))))

    def heal(self) -> None:
        """Let messages through again."""
        self.switch.swallowed.clear()
        self.switch.cut.clear()

    def restart(self, node: Mooring) -> None:
        """Start a node server again in its folder, as its actor does, and wait until it is attached."""
        name = self.name_of(node)
        before = len(self.switch.ports[name].attachments)
        node.start()
        node.await_start()
        until(lambda: len(self.switch.ports[name].attachments) > before)


@contextmanager
def switched_nodes(
    stage: Stage, models: Mapping[str, Sequence[int]], **config: object
) -> Iterator[SwitchedNodes]:
    """Three node servers. ``models`` names the numbers of those that have each model, all of the same ``config``."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            here = [model for model, where in models.items() if number in where]
            arguments = ["--models", *(f"{model}.mar" for model in here)] if here else []
            node = stage.own(*arguments, wait=True)
            for model in here:
                archive(node.store, model, {"minWorkers": 2, "maxWorkers": 2, **config})
            node.add("--cluster-socket", str(node.folder / "server.sock"))
            node.start()
            nodes.append(node)
        for node in nodes:
            until(lambda node=node: (node.folder / "server.sock").exists())
        switch, call = stack.enter_context(running_switch([node.folder / "server.sock" for node in nodes]))
        call(switch.attached)
        cluster = SwitchedNodes(nodes, switch, call)
        for number, node in enumerate(nodes):
            here = {model: 2 for model, where in models.items() if number in where}
            until(lambda node=node, here=here: node.holds(**here))
        cluster.route({model: [nodes[number] for number in where] for model, where in models.items()})
        yield cluster

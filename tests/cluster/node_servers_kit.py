"""Real node servers on this machine: ``mooring serve`` with a cluster_socket, whose only neighbours are those of a switch."""

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))

from e2e_kit import Server, frontends
from switch import running_switch, table_of

WHERE = """
import os, time

def infer(inputs, parameters):
    time.sleep(float(parameters.get("seconds", 0)))
    return {"node": [os.environ["NODE"]], "x": inputs["x"]}
"""
COUNT = """
import os, time

def infer(inputs, parameters):
    for number in range(int(inputs["to"][0])):
        time.sleep(float(parameters.get("seconds", 0)))
        yield {"n": [number], "text": ["x" * int(parameters.get("size", 1))]}
"""
MIRROR = "def infer(inputs, parameters):\n    return dict(inputs)\n"
ROWS = """
import os


class Model:
    def infer(self, x):
        return {"y": x * 2, "rows": x * 0 + len(x)}
"""
ROWS_CONFIG = """
max_batch_size = 8
[batching]
max_delay_ms = 100
exact_delay = true
[[inputs]]
name = "x"
datatype = "FP64"
shape = [-1, 1]
"""
SUMS = """
import os, time


class Model:
    def load(self, context):
        self.totals = {}

    def infer(self, x, sequence_id, sequence_start, sequence_end):
        for row, name in enumerate(sequence_id):
            self.totals[name] = x[row, 0] + (0 if sequence_start[row] else self.totals[name])
            x[row, 0] = self.totals[name]
        return {"total": x, "pid": x * 0 + os.getpid()}
"""
SUMS_CONFIG = """
max_batch_size = 8
[sequences]
[[inputs]]
name = "x"
datatype = "FP64"
shape = [-1, 1]
"""
TOLD = """
class Model:
    def infer(self, x):
        return {"y": x * 2}

    def explain(self, x):
        return {"why": -x}
"""
MODELS = {
    "where/1/model.py": WHERE,
    "count/1/model.py": COUNT,
    "mirror/1/model.py": MIRROR,
    "rows/1/model.py": ROWS,
    "rows/config.toml": ROWS_CONFIG,
    "told/1/model.py": TOLD,
    "told/config.toml": ROWS_CONFIG,
    "sums/1/model.py": SUMS,
    "sums/config.toml": SUMS_CONFIG,
}


def write_models(folder, models):
    """A model repository with these files."""
    for name, text in models.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


class Node:
    """A node server. ``name`` is what the cluster calls it."""

    def __init__(self, folder, label, models, *flags):
        self.label = label
        self.folder = folder / label
        self.folder.mkdir()
        self.socket = self.folder / "server.sock"
        repository = self.folder / "models"
        write_models(repository, models)
        self.flags = flags
        self.start(repository)

    def start(self, repository):
        self.server = Server(
            self.folder,
            f"--model-repository={repository}",
            f"--cluster-socket={self.socket}",
            *self.flags,
            environ={"NODE": self.label},
        )

    @property
    def name(self):
        return (self.folder / "node").read_text().strip()


@contextmanager
def running_nodes(folder, models_by_label, flags=None):
    """Node servers, joined by a switch, each with the ``flags`` of its label; yields them by label, the switch and the function that calls on its loop."""
    with ExitStack() as stack:
        nodes = {
            label: Node(folder, label, models, *(flags or {}).get(label, ()))
            for label, models in models_by_label.items()
        }
        for node in nodes.values():
            stack.callback(lambda node=node: node.server.kill())
        for node in nodes.values():
            node.server.started()
        switch, call = stack.enter_context(running_switch([node.socket for node in nodes.values()]))
        call(switch.attached)
        yield nodes, switch, call
        for node in nodes.values():
            if node.server.process.poll() is None:
                node.server.stop()
            assert not node.server.faults(), node.server.log


def replicas_of(nodes, where, **more):
    """The table for ``where``: model -> labels."""
    names = {model: [nodes[label].name for label in labels] for model, labels in where.items()}
    return table_of(names, nodes=[node.name for node in nodes.values()], **more)


__all__ = ["MODELS", "WHERE", "Node", "frontends", "replicas_of", "running_nodes"]

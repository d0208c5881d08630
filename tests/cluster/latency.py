"""What the way to another node adds to a request, with the switch in Ray's place: run by hand, for decision 67.

    python tests/cluster/latency.py

Every size is asked of the node that has the model and of another one, in turns, over v2 with binary tensors.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.http
from node_servers_kit import MODELS, WHERE, replicas_of, running_nodes

SIZES = (100, 600_000)
ROUNDS = 300


def measure(client, values):
    """The milliseconds of one request."""
    given = tritonclient.http.InferInput("x", [len(values)], "FP32")
    given.set_data_from_numpy(values)
    began = time.perf_counter()
    client.infer("mirror", [given], outputs=[tritonclient.http.InferRequestedOutput("x")])
    return (time.perf_counter() - began) * 1000


def main():
    models = {"a": {"alone/1/model.py": WHERE}, "b": {"mirror/1/model.py": MODELS["mirror/1/model.py"]}}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_nodes(Path(folder), models) as (nodes, switch, call),
    ):
        call(switch.assign, replicas_of(nodes, {"mirror": ["b"], "alone": ["a"]}))
        time.sleep(1)
        clients = {
            label: tritonclient.http.InferenceServerClient(f"127.0.0.1:{nodes[label].server.port}")
            for label in "ba"
        }
        for size in SIZES:
            values = np.zeros(size // 4, np.float32)
            times = {label: [] for label in clients}
            for _ in range(ROUNDS):
                for label, client in clients.items():
                    times[label].append(measure(client, values))
            here, there = (sorted(times[label]) for label in clients)
            print(
                f"{size} B, echoed: here {statistics.median(here):.2f} ms (p99 {here[-3]:.2f}),"
                f" by the other node {statistics.median(there):.2f} ms (p99 {there[-3]:.2f})"
            )


if __name__ == "__main__":
    main()

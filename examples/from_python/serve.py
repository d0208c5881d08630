"""Serves a function of Python values and a class of arrays from Python, asks them, and stops the server. In a notebook these are cells.

python examples/from_python/serve.py
"""

import numpy as np

import mooring


def greet(name: str, times: int = 1) -> list[str]:
    return [f"Hello, {name}"] * times


class Distance:
    """The distance of points from a center, which each worker makes once."""

    def load(self, context):
        self.center = np.array([1.0, 1.0])

    def infer(self, points: np.ndarray) -> dict:
        return {"distance": np.sqrt(((points - self.center) ** 2).sum(axis=-1))}


def main():
    with mooring.serve({"greet": greet, "distance": Distance}, port=0, workers=2, quiet=True) as server:
        print("models:", *sorted(server.models))
        with server.client() as client:
            print("greeting:", client.infer("greet", {"name": "Ada", "times": 2})["output"])
        with mooring.Client(server.grpc_url) as client:
            print("distance:", client.infer("distance", {"points": [[1.0, 1.0], [4.0, 5.0]]})["distance"])
    print("running:", server.running)


if __name__ == "__main__":  # workers import this file, and must not start servers
    main()

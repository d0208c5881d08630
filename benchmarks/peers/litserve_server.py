"""LitServe: an API for each model, with worker processes of its own. It takes JSON and forms, no raw bodies."""

import os
import sys
from typing import Any

import litserve
import models
import numpy as np
from fastapi import Request, Response

BATCH = int(os.environ["BENCH_BATCH"])
WORKERS = int(os.environ["BENCH_WORKERS"])
TORCH = ("resnet18", "transformer")
RAW = (*TORCH, "identity")  # what they give goes back as bytes


class Served(litserve.LitAPI):
    def __init__(self, name: str) -> None:
        batching = (
            {"max_batch_size": BATCH, "batch_timeout": float(os.environ["BENCH_DELAY"])}
            if name in TORCH
            else {}
        )
        super().__init__(api_path=f"/{name}", **batching)
        self.name = name

    def setup(self, device: str) -> None:
        self.model = None if self.name == "length" else models.load(self.name)

    def decode_request(self, request: Request) -> Any:
        if "data" not in request:
            return np.asarray(request["input"], np.float32).reshape(
                (1,) if self.name == "echo" else models.IMAGE
            )
        content = request["data"].file.read()
        if self.name == "length":
            return content
        if self.name == "transformer":
            return np.frombuffer(content, np.int64)
        return np.frombuffer(content, np.float32).reshape(models.IMAGE)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        if self.name == "length":
            return len(x)
        return self.model(x) if self.name in TORCH else self.model(x[None])[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        if self.name == "length":
            return {"length": output}
        return Response(output.tobytes()) if self.name in RAW else {"output": output.tolist()}


def main(port: int, fronts: int) -> None:
    names = os.environ["BENCH_MODELS"].split()
    names += ["length"] if "echo" in names else []
    server = litserve.LitServer(
        [Served(name) for name in names],
        accelerator="cpu",
        workers_per_device={f"/{name}": WORKERS if name in TORCH else 1 for name in names},
        timeout=120,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=fronts,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

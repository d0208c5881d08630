"""The models bound to the server that PyTriton brings."""

import os
import sys

import models
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

BATCH = int(os.environ["BENCH_BATCH"])
DELAY = int(float(os.environ["BENCH_DELAY"]) * 1e6)
SHAPES = {
    "echo": ((1,), (1,)),
    "total": (models.IMAGE, (1,)),
    "identity": (models.IMAGE, models.IMAGE),
    "resnet18": (models.IMAGE, (1000,)),
    "transformer": ((models.TOKENS,), (2,)),
}


def bound(name: str):
    model = models.load(name)
    return batch(lambda x: [model(x)])


def main(port: int, grpc_port: int) -> None:
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=port,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        allow_metrics=False,
    )
    with Triton(config=config) as server:
        for name in os.environ["BENCH_MODELS"].split():
            torch = name in ("resnet18", "transformer")
            given, wanted = SHAPES[name]
            server.bind(
                name,
                [bound(name) for _ in range(int(os.environ["BENCH_WORKERS"]) if torch else 1)],
                inputs=[
                    Tensor(name="x", dtype=np.int64 if name == "transformer" else np.float32, shape=given)
                ],
                outputs=[Tensor(name="y", dtype=np.float32, shape=wanted)],
                config=ModelConfig(
                    max_batch_size=BATCH if torch else 16,
                    batcher=DynamicBatcher(max_queue_delay_microseconds=DELAY if torch else 0),
                ),
                strict=False,
            )
        server.serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""A BentoML service with all models in each of its processes."""

import os
from pathlib import Path

import bentoml
import models
import numpy as np

BATCH = int(os.environ["BENCH_BATCH"])
NAMES = os.environ["BENCH_MODELS"].split()


@bentoml.service(
    traffic={"timeout": 120, "max_concurrency": 1024},
    workers=int(os.environ["BENCH_WORKERS"]),
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Served:
    def __init__(self) -> None:
        self.models = {name: models.load(name) for name in NAMES}

    @bentoml.api(route="/echo")
    async def echo(self, input: float) -> float:
        return float(self.models["echo"](np.float32([[input]]))[0, 0])

    @bentoml.api(route="/total")
    async def total(self, input: np.ndarray) -> float:
        return float(self.models["total"](np.asarray(input, np.float32))[0, 0])

    @bentoml.api(route="/total_form")
    async def total_form(self, data: Path) -> float:
        image = np.frombuffer(data.read_bytes(), np.float32).reshape(1, *models.IMAGE)
        return float(self.models["total"](image)[0, 0])

    @bentoml.api(route="/identity")
    async def identity(self, input: np.ndarray) -> np.ndarray:
        return self.models["identity"](np.asarray(input, np.float32))

    @bentoml.api(route="/length")
    async def length(self, data: Path) -> int:
        return data.stat().st_size

    @bentoml.api(route="/resnet18", batchable=True, batch_dim=0, max_batch_size=BATCH, max_latency_ms=10_000)
    def resnet18(self, input: np.ndarray) -> np.ndarray:
        return self.models["resnet18"](np.ascontiguousarray(input, np.float32))

    @bentoml.api(
        route="/transformer", batchable=True, batch_dim=0, max_batch_size=BATCH, max_latency_ms=10_000
    )
    def transformer(self, input: np.ndarray) -> np.ndarray:
        return self.models["transformer"](np.ascontiguousarray(input, np.int64))

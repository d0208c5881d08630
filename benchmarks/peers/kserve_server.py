"""KServe's own Python server. It has no batching (that is a sidecar's in Kubernetes); torch models run in threads."""

import argparse
import asyncio
import os

import models
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server

TORCH = ("resnet18", "transformer")


class Served(Model):
    """One of the models."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.model = models.load(name)
        self.ready = True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        array = payload.inputs[0].as_numpy()
        given = await asyncio.to_thread(self.model, array) if self.name in TORCH else self.model(array)
        output = InferOutput("y", list(given.shape), "FP32")
        asked = payload.request_outputs or []
        binary = payload.from_grpc or any((each.parameters or {}).get("binary_data") for each in asked)
        output.set_data_from_numpy(given, binary_data=bool(binary))
        return InferResponse(payload.id or "1", self.name, [output])


if __name__ == "__main__":
    argparse.ArgumentParser(parents=[model_server.parser]).parse_known_args()
    ModelServer().start([Served(name) for name in os.environ["BENCH_MODELS"].split()])

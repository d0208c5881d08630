"""What KServe's own clients find at a pod, and at KServe's own ModelServer with a transformer in front of it, as JSON.

python kserve_pod_asks.py MODEL INPUT PROTOCOL...

Run by a Python that has kserve, where the pod's ports are. PROTOCOL is v1, v2 or grpc-v2; INPUT is the JSON of the v1
instance, which is the data of the v2 input, too: a list of numbers.
"""

import asyncio
import json
import os
import signal
import sys
import time

import httpx
import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    Model,
    ModelServer,
    RESTConfig,
)
from kserve.predictor_config import PredictorConfig

POD, POD_RPC = "127.0.0.1:8080", "127.0.0.1:8081"
FIRST_PORT = 9080


class Halving(Model):
    """A transformer: its clients send twice the pixels."""

    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def preprocess(self, payload, headers=None):
        if isinstance(payload, InferRequest):
            (tensor,) = payload.inputs
            tensor.set_data_from_numpy(tensor.as_numpy() / 2, binary_data=False)
            return payload
        return {"instances": [(np.array(each) / 2).tolist() for each in payload["instances"]]}


def serve_transformer(model, protocol, port):
    """Run KServe's ModelServer in a process of its own; its process id."""
    child = os.fork()
    if child:
        return child
    host = POD_RPC if protocol == "grpc-v2" else POD
    config = PredictorConfig(predictor_host=host, predictor_protocol=protocol)
    server = ModelServer(http_port=port, grpc_port=port + 1, predictor_config=config, workers=1)
    server.start([Halving(model)])
    os._exit(0)


async def ask(protocol, model, values, http, rpc, factor):
    array = np.array(values, np.float32)[None] * factor
    if protocol == "v1":
        async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
            assert await client.is_model_ready(f"http://{http}", model)
            answer = await client.infer(f"http://{http}", {"instances": array.tolist()}, model_name=model)
            return answer["predictions"]
    tensor = InferInput("data", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=False)
    request = InferRequest(model, [tensor])
    if protocol == "v2":
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            assert await client.is_model_ready(f"http://{http}", model)
            answer = await client.infer(f"http://{http}", request, model_name=model)
    else:
        async with InferenceGRPCClient(rpc) as client:
            assert await client.is_model_ready(model)
            answer = await client.infer(request)
    found = answer.outputs[0].as_numpy()
    return [each.decode() if isinstance(each, bytes) else each for each in found.ravel().tolist()]


def wait_until_ready(url):
    end = time.monotonic() + 60
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, f"not ready: {url}"
        time.sleep(0.1)


async def main(model, values, protocols):
    found = {}
    for number, protocol in enumerate(protocols):
        found[protocol] = await ask(protocol, model, values, POD, POD_RPC, 1)
        port = FIRST_PORT + 10 * number
        wait_until_ready(f"http://127.0.0.1:{port}/v2/health/ready")
        through = await ask(protocol, model, values, f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}", 2)
        found[f"{protocol} through a transformer"] = through
    print(json.dumps(found), file=sys.__stdout__)


if __name__ == "__main__":
    name, text, *asked = sys.argv[1:]
    children = [serve_transformer(name, each, FIRST_PORT + 10 * at) for at, each in enumerate(asked)]
    try:
        asyncio.run(main(name, json.loads(text), asked))
    finally:
        for each in children:
            os.kill(each, signal.SIGKILL)

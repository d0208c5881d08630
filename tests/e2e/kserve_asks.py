"""What KServe's own clients find at a server, as JSON. Run by a Python that has kserve; its protobuf keeps to itself.

python kserve_asks.py http://HOST:PORT HOST:GRPC_PORT
"""

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

X = np.array([[1, 2, 3], [0.5, 0.25, 0]], np.float32)
FACTOR = np.array([2, 4], np.float32)


def request(model="sums", *, binary=True, factor=True, **how):
    tensors = [InferInput("x", [2, 3], "FP32"), InferInput("factor", [2], "FP32")][: 2 if factor else 1]
    for tensor, array in zip(tensors, (X, FACTOR), strict=False):
        tensor.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model, tensors, **how)


def told(answer):
    return {output.name: np.asarray(output.as_numpy()).tolist() for output in answer.outputs}


async def rest(url):
    found = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
        found["live"] = await client.is_server_live(url)
        found["ready"] = await client.is_server_ready(url)
        found["model ready"] = await client.is_model_ready(url, "sums")
        found["model not there"] = await client.is_model_ready(url, "nobody")
        for binary in (True, False):
            answer = await client.infer(url, request(binary=binary, request_id="mine"), model_name="sums")
            found[f"infer, binary {binary}"] = [told(answer), answer.id, answer.model_name]
        try:
            await client.infer(url, request(factor=False), model_name="sums")
        except httpx.HTTPStatusError as error:
            found["refused"] = [error.response.status_code, str(error)]
    async with InferenceRESTClient(RESTConfig(protocol="v1", retries=0)) as client:
        found["v1 live"] = await client.is_server_live(url)
        found["v1 ready"] = await client.is_model_ready(url, "sums")
        instances = [{"x": x.tolist(), "factor": float(factor)} for x, factor in zip(X, FACTOR, strict=True)]
        found["v1 infer"] = await client.infer(url, {"instances": instances}, model_name="sums")
    return found


async def rpc(authority):
    found = {}
    async with InferenceGRPCClient(authority) as client:
        found["live"] = await client.is_server_live()
        found["ready"] = await client.is_server_ready()
        found["model ready"] = await client.is_model_ready("sums")
        found["model not there"] = await client.is_model_ready("nobody")
        for binary in (True, False):
            answer = await client.infer(request(binary=binary, request_id="mine"))
            found[f"infer, binary {binary}"] = [told(answer), answer.id, answer.model_name]
        large = InferInput("x", [1, 4_000_000], "FP32")
        large.set_data_from_numpy(np.ones((1, 4_000_000), np.float32))
        answer = await client.infer(InferRequest("told", [large]))
        found["16 MB"] = answer.outputs[0].as_numpy().tolist() == [b"{}"]
        try:
            await client.infer(request(factor=False))
        except grpc.RpcError as error:
            found["refused"] = [error.code().name, error.details()]
    return found


async def main(url, authority):
    print(json.dumps({"rest": await rest(url), "rpc": await rpc(authority)}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

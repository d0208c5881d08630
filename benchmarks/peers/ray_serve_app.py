"""The models of the cluster's benchmark behind Ray Serve: ``serve run`` is done by this script, on the cluster of RAY_ADDRESS.

    python ray_serve_app.py ADDRESS NODE_IP REPLICAS

Node resources named ``entry`` and ``other`` place one replica of ``bytes_here`` and ``bytes_there``; ``sleep`` has REPLICAS, one a node.
The driver ends once everything is ready, and prints ``ready``.
"""

import sys
import time

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request

SLEEP = 0.05


@serve.deployment
class Bytes:
    async def __call__(self, request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}


@serve.deployment
class Sleep:
    async def __call__(self, request: Request) -> dict[str, float]:
        time.sleep(SLEEP)  # noqa: ASYNC251 - one request at a time, as a model that computes
        return {"slept": SLEEP}


if __name__ == "__main__":
    address, node_ip, replicas = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ray.init(address=address, _node_ip_address=node_ip, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="0.0.0.0", port=8000), proxy_location="EveryNode")
    placed = {"bytes_here": "entry"} | ({"bytes_there": "other"} if replicas > 1 else {})
    for name, resource in placed.items():
        options = {"num_cpus": 0, "resources": {resource: 0.01}}
        serve.run(Bytes.options(ray_actor_options=options).bind(), name=name, route_prefix=f"/{name}")
    sleep = Sleep.options(num_replicas=replicas, max_replicas_per_node=1, ray_actor_options={"num_cpus": 0})
    serve.run(sleep.bind(), name="sleep", route_prefix="/sleep")
    print("ready", flush=True)

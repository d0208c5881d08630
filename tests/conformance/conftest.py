"""One server in this process with every kind of model, and every way to ask it."""

import asyncio
import sys
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop
from peers import InProcess, KServeV1, Rest, Rpc, TorchServe, TypedRpc

from mooring.config.settings import Address, Config

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

from e2e_kit import DIGITS, ROOT, free_ports
from v2_kit import write_models


class Served:
    """A whole server, on a thread of this process, with its engine within reach."""

    def __init__(self, config: Config, url: str, grpc_url: str) -> None:
        self._config = config
        self.url = url
        self.grpc_url = grpc_url
        self._loop = uvloop.new_event_loop()
        self._up = threading.Event()
        self._ended: asyncio.Event
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._up.wait()
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        # Here: the server's modules are the server process's own business until somebody needs one.
        from mooring.server.server import Server

        self._ended = asyncio.Event()
        try:
            async with AsyncExitStack() as stack:
                server = Server(self._config, stack)
                await server.start()
                await server.load()
                self.engine = server.engine
                self._up.set()
                await self._ended.wait()
        except BaseException as error:
            self._failed.append(error)
        finally:
            self._up.set()

    def run(self, work):
        """The result of a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    repository = write_models(tmp_path_factory.mktemp("repository"))
    inference, management, metrics, rpc = free_ports(4)
    config = Config(
        targets=(str(DIGITS / "digits.mar"), *map(str, sorted((ROOT / "examples/repository").glob("[!R]*")))),
        model_repository=(repository,),
        inference_address=Address("127.0.0.1", inference),
        management_address=Address("127.0.0.1", management),
        metrics_address=Address("127.0.0.1", metrics),
        grpc_address=Address("127.0.0.1", rpc),
        grpc_management_address=Address("127.0.0.1", rpc),
    )
    served = Served(config, f"http://127.0.0.1:{inference}", f"grpc://127.0.0.1:{rpc}")
    yield served
    served.stop()


PEERS = {
    "in process": InProcess,
    "v2 REST JSON": lambda served: Rest(served, binary=False),
    "v2 REST binary": lambda served: Rest(served, binary=True),
    "v2 gRPC raw": Rpc,
    "v2 gRPC typed": TypedRpc,
    "KServe v1": KServeV1,
    "TorchServe REST": TorchServe,
}


@pytest.fixture(scope="session", params=PEERS)
def peer(request, served):
    peer = PEERS[request.param](served)
    yield peer
    peer.close()

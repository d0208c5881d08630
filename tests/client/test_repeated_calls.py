"""What is asked again and what is not, over both protocols, by servers that follow a script."""

import asyncio
import gc
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

import grpc
import numpy as np
import pytest

import mooring
from mooring.codecs.proto import inference_pb2 as pb

X = {"x": np.ones(1, np.float32)}
Code = grpc.StatusCode
# What a server says to one call, over HTTP and gRPC: status, headers or trailers.
OK = (200, {}), (Code.OK, ())
BUSY = (503, {}), (Code.UNAVAILABLE, ())
LATER = (503, {"retry-after": "0.2"}), (Code.RESOURCE_EXHAUSTED, (("grpc-retry-pushback-ms", "200"),))
MUCH_LATER = (503, {"retry-after": "60"}), (Code.UNAVAILABLE, (("grpc-retry-pushback-ms", "60000"),))
FULL_MEMORY = (507, {}), (Code.RESOURCE_EXHAUSTED, ())
FAILED = (500, {}), (Code.INTERNAL, ())


class Script:
    """One server of each kind, which answer every call with the next line; ``asked`` are the calls that came."""

    def __init__(self):
        self.asked = []
        self.lines = iter(())
        self.inputs = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                script.asked.append(self.path)
                self._answer(200, {}, {"name": "m", "inputs": script.inputs})

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                script.asked.append(self.path)
                status, headers = next(script.lines)[0]
                answer = {
                    "model_name": "m",
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [7]}],
                }
                self._answer(status, headers, answer if status == 200 else {"error": "why"})

            def _answer(self, status, headers, document):
                body = json.dumps(document).encode()
                if self.path.endswith("generate_stream") and status == 200:
                    body = b"data: " + body + b"\n\n"
                self.send_response(status)
                for name, value in {
                    **headers,
                    "content-length": str(len(body)),
                    "content-type": "application/json",
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        self.grpc = grpc.server(ThreadPoolExecutor(2))
        self.grpc.add_generic_rpc_handlers((self,))
        self.port = self.grpc.add_insecure_port("127.0.0.1:0")
        self.grpc.start()

    def service(self, details):
        rpc = details.method.rpartition("/")[2]

        def answer():
            self.asked.append(rpc)
            if rpc == "ModelMetadata":
                inputs = [pb.ModelMetadataResponse.TensorMetadata(**each) for each in self.inputs]
                return pb.ModelMetadataResponse(name="m", inputs=inputs)
            code, trailers = next(self.lines)[1]
            if code is not Code.OK:
                return code, trailers
            response = pb.ModelInferResponse(model_name="m", raw_output_contents=[np.float32(7).tobytes()])
            response.outputs.add(name="y", datatype="FP32", shape=[1])
            return response

        def finish(said, context):
            if isinstance(said, tuple):
                context.set_trailing_metadata(said[1])
                context.abort(said[0], "why")
            return said

        def one(_request, context):
            return finish(answer(), context).SerializeToString()

        def many(requests, context):
            for _ in requests:
                response = finish(answer(), context)
                yield pb.ModelStreamInferResponse(infer_response=response).SerializeToString()

        kind = (
            grpc.stream_stream_rpc_method_handler
            if rpc == "ModelStreamInfer"
            else grpc.unary_unary_rpc_method_handler
        )
        return kind(many if rpc == "ModelStreamInfer" else one)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.grpc.stop(None).wait()


@pytest.fixture(scope="module")
def servers():
    script = Script()
    yield script
    script.close()


@pytest.fixture
def script(servers):
    servers.asked.clear()
    servers.lines = repeat(OK)
    return servers


@pytest.fixture(params=["sync rest", "sync grpc", "async rest", "async grpc"])
async def ask(request, script):
    """Infer or stream, by each client over each protocol; the first output of the last answer."""
    kind, _, way = request.param.partition(" ")
    url = (
        f"grpc://127.0.0.1:{script.port}" if way == "grpc" else f"http://127.0.0.1:{script.http.server_port}"
    )
    make = mooring.Client if kind == "sync" else mooring.AsyncClient
    clients = []

    async def call(inputs=X, *, stream=False, **settings):
        if not clients:
            clients.append(make(url, **settings))
        client = clients[0]
        if stream:
            pieces = client.stream("m", inputs, timeout=10.0)
            found = list(pieces) if kind == "sync" else [piece async for piece in pieces]
            return found[-1]["y"].tolist()
        result = client.infer("m", inputs, timeout=10.0)
        return (result if kind == "sync" else await result)["y"].tolist()

    yield call
    for client in clients:
        if kind == "sync":
            client.close()
        else:
            await client.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_no_model_has_run_is_made_again(script, ask, stream):
    script.lines = chain([BUSY, LATER], repeat(OK))
    assert await ask(stream=stream) == [7.0]
    assert len(script.asked) == 3


async def test_there_is_an_end_to_it(script, ask):
    script.lines = repeat(BUSY)
    with pytest.raises(mooring.ModelNotReady, match="why"):
        await ask(retries=1)
    assert len(script.asked) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("line", [FULL_MEMORY, FAILED])
async def test_a_call_that_a_model_may_have_run_is_not(script, ask, line, stream):
    script.lines = repeat(line)
    with pytest.raises(mooring.MooringError, match="why"):
        await ask(stream=stream)
    assert len(script.asked) == 1


async def test_nobody_waits_longer_than_the_call_may_take(script, ask):
    script.lines = repeat(MUCH_LATER)
    with pytest.raises(mooring.MooringError, match="why"):
        await ask()
    assert len(script.asked) == 1


async def test_arrays_of_the_declared_type_cost_no_further_call(script, ask):
    for _ in range(3):
        await ask()
    assert len(script.asked) == 3


async def test_a_declaration_is_asked_for_once(script, ask):
    for value in ([1.0], 1, np.ones(1)):
        assert await ask({"x": value}) == [7.0]
    assert await ask(2.5) == [7.0]
    assert len(script.asked) == 5


async def test_a_refused_input_is_asked_again_as_the_model_declares_it_now(script, ask):
    await ask([1])
    script.inputs[0]["datatype"] = "INT8"
    try:
        script.lines = chain([((400, {}), (Code.INVALID_ARGUMENT, ()))], repeat(OK))
        script.asked.clear()
        assert await ask([1]) == [7.0]
        assert len(script.asked) == 3
        script.lines = repeat(((400, {}), (Code.INVALID_ARGUMENT, ())))
        script.asked.clear()
        with pytest.raises(mooring.InvalidInput, match="why"):
            await ask([1])
        assert len(script.asked) == 2  # the declaration is as it was, and so would be the request
    finally:
        script.inputs[0]["datatype"] = "FP32"


async def test_a_model_that_refuses_for_its_own_reasons_is_not_run_again(script, ask):
    script.inputs[0]["datatype"] = "FP64"  # what the array was sent as is no reason: the model takes any type
    try:
        script.lines = repeat(((400, {}), (Code.INVALID_ARGUMENT, ())))
        for stream in (False, True):
            script.asked.clear()
            with pytest.raises(mooring.InvalidInput, match="why"):
                await ask(stream=stream)
            assert sum("etadata" not in each and each != "/v2/models/m" for each in script.asked) == 1
    finally:
        script.inputs[0]["datatype"] = "FP32"


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_server_that_is_not_up_yet_is_waited_for_when_the_declaration_is_asked_for(
    script, way, monkeypatch
):
    port = script.http.server_port if way == "http" else script.port
    with mooring.Client(f"{way}://127.0.0.1:{port}", retries=2) as client:
        ask, refused = client._transport.metadata, []

        def metadata(*arguments):
            if len(refused) < 2:
                refused.append(mooring.ServerUnreachable("nothing listens"))
                refused[-1].repeat_after = 0.0
                raise refused[-1]
            return ask(*arguments)

        monkeypatch.setattr(client._transport, "metadata", metadata)
        assert client.infer("m", [1.0])["y"].tolist() == [7.0]
    assert len(refused) == 2


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_proxy_of_the_environment_is_for_the_web_alone(script, way, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    port = script.http.server_port if way == "http" else script.port
    with mooring.Client(f"{way}://127.0.0.1:{port}", timeout=5) as client:
        assert client.infer("m", X)["y"].tolist() == [7.0]


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_closed_client_streams_nothing(script, way):
    port = script.http.server_port if way == "http" else script.port
    client = mooring.Client(f"{way}://127.0.0.1:{port}")
    client.close()
    with pytest.raises(RuntimeError, match="closed>: make a new one"):
        next(client.stream("m", X))
    assert not script.asked


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_an_asynchronous_client_outlives_an_event_loop(script, way):
    port = script.http.server_port if way == "http" else script.port
    client = mooring.AsyncClient(f"{way}://127.0.0.1:{port}")  # outside of any

    async def ask():
        return (await client.infer("m", X))["y"].tolist()

    assert [asyncio.run(ask()), asyncio.run(ask())] == [[7.0], [7.0]]
    asyncio.run(client.close())
    gc.collect()  # sockets of a loop that is closed can only be dropped, which Python warns of

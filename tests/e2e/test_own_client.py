"""mooring.Client and mooring.AsyncClient at a real server, over REST and gRPC."""

import asyncio
import inspect
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from e2e_kit import Server, free_ports

import mooring
from mooring.codecs.raw import make_tensor

X = np.array([[1, 2, 3], [0.5, 0.25, 0]], np.float32)
SUMS = {"x": X, "factor": np.array([2, 4], np.float32)}


class Waiting:
    """A client whose calls are awaited, whichever kind it is: so that one test is for both."""

    def __init__(self, client) -> None:
        self.client = client

    async def do(self, method, *args, **how):
        found = getattr(self.client, method)(*args, **how)
        return await found if inspect.isawaitable(found) else found

    async def pieces(self, *args, **how):
        found = self.client.stream(*args, **how)
        if hasattr(found, "__aiter__"):
            return [piece async for piece in found]
        return list(found)


@pytest.fixture(params=["sync rest", "sync json", "sync grpc", "async rest", "async grpc"])
async def client(request, tensors):
    kind, _, way = request.param.partition(" ")
    url = f"grpc://{tensors.grpc_authority}" if way == "grpc" else tensors.url
    make = mooring.Client if kind == "sync" else mooring.AsyncClient
    waiting = Waiting(make(url, timeout=30.0, binary=way != "json"))
    yield waiting
    await waiting.do("close")


async def test_arrays_go_in_and_come_out(client):
    result = await client.do("infer", "sums", SUMS, version="1", request_id="mine")
    assert result["total"].tolist() == [12, 3]
    assert result["peak"].tolist() == [3, 0.5]
    assert (result.model, result.version, result.id) == ("sums", "1", "mine")
    assert list(await client.do("infer", "sums", SUMS, outputs=["peak"])) == ["peak"]


async def test_lists_and_texts_become_arrays(client):
    result = await client.do("infer", "mirror", {"numbers": [[1.5, 2]], "texts": ["a", "\u00fc"]})
    assert result["numbers"].tolist() == [[1.5, 2]]
    assert result["texts"].tolist() == [b"a", "\u00fc".encode()]


async def test_values_become_what_the_model_declares(client):
    assert (await client.do("infer", "half", [1.5, -2]))["y"].tolist() == [1.5, -2]
    result = await client.do("infer", "sums", {"x": X.astype(np.float64), "factor": [2, 4]})
    assert result["total"].tolist() == [12, 3]
    alone = await client.do("infer", "sums", {"x": [1, 2, 3], "factor": 2})
    assert alone["total"].tolist() == [12]
    with pytest.raises(
        mooring.InvalidInput, match=r"takes 'x' \(FP32 \[-1, 3\]\), 'factor' .*: give inputs by name"
    ):
        await client.do("infer", "sums", X)
    with pytest.raises(mooring.InvalidInput, match=r"'n' holds 1\.5"):
        await client.pieces("steps", 1.5)
    assert [piece["step"].tolist() for piece in await client.pieces("steps", 2)] == [[0], [1]]


async def test_a_model_that_was_loaded_anew_is_looked_at_anew(client, tensors):
    def declared(datatype):
        return {"input": [{"name": "x", "data_type": f"TYPE_{datatype}", "dims": [-1]}]}

    with mooring.Client(tensors.url, timeout=30.0) as other:
        try:
            for datatype in ("FP32", "INT32"):
                other.load("told", config=declared(datatype))
                assert (await client.do("infer", "told", [1, 2]))["told"].tolist() == [b"{}"]
        finally:
            other.load("told")


async def test_a_client_and_its_results_say_what_they_are(client):
    said = repr(client.client)
    assert "Client of " in said
    assert said.endswith((", REST>", ", gRPC>"))
    result = await client.do("infer", "half", [1.5])
    assert repr(result).startswith("Result(model='half', version='1', {'y': array([1.5]")
    assert result.value is result["y"]
    both = await client.do("infer", "sums", SUMS)
    with pytest.raises(ValueError, match="2 outputs: 'total', 'peak'; take one by its name"):
        _ = both.value


async def test_a_client_that_is_closed_says_so(client):
    await client.do("close")
    await client.do("close")
    with pytest.raises(RuntimeError, match="closed>: make a new one"):
        await client.do("infer", "sums", SUMS)


async def test_a_tensor_says_its_own_datatype(client):
    sent = make_tensor("", np.array([1.5, -2], np.float32), "BF16")
    assert (await client.do("infer", "half", {"x": sent}))["y"].tolist() == [1.5, -2]


async def test_parameters_reach_the_model(client):
    mine = {"a": 1, "b": True, "c": "text", "d": 2.5}
    (told,) = (await client.do("infer", "told", {"x": X}, parameters=mine))["told"]
    assert told == b'{"a": 1, "b": true, "c": "text", "d": 2.5}'


async def test_a_stream_comes_in_pieces(client):
    found = await client.pieces("steps", {"n": np.array([3], np.int32)})
    assert [piece["step"].tolist() for piece in found] == [[0], [1], [2]]


async def test_a_stream_that_fails_raises_after_its_pieces(client):
    with pytest.raises(mooring.ModelFailed, match="no further"):
        await client.pieces("steps", {"n": np.array([3], np.int32)}, parameters={"fails": 1})
    with pytest.raises(mooring.MooringError, match="nobody"):
        await client.pieces("nobody", {"n": np.array([3], np.int32)})


async def test_leaving_the_loop_of_a_stream_ends_what_the_model_does(client, tmp_path):
    note = tmp_path / "ended"
    stream = client.client.stream("endless", {"x": X}, parameters={"pause": 0.01, "note": str(note)})
    if hasattr(stream, "__aiter__"):
        async for _ in stream:
            break
    else:
        for _ in stream:
            break
    del stream
    for _ in range(500):
        if note.exists():
            break
        await asyncio.sleep(0.02)
    assert note.exists()


async def test_a_stream_whose_next_piece_does_not_come_in_time_ends(client, tmp_path):
    how = {"parameters": {"pause": 1.5, "note": str(tmp_path / "ended")}, "timeout": 0.5}
    with pytest.raises(mooring.DeadlineExceeded):
        await client.pieces("endless", {"x": X}, **how)
    assert len(await client.pieces("steps", 3)) == 3


async def test_leaving_a_stream_early_leaves_the_client_usable(client):
    stream = client.client.stream("steps", {"n": np.array([50], np.int32)})
    if hasattr(stream, "__aiter__"):
        assert (await anext(stream))["step"].tolist() == [0]
        await stream.aclose()
    else:
        assert next(stream)["step"].tolist() == [0]
        stream.close()
    assert (await client.do("infer", "sums", SUMS))["total"].tolist() == [12, 3]


async def test_the_server_and_its_models_say_what_they_are(client):
    assert await client.do("live")
    assert await client.do("ready")
    assert await client.do("ready", "sums")
    assert "binary_tensor_data" in (await client.do("server")).extensions
    metadata = await client.do("metadata", "sums")
    assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.inputs] == [
        ("x", "FP32", [-1, 3]),
        ("factor", "FP32", [-1]),
    ]
    assert (await client.do("config", "sums"))["max_batch_size"] == 8
    (usage,) = await client.do("usage", "sums")
    await client.do("infer", "sums", SUMS)
    (later,) = await client.do("usage", "sums")
    assert later.success.count == usage.success.count + 1
    assert later.inferences == usage.inferences + 2
    assert later.success.ns > usage.success.ns


async def test_models_are_loaded_and_unloaded(client):
    states = {entry.name: entry.ready for entry in await client.do("models")}
    assert states["told"]
    await client.do("unload", "told")
    assert not {entry.name: entry.ready for entry in await client.do("models")}["told"]
    with pytest.raises(mooring.ModelNotFound):
        await client.do("infer", "told", {"x": X})
    source = b"def infer(inputs, parameters):\n    return {'told': ['another']}\n"
    await client.do("load", "told", files={"1/model.py": source}, config={"max_batch_size": 0})
    assert (await client.do("infer", "told", {"x": X}))["told"].tolist() == [b"another"]
    await client.do("load", "told")
    assert (await client.do("infer", "told", {"x": X}))["told"].tolist() == [b"{}"]


@pytest.mark.parametrize(
    ("kind", "model", "inputs", "how"),
    [
        (mooring.ModelNotFound, "nobody", SUMS, {}),
        (mooring.ModelNotFound, "sums", SUMS, {"version": "9"}),
        (mooring.InvalidInput, "sums", {"x": X}, {}),
        (mooring.InvalidInput, "sums", SUMS, {"outputs": ["nothing"]}),
        (mooring.ModelFailed, "sums", {**SUMS, "x": -X}, {}),
        (mooring.Unsupported, "steps", {"n": np.array([3], np.int32)}, {}),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind(client, kind, model, inputs, how):
    with pytest.raises(kind) as raised:
        await client.do("infer", model, inputs, **how)
    assert raised.value.model == model
    assert raised.value.message


async def test_what_does_not_know_a_model_says_so_everywhere(client):
    for method in ("ready", "metadata", "config", "usage", "load", "unload"):
        with pytest.raises(mooring.ModelNotFound):
            await client.do(method, "nobody")


async def test_a_load_that_fails_says_why(client):
    with pytest.raises(mooring.MooringError, match="broken"):
        await client.do("load", "told", files={"1/model.py": b"raise RuntimeError('broken')"})
    assert (await client.do("infer", "told", {"x": X}))["told"].tolist() == [b"{}"]
    (entry,) = [each for each in await client.do("models") if each.name == "told"]
    assert (entry.version, entry.state, entry.ready) == ("1", "READY", True)
    assert "could not be loaded anew" in entry.reason
    await client.do("load", "told")
    (entry,) = [each for each in await client.do("models") if each.name == "told"]
    assert (entry.state, entry.reason) == ("READY", "")


async def test_time_runs_out(client):
    with pytest.raises(mooring.DeadlineExceeded):
        await client.do("infer", "slow", {"seconds": np.array([1.5])}, timeout=0.2)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("make", [mooring.Client, mooring.AsyncClient])
async def test_a_server_that_is_not_there_cannot_be_reached(scheme, make):
    (port,) = free_ports(1)
    client = Waiting(make(f"{scheme}://127.0.0.1:{port}", timeout=5.0))
    for method in ("live", "server", "models"):
        with pytest.raises(mooring.ServerUnreachable):
            await client.do(method)
    with pytest.raises(mooring.ServerUnreachable):
        await client.pieces("sums", SUMS)
    await client.do("close")


@pytest.mark.parametrize("make", [mooring.Client, mooring.AsyncClient])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://{grpc}", "{grpc} is a gRPC port; use grpc://{grpc}"),
        ("grpc://{http}", "{http} does not speak gRPC; if it speaks HTTP, use http://{http}"),
        ("https://{http}", "{http} does not speak TLS; use http://{http}"),
        ("grpcs://{grpc}", "{grpc} does not speak TLS; use grpc://{grpc}"),
        ("http://{management}", "http://{management} has no /v2/models/sums/infer; give the inference address"),
        ("http://{metrics}", "http://{metrics} has no /v2/models/sums/infer; give the inference address"),
        ("http://nobody.invalid:1", "no host 'nobody.invalid' is known"),
        ("grpc://nobody.invalid:1", "no host 'nobody.invalid' is known"),
        ("http://127.0.0.1:{free}", "nothing listens at 127.0.0.1:{free}; is the server up?"),
        ("grpc://127.0.0.1:{free}", "nothing listens at 127.0.0.1:{free}; is the server up?"),
    ],
)  # fmt: skip
async def test_a_wrong_port_or_scheme_is_said_with_the_right_one(tensors, make, url, said):
    _, management, metrics = tensors.ports
    names = {"http": tensors.authority, "grpc": tensors.grpc_authority, "free": free_ports(1)[0],
             "management": f"127.0.0.1:{management}", "metrics": f"127.0.0.1:{metrics}"}  # fmt: skip
    client = Waiting(make(url.format(**names), timeout=10.0, retries=0))
    with pytest.raises(mooring.ServerUnreachable) as raised:
        await client.do("infer", "sums", SUMS)
    assert said.format(**names) in raised.value.message
    await client.do("close")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("make", [mooring.Client, mooring.AsyncClient])
async def test_a_connection_that_nobody_accepts_is_given_up_before_the_call_is(make, scheme):
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(2):  # all that the kernel keeps
            other = waiting.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        client = Waiting(make(f"{scheme}://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.3))
        with pytest.raises(mooring.ServerUnreachable, match="did not accept a connection"):
            await client.do("live")
        await client.do("close")


def test_a_url_without_a_scheme_is_rest(tensors):
    with mooring.Client(tensors.authority) as client:
        assert client.live()
        assert repr(client) == f"<mooring.Client of {tensors.url}, REST>"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_many_threads_may_share_a_client(tensors, scheme):
    url = tensors.url if scheme == "http" else f"grpc://{tensors.grpc_authority}"

    def ask(number):
        return client.infer("sums", {"x": [number, 1, 2], "factor": [1]})["total"].tolist()

    with mooring.Client(url, timeout=30.0, max_connections=8) as client, ThreadPoolExecutor(32) as threads:
        assert list(threads.map(ask, range(320))) == [[number + 3] for number in range(320)]


def test_a_server_that_comes_back_is_asked_again(tmp_path):
    ports = free_ports(4)
    (tmp_path / "double.py").write_text(
        "def double(inputs, parameters):\n    return {'y': inputs['x'] * 2}\n"
    )
    flags = [
        f"--{name}-address=http://127.0.0.1:{port}"
        for name, port in zip(("inference", "management", "metrics"), ports[:3], strict=True)
    ]

    @contextmanager
    def served():
        server = Server(
            tmp_path, "double.py:double", *flags, f"--grpc-address=127.0.0.1:{ports[3]}", ports=ports[:3]
        )
        try:
            yield server.started()
        finally:
            server.stop()
            server.kill()

    two = [mooring.Client(url) for url in (f"http://127.0.0.1:{ports[0]}", f"grpc://127.0.0.1:{ports[3]}")]
    with served():
        assert [client.infer("double", {"x": [2]})["y"].tolist() for client in two] == [[4], [4]]
    for client in two:
        with pytest.raises(mooring.ServerUnreachable):
            client.infer("double", {"x": [2]})
    with served():
        assert [client.infer("double", {"x": [2]})["y"].tolist() for client in two] == [[4], [4]]
    for client in two:
        client.close()


def test_a_client_that_nobody_closed_leaves_quietly(tensors):
    code = (
        "import asyncio, mooring\n"
        f"urls = ['{tensors.url}', 'grpc://{tensors.grpc_authority}']\n"
        "print([mooring.Client(url).infer('half', [1.5])['y'].tolist() for url in urls])\n"
        "async def ask(url): return (await mooring.AsyncClient(url).infer('half', [1.5]))['y'].tolist()\n"
        "print([asyncio.run(ask(url)) for url in urls])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[[1.5], [1.5]]\n" * 2, "")


def test_a_client_is_a_context_manager(tensors):
    with mooring.Client(tensors.url) as client:
        assert client.live()


async def test_an_asynchronous_client_is_one_too(tensors):
    async with mooring.AsyncClient(tensors.url) as client:
        assert await client.live()


@pytest.mark.parametrize("url", ["ftp://here", "http://", "http://here:port", ""])
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(mooring.InvalidInput):
        mooring.Client(url)


async def test_timing_is_there_where_it_is_asked_for(client):
    told = await client.do("infer", "sums", SUMS, timing=True)
    assert told.timing.keys() == {"queue", "batch", "model", "encode", "total"}
    assert told.timing.rows == 2
    parts = sum(told.timing[name] for name in ("queue", "batch", "model", "encode"))
    assert parts <= told.timing["total"] + 0.001
    assert (await client.do("infer", "sums", SUMS)).timing is None

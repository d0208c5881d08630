"""mooring.Client and mooring.AsyncClient at a real server, over REST and gRPC."""

import inspect

import numpy as np
import pytest
from e2e_kit import free_ports

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

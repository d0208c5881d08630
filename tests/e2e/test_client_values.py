"""mooring.Client and mooring infer at functions of Python values, over REST and gRPC."""

import inspect
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from e2e_kit import Server, free_ports

import mooring
from mooring.cli.commands import commands
from mooring.core.errors import Unsupported

FUNCTIONS = """
import dataclasses
import time
import mooring


def upper(text: str) -> str:
    return text.upper()


def add(x: int, y: int = 1) -> int:
    return x + y


def chat(messages: list[dict]) -> dict:
    return {"n": len(messages), "last": messages[-1] if messages else None}


@dataclasses.dataclass
class Point:
    x: int
    name: str = ""


def point(p: Point) -> Point:
    return Point(p.x + 1, p.name)


def words(n: int):
    for number in range(n):
        yield f"w{number} "


def facts(n: int):
    for number in range(n):
        yield {"number": number}


def slow(x: int) -> int:
    time.sleep(0.1)
    return x


def refuse(x: int) -> int:
    raise mooring.Refused(409, "taken")
"""
NAMES = ("upper", "add", "chat", "point", "words", "facts", "slow", "refuse")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("values")
    (folder / "functions.py").write_text(FUNCTIONS)
    (port,) = free_ports(1)
    server = Server(
        folder, *(f"functions.py:{name}" for name in NAMES), f"--grpc-address=127.0.0.1:{port}", "--job-queue-size=2"
    )  # fmt: skip
    server.urls = {"rest": server.url, "grpc": f"grpc://127.0.0.1:{port}"}
    try:
        yield server.started()
        assert server.stop() == 0, server.log
    finally:
        server.kill()


@pytest.fixture(params=["sync rest", "sync grpc", "async rest", "async grpc"])
async def ask(request, server):
    """The value of an answer, or of all pieces of one."""
    kind, _, way = request.param.partition(" ")
    client = (mooring.Client if kind == "sync" else mooring.AsyncClient)(server.urls[way], timeout=30.0)

    async def call(model, inputs, *, stream=False):
        if not stream:
            result = client.infer(model, inputs)
            return (await result if inspect.isawaitable(result) else result).value
        pieces = client.stream(model, inputs)
        return (
            [piece.value for piece in pieces] if kind == "sync" else [piece.value async for piece in pieces]
        )

    yield call
    closed = client.close()
    if closed is not None:
        await closed


@pytest.mark.parametrize(
    ("model", "inputs", "value"),
    [
        ("upper", {"text": "\u65e5 ü"}, "\u65e5 Ü"),
        ("upper", "hi", "HI"),
        ("add", 3, 4),
        ("add", {"x": 3, "y": 4}, 7),
        ("add", {"x": 3, "y": None}, 4),
        ("chat", {"messages": [{"role": "user", "content": None}]}, {"n": 1, "last": {"role": "user", "content": None}}),
        ("chat", [], {"n": 0, "last": None}),
        ("point", {"p": {"x": 1}}, {"x": 2, "name": ""}),
        ("point", {"x": 1, "name": "n"}, {"x": 2, "name": "n"}),
    ],
)  # fmt: skip
async def test_values_go_in_and_come_out(ask, model, inputs, value):
    assert await ask(model, inputs) == value


async def test_pieces_are_values(ask):
    assert await ask("words", 2, stream=True) == ["w0 ", "w1 "]
    assert await ask("facts", {"n": 2}, stream=True) == [{"number": 0}, {"number": 1}]


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "reason"),
    [
        ("point", {"x": "one"}, mooring.InvalidInput, "x must be a whole number, not a string"),
        ("add", {"x": 2.5}, mooring.InvalidInput, r"'x' holds 2\.5"),
        ("add", {}, mooring.InvalidInput, "'x' is missing"),
        ("refuse", 1, mooring.ModelFailed, "taken"),
        ("words", 2, Unsupported, r"model 'words' answers in pieces: take them by stream\(\)"),
    ],
)  # fmt: skip
async def test_what_a_function_does_not_take_is_said(ask, model, inputs, kind, reason):
    with pytest.raises(kind, match=reason):
        await ask(model, inputs)


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_who_meets_a_full_queue_comes_back_when_the_server_says(server, way):
    def ask(number):
        return client.infer("slow", number).value

    for retries in (0, 9):
        with mooring.Client(server.urls[way], retries=retries) as client, ThreadPoolExecutor(6) as threads:
            answers = threads.map(ask, range(6))
            if retries:
                assert list(answers) == list(range(6))
            else:
                with pytest.raises(mooring.QueueFull) as raised:
                    list(answers)
                assert raised.value.repeat_after == 1.0


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_the_command_asks_with_json_and_prints_the_value(server, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.json").write_text('{"messages": [{}]}')
    (tmp_path / "note.txt").write_text("a note")

    def infer(*args, stdin=None):
        where = ["--url", server.urls[way]]
        done = CliRunner().invoke(commands, ["infer", *args, *where], prog_name="mooring", input=stdin)
        assert done.exit_code == 0, done.output
        return done.output.rstrip("\n")

    expected = {"n": 1, "last": {}}
    for args in (["-i", "chat.json"], ["-i", "messages=[{}]"], ["-i", '{"messages": [{}]}']):
        assert json.loads(infer("chat", *args)) == expected
    assert json.loads(infer("chat", stdin='{"messages": [{}]}')) == expected
    assert json.loads(infer("add", "-i", "x=2")) == {"output": [3]}
    assert json.loads(infer("upper", "-i", "note.txt")) == {"output": ["A NOTE"]}
    assert infer("facts", "-i", "2", "--stream") == '{"number": 0}\n{"number": 1}'

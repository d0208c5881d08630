"""A model that is loaded again runs the code that its files have now."""

import json
import os

import pytest
from e2e_kit import Server, Wire, request

FUNCTION = """
import helper

def infer(inputs):
    return {{"answer": ["{letter}" + helper.LETTER]}}
"""
HANDLER = """
import helper

def handle(data, context):
    return None if data is None else ["{letter}" + helper.LETTER] * len(data)
"""


@pytest.fixture
def server(tmp_path):
    models, store = tmp_path / "models", tmp_path / "store"
    arguments = ("--model-repository", models, "--model-store", store, store / "handler")
    # Empty: Python writes bytecode, as it does for most users.
    server = Server(tmp_path, *arguments, environ={"PYTHONDONTWRITEBYTECODE": ""})
    yield server
    server.kill()


def write(folder, name, source, letter):
    """Two files of the model, of the same size and with the same modification time whatever the letter is."""
    for file, text in ((name, source.format(letter=letter)), ("helper.py", f"LETTER = '{letter}'\n")):
        (folder / file).write_text(text)
        os.utime(folder / file, (1_000_000_000, 1_000_000_000))


def manage(server, method, target):
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        return wire.answer()


def test_code_of_the_same_size_and_time_is_not_run_from_old_bytecode(server, tmp_path):
    function, handler = tmp_path / "models/function/1", tmp_path / "store/handler"
    function.mkdir(parents=True)
    (handler / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "handler", "modelVersion": "1", "handler": "handler.py"}
    (handler / "MAR-INF/MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    write(function, "model.py", FUNCTION, "a")
    write(handler, "handler.py", HANDLER, "a")
    server.started(ping=200)
    assert server.predict("function", b'{"x": [1]}').json()["answer"] == ["aa"]
    assert server.predict("handler", b"x").body == b"aa"
    for letter in ("b", "c"):
        write(function, "model.py", FUNCTION, letter)
        write(handler, "handler.py", HANDLER, letter)
        assert server.ask("POST", "/v2/repository/models/function/load").code == 200
        assert manage(server, "DELETE", "/models/handler").code == 200
        assert manage(server, "POST", "/models?url=handler&initial_workers=1&synchronous=true").code == 200
        assert server.predict("function", b'{"x": [1]}').json()["answer"] == [letter * 2]
        assert server.predict("handler", b"x").body == letter.encode() * 2
    assert not list(tmp_path.rglob("__pycache__"))
    assert server.stop() == 0

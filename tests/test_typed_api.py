"""The types of what Python users call, as mypy tells them."""

import re
from pathlib import Path

from mypy import api

ROOT = Path(__file__).parents[1]
CODE = """
from pathlib import Path
import mooring
from mooring.testing import Client

def double(x: int) -> int:
    return x * 2

def check() -> None:
    reveal_type(mooring.serve(double))
    with mooring.serve({"a": double, "b": Path("m.onnx")}, port=0, workers=2, access_log=True) as server:
        reveal_type(server)
        reveal_type(server.url)
        reveal_type(server.client())
        reveal_type(server.wait(1.0))
        reveal_type(server.stop())
    with Client(double, process=True) as client:
        reveal_type(client)
        reveal_type(client.predict({"x": 1}))
        reveal_type(client.infer({"x": 1}))
        reveal_type(client.stream(1))
        reveal_type(client.server)
"""
RUNNING = "mooring.python_api.server.RunningServer"
REVEALED = [
    RUNNING,
    RUNNING,
    "str",
    "mooring.client.sync.client.Client",
    "int",
    "None",
    "mooring.testing.Client",
    "Any",
    "mooring.client.result.Result",
    "typing.Generator[Any, None, None]",
    f"{RUNNING} | None",
]


def test_python_users_get_types(tmp_path):
    file = tmp_path / "user.py"
    file.write_text(CODE)
    # The settings and the cache of the check of the sources.
    told, errors, _ = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(file)])
    found = [each.replace("builtins.", "") for each in re.findall(r'Revealed type is "(.*)"', told)]
    assert found == REVEALED, told + errors
    assert "error:" not in told

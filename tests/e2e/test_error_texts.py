"""What a user did, and what it says: each row of the table in docs/guide-errors.md, asked of real servers and commands.

A row's first cell is the command as a user types it. It is run in a folder of models, with the ports of a server of the test
in the place of those by default, and with two frontends as well.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from e2e_kit import PATIENCE, ROOT, SAMPLES, SCRIPTS, Server, until
from tls_kit import Authority

GUIDE = ROOT / "docs/guide-errors.md"
FILES = {
    "README.md": "# Models\n\nAll of them.\n",
    "double.py": 'def double(inputs):\n    return {"doubled": inputs["x"] * 2}\n',
    "shop.py": (
        "import mooring\n\n\nclass Model:\n    client_errors = (KeyError,)\n    prices = {'tea': 3}\n\n"
        "    def infer(self, item: str, count: int = 1) -> float:\n        if count > 100:\n"
        "            raise mooring.Refused(409, 'there are only 100 of each')\n        if count < 0:\n"
        "            raise mooring.InvalidInput('count is below 0')\n        return self.prices[item] / count\n"
    ),
    "classify/config.toml": (
        'max_batch_size = 8\n[[inputs]]\nname = "image"\ndatatype = "FP32"\nshape = [-1, 3, 8, 8]\n'
        '[[outputs]]\nname = "scores"\ndatatype = "FP32"\nshape = [-1, 3]\n'
        "[parameters]\nimage_height = 8\nimage_width = 8\n"
    ),
    "classify/1/model.py": "def infer(inputs):\n    return {'scores': inputs['image'].mean(axis=(2, 3))}\n",
    "scale/config.toml": (
        'max_batch_size = 8\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 4]\n'
        '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 4]\n'
    ),
    "scale/1/model.py": "def infer(inputs):\n    return {'y': inputs['x'] * 2}\n",
    "echo/MAR-INF/MANIFEST.json": (
        '{"model": {"modelName": "echo", "handler": "handler.py", "configFile": "model-config.yaml"}}'
    ),
    "echo/model-config.yaml": "clientErrors: [LookupError]\n",
    "echo/handler.py": (
        "def handle(data, context):\n    if data is None:\n        return None\n    known = {b'hello': 'hello'}\n"
        "    texts = [bytes(row['body']) for row in data]\n    if b'boom' in texts:\n        raise ValueError('boom')\n"
        "    return [known[text] for text in texts]\n"
    ),
    "several/one.py": "def one(x: int) -> int:\n    return x\n",
    "several/two.py": "def two(x: int) -> int:\n    return x\n",
    "config.properties": "job_queue_size=10\n",
    "broken.toml": "job_queue_size = \n",
    "wrong.toml": 'job_queue_size = "ten"\n',
}


class Row(NamedTuple):
    """A row of the table: the command, the HTTP status or the exit status, and the text."""

    command: str
    status: str
    text: str


def rows() -> list[Row]:
    """The rows of the guide."""
    section = GUIDE.read_text().partition("## What you did, and what it says\n")[2].partition("\n## ")[0]
    return [Row(*row) for row in re.findall(r"^\| `(.+?)` \| (\d+) \| (.+) \|$", section, re.MULTILINE)]


REQUESTS = [row for row in rows() if row.command.startswith("curl ")]
COMMANDS = [row for row in rows() if row.command.startswith("mooring ")]


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(SAMPLES[0], folder / "7.png")
    pair = Authority(folder).issue()
    shutil.copy(pair.cert, folder / "cert.pem")
    shutil.copy(pair.key, folder / "key.pem")


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two frontends"])
def server(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("texts")
    write_files(folder)
    flags = [f"--frontends={request.param}", "--deal-connections=evenly", "--show-errors"]
    server = Server(folder, "double.py:double", "shop.py", "classify", "scale", "echo", *flags)
    yield server.started()
    assert server.stop() == 0


def on(server: Server, text: str) -> str:
    """A command with the server's ports in the place of those by default."""
    for port, own in zip((8080, 8081, 8082), server.ports, strict=True):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{own}")
    return text


def by_default(server: Server, text: str) -> str:
    """A text with the ports by default in the place of the server's."""
    for port, own in zip((8080, 8081, 8082), server.ports, strict=True):
        text = text.replace(f"127.0.0.1:{own}", f"127.0.0.1:{port}")
    return text


def ask(server: Server, command: str) -> tuple[int, dict]:
    """The status and the body that curl gets."""
    done = subprocess.run(
        [*shlex.split(on(server, command)), "--silent", "--show-error", "--write-out", "\n%{http_code}"],
        cwd=server.folder, capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("row", REQUESTS, ids=[row.command for row in REQUESTS])
def test_a_request_is_answered_as_the_guide_says(server, row):
    status, body = ask(server, row.command)
    assert (str(status), by_default(server, body.get("message") or body["error"])) == (row.status, row.text)


def test_the_id_in_the_body_finds_the_reason_and_the_traceback_in_the_log(server):
    (row,) = (row for row in REQUESTS if "ZeroDivisionError" in row.text and "/predictions/" in row.command)
    status, body = ask(server, row.command)
    assert status == 500
    until(lambda: f"request={body['requestId']}" in server.log)
    line, _, rest = server.log.partition(body["requestId"])[2].partition("\n")
    assert 'reason="ZeroDivisionError: ' in line
    assert "Traceback (most recent call last)" in rest[:200]
    assert "Traceback" not in json.dumps(body)


def run_commands(folder: Path, rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """The exit status and the text of each command. They run beside each other, on free ports."""
    running = {
        row.command: subprocess.Popen(
            [SCRIPTS / "mooring", *shlex.split(row.command.replace(":8443", ":0"))[1:]],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"MOORING_PORT": "0"},
        )
        for row in rows
    }  # fmt: skip
    ended = {}
    try:
        for command, process in running.items():
            err = process.communicate(timeout=2 * PATIENCE)[1]
            text = err.rpartition("Error: ")[2].strip().replace("127.0.0.1:0", "127.0.0.1:8443")
            ended[command] = (str(process.returncode), text)
    finally:
        for process in running.values():
            process.kill()
    return ended


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    write_files(folder)
    return run_commands(folder, COMMANDS)


@pytest.mark.parametrize("row", COMMANDS, ids=[row.command for row in COMMANDS])
def test_a_command_ends_as_the_guide_says(said, row):
    assert said[row.command] == (row.status, row.text)


def test_the_table_has_rows():
    assert len(REQUESTS) > 15
    assert len(COMMANDS) > 10

"""The models in Python that the README shows, served and asked by its own commands, which print what it shows."""

import os
import re
import shutil
import subprocess

import pytest
from e2e_kit import ROOT, SCRIPTS, Server

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("curl") is None, reason="the README's commands need curl"),
]

README = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))
# The console blocks that ask these models.
BLOCKS = [
    block
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    if any(f"{name.removesuffix('.py')}:" in block for name in FILES) or "/greet" in block
]


def steps(block):
    """Each command of a block with what the README shows of its output."""
    return [
        (command, shown)
        for command, _, shown in (
            part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        )
        if not command.startswith("mooring serve ")
    ]


ASKED = [step for block in BLOCKS for step in steps(block)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    targets = re.findall(r"^\$ mooring serve (\w+\.py:\w+)$", README, flags=re.MULTILINE)
    started = Server(folder, *targets)
    try:
        yield started.started()
        assert started.stop() == 0
    finally:
        started.kill()


def test_both_models_and_their_commands_are_found():
    assert set(FILES) == {"app.py", "double.py"}
    assert len(ASKED) == 6


@pytest.mark.parametrize(("command", "shown"), ASKED, ids=[f"command {at}" for at in range(len(ASKED))])
def test_a_command_prints_what_the_readme_shows(server, command, shown):
    command = command.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    command = command.replace("mooring infer", f"mooring infer --url {server.url}")
    ran = subprocess.run(
        ["sh", "-c", command.replace("curl ", "curl -s ")],
        env=os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    expected = "".join(
        ".*" if line.strip() == "..." else re.escape(line) + "\n" for line in shown.splitlines()
    )
    assert re.fullmatch(expected.rstrip("\n") + r"\n?", ran.stdout, re.DOTALL), ran.stdout + ran.stderr

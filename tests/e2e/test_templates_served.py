"""The projects of ``mooring init`` and the example of the transformers library, served and asked as their READMEs say.

One server has them all: each of its workers imports torch, which takes long.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from e2e_kit import ROOT, Server, Wire, request

import mooring
from mooring.cli.init import KINDS, write_project

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]  # torch is imported by five processes

EXAMPLE = ROOT / "examples" / "text_classification"
# Where the hub must not be asked; `ts` is importable where Mooring is installed from its wheel.
ENVIRON = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src" / "mooring" / "compat")}
CHARACTERS = re.search(r'CHARACTERS = "(.*)"', (EXAMPLE / "make_models.py").read_text())[1]


class Project(NamedTuple):
    """What the README of a project says: the target to serve, and how the model is asked."""

    target: str
    path: str
    content_type: str
    body: str


def read_readme(folder):
    """The commands of a README, of which those before the server are run."""
    lines = re.findall(r"^\$ (.*)", (folder / "README.md").read_text(), re.MULTILINE)
    at = next(index for index, line in enumerate(lines) if line.startswith("mooring serve "))
    for line in lines[1:at]:
        command = shlex.split(line)
        program = [sys.executable, *(["-m", "mooring"] if command[0] == "mooring" else [])]
        subprocess.run([*program, *command[1:]], cwd=folder, env=ENVIRON, check=True, timeout=60)
    curl = shlex.split(lines[at + 1])
    url = next(each for each in curl if each.startswith("http://"))
    return Project(
        shlex.split(lines[at])[2],
        re.sub(r"http://127\.0\.0\.1:8080", "", url),
        curl[curl.index("-H") + 1].partition(": ")[2],
        curl[curl.index("-d") + 1],
    )


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """The folder with a project of each template, and what their READMEs say."""
    home = tmp_path_factory.mktemp("projects")
    found = {}
    for template in KINDS:
        write_project(home / template, template)
        found[template] = read_readme(home / template)
    subprocess.run(
        [sys.executable, EXAMPLE / "make_models.py", home / "models"], env=ENVIRON, check=True, timeout=60
    )
    return home, found


@pytest.fixture(scope="module")
def server(projects):
    home, found = projects
    targets = [f"{name}={name}/{project.target}" for name, project in found.items()]
    example = [f"mood={EXAMPLE}/app.py:Mood", f"writer={EXAMPLE}/app.py:Writer"]
    started = Server(home, *targets, *example, environ=ENVIRON | {"MODELS": str(home / "models")})
    try:
        yield started.started()
        assert started.stop() == 0
        assert not started.faults()
    finally:
        started.kill()


def ask(server, project, name):
    """Ask as the README's curl does; the model is called ``name`` here."""
    path = project.path.rpartition("/")[0] + f"/{name}"
    answer = server.ask("POST", path, project.body.encode(), f"Content-Type: {project.content_type}")
    assert answer.code == 200, answer
    return answer


def test_each_project_answers_the_command_of_its_readme(server, projects):
    _, found = projects
    assert {name: each.path.rpartition("/")[2] for name, each in found.items()} == {
        "function": "app", "onnx": "flowers", "handler": "languages", "llm": "app",
    }  # fmt: skip
    assert ask(server, found["function"], "function").json() == {"label": "positive", "score": 0.667}
    (flower,) = ask(server, found["onnx"], "onnx").json()["probabilities"]
    assert max(flower) == flower[2] > 0.5
    assert ask(server, found["handler"], "handler").json()["language"] == "German"
    assert ask(server, found["llm"], "llm").headers["transfer-encoding"] == "chunked"


def test_each_project_answers_the_client(server, projects):
    _, found = projects
    with mooring.Client(server.url) as client:
        opinion = client.infer("function", {"text": "I love it!"})
        assert "positive" in str(opinion)
        (flower,) = client.infer("onnx", json.loads(found["onnx"].body))["probabilities"]
        assert flower.argmax() == 2
        assert "German" in str(client.infer("handler", {"data": "Das Wetter ist schön."}))
        messages = json.loads(found["llm"].body)
        assert list(client.stream("llm", messages | {"max_tokens": 4}))
        with pytest.raises(mooring.ModelFailed, match="max_new_tokens"):
            list(client.stream("llm", messages | {"max_tokens": -1}, timeout=20))


def classify(server, text):
    body = json.dumps({"text": text}, ensure_ascii=False).encode()
    return server.ask("POST", "/predictions/mood", body, "Content-Type: application/json").json()


@pytest.mark.parametrize("text", ["Das Wetter ist schön!", "この店は本当に素晴らしい"])
def test_a_text_in_german_or_japanese_is_classified_as_it_was_written(server, text):
    mood = classify(server, text)
    assert mood["label"] in ("übel", "schön")
    # The model knows each letter: a text that came in another way would have another score.
    escaped = json.dumps({"text": text}).encode()
    plain = server.ask("POST", "/predictions/mood", text.encode(), "Content-Type: text/plain; charset=utf-8")
    json_text = server.ask("POST", "/predictions/mood", escaped, "Content-Type: application/json")
    for other in (plain.json(), json_text.json()):
        assert other["score"] == pytest.approx(mood["score"], abs=1e-5)
    for mangled in (text.encode().decode("latin-1"), text.encode("ascii", "replace").decode()):
        assert abs(classify(server, mangled)["score"] - mood["score"]) > 1e-4
    with mooring.Client(server.url) as client:
        (answer,) = client.infer("mood", {"text": text})["output"]
        assert answer["label"] == mood["label"]


@pytest.mark.parametrize("text", ["Schöne Grüße", "この店は"])
def test_tokens_are_streamed_with_their_umlauts_and_kanji(server, text):
    body = json.dumps({"text": text, "tokens": 40}).encode()
    streamed = server.ask("POST", "/predictions/writer", body, "Content-Type: application/json")
    assert streamed.headers["transfer-encoding"] == "chunked"
    chunks = re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", streamed.body, re.DOTALL)
    assert len(chunks) > 8
    written = b"".join(chunks).decode()
    assert not written.isascii()
    assert set(written) <= set(CHARACTERS)


def test_texts_that_come_together_share_calls(server):
    def rows(what):
        line = rf"^mooring_batch_rows_{what}{{model_name=\"mood\",.*}} (.*)$"
        with Wire(server.ports[2]) as wire:
            wire.send(request("GET", "/metrics"))
            return sum(map(float, re.findall(line, wire.answer().body.decode(), re.MULTILINE)))

    before = rows("count"), rows("sum")
    with ThreadPoolExecutor(16) as together:
        moods = list(together.map(lambda text: classify(server, text), ["Schöne Grüße! " * 30] * 16))
    assert {mood["label"] for mood in moods} <= {"übel", "schön"}
    assert rows("sum") - before[1] == 16
    assert rows("count") - before[0] < 16

"""What people write behind ``mooring serve`` is served, or refused in one line that says what to write."""

import subprocess

import pytest
from e2e_kit import SCRIPTS, Server, serving

pytestmark = pytest.mark.processes


def refused(folder, *arguments):
    """The one line with which a start ends."""
    done = subprocess.run(
        [SCRIPTS / "mooring", "serve", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr + done.stdout) == (1, False), done.stderr
    return next(line for line in done.stderr.splitlines() if line.startswith("Error: "))


def test_functions_are_served_by_the_names_of_their_modules(tmp_path):
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("FACTOR = 3\n")
    (package / "other.py").write_text("from pkg import FACTOR\n")
    (package / "mod.py").write_text(
        "from . import other\ndef triple(inputs): return {'y': inputs['x'] * other.FACTOR}\n"
    )
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "app.py").write_text(
        "import beside\nclass Model:\n    def infer(self, inputs): return {'y': inputs['x'] * beside.FACTOR}\n"
    )
    with serving(tmp_path, "pkg.mod:triple", "app:Model", "again=app.py") as server:
        for model, answer in (("triple", 6), ("app", 4), ("again", 4)):
            asked = server.ask("POST", f"/predictions/{model}", b'{"x": 2}', "Content-Type: application/json")
            assert (asked.code, asked.json()) == (200, {"y": answer}), asked


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("double.py:dobule", "double.py defines no function or class 'dobule'; did you mean double?"),
        ("dobule", "no such file or folder: 'dobule'; did you mean double.py?"),
        ("hf://org/name", "`mooring init NAME --template llm`"),
        ("https://models.example/a.onnx", r"--allowed-urls 'https://models\.example/.*'"),
    ],
)
def test_a_target_that_is_not_understood_ends_the_start_with_the_way_out(tmp_path, target, said):
    (tmp_path / "double.py").write_text("def double(inputs): return inputs\n")
    assert said in refused(tmp_path, target)


def test_a_module_that_is_missing_is_one_sentence_without_a_traceback(tmp_path):
    for name, source in (("good", ""), ("live", "import os\n\nimport gone_for_good\n")):
        folder = tmp_path / "models" / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(f"{source}def infer(inputs): return inputs\n")
    reason = "model.py:3 imports 'gone_for_good', which is not installed: pip install gone_for_good"
    server = Server(tmp_path, "--model-repository", "models")
    try:
        server.started(ping=500)
        index = {
            each["name"]: each.get("reason", "") for each in server.ask("POST", "/v2/repository/index").json()
        }
        assert (index["good"], index["live"]) == ("", reason)
        assert reason in server.log
        assert "Traceback" not in server.log
        assert server.stop() == 0
    finally:
        server.kill()


def test_a_module_that_is_missing_ends_the_start_of_its_target(tmp_path):
    (tmp_path / "live.py").write_text("import os\n\nimport gone_for_good\ndef live(x): return x\n")
    assert refused(tmp_path, "live.py:live", "--port", "0") == (
        "Error: model 'live' cannot be loaded: live.py:3 imports 'gone_for_good', which is not installed: "
        "pip install gone_for_good"
    )


def test_a_module_that_is_missing_while_a_model_answers_is_told_with_its_command(tmp_path):
    (tmp_path / "lazy.py").write_text("def lazy(x: int) -> int:\n    import sklern_gone\n    return x\n")
    with serving(tmp_path, "lazy.py:lazy") as server:
        asked = server.ask("POST", "/v2/models/lazy/infer", LAZY, "Content-Type: application/json")
        assert asked.code == 500
        assert "No module named 'sklern_gone'; pip install sklern_gone" in asked.json()["error"]


LAZY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "INT64", "data": [1]}]}'

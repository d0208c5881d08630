"""``mooring containerize``: a folder with a Dockerfile and the models, which the image serves as they are served here."""

import json
import os
import stat
from pathlib import Path, PurePosixPath

import pytest

from mooring.repository.store import Store

APP = "import helper\n\n\ndef double(x: float) -> float:\n    return helper.two() * x\n"


@pytest.fixture
def project(mooring):
    """A project in the working folder, with what is no part of it."""
    folder = Path("work")
    for name in (".venv", "env", "__pycache__", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "helper.py").write_text("def two():\n    return 2\n")
    (folder / "data/weights.bin").write_bytes(b"w")
    (folder / "env/pyvenv.cfg").touch()
    (folder / ".env").write_text("TOKEN=secret")
    os.chdir(folder)
    yield Path().absolute()
    os.chdir(folder.absolute().parent)


def instructions(folder):
    """The lines of a Dockerfile that are no comment, by their first word."""
    lines = [
        line for line in Path(folder, "Dockerfile").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    return {word: rest for word, _, rest in (line.partition(" ") for line in lines)}


def served_names(folder, tmp_path, monkeypatch):
    """The names of the models that the image's command serves, read as `mooring serve` reads them, at their places here."""
    command = json.loads(instructions(folder)["CMD"])
    assert command[0] == "serve"
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    here = Path(folder).absolute() / "models"
    working = instructions(folder).get("WORKDIR", "/models")
    monkeypatch.chdir(here / PurePosixPath(working).relative_to("/models"))
    targets = [each.replace("/models/", f"{here}/") for each in command[1:]]
    return [spec.name for each in targets for spec in Store(unpacked).read_target(each)]


def test_a_function_has_the_folder_of_its_file(mooring, project, tmp_path, monkeypatch):
    done = mooring("containerize", "app.py:double", "-o", "image")
    assert done.exit_code == 0, done.output
    assert "docker build -t my-models image" in done.output
    copied = sorted(str(each.relative_to("image")) for each in Path("image").rglob("*") if each.is_file())
    assert copied == [
        "Dockerfile", "models/work/app.py", "models/work/data/weights.bin", "models/work/helper.py",
    ]  # fmt: skip
    found = instructions("image")
    assert (found["ARG"], found["FROM"], found["COPY"]) == ("BASE=mooring", "${BASE}", "models /models")
    assert found["WORKDIR"] == "/models/work"
    assert json.loads(found["CMD"]) == ["serve", "/models/work/app.py:double"]
    assert "RUN" not in found
    assert served_names("image", tmp_path, monkeypatch) == ["double"]


def test_several_targets_keep_their_names_and_share_what_they_have_in_common(
    mooring, project, tmp_path, monkeypatch
):
    other = tmp_path / "other/work"
    (other / "pkg").mkdir(parents=True)
    (other / "app.py").write_text("def triple(x: float) -> float:\n    return 3 * x\n")
    (project / "app.py").write_text(APP + "\n\ndef same(x: float) -> float:\n    return x\n")
    done = mooring("containerize", "app.py:double", "s=app.py:same", f"{other}/app.py", "-o", "image")
    assert done.exit_code == 0, done.output
    assert json.loads(instructions("image")["CMD"]) == [
        "serve", "/models/work/app.py:double", "s=/models/work/app.py:same", "/models/2/work/app.py:triple",
    ]  # fmt: skip
    assert "WORKDIR" not in instructions("image")
    assert served_names("image", tmp_path, monkeypatch) == ["double", "s", "triple"]


def test_a_module_is_imported_by_its_name_there_too(mooring, project, tmp_path, monkeypatch):
    Path("pkg").mkdir()
    Path("pkg/__init__.py").touch()
    Path("pkg/mod.py").write_text("def half(x: float) -> float:\n    return x / 2\n")
    done = mooring("containerize", "pkg.mod:half", "-o", "image")
    assert done.exit_code == 0, done.output
    found = instructions("image")
    assert (found["WORKDIR"], json.loads(found["CMD"])) == ("/models/work", ["serve", "pkg.mod:half"])
    assert served_names("image", tmp_path, monkeypatch) == ["half"]


def test_requirements_are_installed_in_the_image(mooring, project, tmp_path, caplog):
    """Those in the folder of a function, and those that an archive names."""
    Path("requirements.txt").write_text("numpy\n")
    Path("handler.py").write_text("def handle(data, context):\n    return data\n")
    needs = tmp_path / "needs.txt"
    needs.write_text("orjson\n")
    packed = mooring(
        "archive", "--model-name", "m", "-v", "1.0", "--handler", "handler.py", "-r", str(needs),
        "--export-path", str(tmp_path),
    )  # fmt: skip
    assert packed.exit_code == 0, packed.output
    done = mooring("containerize", "app.py:double", f"{tmp_path}/m.mar", "-o", "image")
    assert done.exit_code == 0, done.output
    assert "2 requirements.txt" in done.output
    assert caplog.text == ""  # a server would say that they are not installed
    assert Path("image/models/m-1.0.requirements.txt").read_text() == "orjson\n"
    text = Path("image/Dockerfile").read_text()
    assert '-r "/models/work/requirements.txt" -r "/models/m-1.0.requirements.txt"' in text
    lines = [line for line in text.splitlines() if line.startswith(("USER", "RUN"))]
    assert [line.split()[0:2] for line in lines] == [["USER", "0"], ["RUN", "python3"], ["USER", "1000:1000"]]


def test_the_server_of_the_image_can_read_what_only_its_owner_could(mooring, project):
    Path("app.py").chmod(0o600)
    Path("data").chmod(0o700)
    assert mooring("containerize", "app.py:double", "-o", "image").exit_code == 0
    for each in Path("image/models").rglob("*"):
        needed = 0o555 if each.is_dir() else 0o444
        assert stat.S_IMODE(each.stat().st_mode) & needed == needed, each


def test_it_replaces_what_it_has_written_and_nothing_else(mooring, project):
    assert mooring("containerize", "app.py:double", "-o", "image").exit_code == 0
    Path("image/notes.txt").write_text("mine")
    Path("helper.py").unlink()
    assert (
        mooring("containerize", "app.py:double", "-o", "image", "--base", "registry/mooring:1").exit_code == 0
    )
    assert not Path("image/models/work/helper.py").exists()
    assert Path("image/notes.txt").read_text() == "mine"
    assert instructions("image")["ARG"] == "BASE=registry/mooring:1"
    Path("image/Dockerfile").write_text("FROM scratch\n")
    done = mooring("containerize", "app.py:double", "-o", "image")
    assert done.exit_code == 1
    assert "'image' is not empty, and this command has not written it" in done.stderr
    assert Path("image/Dockerfile").read_text() == "FROM scratch\n"


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["nope.onnx"], "no such file or folder: 'nope.onnx'"),
        (["app.py:nope"], "app.py defines no function or class 'nope'"),
        (["https://example.com/m.mar"], "is not fetched for an image: download it, and name the file"),
        (["json:loads"], "'json:loads' is an installed module"),
        (["app.py:double", "app.py:double"], "both version '1' of model 'double'"),
        (["data"], "folder 'data' holds no model"),
        (["a b/app.py"], "'a b' cannot be copied by a Dockerfile under this name"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_or_copied_is_one_line_and_nothing_is_written(mooring, project, targets, said):
    Path("a b").mkdir()
    Path("a b/app.py").write_text(APP)
    done = mooring("containerize", *targets, "-o", "image")
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.startswith("Error: ")
    assert not Path("image").exists()


def test_a_home_folder_is_not_copied_whole(mooring, project, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    done = mooring("containerize", "app.py:double", "-o", "image")
    assert done.exit_code == 1
    assert "put the model's files into a folder of their own" in done.stderr


def test_a_link_that_leads_nowhere_is_named(mooring, project):
    Path("data/gone").symlink_to("nowhere")
    done = mooring("containerize", "app.py:double", "-o", "image")
    assert done.exit_code == 1
    assert "data/gone" in done.stderr
    assert "FROM" not in Path("image/Dockerfile").read_text()
    Path("data/gone").unlink()
    assert mooring("containerize", "app.py:double", "-o", "image").exit_code == 0

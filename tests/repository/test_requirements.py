"""A model's requirements land in a folder of its own, from the wheels that its archive carries; failures say why."""

import base64
import hashlib
import json
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from model_kit import defaults

from mooring.core.errors import ModelLoadFailed
from mooring.repository.store import Store

pytestmark = pytest.mark.processes

INSTALLING = defaults(install_requirements=True)


def wheel(folder, name="tinybell", source="SOUND = 'ding'\n"):
    """A wheel as the format wants it, without a tool to build one."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{file},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},{len(text)}\n"
        for file, text in files.items()
    )
    made = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(file, text)
    return made


HANDLER = "import tinybell\n\ndef handle(data, context):\n    return [tinybell.SOUND] * len(data or [])\n"


@pytest.fixture
def store(tmp_path):
    def make(defaults=INSTALLING):
        (tmp_path / "unpacked").mkdir(exist_ok=True)
        return Store(tmp_path / "unpacked", defaults)

    return make


@pytest.fixture
def archive(tmp_path):
    """Makes bell.mar: requirements, and a wheel unless told otherwise."""

    def make(requirements="--no-index\n./tinybell-1.0-py3-none-any.whl\n", *, carried=True, **more):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        model = {"modelName": "bell", "handler": "handler.py", "requirementsFile": "requirements.txt"}
        with zipfile.ZipFile(tmp_path / "bell.mar", "w") as mar:
            mar.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model | more}))
            mar.writestr("handler.py", HANDLER)
            mar.writestr("requirements.txt", requirements)
            # pip must find the real one although its working directory is the model's.
            mar.writestr("logging.py", "raise RuntimeError('shadowed')\n")
            if carried:
                made = wheel(source)
                mar.write(made, made.name)
        return "bell.mar"

    return make


def test_a_wheel_that_the_archive_carries_is_installed_for_this_model_only(tmp_path, store, archive):
    spec = store().read_archive(tmp_path, archive())
    assert spec.packages.startswith(spec.location)
    assert Path(spec.packages, "tinybell.py").is_file()
    with pytest.raises(ModuleNotFoundError):
        __import__("tinybell")


def test_the_handler_imports_its_packages_before_all_others(tmp_path, store, archive):
    spec = store().read_archive(tmp_path, archive())
    code = (
        "import sys; from pathlib import Path; from mooring.backends.handler.entry import prepare_imports\n"
        "prepare_imports(Path(sys.argv[1]), sys.argv[2]); import tinybell\n"
        "print(sys.path[0] == sys.argv[2], tinybell.SOUND)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, spec.location, spec.packages],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True ding\n", done.stderr


def test_a_virtual_environment_gets_only_what_the_server_has_not(tmp_path, store, archive):
    asked = "--no-index\nnumpy\n./tinybell-1.0-py3-none-any.whl\n"
    with zipfile.ZipFile(tmp_path / archive(asked, configFile="c.yaml"), "a") as mar:
        mar.writestr("c.yaml", "useVenv: true\n")
    spec = store().read_archive(tmp_path, "bell.mar")
    assert spec.venv.startswith(spec.location)
    assert {each.name for each in Path(spec.packages).iterdir() if each.suffix == ".py"} == {"tinybell.py"}
    assert not (Path(spec.packages) / "numpy").exists()
    code = (
        "import os, sys; from pathlib import Path; from mooring.backends.handler.entry import prepare_imports\n"
        "prepare_imports(Path(sys.argv[1]), sys.argv[2], sys.argv[3]); import tinybell, numpy\n"
        "print(tinybell.SOUND, os.environ['PATH'].startswith(sys.argv[3] + '/bin'), os.environ['VIRTUAL_ENV'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, spec.location, spec.packages, spec.venv],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"ding True {spec.venv}\n", done.stderr


def test_an_environment_that_cannot_be_filled_is_named_with_what_pip_said_and_leaves_nothing(
    tmp_path, store, archive
):
    with zipfile.ZipFile(
        tmp_path / archive("--no-index\nnowhere-to-be-found\n", configFile="c.yaml"), "a"
    ) as mar:
        mar.writestr("c.yaml", "useVenv: true\n")
    with pytest.raises(
        ModelLoadFailed, match="Custom pip package installation failed for model bell"
    ) as failed:
        store().read_archive(tmp_path, "bell.mar")
    assert "nowhere-to-be-found" in failed.value.detail
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_progress_is_in_the_log_and_a_flood_of_lines_is_not(tmp_path, store, archive, caplog):
    caplog.set_level(logging.INFO)
    store().read_archive(tmp_path, archive())
    lines = [line for line in caplog.messages if "model=bell" in line]
    assert lines[0].startswith("installing requirements")
    assert any("tinybell" in line for line in lines[1:])
    assert lines[-1].startswith("requirements installed")
    assert len(lines) < 20


def test_a_failure_is_named_with_what_pip_said_and_leaves_nothing(tmp_path, store, archive, caplog):
    with pytest.raises(ModelLoadFailed) as failed:
        store().read_archive(tmp_path, archive("--no-index\nno-such-package-anywhere\n", carried=False))
    reason = "ERROR: No matching distribution found for no-such-package-anywhere"
    assert failed.value.message.startswith("Custom pip package installation failed for model bell: ERROR: ")
    assert failed.value.message.endswith(reason)
    (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert reason in line.getMessage()
    assert "no-such-package-anywhere" in failed.value.detail
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_without_the_setting_the_file_is_only_mentioned(tmp_path, store, archive, caplog):
    spec = store(defaults()).read_archive(tmp_path, archive())
    assert spec.packages == ""
    assert "requirements not installed model=bell" in caplog.text
    assert "install_py_dep_per_model=true" in caplog.text


@pytest.mark.parametrize("name", ["../../elsewhere.txt", "missing.txt", "/etc/hostname"])
def test_requirements_outside_the_archive_are_refused(tmp_path, store, archive, name):
    with pytest.raises(ModelLoadFailed, match="not in it"):
        store().read_archive(tmp_path, archive(requirementsFile=name))


def test_a_folder_of_the_users_own_is_installed_once_until_what_it_asks_for_changes(tmp_path, store, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "bell"
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "bell", "handler": "handler.py", "requirementsFile": "requirements.txt"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    (folder / "handler.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text("--no-index\n./tinybell-1.0-py3-none-any.whl\n")
    wheel(folder)
    first = store().read_archive(tmp_path, "bell").packages
    caplog.clear()
    assert store().read_archive(tmp_path, "bell").packages == first
    assert "installed already" in caplog.text
    os.utime(wheel(folder, source="SOUND = 'dong'\n"), (1, 1))
    assert store().read_archive(tmp_path, "bell").packages != first

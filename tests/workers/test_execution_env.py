"""Environments that models bring: which run a worker, and what is said of those that do not."""

import asyncio
import json
import sys
import tarfile
from pathlib import Path

import pytest
from model_kit import model_spec

from mooring.core.errors import ModelLoadFailed
from mooring.workers.execution_env import (
    ExecutionEnvs,
    environment_path,
    names_environment,
    prepare_environment,
)

pytestmark = pytest.mark.processes

OWN = list(sys.version_info[:2])


def environment(place: Path, version=OWN, missing=(), says: str = "") -> Path:
    """One whose interpreter only says what it is."""
    (place / "bin").mkdir(parents=True)
    said = says or json.dumps(["cpython", list(version), list(missing)])
    (place / "bin/python").write_text(f"#!/bin/sh\necho '{said}'\n")
    (place / "bin/python").chmod(0o755)
    return place


def packed(tmp_path: Path) -> Path:
    made = environment(tmp_path / "made")
    (made / "bin/python3").symlink_to("python")
    with tarfile.open(tmp_path / "env.tar.gz", "w:gz") as file:
        file.add(made, ".")
    return tmp_path / "env.tar.gz"


def test_folder_is_used_where_it_is(tmp_path):
    made = prepare_environment(
        environment(tmp_path / "env"), tmp_path / "cache", {"PATH": "/bin", "PYTHONHOME": "/x"}
    )
    assert made.interpreter == str(tmp_path / "env/bin/python")
    assert made.variables["PATH"] == f"{tmp_path}/env/bin:/bin"
    assert "PYTHONHOME" not in made.variables
    assert made.variables["PYTHONNOUSERSITE"] == "1"
    assert [each.name for each in Path(made.variables["PYTHONPATH"]).iterdir()] == ["mooring"]


def test_what_the_environment_lacks_is_added_for_the_same_python(tmp_path):
    lacking = environment(tmp_path / "env", missing=["msgspec", "numpy", "simdjson"])
    made = prepare_environment(lacking, tmp_path / "cache", {})
    names = {each.name for each in Path(made.variables["PYTHONPATH"]).iterdir()}
    assert {"mooring", "msgspec", "numpy", "simdjson"} <= names
    assert "orjson" not in names
    assert any(name.startswith("csimdjson") for name in names)


def test_tar_file_is_unpacked_with_its_links(tmp_path):
    made = prepare_environment(packed(tmp_path), tmp_path / "cache", {})
    assert made.interpreter == str(tmp_path / "cache/env/bin/python")
    assert str((tmp_path / "cache/env/bin/python3").readlink()) == "python"


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"version": (3, 9)}, "has Python 3.9, and workers need Python 3.11 or later: build it with Python"),
        (
            {"version": (3, 99), "missing": ["msgspec"]},
            "has Python 3.99 without msgspec, which a worker needs",
        ),
        ({"says": "Segmentation fault"}, "does not work"),
        ({"says": "5"}, "does not work"),
        ({"says": '["cpython", [3, 11], ["antigravity"]]'}, "does not work"),
    ],
)
def test_environment_that_cannot_run_a_worker_is_refused_by_name(tmp_path, env, why):
    with pytest.raises(ModelLoadFailed, match=why) as caught:
        prepare_environment(environment(tmp_path / "env", **env), tmp_path / "cache", {})
    assert str(tmp_path / "env") in caught.value.message


def test_another_python_that_has_everything_is_taken(tmp_path):
    prepare_environment(environment(tmp_path / "env", version=(3, 99)), tmp_path / "cache", {})


def test_what_is_no_environment_is_refused(tmp_path):
    with pytest.raises(ModelLoadFailed, match="has no bin/python"):
        prepare_environment(tmp_path, tmp_path / "cache", {})
    (tmp_path / "env.tar.gz").write_bytes(b"no tar file")
    with pytest.raises(ModelLoadFailed, match="cannot be unpacked"):
        prepare_environment(tmp_path / "env.tar.gz", tmp_path / "cache", {})


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../../..{outside}", "link"])
def test_hard_links_of_a_tar_file_stay_inside(tmp_path, target):
    outside = tmp_path / "outside"
    outside.write_text("as it was")
    with tarfile.open(tmp_path / "env.tar.gz", "w:gz") as file:
        for name, kind, leads in (
            ("link", tarfile.SYMTYPE, str(outside)),
            ("hard", tarfile.LNKTYPE, target.format(outside=outside)),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, leads
            file.addfile(member)
        file.addfile(tarfile.TarInfo("hard"))
    with pytest.raises(ModelLoadFailed, match="cannot be unpacked"):
        prepare_environment(tmp_path / "env.tar.gz", tmp_path / "cache", {})
    assert outside.read_text() == "as it was"
    assert not any((tmp_path / "cache").iterdir())


def test_damaged_tar_file_is_named(tmp_path):
    archive = packed(tmp_path)
    content = bytearray(archive.read_bytes())
    content[40:60] = bytes(20)
    archive.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"env\.tar\.gz cannot be unpacked"):
        prepare_environment(archive, tmp_path / "cache", {})


def spec(location: Path, path: str, backend: str = "triton_python"):
    return model_spec(backend=backend, location=str(location), parameters={"EXECUTION_ENV_PATH": path})


def test_path_is_below_the_folder_of_the_model(tmp_path):
    for path in ("$$TRITON_MODEL_DIRECTORY/env.tar.gz", "env.tar.gz", str(tmp_path / "m/env.tar.gz")):
        assert environment_path(spec(tmp_path / "m/1", path)) == tmp_path / "m/env.tar.gz"


def test_only_python_models_bring_environments(tmp_path):
    assert names_environment(spec(tmp_path, "env", "function"))
    assert not names_environment(spec(tmp_path, "env", "onnx"))
    assert not names_environment(spec(tmp_path, ""))


async def test_environment_is_prepared_once_for_all_models(tmp_path):
    envs = ExecutionEnvs(str(tmp_path / "cache"))
    archive = str(packed(tmp_path))
    models = [spec(tmp_path / name / "1", archive) for name in ("a", "b")]
    first, second = await asyncio.gather(*(envs.prepare(each, {}) for each in models))
    assert first is second
    with pytest.raises(ModelLoadFailed, match=r"EXECUTION_ENV_PATH of model 'm': .*gone: No such file"):
        await envs.prepare(spec(tmp_path, str(tmp_path / "gone")), {})

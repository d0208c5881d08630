"""The archiver packs what torch-model-archiver packs, under the same names and with the same manifest."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from mooring.archiver import Options, WorkflowOptions, archive_model, archive_workflow
from mooring.core.errors import InvalidInput
from mooring.repository.archives import find_model_root, unpack
from mooring.repository.store import Store


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A working directory with everything that may be packed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    (tmp_path / "net.py").write_text("class Net: ...\n")
    (tmp_path / "weights.pt").write_bytes(os.urandom(2000))
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "model-config.yaml").write_text("minWorkers: 1\n")
    (tmp_path / "index_to_name.json").write_text("{}")
    for name in (
        "one.txt",
        "two.txt",
        "inner/deep/three.txt",
        "inner/.hidden/no.txt",
        "__pycache__/no.pyc",
        ".dot",
    ):
        file = tmp_path / "extra" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "out").mkdir()
    return tmp_path


def options(**changed):
    return Options(
        **(
            {"model_name": "m", "version": "1.0", "handler": "handler.py", "export_path": Path("out")}
            | changed
        )
    )


def packed(path):
    """Every file of an archive by its path in the model's folder, the manifest parsed and without its date."""
    root = path
    if path.is_file():
        folder = Path(tempfile.mkdtemp(dir=path.parent))
        unpack(path, folder)
        root = find_model_root(folder)
    files = {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
    manifest = json.loads(files.pop("MAR-INF/MANIFEST.json"))
    del manifest["createdOn"]
    return files, manifest


def theirs(sources, *flags):
    """Run the real archiver; the archive it makes."""
    (sources / "theirs").mkdir(exist_ok=True)
    program = "from model_archiver.model_packaging import generate_model_archive as g; g()"
    named = ("--model-name", "m", "--version", "1.0", "--export-path", "theirs")
    command = [sys.executable, "-c", program, *named, *flags]
    # It gathers the files in a folder of the model's name in the temporary folder that everybody shares.
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "TMPDIR": str(sources)})
    (made,) = (sources / "theirs").iterdir()
    return made


FORMS = ("default", "zip-store", "tgz", "no-archive")


@pytest.mark.parametrize("form", FORMS)
def test_every_format_holds_what_the_real_archiver_packs(sources, form):
    extra = "extra,index_to_name.json,extra/*.txt"
    real = theirs(
        sources, "--handler", "handler:handle", "--model-file", "net.py", "--serialized-file", "weights.pt",
        "--extra-files", extra, "-r", "requirements.txt", "-c", "model-config.yaml", "--archive-format", form,
    )  # fmt: skip
    ours = archive_model(
        options(
            handler="handler:handle",
            model_file=Path("net.py"),
            serialized_file=Path("weights.pt"),
            extra_files=extra,
            requirements_file=Path("requirements.txt"),
            config_file=Path("model-config.yaml"),
            archive_format=form,
        )
    )
    assert ours.name == real.name
    assert packed(ours) == packed(real)


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        (["--handler", "handler.py", "--runtime", "python3"], {"runtime": "python3"}),
        (["--handler", "./handler.py"], {"handler": "./handler.py"}),
        (["--handler", "image_classifier"], {"handler": "image_classifier"}),
        (["--handler", "BaseHandler", "--runtime", "LSP"], {"handler": "BaseHandler", "runtime": "LSP"}),
        (["--handler", "handler.py", "-r", "requirements.txt"], {"requirements_file": Path("requirements.txt")}),
        (["--handler", "handler.py", "-c", "model-config.yaml"], {"config_file": Path("model-config.yaml")}),
        (["--handler", "handler.py", "--extra-files", "extra/*"], {"extra_files": "extra/*"}),
        (["--handler", "handler.py", "--extra-files", "extra"], {"extra_files": "extra"}),
    ],
)  # fmt: skip
def test_every_flag_means_what_it_means_to_the_real_archiver(sources, flags, changed):
    assert packed(archive_model(options(**changed))) == packed(theirs(sources, *flags))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("real", [True, False])
def test_archives_of_both_are_opened_alike(sources, form, real):
    flags = ("--handler", "handler.py", "-c", "model-config.yaml", "--archive-format", form)
    ours = options(config_file=Path("model-config.yaml"), archive_format=form)
    made = theirs(sources, *flags) if real else archive_model(ours)
    (sources / "unpacked").mkdir()
    spec = Store(sources / "unpacked").read_archive(made.parent, made.name)
    assert (spec.name, spec.version, spec.entry) == ("m", "1.0", "handler.py")
    assert spec.config == {"minWorkers": 1}
    assert (Path(spec.location) / "handler.py").read_text() == (sources / "handler.py").read_text()


@pytest.fixture
def spec(sources):
    (sources / "wf.yaml").write_text("models: {m1: {url: m1.mar}}\ndag: {pre: [m1]}\n")
    return Path("wf.yaml")


def workflow(**changed):
    named = {"workflow_name": "wf", "spec_file": Path("wf.yaml"), "export_path": Path("out")}
    return WorkflowOptions(**({**named, "handler": Path("handler.py")} | changed))


def test_a_workflows_archive_has_the_files_and_the_manifest_of_the_real_archivers(sources, spec):
    # What torch-workflow-archiver 0.2.15 makes of the same files.
    made = archive_workflow(workflow(extra_files="extra/one.txt,index_to_name.json"))
    assert made == Path("out/wf.war")
    with zipfile.ZipFile(made) as found:
        names = {"wf.yaml", "handler.py", "one.txt", "index_to_name.json", "WAR-INF/MANIFEST.json"}
        assert set(found.namelist()) == names
        manifest = json.loads(found.read("WAR-INF/MANIFEST.json"))
    assert len(manifest.pop("createdOn")) == len("21/11/2026 04:00:00")
    assert manifest == {
        "workflow": {"workflowName": "wf", "specFile": "wf.yaml", "handler": "handler.py"},
        "archiverVersion": "0.2.15",
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spec_file": Path("gone.yaml")}, "spec file 'gone.yaml' is not there"),
        ({"handler": Path("gone.py")}, "handler 'gone.py' is not there"),
        ({"handler": None}, "wf.war/wf.yaml: dag: 'pre' is not one of the models"),
        ({"spec_file": Path("model-config.yaml")}, "wf.war/model-config.yaml: dag: expected a mapping"),
        ({"extra_files": "gone.txt"}, "extra file 'gone.txt' is not there"),
        ({"workflow_name": "a/b"}, "'a/b' cannot be the name of a workflow"),
        ({"export_path": Path("gone")}, "export path 'gone' is not a folder"),
    ],
)
def test_a_workflow_that_cannot_be_packed_is_named_and_nothing_is_left_behind(
    sources, spec, changed, message
):
    with pytest.raises(InvalidInput, match=message):
        archive_workflow(workflow(**changed))
    assert list((sources / "out").iterdir()) == []


def test_a_workflows_archive_is_replaced_only_by_force(sources, spec):
    archive_workflow(workflow())
    with pytest.raises(InvalidInput, match="--force"):
        archive_workflow(workflow())
    archive_workflow(workflow(force=True))


def test_the_manifest_says_when_it_was_made_as_torchserve_writes_it(sources):
    with zipfile.ZipFile(archive_model(options())) as made:
        created = json.loads(made.read("MAR-INF/MANIFEST.json"))["createdOn"]
    day, clock = created.split(" ")
    assert [len(part) for part in day.split("/")] == [2, 2, 4]
    assert [len(part) for part in clock.split(":")] == [2, 2, 2]


def test_a_manifest_names_only_what_was_given(sources):
    _, manifest = packed(archive_model(options()))
    assert manifest == {
        "runtime": "python",
        "model": {"modelName": "m", "handler": "handler.py", "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }


def test_default_compresses_and_zip_store_does_not(sources):
    (sources / "weights.pt").write_bytes(bytes(100_000))
    sizes = [
        archive_model(options(serialized_file=Path("weights.pt"), archive_format=form, force=True))
        .stat()
        .st_size
        for form in ("default", "zip-store")
    ]
    assert sizes[0] < 10_000
    assert sizes[1] > 100_000


def test_a_tgz_has_one_leading_folder(sources):
    with tarfile.open(archive_model(options(archive_format="tgz"))) as made:
        assert sorted(made.getnames()) == ["m/MAR-INF/MANIFEST.json", "m/handler.py"]


@pytest.mark.parametrize("handler", ["handler.py:handle", "handler:handle", "handler", "./handler.py"])
def test_every_way_to_name_a_handler_packs_its_file(sources, handler):
    files, manifest = packed(archive_model(options(handler=handler)))
    assert list(files) == ["handler.py"]
    assert manifest["model"]["handler"] == handler.rpartition("/")[2]


@pytest.mark.parametrize("handler", ["image_classifier", "base_handler", "text_classifier", "vllm_handler"])
def test_a_handler_of_the_servers_own_is_named_and_not_copied(sources, handler):
    files, manifest = packed(archive_model(options(handler=handler)))
    assert files == {}
    assert manifest["model"]["handler"] == handler


def test_a_native_handler_is_copied_as_a_library(sources):
    library = "worker.dylib" if sys.platform == "darwin" else "worker.so"
    (sources / library).write_bytes(b"\x7fELF")
    files, manifest = packed(archive_model(options(handler="worker:Worker", runtime="LSP")))
    assert list(files) == [library]
    assert manifest["runtime"] == "LSP"
    assert packed(archive_model(options(handler="BaseHandler", runtime="LSP", force=True)))[0] == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"handler": "nowhere.py"}, "there is no file 'nowhere.py' for the handler"),
        ({"handler": "image_clasifier"}, "image_classifier"),
        ({"model_file": Path("gone.py")}, "model file 'gone.py' is not there"),
        ({"serialized_file": Path("gone.pt")}, "serialized file 'gone.pt' is not there"),
        ({"requirements_file": Path("gone.txt")}, "requirements file 'gone.txt' is not there"),
        ({"config_file": Path("extra")}, "config file 'extra' is not there"),
        ({"extra_files": "one,gone.txt"}, "extra file 'one' is not there"),
        ({"export_path": Path("nowhere")}, "export path 'nowhere' is not a folder"),
        ({"model_name": "a/b"}, "'a/b' cannot be the name of a model"),
        ({"model_name": "-m"}, "'-m' cannot be the name of a model"),
        ({"model_name": "m\n"}, "cannot be the name of a model"),
        ({"model_name": ""}, "'' cannot be the name of a model"),
    ],
)
def test_what_cannot_be_packed_is_named_and_nothing_is_left_behind(sources, changed, message):
    with pytest.raises(InvalidInput, match=message):
        archive_model(options(**changed))
    assert list((sources / "out").iterdir()) == []


def test_an_archive_is_replaced_only_by_force(sources):
    first = archive_model(options())
    with pytest.raises(InvalidInput, match="--force"):
        archive_model(options(version="2.0"))
    assert archive_model(options(version="2.0", force=True)) == first
    assert packed(first)[1]["model"]["modelVersion"] == "2.0"


def test_a_folder_archive_is_replaced_whole(sources):
    made = archive_model(options(archive_format="no-archive", extra_files="extra/one.txt"))
    assert (made / "one.txt").is_file()
    archive_model(options(archive_format="no-archive", force=True))
    assert not (made / "one.txt").exists()


def test_force_never_deletes_a_folder_that_is_no_archive(sources):
    with pytest.raises(InvalidInput, match="not replaced"):
        archive_model(
            options(model_name="extra", export_path=Path(), archive_format="no-archive", force=True)
        )
    assert (sources / "extra" / "one.txt").is_file()


def test_a_folder_archive_can_be_packed_again_from_itself(sources):
    made = archive_model(options(archive_format="no-archive", extra_files="extra"))
    again = archive_model(options(handler=str(made / "handler.py"), extra_files=str(made), version="2.0"))
    files, manifest = packed(again)
    assert sorted(files) == [".dot", "handler.py", "inner/deep/three.txt", "one.txt", "two.txt"]
    assert manifest["model"]["modelVersion"] == "2.0"


def test_a_pattern_that_matches_nothing_is_a_warning(sources, caplog):
    files, _ = packed(archive_model(options(extra_files="*.nothing")))
    assert list(files) == ["handler.py"]
    assert "no extra file matches" in caplog.text


def test_a_file_that_looks_like_a_pattern_is_taken_as_it_is(sources):
    (sources / "a[1].txt").write_text("literal")
    files, _ = packed(archive_model(options(extra_files=" a[1].txt , extra/one.txt")))
    assert sorted(files) == ["a[1].txt", "handler.py", "one.txt"]


def test_a_file_that_takes_anothers_place_is_warned_of(sources, caplog):
    (sources / "extra" / "handler.py").write_text("other")
    files, _ = packed(archive_model(options(extra_files="extra/handler.py")))
    assert files["handler.py"] == b"other"
    assert "file replaced" in caplog.text


def test_links_are_packed_as_what_they_point_to(sources):
    (sources / "extra" / "link.txt").symlink_to(sources / "net.py")
    (sources / "extra" / "linked").symlink_to(sources / "extra" / "inner")
    (sources / "extra" / "up").symlink_to(sources / "extra")
    for form in ("default", "tgz"):
        files, _ = packed(archive_model(options(extra_files="extra", archive_format=form)))
        assert files["link.txt"] == (sources / "net.py").read_bytes()
        assert files["linked/deep/three.txt"] == b"inner/deep/three.txt"
        assert not any(name.startswith("up/") for name in files)


def test_what_is_no_file_is_refused(sources):
    os.mkfifo(sources / "extra" / "pipe")
    with pytest.raises(InvalidInput, match="neither a file nor a folder"):
        archive_model(options(extra_files="extra"))


def test_a_file_from_before_1980_is_packed(sources):
    os.utime(sources / "handler.py", (0, 0))
    assert list(packed(archive_model(options()))[0]) == ["handler.py"]

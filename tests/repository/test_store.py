"""What is to be served is found, made ready to load, and cleaned up; nothing is read from outside of a store."""

import json
import zipfile
from pathlib import Path

import pytest
from model_kit import defaults
from msgspec.structs import replace

import mooring.repository.store
from mooring.config.settings import Config, ModelSettings, Snapshot
from mooring.core.errors import ModelExists, ModelLoadFailed, ModelNotFound
from mooring.repository.layout import model_folders
from mooring.repository.store import Store, archives_in

DOUBLE = "def double(x):\n    return 2 * x\n"
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture
def store(tmp_path):
    (tmp_path / "unpacked").mkdir()
    return Store(tmp_path / "unpacked", defaults(workers=2))


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def mar(path, name="m", version="1.0"):
    with zipfile.ZipFile(path, "w") as archive:
        model = {"modelName": name, "modelVersion": version, "handler": "handler.py"}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        archive.writestr("handler.py", "def handle(data, context): return data")
    return path


def folder_model(path, name="m"):
    (path / "MAR-INF").mkdir(parents=True)
    model = {"modelName": name, "handler": "handler.py"}
    (path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    return path


def function_model(path, config="", versions=("1",)):
    for version in versions:
        (path / version).mkdir(parents=True)
        (path / version / "model.py").touch()
    (path / "config.toml").write_text(config)
    return path


def names(specs):
    return [(spec.name, spec.version) for spec in specs]


def unpacked(tmp_path):
    return list((tmp_path / "unpacked").iterdir())


def test_an_archive_is_unpacked_and_removed_when_it_is_released(store, models, tmp_path):
    spec = store.read_archive(models, mar(models / "a.mar").name)
    assert (spec.name, spec.url, spec.entry) == ("m", "a.mar", "handler.py")
    assert (Path(spec.location) / "handler.py").is_file()
    store.release(spec)
    assert unpacked(tmp_path) == []
    assert (models / "a.mar").is_file()


def test_a_leading_folder_is_removed_with_the_rest(store, models, tmp_path):
    with zipfile.ZipFile(models / "a.zip", "w") as archive:
        archive.writestr("m/handler.py", "")
    spec = store.read_archive(models, "a.zip")
    assert Path(spec.location).name == "m"
    store.release(spec)
    assert unpacked(tmp_path) == []


def test_close_removes_everything_that_was_unpacked(store, models, tmp_path):
    for name in ("a.mar", "b.mar"):
        store.read_archive(models, mar(models / name).name)
    assert len(unpacked(tmp_path)) == 2
    store.close()
    assert unpacked(tmp_path) == []


def test_an_archive_that_cannot_be_read_leaves_nothing_behind(store, models, tmp_path):
    (models / "bad.mar").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(ModelLoadFailed, match=r"bad\.mar"):
        store.read_archive(models, "bad.mar")
    with zipfile.ZipFile(models / "empty.mar", "w"):
        pass
    with pytest.raises(ModelLoadFailed, match="names no handler"):
        store.read_archive(models, "empty.mar")
    assert unpacked(tmp_path) == []


def test_a_folder_is_used_where_it_is_and_never_removed(store, models):
    spec = store.read_archive(models, folder_model(models / "plain").name)
    assert spec.location == str(models / "plain")
    store.release(spec)
    assert (models / "plain" / "MAR-INF").is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.mar",
        "a/../../outside.mar",
        "..",
        "/etc/passwd",
        "",
        ".",
        "https://host/m.mar",
        "file:///m.mar",
        "a\0b",
    ],
)
def test_nothing_outside_of_the_store_can_be_named(store, models, tmp_path, name):
    mar(tmp_path / "outside.mar")
    with pytest.raises((ModelLoadFailed, ModelNotFound)):
        store.read_archive(models, name)


@pytest.mark.parametrize("make", [mar, folder_model])
def test_a_link_that_the_operator_has_put_into_the_store_is_followed(store, models, tmp_path, make):
    place = make(tmp_path / "sha256-cafe")
    (models / "link.mar").symlink_to(place)
    spec = store.read_archive(models, "link.mar")
    assert (spec.name, spec.url) == ("m", "link.mar")
    assert archives_in(models) == ["link.mar"]
    assert store.archive_of(spec, models) == "link.mar"


def test_an_archive_without_a_name_is_called_as_its_link(store, models, tmp_path):
    with zipfile.ZipFile(tmp_path / "sha256-cafe", "w") as archive:
        archive.writestr("handler.py", "")
    (models / "net.mar").symlink_to(tmp_path / "sha256-cafe")
    assert store.read_archive(models, "net.mar").name == "net"


def test_a_link_that_leads_nowhere_says_where(store, models):
    (models / "link.mar").symlink_to("/nowhere/m.mar")
    with pytest.raises(ModelLoadFailed, match=r"link that leads nowhere: /nowhere/m\.mar"):
        store.read_archive(models, "link.mar")


def test_a_link_within_the_store_is_followed(store, models):
    mar(models / "real.mar")
    (models / "latest.mar").symlink_to("real.mar")
    assert store.read_archive(models, "latest.mar").url == "latest.mar"


def test_a_store_may_itself_be_a_link(store, models, tmp_path):
    mar(models / "a.mar")
    (tmp_path / "link").symlink_to(models)
    assert store.read_archive(tmp_path / "link", "a.mar").name == "m"


def test_a_missing_archive_is_named_with_what_is_there(store, models):
    mar(models / "a.mar")
    with pytest.raises(ModelNotFound, match=r"no 'b\.mar' in .*; there is a\.mar"):
        store.read_archive(models, "b.mar")


def test_a_mixed_store_is_listed_by_what_can_be_served(models):
    for name in ("b.mar", "a.tar.gz", "c.tgz", "d.model"):
        (models / name).touch()
    for name in ("notes.txt", ".hidden.mar", "weights.pt"):
        (models / name).touch()
    folder_model(models / "plain")
    folder_model(models / "nested" / "inside")
    (models / "empty").mkdir()
    assert archives_in(models) == ["a.tar.gz", "b.mar", "c.tgz", "d.model", "nested", "plain"]


def test_all_of_a_store_is_served_but_what_is_broken(store, models, caplog):
    mar(models / "a.mar", "a")
    mar(models / "b.mar", "b")
    mar(models / "b2.mar", "b", "2.0")
    mar(models / "copy.mar", "b")
    (models / "broken.mar").write_bytes(b"x")
    found = store.find(Config(model_store=models, models=("all",)))
    specs = found.specs
    assert names(specs) == [("a", "1.0"), ("b", "1.0"), ("b", "2.0")]
    assert caplog.text.count("model left out") == 2
    assert "broken.mar" in caplog.text
    assert "copy.mar" in caplog.text
    assert [(each.name, each.expected) for each in found.skipped] == [("broken", True), ("copy", False)]


def test_models_that_are_not_required_are_warned_of_and_the_others_served(store, models, caplog):
    mar(models / "a.mar", "a")
    (models / "broken.mar").write_bytes(b"x")
    named = (
        "gone.mar",
        "own=a.mar",
        "broken.mar",
        "http://nowhere.example/x.mar?token=y",
        "flow.war",
        "n=flow.war",
    )
    found = store.find(Config(model_store=models, models=named, require_models=False))
    assert names(found.specs) == [("own", "1.0")]
    assert [(each.url, each.expected) for each in found.skipped] == [
        ("gone.mar", False), ("broken.mar", False), ("http://nowhere.example/x.mar?token=y", False),
    ]  # fmt: skip
    assert found.workflows == [("", "flow.war"), ("n", "flow.war")]
    (first, *_) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert first.startswith("Failed to load model: gone.mar ")
    assert "there is a.mar, broken.mar" in first
    everything = store.find(Config(model_store=models, models=("all",), require_models=False))
    assert [(each.url, each.expected) for each in everything.skipped] == [("broken.mar", False)]


def test_named_models_come_in_their_order_and_under_their_names(store, models):
    mar(models / "a.mar", "a")
    mar(models / "b.mar", "b")
    specs = store.find(Config(model_store=models, models=("other=b.mar", "a.mar"))).specs
    assert names(specs) == [("other", "1.0"), ("a", "1.0")]
    assert [spec.url for spec in specs] == ["b.mar", "a.mar"]


def test_a_named_model_that_cannot_be_served_is_an_error(store, models):
    (models / "broken.mar").write_bytes(b"x")
    with pytest.raises(ModelLoadFailed, match=r"broken\.mar"):
        store.find(Config(model_store=models, models=("broken.mar",)))
    with pytest.raises(ModelNotFound, match=r"gone\.mar"):
        store.find(Config(model_store=models, models=("gone.mar",)))


def test_the_same_version_named_twice_is_an_error(store, models):
    mar(models / "a.mar")
    mar(models / "b.mar")
    with pytest.raises(ModelExists, match=r"'a\.mar' and 'b\.mar' are both version '1\.0' of model 'm'"):
        store.find(Config(model_store=models, models=("a.mar", "b.mar")))


def test_models_without_a_store_are_an_error(store, tmp_path):
    with pytest.raises(ModelLoadFailed, match="--model-store"):
        store.find(Config(models=("all",)))
    with pytest.raises(ModelLoadFailed, match="is not a folder"):
        store.find(Config(model_store=tmp_path / "gone", models=("all",)))


def test_a_store_without_named_models_serves_none(store, models):
    mar(models / "a.mar")
    assert store.find(Config(model_store=models)).specs == []


def test_a_repository_is_served_version_by_version(store, tmp_path, caplog):
    repository = tmp_path / "repository"
    function_model(repository / "adder", versions=("1", "2"))
    function_model(repository / "typo", "max_batchsize = 4")
    (repository / "echo").mkdir()
    (repository / "echo" / "config.toml").write_text('platform = "builtin"')
    (repository / ".git" / "1").mkdir(parents=True)
    (repository / "lost+found").mkdir()
    (repository / "README.md").touch()
    assert model_folders(repository) == ["adder", "echo", "typo"]
    found = store.find(Config(model_repository=(repository,)))
    specs = found.specs
    assert names(specs) == [("adder", "1"), ("adder", "2"), ("echo", "1")]
    assert [spec.backend for spec in specs] == ["function", "function", "builtin"]
    assert specs[0].scaling.min_workers == 2
    assert "max_batchsize" in caplog.text
    assert [(each.name, each.url, each.expected) for each in found.skipped] == [
        ("typo", str(repository / "typo"), True)
    ]
    assert store.find(Config(model_repository=(repository,), repository_load_existing=False)).specs == []


def test_a_version_that_cannot_be_served_does_not_take_the_others_with_it(store, tmp_path):
    repository = tmp_path / "repository"
    function_model(repository / "adder", versions=("1", "2"))
    (repository / "adder" / "2" / "model.py").unlink()
    found = store.find(Config(model_repository=(repository,)))
    assert names(found.specs) == [("adder", "1")]
    assert [(each.name, each.version) for each in found.skipped] == [("adder", "2")]
    assert "no model.py" in found.skipped[0].reason


def test_several_repositories_are_searched_and_a_name_in_two_is_left_out(store, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first / "a", first / "both", second / "b", second / "both"):
        function_model(place)
    (tmp_path / "again").symlink_to(first)
    repositories = (first, second, tmp_path / "again")  # the last is the first
    found = store.find(Config(model_repository=repositories))
    assert sorted(spec.name for spec in found.specs) == ["a", "b"]
    (skipped,) = found.skipped
    assert (skipped.name, skipped.expected) == ("both", True)
    assert "is in several model repositories" in skipped.reason


def test_of_a_repository_those_models_are_loaded_that_are_named(store, tmp_path):
    for name in ("a", "b", "c"):
        function_model(tmp_path / "repository" / name)
    found = store.find(Config(model_repository=(tmp_path / "repository",), startup_models=("c", "gone", "a")))
    assert [spec.name for spec in found.specs] == ["c", "a"]
    assert [each.name for each in found.skipped] == ["gone"]
    assert "there is no folder 'gone' in the model repository" in found.skipped[0].reason


def test_links_in_a_repository_are_the_operators_own_and_are_followed(store, tmp_path):
    """Release links, shared stores, the ..data of a ConfigMap and KServe's modelcar are all made of them."""
    repository, releases = tmp_path / "repository", tmp_path / "releases"
    function_model(releases / "41", "entry = 'model.py'")
    function_model(repository / "versions")
    (repository / "versions" / "2").symlink_to(releases / "41" / "1")
    (repository / "whole").symlink_to(releases / "41")
    (repository / "whole2").symlink_to("..data/41")
    (repository / "..data").symlink_to(releases)
    function_model(repository / "file", "entry = 'model.py'")
    (repository / "file" / "1" / "model.py").unlink()
    (repository / "file" / "1" / "model.py").symlink_to(releases / "41" / "1" / "model.py")
    found = store.find(Config(model_repository=(repository,)))
    assert names(found.specs) == [
        ("file", "1"), ("versions", "1"), ("versions", "2"), ("whole", "1"), ("whole2", "1"),
    ]  # fmt: skip
    assert not found.skipped
    # Where a link leads is settled when the model is read: a worker that starts later must not find another release.
    assert found.specs[2].location == str(releases / "41" / "1")
    assert found.specs[3].url == str(repository / "whole")


@pytest.mark.parametrize("name", ["../outside", "inside/../../outside", "gone", "", ".", "a\0b"])
def test_a_name_cannot_lead_out_of_a_repository(store, tmp_path, name):
    function_model(tmp_path / "outside")
    function_model(tmp_path / "repository" / "inside")
    with pytest.raises((ModelLoadFailed, ModelNotFound)):
        store.read_from_repository(tmp_path / "repository", name)
    with pytest.raises((ModelLoadFailed, ModelNotFound)):
        store.read_from_repository(tmp_path / "repository", str(tmp_path / "outside"))


def test_targets_store_and_repository_come_together(store, models, tmp_path):
    mar(models / "a.mar", "a")
    function_model(tmp_path / "repository" / "adder")
    (tmp_path / "fn.py").write_text(DOUBLE)
    config = Config(
        targets=(f"{tmp_path}/fn.py:double",),
        model_store=models,
        models=("all",),
        model_repository=(tmp_path / "repository",),
    )
    assert names(store.find(config).specs) == [("double", "1"), ("a", "1.0"), ("adder", "1")]


def test_a_function_is_served_without_any_other_file(store, tmp_path):
    (tmp_path / "fn.py").write_text(DOUBLE)
    (spec,) = store.read_target(f"{tmp_path}/fn.py:double")
    assert (spec.name, spec.version, spec.backend) == ("double", "1", "function")
    assert (spec.location, spec.entry, spec.url) == (
        str(tmp_path),
        "fn.py:double",
        f"{tmp_path}/fn.py:double",
    )
    assert spec.scaling.min_workers == spec.scaling.max_workers == 2


def test_a_file_for_tritons_python_backend_is_run_by_that(store, tmp_path):
    (tmp_path / "model.py").write_text("import os\n\nclass TritonPythonModel:\n    pass\n")
    (spec,) = store.read_target(f"{tmp_path}/model.py")
    assert (spec.backend, spec.entry) == ("triton_python", "model.py")
    (spec,) = store.read_target(f"{tmp_path}/model.py:TritonPythonModel")
    assert spec.backend == "function"


def test_a_file_is_served_under_its_own_name(store, tmp_path):
    (tmp_path / "doubler.py").write_text("def infer(x): return x\n")
    (spec,) = store.read_target(f"{tmp_path}/doubler.py")
    assert (spec.name, spec.entry) == ("doubler", "doubler.py")


def test_a_target_may_be_given_a_name(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fn.py").write_text(DOUBLE)
    mar(tmp_path / "m.mar")
    function_model(tmp_path / "adder")
    assert store.read_target("mine=fn.py:double")[0].name == "mine"
    assert store.read_target("mine=m.mar")[0].name == "mine"
    assert store.read_target("mine=adder")[0].name == "mine"
    mar(tmp_path / "a=b.mar")
    assert store.read_target("a=b.mar")[0].name == "m"


def test_an_archive_is_a_target_wherever_it_lies(store, tmp_path, monkeypatch):
    mar(tmp_path / "m.mar")
    monkeypatch.chdir(tmp_path)
    (spec,) = store.read_target("m.mar")
    assert (spec.name, spec.url) == ("m", "m.mar")
    assert Path(spec.location).is_absolute()


def test_a_folder_of_each_kind_is_a_target(store, tmp_path):
    assert store.read_target(str(folder_model(tmp_path / "manifest")))[0].backend == "handler"
    assert names(store.read_target(str(function_model(tmp_path / "adder", versions=("1", "2"))))) == [
        ("adder", "1"),
        ("adder", "2"),
    ]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.py").write_text("def infer(x): return x\n")
    (spec,) = store.read_target(str(tmp_path / "bare"))
    assert (spec.name, spec.backend, spec.entry) == ("bare", "function", "model.py")


def test_the_shipped_example_is_a_target(store):
    (spec,) = store.read_target(str(DIGITS))
    assert (spec.name, spec.version, spec.backend, spec.entry) == ("digits", "1.0", "handler", "handler.py")
    assert spec.manifest["model"] == {
        "modelName": "digits",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "modelFile": "model.py",
        "serializedFile": "digits.pt",
        "configFile": "model-config.yaml",
    }
    assert (spec.batching.max_batch_size, spec.batching.max_delay) == (8, 0.005)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("gone.mar", "no such file or folder: 'gone.mar'"),
        ("gone.py:fn", "no such file: 'gone.py'"),
        ("fn.py:not a name", "cannot be the name of a function"),
        ("fn.py:Model.infer", "of a class name the class alone, as in fn.py:Model$"),
        ("empty", "folder 'empty' holds no model: there is nothing; expected one of model.onnx"),
        ("repository", "--model-repository"),
        ("notes.txt", "files that can be served end in .py, "),
        ("a/b=fn.py", "no such file"),
    ],
)
def test_a_target_that_is_no_model_is_refused_with_what_is_missing(
    store, tmp_path, monkeypatch, target, match
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "fn.py").write_text(DOUBLE)
    (tmp_path / "notes.txt").write_text("hello")
    function_model(tmp_path / "repository" / "adder")
    with pytest.raises((ModelLoadFailed, ModelNotFound), match=match):
        store.read_target(target)


def again(store, models, name, spec, **settings):
    """The models of a snapshot that has this one."""
    settings = ModelSettings(mar_name=store.archive_of(spec, models), **settings)
    versions = {name: {spec.version: settings}}
    config = Config(model_store=models, model_snapshot=Snapshot(models=versions), models=("all",))
    return store.find(config).specs


def test_a_snapshots_models_are_found_again_and_no_others(store, models):
    mar(models / "m.mar")
    mar(models / "other.mar", "other")
    (spec,) = store.find(Config(model_store=models, models=("own=m.mar",))).specs
    (found,) = again(store, models, "own", spec, min_workers=3, max_workers=3)
    assert (found.name, found.version, found.url, found.scaling.min_workers) == ("own", "1.0", "m.mar", 3)


def test_an_archive_that_is_gone_or_another_now_is_named(store, models):
    mar(models / "m.mar")
    (spec,) = store.find(Config(model_store=models, models=("m.mar",))).specs
    mar(models / "m.mar", version="2.0")
    with pytest.raises(
        ModelLoadFailed, match=r"model 'm' version '1.0' of the snapshot: 'm.mar' .* is version '2.0'"
    ):
        again(store, models, "m", spec)
    archive = store.archive_of(spec, models)
    (models / "m.mar").unlink()
    snapshot = Snapshot(models={"m": {"1.0": ModelSettings(mar_name=archive)}})
    with pytest.raises(ModelLoadFailed, match=r"model 'm' version '1.0' of the snapshot: no 'm.mar' in "):
        store.find(Config(model_store=models, model_snapshot=snapshot))
    with pytest.raises(ModelLoadFailed, match="no model store"):
        store.find(Config(model_snapshot=snapshot))


def test_only_what_can_be_had_again_has_a_place_in_a_snapshot(store, models, tmp_path):
    mar(models / "m.mar")
    (spec,) = store.find(Config(model_store=models, models=("m.mar",))).specs
    (target,) = store.read_target(str(mar(tmp_path / "t.mar", "t")))
    assert store.archive_of(spec, models) == "m.mar"
    assert store.archive_of(target, models) == ""
    assert store.archive_of(spec, None) == ""
    assert store.archive_of(replace(spec, workflow="w"), models) == ""
    assert store.archive_of(replace(spec, url="https://a/b.mar"), None) == "https://a/b.mar"


def test_a_folder_that_cannot_be_read_leaves_out_that_model_alone(store, tmp_path, caplog, monkeypatch):
    for name in ("closed", "open"):
        (tmp_path / "r" / name / "1").mkdir(parents=True)
        (tmp_path / "r" / name / "1" / "model.py").write_text("def infer(x: int) -> int:\n    return x\n")
    read = mooring.repository.store.read_repository_model

    def refuse(folder, **options):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder / "closed"))
        return read(folder, **options)

    monkeypatch.setattr("mooring.repository.store.read_repository_model", refuse)
    found = store.find(Config(model_repository=(tmp_path / "r",)))
    assert [spec.name for spec in found.specs] == ["open"]
    assert "closed/closed: Permission denied; the server runs as user" in caplog.text

"""A folder of a repository: which versions are served, which file is the model, and what is no model."""

import shutil

import pytest
from declaration_kit import AMD, read

from mooring.core.errors import ModelLoadFailed
from mooring.repository.layout import find_declaration, version_folders
from mooring.repository.repository_model import read_repository_model, read_versions


def test_toml_wins_over_text_proto_and_config_toml_over_other_names(model):
    for name in ("a.pbtxt", "b.toml", "config.toml"):
        (model / name).write_text("")
    assert find_declaration(model) == model / "config.toml"
    (model / "config.toml").unlink()
    assert find_declaration(model) == model / "b.toml"
    (model / "b.toml").unlink()
    assert find_declaration(model) == model / "a.pbtxt"


def test_a_config_in_a_folder_of_the_same_name_is_found(tmp_path):
    inner = tmp_path / "adder" / "adder"
    (inner / "1").mkdir(parents=True)
    (inner / "1" / "model.py").touch()
    (inner / "config.toml").write_text("")
    (spec,) = read_versions(tmp_path / "adder", "adder")
    assert spec.location == str(inner / "1")


def test_every_version_is_found_in_the_order_of_numbers(model):
    for name in ("2", "10", "assets", "v3"):
        (model / name).mkdir()
        (model / name / "model.py").touch()
    assert [folder.name for folder in version_folders(model)] == ["1", "2", "10"]
    assert [spec.version for spec in read(model, "")] == ["1", "2", "10"]


def test_a_model_needs_no_config(model):
    (spec,) = read_versions(model, "adder")
    assert (spec.name, spec.backend, spec.entry) == ("adder", "function", "model.py")


@pytest.mark.parametrize("key", ["platform", "backend"])
def test_a_builtin_needs_no_version_and_is_called_by_its_name(tmp_path, key):
    (tmp_path / "echo").mkdir()
    (spec,) = read(tmp_path / "echo", f'{key} = "builtin"')
    assert (spec.backend, spec.entry, spec.version, spec.platform) == ("builtin", "echo", "1", "builtin")


def test_a_builtin_may_have_another_name_than_its_own(tmp_path):
    (tmp_path / "mirror").mkdir()
    (spec,) = read(tmp_path / "mirror", 'platform = "builtin"\nentry = "echo_multi"')
    assert (spec.name, spec.entry) == ("mirror", "echo_multi")


def test_the_servers_name_wins_over_the_configs(model):
    assert read(model, 'name = "other"')[0].name == "other"
    assert read_versions(model, "adder", name="mine")[0].name == "mine"


def test_an_entry_names_the_file_and_the_function(model):
    (model / "1" / "own.py").touch()
    assert read(model, 'entry = "own.py:fn"')[0].entry == "own.py:fn"


def test_the_only_file_needs_no_name(model):
    (model / "1" / "model.py").rename(model / "1" / "other.py")
    assert read(model, "")[0].entry == "other.py"


def test_a_folder_without_any_version_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(ModelLoadFailed, match=r"m/1/model\.py"):
        read(tmp_path / "m", "")


def test_a_version_without_a_file_is_refused(model):
    (model / "1" / "model.py").unlink()
    with pytest.raises(ModelLoadFailed, match=r"no model\.py"):
        read(model, "")


def versioned(model, *versions):
    for version in versions:
        (model / version).mkdir(exist_ok=True)
        (model / version / "model.py").touch()
    return model


@pytest.mark.parametrize(
    ("name", "text", "served"),
    [
        ("config.toml", "", ["1", "2", "3", "10"]),
        ("config.toml", "[version_policy]\nall = true", ["1", "2", "3", "10"]),
        ("config.toml", "[version_policy]\nlatest = 2", ["3", "10"]),
        ("config.toml", "[version_policy]\nspecific = [1, 10, 99]", ["1", "10"]),
        ("config.pbtxt", AMD, ["1", "2", "3", "10"]),
        ("config.pbtxt", AMD + "version_policy { specific: [2, 3] }", ["2", "3"]),
        ("config.pbtxt", 'backend: "python" max_batch_size: 1', ["10"]),
        ("config.pbtxt", 'backend: "python" workers { max: 1 }', ["1", "2", "3", "10"]),
        ("config.pbtxt", "max_batch_size: 1 version_policy { }", ["10"]),
        ("config.pbtxt", "max_batch_size: 1 version_policy: { latest { } }", ["10"]),
        ("config.pbtxt", "max_batch_size: 1 version_policy: { latest { num_versions: 2 } }", ["3", "10"]),
        ("config.pbtxt", "max_batch_size: 1 version_policy: { specific { versions: [ 3, 1 ] } }", ["1", "3"]),
        (
            "config.pbtxt",
            "max_batch_size: 1 version_policy: { specific { versions: 3 versions: 1 } }",
            ["1", "3"],
        ),
        ("config.pbtxt", "max_batch_size: 1 version_policy: { all { } }", ["1", "2", "3", "10"]),
    ],
)
def test_the_policy_says_which_versions_are_served(model, name, text, served):
    """Triton's rule, the latest one, where its configuration says nothing; our own and AMD's serve every version."""
    versioned(model, "1", "2", "3", "10")
    assert [spec.version for spec in read(model, text, name)] == served


def test_without_a_configuration_the_latest_version_is_served(model):
    versioned(model, "2", "10")
    assert [spec.version for spec in read_versions(model, "adder")] == ["10"]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("config.toml", "[version_policy]", "one of latest = N, all = true and specific"),
        ("config.toml", "[version_policy]\nlatest = 1\nall = true", "one of latest = N"),
        ("config.toml", "[version_policy]\nspecific = []", "one of latest = N"),
        ("config.toml", "[version_policy]\nlatest = 0", "version_policy.latest"),
        ("config.toml", "[version_policy]\nnewest = 1", "version_policy.newest is not a known field"),
        ("config.toml", "[version_policy]\nspecific = [9]", "serves .specific 9.; there is 1"),
        (
            "config.pbtxt",
            "version_policy { latest { num_version: 1 } }",
            r"latest\.num_version: unknown key; did you mean 'num_versions'",
        ),
        ("config.pbtxt", "version_policy { newest { } }", r"version_policy\.newest: unknown key"),
        ("config.pbtxt", "version_policy { latest { } all { } }", "latest and all cannot both be set"),
        ("config.pbtxt", "version_policy { latest { num_versions: 0 } }", "version_policy"),
        ("config.pbtxt", "version_policy { latest { num_versions: [] } }", "version_policy"),
        ("config.pbtxt", "version_policy { specific { } }", "version_policy"),
        ("config.pbtxt", 'version_policy { specific { versions: "x" } }', "version_policy"),
        ("config.pbtxt", "version_policy { all { x: 1 } }", r"all\.x: unknown key"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused(model, name, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(model, text, name)


def test_a_number_with_leading_zeros_is_no_version(model):
    versioned(model, "2", "002", "0010")
    found = read_repository_model(model)
    assert ([spec.version for spec in found.specs], found.padded) == (["2"], ["0010", "002"])
    for name in ("1", "2"):
        shutil.rmtree(model / name)
    with pytest.raises(ModelLoadFailed, match="no leading zeros: rename adder/0010 to adder/10"):
        read_repository_model(model)


def test_tritons_configuration_must_have_its_folders_name(model):
    (model / "config.pbtxt").write_text('name: "adder" backend: "python"')
    assert read_repository_model(model).specs[0].name == "adder"
    (model / "config.pbtxt").write_text('name: "other" backend: "python"')
    with pytest.raises(ModelLoadFailed, match="name is 'other' and the folder's is 'adder'"):
        read_repository_model(model)
    # Who names the folder, as a target, has said which model is meant.
    assert read_versions(model, "adder")[0].name == "other"


@pytest.mark.parametrize(
    ("files", "text", "served"),
    [
        (["model.onnx"], "", ("onnx", "model.onnx")),
        (["net.pt2", "README.md"], "", ("pytorch", "net.pt2")),
        (["model.pt"], "", ("pytorch", "model.pt")),
        (["model.py", "weights.pt"], "", ("function", "model.py")),
        (["setup.py", "model.onnx"], "", ("onnx", "model.onnx")),
        (["model.onnx"], 'platform = "onnxruntime_onnx"', ("onnx", "model.onnx")),
        (["fn.py"], 'platform = "python"', ("function", "fn.py")),
        (["a.onnx", "b.onnx"], 'entry = "b.onnx"', ("onnx", "b.onnx")),
    ],
)
def test_a_single_file_right_inside_the_folder_is_version_1(tmp_path, files, text, served):
    folder = tmp_path / "flat"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    if text:
        (folder / "config.toml").write_text(text)
    (spec,) = read_repository_model(folder).specs
    assert (spec.name, spec.version, spec.location) == ("flat", "1", str(folder))
    assert (spec.backend, spec.entry) == served


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ([], "the folder is empty: put the model into it, as in m/1/model.onnx"),
        (["README.md"], r"expected a file such as m/1/model\.py"),
        (["a.onnx", "b.onnx"], r"move the file that is the model \(a\.onnx or b\.onnx\) to m/1/"),
        (["bert/1/model.onnx"], "its folder bert looks like a model: move m/bert up into the repository"),
        (["v1/model.onnx"], "a version is a whole number: rename m/v1 to m/1"),
        (["01/model.onnx"], "rename m/01 to m/1"),
        (["model-settings.json", "model.joblib"], "is MLServer's"),
        (["model-settings.json", "model.onnx"], "is MLServer's"),
        (["MAR-INF/MANIFEST.json", "handler.py", "model.pt"], "unpacked archive of TorchServe's"),
        (["handler.py", "model.pt"], "unpacked archive of TorchServe's"),
        (["1/README.md"], r"no model\.py"),
        (["1/saved_model.pb"], r"no model\.py"),
    ],
)
def test_a_folder_that_cannot_be_a_model_says_why_and_what_to_do(tmp_path, places, match):
    folder = tmp_path / "m"
    folder.mkdir()
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    with pytest.raises(ModelLoadFailed, match=match):
        read_repository_model(folder)


def test_a_folder_that_is_not_there_says_so(tmp_path):
    (tmp_path / "m").symlink_to("/nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ModelLoadFailed, match="link that leads nowhere: /nowhere is not there"):
        read_repository_model(tmp_path / "m")
    for name in ("file", "gone"):
        with pytest.raises(ModelLoadFailed, match="is not a folder"):
            read_repository_model(tmp_path / name)

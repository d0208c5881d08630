"""What a target of ``mooring serve`` means is found without running any of its code, or refused with the way out."""

import http.server
import os
import threading
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_kit import defaults
from onnx_kit import write_model

from mooring.cli.doctor import doctor
from mooring.core.errors import ModelLoadFailed, ModelNotFound, SourceRefused
from mooring.doctor.examination import examine_place
from mooring.repository.fetch import Fetcher
from mooring.repository.store import Store
from mooring.repository.targets import find_target

BOOM = "raise SystemExit('a target is read, and not run')\n"
FUNCTION = BOOM + "def double(x):\n    return 2 * x\n"
CLASS = "class Model:\n    def infer(self, x):\n        return x\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder that the user is in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def store(tmp_path, fetcher=None):
    (tmp_path / "unpacked").mkdir(exist_ok=True)
    return Store(tmp_path / "unpacked", defaults(), fetcher=fetcher)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__in__", "/").replace("__dot__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("source", "function"),
    [
        (CLASS, ""),
        ("def infer(x): return x\n", ""),
        (FUNCTION, "double"),
        ("class Scale:\n    def infer(self, x): return x\n\ndef helper(): pass\n", "Scale"),
        ("import mooring\nclass Chat(mooring.Model):\n    pass\n", "Chat"),
        ("def _hidden(): pass\nasync def answer(x): return x\n", "answer"),
        ("this is a syntax error", ""),  # the worker says where
    ],
)
def test_of_a_file_alone_the_only_thing_that_can_be_a_model_is_served(here, tmp_path, source, function):
    (here / "app.py").write_text(source)
    target = find_target("app.py")
    assert (target.function, target.name) == (function, "app")
    (spec,) = store(tmp_path).read_target("app.py")
    assert spec.entry == ("app.py:" + function if function else "app.py")


@pytest.mark.parametrize("name", ["config.properties", "mooring.toml", "startup.cfg"])
def test_a_file_of_settings_is_not_a_model(here, name):
    Path(name).write_text("")
    with pytest.raises(
        ModelLoadFailed, match=f"'{name}' is a file of settings.*: mooring serve --config {name}"
    ):
        find_target(name)


def test_several_functions_of_a_file_are_listed(here):
    (here / "app.py").write_text(BOOM + "def double(x): ...\ndef half(x): ...\n")
    with pytest.raises(ModelLoadFailed, match=r"double, half; name the one to serve, as in app\.py:double"):
        find_target("app.py")
    (here / "data.py").write_text("x = 1\n")
    with pytest.raises(ModelLoadFailed, match="no function or class that can be a model"):
        find_target("data.py")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("from elsewhere import *\n", "anything"),
        ("double = half = lambda x: x\n", "half"),
        ("def __getattr__(name): ...\n", "anything"),
        ("exec('def made(x): return x')\n", "made"),
        ("from elsewhere import made as other\n", "other"),
        ("first, second = object(), object()\n", "second"),
    ],
)
def test_a_name_that_a_file_may_get_while_it_runs_is_left_to_the_worker(here, source, wanted):
    (here / "app.py").write_text(source)
    assert find_target(f"app.py:{wanted}").function == wanted


def test_a_misspelt_name_is_answered_with_the_one_that_is_meant(here):
    (here / "double.py").write_text(FUNCTION)
    with pytest.raises(
        ModelLoadFailed, match=r"double\.py defines no function or class 'dobule'; did you mean double\?"
    ):
        find_target("double.py:dobule")
    with pytest.raises(ModelLoadFailed, match=r"no function or class 'xyz'; there is double"):
        find_target("double.py:xyz")
    with pytest.raises(ModelNotFound, match=r"no such file: 'doubble\.py'; did you mean double\.py\?"):
        find_target("doubble.py:double")
    with pytest.raises(ModelNotFound, match=r"'double'; did you mean double\.py\?"):
        find_target("double")
    (here / "other.py").write_text("def half(x): ...\n")
    with pytest.raises(ModelNotFound, match=r"'half'; did you mean other\.py:half\?"):
        find_target("half")
    with pytest.raises(ModelNotFound, match=r"'model2\.onnx'; there is double\.py"):
        find_target("model2.onnx")
    (here / "model.onnx").touch()
    with pytest.raises(ModelNotFound, match=r"'model2\.onnx'; did you mean model\.onnx\?"):
        find_target("model2.onnx")
    (here / "gone.onnx").symlink_to("away.onnx")
    with pytest.raises(
        ModelNotFound, match=r"'gone\.onnx' is a link that leads nowhere: away\.onnx is not there"
    ):
        find_target("gone.onnx")
    with pytest.raises(ModelNotFound, match=r"there is no folder 'nowhere'"):
        find_target("nowhere/model.onnx")


def test_a_function_is_found_by_the_name_of_its_module(here, tmp_path):
    write(
        here, app__dot__py=FUNCTION + CLASS, pkg__in____init____dot__py=BOOM, pkg__in__mod__dot__py=FUNCTION
    )
    (spec,) = store(tmp_path).read_target("app:double")
    assert (spec.name, spec.location, spec.entry, spec.module) == ("double", str(here), "app.py:double", "")
    (spec,) = store(tmp_path).read_target("app:Model")
    assert (spec.name, spec.entry) == ("app", "app.py:Model")
    (spec,) = store(tmp_path).read_target("mine=pkg.mod:double")
    assert (spec.name, spec.location, spec.entry, spec.module) == (
        "mine",
        str(here),
        "pkg/mod.py:double",
        "pkg.mod",
    )


def test_packages_without_init_and_functions_of_a_package_are_found(here, tmp_path):
    write(here, spaces__in__deep__in__mod__dot__py=FUNCTION, pkg__in____init____dot__py=FUNCTION)
    (spec,) = store(tmp_path).read_target("spaces.deep.mod:double")
    assert (spec.location, spec.entry, spec.module) == (
        str(here),
        "spaces/deep/mod.py:double",
        "spaces.deep.mod",
    )
    (spec,) = store(tmp_path).read_target("pkg:double")
    assert (spec.location, spec.entry, spec.module) == (str(here), "pkg/__init__.py:double", "pkg")


def test_an_installed_module_is_found_and_not_imported(tmp_path, monkeypatch):
    write(tmp_path / "site", installed__in____init____dot__py=BOOM, installed__in__mod__dot__py=FUNCTION)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (spec,) = store(tmp_path).read_target("installed.mod:double")
    assert (spec.location, spec.module) == (str(tmp_path / "site"), "installed.mod")


def test_a_module_that_is_nowhere_is_named(here):
    (here / "apps.py").write_text(FUNCTION)
    with pytest.raises(ModelNotFound, match=r"no module 'appz' for 'appz:double': .*did you mean apps\?"):
        find_target("appz:double")
    with pytest.raises(ModelNotFound, match=r"no module 'os\.nothing'"):
        find_target("os.nothing:f")
    with pytest.raises(
        ModelLoadFailed, match=r"apps\.py defines no function or class 'dobule'; did you mean double"
    ):
        find_target("apps:dobule")


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("hf://google/bert", r"'google/bert' is a model of the Hugging Face hub.*`mooring init NAME --template llm`"),
        ("https://huggingface.co/google/bert/tree/main", r"'google/bert' is a model of the Hugging Face hub"),
        ("https://hf.co/google/bert", r"start it with MODEL=google/bert"),
        ("google/bert", r"no such file or folder: 'google/bert'.*`mooring init NAME --template llm`"),
        ("s3://bucket/models/a.onnx", r"copy it .* aws s3 cp s3://bucket/models/a\.onnx a\.onnx"),
        ("gs://bucket/a.onnx", "gcloud storage cp"),
        ("ftp://host/a.onnx", "unknown scheme ftp"),
        ("file:///tmp/a.onnx", r"name it by its path: /tmp/a\.onnx"),
        ("https://models.example/readme.txt", r"those end in \.mar"),
        ("https://models.example/", r"those end in \.mar"),
        ("https://models.example/a.py", r"those end in \.mar"),
        ("https://[broken/a.onnx", "is not a URL"),
        ("mine=", "target 'mine=' names nothing to serve"),
        ("a" * 300, "no such file or folder"),
        ("nul\0byte", "no such file or folder"),
    ],
)  # fmt: skip
def test_an_address_that_is_not_served_is_refused_with_the_way_out(target, match):
    with pytest.raises((SourceRefused, ModelNotFound), match=match):
        find_target(target)


def test_a_url_that_is_not_allowed_is_refused_with_the_flag_that_allows_it(tmp_path):
    expected = r"'https://models\.example/nets/a\.onnx' is not fetched.*--allowed-urls 'https://models\\\.example/nets/\.\*'"
    with pytest.raises(SourceRefused, match=expected):
        store(tmp_path).read_target("https://models.example/nets/a.onnx?signature=secret")
    with pytest.raises(SourceRefused, match="plain http"):
        store(tmp_path).read_target("https://me:secret@models.example/nets/a.onnx")


def test_allowed_urls_are_fetched_and_removed_with_their_model(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    (served / "net.onnx").write_bytes(b"onnx")
    with zipfile.ZipFile(served / "arch.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", '{"model": {"modelName": "m", "handler": "handler.py"}}')
        archive.writestr("handler.py", "")

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=str(served))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        places = store(tmp_path, Fetcher([f"{url}/.*"]))
        (net,) = places.read_target(f"{url}/net.onnx")
        (named,) = places.read_target(f"mine={url}/arch.mar")
        server.shutdown()
    assert (net.name, net.backend, net.entry) == ("net", "onnx", "net.onnx")
    assert (Path(net.location) / "net.onnx").read_bytes() == b"onnx"
    assert (named.name, named.backend) == ("mine", "handler")
    for spec in (net, named):
        places.release(spec)
    assert list((tmp_path / "unpacked").iterdir()) == []


@pytest.mark.parametrize(
    ("files", "entry"),
    [
        ({"model.onnx": "", "other.onnx": ""}, "model.onnx"),
        ({"net.onnx": "", "README.md": ""}, "net.onnx"),
        ({"model.py": CLASS, "model.onnx": ""}, "model.py"),
        ({"model.py": "def train(): ...\ndef evaluate(): ...\n", "model.onnx": ""}, "model.onnx"),
        ({"app.py": FUNCTION, "requirements.txt": ""}, "app.py:double"),
    ],
)  # fmt: skip
def test_a_folder_with_a_model_file_in_it_is_a_target(here, tmp_path, files, entry):
    for name, text in files.items():
        (here / name).write_text(text)
    (spec,) = store(tmp_path).read_target(".")
    assert (spec.name, spec.entry) == (here.name, entry)


def test_a_folder_of_models_is_served_as_a_repository(here, tmp_path):
    write(here, models__in__a__in__1__in__model__dot__onnx="", models__in__b__in__config__dot__toml="")
    with pytest.raises(ModelLoadFailed, match=r"own \(a, b\): .*mooring serve --model-repository models"):
        store(tmp_path).read_target("models")


def test_a_folder_that_is_no_model_lists_what_is_there(here, tmp_path):
    write(here, data__in__a__dot__csv="", data__in__b__dot__csv="")
    with pytest.raises(ModelLoadFailed, match=r"there is a\.csv, b\.csv; expected one of model\.onnx"):
        store(tmp_path).read_target("data")
    write(
        here,
        two__in__a__dot__onnx="",
        two__in__b__dot__onnx="",
        two__in__fn__dot__py=FUNCTION + "def half(x): ...\n",
    )
    with pytest.raises(
        ModelLoadFailed, match=r"two/a\.onnx, two/b\.onnx, two/fn\.py:double.*mooring serve two/a\.onnx"
    ):
        store(tmp_path).read_target("two")


def test_doctor_names_what_a_folder_holds_and_how_it_is_served(here):
    write(
        here,
        live__dot__py="def double(x): ...\ndef half(x): ...\n",
        app__dot__py="import gone_for_good\nclass Model:\n    def infer(self): ...\n",
        test_app__dot__py="from app import Model\ndef test_it(): ...\n",
    )
    write_model(here / "model.onnx")
    report = examine_place(Path())
    said = [f"{each.where}: {each.what} {each.suggestion}" for each in report.findings]
    assert any("model.onnx" in each and "mooring serve model.onnx" in each for each in said), said
    assert any("mooring serve live.py:double" in each for each in said), said
    assert any("gone_for_good" in each and each.endswith(" pip install gone_for_good") for each in said), said
    assert not any("test_app" in each for each in said), said


def test_doctor_says_of_a_target_what_serve_says(here):
    (here / "live.py").write_text("def double(x): ...\ndef half(x): ...\n")
    (finding,) = examine_place(here / "live.py").findings
    with pytest.raises(ModelLoadFailed) as refused:
        find_target(str(here / "live.py"))
    assert finding.what == refused.value.message


def test_doctor_judges_a_target_as_serve_reads_it(here):
    write(
        here,
        pkg__in__mod__dot__py="from . import other\nimport gone_for_good\n" + FUNCTION,
        pkg__in__other__dot__py="",
    )

    def ask(target):
        done = CliRunner().invoke(doctor, [target])
        return done.exit_code, done.output

    status, said = ask("pkg.mod:double")
    assert (status, "pkg/mod.py:2: imports gone_for_good" in said) == (1, True), said
    (here / "pkg" / "mod.py").write_text("from . import other\n" + FUNCTION)
    status, said = ask("pkg.mod:double")
    assert (status, "can be served: mooring serve pkg.mod:double" in said) == (0, True), said
    status, said = ask("pkg.mod:dobule")
    assert (status, "did you mean double?" in said) == (1, True), said
    status, said = ask("hf://org/name")
    assert (status, "--template llm" in said) == (1, True), said
    status, said = ask("https://models.example/a.onnx")
    assert (status, "--allowed-urls" in said) == (1, True), said
    status, said = ask("nowhere.py:double")
    assert (status, "no such file" in said) == (2, True), said


@pytest.mark.parametrize("name", ["pipe", "pipe.py", "pipe.py:f"])
def test_a_pipe_is_refused_and_not_waited_for(here, name):
    os.mkfifo(here / name.partition(":")[0])
    with pytest.raises(
        (ModelLoadFailed, ModelNotFound), match=r"not a model|is a pipe or a device, not a file"
    ):
        find_target(name)


def test_a_link_to_nowhere_is_named_for_a_function_of_it_too(here):
    (here / "app.py").symlink_to("gone.py")
    with pytest.raises(ModelNotFound, match=r"is a link that leads nowhere: gone\.py is not there"):
        find_target("app.py:f")


def test_what_this_user_may_not_read_is_not_called_missing(here, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ModelNotFound, match=r"'app\.py' cannot be read: permission denied"):
        find_target("app.py:f")

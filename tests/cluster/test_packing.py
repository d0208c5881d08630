"""Models of one machine are packed, opened on another and read there as here."""

import json
import zipfile

import pytest

from mooring.cluster import packing
from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.packing import pack_models
from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, SourceRefused, Unsupported
from mooring.repository.catalog import Catalog
from mooring.repository.spec import Defaults
from mooring.repository.store import Store

FUNCTION = "import helper\n\n\ndef infer(inputs):\n    return {'y': helper.N}\n\n\ndef other(x: int) -> int:\n    return x\n"


class Machine:
    """A node: its own cache and catalog, and nothing of the machine that packs."""

    def __init__(self, folder):
        folder.mkdir()
        config = Config()
        defaults = Defaults(options=model_options(config))
        (folder / "unpacked").mkdir()
        self.cache = ModelFileCache(folder / "files")
        self.catalog = Catalog(Store(folder / "unpacked", defaults), config, folder / "uploads", defaults)

    def read(self, change, sent):
        """The specs of a version whose files came from the cache ``sent``."""
        with self.cache.part() as part:
            part.write_bytes(sent.path_of(change.files.sha256).read_bytes())
            self.cache.put(part, change.files, "the test")
        opened = self.cache.open(change.files)
        return self.catalog.read_assigned(
            opened.place, change.model, change.version, change.options, change.config
        )


@pytest.fixture
def node(tmp_path):
    return Machine(tmp_path / "node")


@pytest.fixture
def sent(tmp_path):
    return ModelFileCache(tmp_path / "sent")


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A folder with a Python file, what it imports, and what must not be sent; it is the current one."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "app.py").write_text(FUNCTION)
    (folder / "helper.py").write_text("N = 1\n")
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__init__.py").write_text("")
    (folder / "pkg" / "mod.py").write_text(
        "from pkg import other\n\n\ndef run(x: int) -> int:\n    return x\n"
    )
    (folder / ".secrets").write_text("password")
    (folder / "env").mkdir()
    (folder / "env" / "pyvenv.cfg").write_text("")
    (folder / "env" / "large").write_text("x" * 10_000)
    monkeypatch.chdir(folder)
    return folder


def settings(*targets, **more):
    return Config(targets=list(targets), **more)


@pytest.mark.parametrize(
    ("target", "name", "entry", "module"),
    [
        ("app.py:other", "other", "app.py:other", ""),
        ("app.py", "app", "app.py", ""),
        ("mine=app.py:other", "mine", "app.py:other", ""),
        ("app:other", "other", "app.py:other", ""),
        ("pkg.mod:run", "run", "pkg/mod.py:run", "pkg.mod"),
    ],
)
def test_a_python_file_is_sent_with_what_lies_beside_it(app, sent, node, target, name, entry, module):
    (change,) = pack_models(settings(target), sent)
    assert (change.model, change.version, change.make_default, change.replace, change.wait) == (
        name, "1", True, True, False,
    )  # fmt: skip
    (spec,) = node.read(change, sent)
    assert (spec.name, spec.version, spec.entry, spec.module) == (name, "1", entry, module)
    assert spec.url == target.removeprefix("mine=")
    here = {each.name for each in (node.cache.open(change.files).place).iterdir()}
    assert here == {"app.py", "helper.py", "pkg"}


def test_a_python_file_beside_too_much_says_the_bound_and_what_to_do(app, sent, monkeypatch):
    monkeypatch.setattr(packing, "MOST_CODE_BYTES", 2 << 20)
    (app / "data.bin").write_bytes(b"x" * (3 << 20))
    with pytest.raises(
        ModelLoadFailed, match=r"more than 2097152 bytes; 2 MB are sent at most. Put the file"
    ):
        pack_models(settings("app.py:other"), sent)


def test_a_folder_with_versions_is_packed_once_for_each_without_the_others(tmp_path, sent, node):
    repository = tmp_path / "repository"
    folder = repository / "talker"
    for number in ("1", "2", "10"):
        (folder / number).mkdir(parents=True)
        (folder / number / "model.py").write_text(f"def infer(inputs):\n    return {{'y': {number}}}\n")
    (folder / "config.toml").write_text(
        "[version_policy]\nspecific = [1, 10]\n[workers]\nmin = 2\nmax = 2\n[placement]\nnodes = 2\n"
        "[scaling]\ntarget_queue_ms = 80\ncool_down = 5\n"
    )
    changes = pack_models(Config(model_repository=[repository]), sent)
    assert [(each.version, each.make_default) for each in changes] == [("1", False), ("10", True)]
    assert changes[0].placement == {"min_replicas": 2, "max_replicas": 2}
    assert changes[0].scaling == {"target_queue": 0.08, "scaling_window": 10.0, "cool_down": 5.0}
    for change in changes:
        (spec,) = node.read(change, sent)
        assert (spec.name, spec.version, spec.scaling.min_workers) == ("talker", change.version, 2)
        assert spec.url == str(folder)
        place = node.cache.open(change.files).place
        assert {each.name for each in place.iterdir()} == {"config.toml", change.version}


def test_a_chain_is_sent_with_its_stages_and_its_options(tmp_path, sent, node):
    folder = tmp_path / "pipeline"
    (folder / "1").mkdir(parents=True)
    for name in ("one", "two"):
        (folder / "1" / f"{name}.py").write_text("def infer(inputs):\n    return {'y': 1}\n")
    (folder / "config.toml").write_text(
        'name = "pipeline"\n[[models]]\nname = "one"\nentry = "one.py"\n[[models]]\nname = "two"\nentry = "two.py"\n'
    )
    (change,) = pack_models(settings(str(folder)), sent)
    assert change.model == "pipeline"
    assert [each.name for each in node.read(change, sent)] == ["one", "two", "pipeline"]


def test_a_registered_archive_is_read_with_the_options_of_the_registration(tmp_path, node):
    with zipfile.ZipFile(tmp_path / "digits.mar", "w") as archive:
        manifest = {"model": {"modelName": "digits", "modelVersion": "2.0", "handler": "handler.py"}}
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", "def handle(data, context):\n    return data\n")
    options = {
        "url": "digits.mar",
        "batch_size": 8,
        "workers": 2,
        "response_timeout": 7.0,
        "handler": "handler.py:handle",
    }
    opened = node.cache.open(node.cache.add(tmp_path / "digits.mar"))
    (spec,) = node.catalog.read_assigned(opened.place, "mine", "2.0", options, {})
    assert (spec.name, spec.version, spec.url, spec.entry) == (
        "mine",
        "2.0",
        "digits.mar",
        "handler.py:handle",
    )
    assert (spec.batching.max_batch_size, spec.scaling.min_workers, spec.timeouts.response_timeout) == (
        8,
        2,
        7.0,
    )
    (plain,) = node.catalog.read_assigned(opened.place, "mine", "3", {"shown": "x/digits.mar"}, {})
    assert (plain.version, plain.url, plain.scaling.min_workers) == ("3", "x/digits.mar", 1)


def test_a_callers_configuration_and_parameters_are_laid_over_the_models_own(app, node):
    opened = node.cache.open(node.cache.add(app))
    options = {"entry": "app.py", "parameter:batch_size": 4, "parameter:color": "red"}
    (spec,) = node.catalog.read_assigned(opened.place, "m", "1", options, {"parameters": {"size": 3}})
    assert spec.parameters == {"size": 3, "batch_size": 4, "color": "red"}
    assert spec.batching.max_batch_size == 4


def test_amds_worker_runs_the_file_or_the_builtin_of_that_name(tmp_path, node):
    (tmp_path / "echo").write_text("")
    opened = node.cache.open(node.cache.add(tmp_path / "echo"))
    options = {"worker": "cplusplus", "parameter:batch_size": 2, "shown": "echo"}
    (spec,) = node.catalog.read_assigned(opened.place, "cplusplus-0", "1", options, {})
    assert (spec.name, spec.backend, spec.entry, spec.url) == ("cplusplus-0", "builtin", "echo", "echo")
    assert spec.batching.max_batch_size == 2


@pytest.mark.parametrize("entry", ["../../etc/passwd.py", "/etc/x.py"])
def test_a_file_that_leads_out_of_its_folder_is_refused(app, node, entry):
    opened = node.cache.open(node.cache.add(app))
    with pytest.raises(SourceRefused, match="leads out of its folder"):
        node.catalog.read_assigned(opened.place, "m", "1", {"entry": entry}, {})


def test_an_address_that_is_not_allowed_is_not_fetched(sent):
    with pytest.raises(SourceRefused, match="is not fetched"):
        pack_models(settings("https://models.example/a.mar"), sent)


def test_a_workflow_is_refused(tmp_path, sent):
    (tmp_path / "store").mkdir()
    with pytest.raises(Unsupported, match=r"'flow.war' is a workflow"):
        pack_models(Config(model_store=tmp_path / "store", models=["flow.war"]), sent)

"""Management calls on any node: what is asked of the controller, and which node answers what is read."""

import json
import zipfile

import msgspec
import pytest

from mooring.cluster.administration import ClusterAdministration, LocalReads
from mooring.cluster.model_files import ModelFileCache
from mooring.cluster.packing import ModelPacker
from mooring.cluster.records import (
    ClusterView,
    RegisterVersion,
    ReplicaState,
    ReplicaView,
    RoutingTable,
    ScaleVersion,
    SetDefault,
    UnregisterVersion,
    VersionStatus,
    VersionView,
)
from mooring.cluster.remote_requests import ModelQuestion
from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.core.errors import (
    ClusterUnavailable,
    InvalidInput,
    LoadingDisabled,
    ModelExists,
    ModelLoadFailed,
    ModelNotFound,
    SourceRefused,
    Unsupported,
    VersionIsDefault,
    VersionNotFound,
    WorkersFailed,
)
from mooring.core.service import Duration, ModelDescription, ModelState, ModelUsage, Registration, Scaled
from mooring.repository.catalog import Catalog
from mooring.repository.fetch import Fetcher
from mooring.repository.spec import Defaults
from mooring.repository.store import Store

SOURCE = "def infer(inputs):\n    return {'y': 1}\n"


class Controller:
    """Holds what was asked of it; every version is ready on node b at once."""

    def __init__(self):
        self.versions = {}  # by model and version: the registration
        self.defaults = {}
        self.workers = {}
        self.changes = []
        self.failing = None

    async def ask(self, change):
        if change is not None:
            self.changes.append(change)
            if self.failing is not None:
                raise self.failing
            self.apply(change)
        return self.view()

    def apply(self, change):
        if isinstance(change, RegisterVersion):
            key = change.model, change.version
            if key in self.versions and not change.replace:
                raise ModelExists(f"model '{change.model}' has a version '{change.version}' already")
            self.versions[key] = change
            if change.make_default or change.model not in self.defaults:
                self.defaults[change.model] = change.version
        elif isinstance(change, UnregisterVersion):
            self.versions = {
                key: each
                for key, each in self.versions.items()
                if key[0] != change.model or change.version not in ("", key[1])
            }
            if not any(key[0] == change.model for key in self.versions):
                del self.defaults[change.model]
        elif isinstance(change, SetDefault):
            self.defaults[change.model] = change.version
        elif isinstance(change, ScaleVersion):
            self.workers[change.model, change.version] = change.min_workers

    def view(self):
        found = []
        for model, version in self.versions:
            workers = self.workers.get((model, version), 1)
            status = VersionStatus(model, version, ReplicaState.READY, "", workers, workers)
            default = self.defaults.get(model) == version
            found.append(
                VersionView(model, version, "READY", "", default, 1, 1, 1, [ReplicaView("b", status)])
            )
        return ClusterView("c", 1, 1, [], found)

    def routing(self):
        replicas = {}
        for model, version in self.versions:
            replicas.setdefault(model, {})[version] = ["b"]
        return RoutingTable(1, {"a": "a", "b": "b"}, replicas, dict(self.defaults))


def description(model, version, **more):
    return ModelDescription(
        name=model, version=version, url="u", state="READY", is_default=True, reason="", detail="", runtime="python",
        min_workers=1, max_workers=1, batch_size=1, max_delay=0.0, response_timeout=1.0, startup_timeout=1.0,
        retry_timeout=1.0, client_timeout=0.0, queue_size=1, pending=0, loaded_at_startup=False, workers=[], **more,
    )  # fmt: skip


class Local:
    """What one node has, and its answers."""

    def __init__(self, versions=(), kind=""):
        self.versions = set(versions)
        self.kind = kind
        self.loading = True
        self.unloaded = []

    def check_loading(self):
        if not self.loading:
            raise LoadingDisabled("off")

    def index(self):
        return [ModelState("spare", "", "UNAVAILABLE", ready=False, is_default=False)]

    def loads(self):
        return []

    def check(self, model, version):
        if (model, version) not in self.versions:
            raise ModelNotFound(f"model '{model}' is not loaded", model=model)

    async def describe(self, model, version=""):
        self.check(model, version)
        return [description(model, version, kind=self.kind)]

    async def usage(self, model="", version=""):
        if not model:
            return []
        self.check(model, version)
        one = Duration(1, 1)
        return [ModelUsage(model, version, 0, 1, 1, one, one, one, one, [])]

    async def unload(self, model, version=""):
        raise ModelNotFound(f"model '{model}' is not loaded", model=model)


class Assigned:
    def __init__(self, controller):
        self._controller = controller

    def find(self, model, version):
        return self._controller.versions.get((model, version))


class Service:
    def __init__(self, controller):
        self._controller = controller

    def models(self):
        return [ModelState(*key, "READY", ready=True, is_default=True) for key in self._controller.versions]


class Cluster:
    """Node a, which is asked, with a repository and a store; node b, which has everything."""

    def __init__(self, tmp_path):
        self.repository, self.store = tmp_path / "repository", tmp_path / "store"
        for folder in (self.repository, self.store, tmp_path / "unpacked"):
            folder.mkdir()
        config = Config(
            model_store=self.store, model_repository=[self.repository], default_workers_per_model=1
        )
        defaults = Defaults(options=model_options(config))
        self.controller = Controller()
        catalog = Catalog(Store(tmp_path / "unpacked", defaults), config, tmp_path / "uploads", defaults)
        self.cache = ModelFileCache(tmp_path / "files")
        self.local, self.other = Local(), Local()
        self.unreachable = False
        self.questions = []
        reads = LocalReads(self.local, Assigned(self.controller))
        packer = ModelPacker(self.cache, Fetcher(), self.store)
        self.administration = ClusterAdministration(
            self.local, reads, Service(self.controller), catalog, packer, self.cache, "a",
            self.controller.ask, self.ask_node, self.controller.routing,
        )  # fmt: skip

    async def ask_node(self, node, *question):
        self.questions.append((node, *question))
        if self.unreachable:
            raise ClusterUnavailable(f"node '{node}' does not answer")
        self.other.versions = set(self.controller.versions)
        return await LocalReads(self.other, Assigned(self.controller)).answer(ModelQuestion(1, *question))

    def write_archive(self, name="digits", version="1.0"):
        with zipfile.ZipFile(self.store / f"{name}.mar", "w") as archive:
            manifest = {"model": {"modelName": name, "modelVersion": version, "handler": "handler.py"}}
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("handler.py", "def handle(data, context):\n    return data\n")

    def write_model(self, name, *versions, config=""):
        for version in versions:
            (self.repository / name / version).mkdir(parents=True, exist_ok=True)
            (self.repository / name / version / "model.py").write_text(SOURCE)
        (self.repository / name / "config.toml").write_text(config)

    @property
    def changes(self):
        return self.controller.changes


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


async def test_a_registration_is_packed_here_and_asked_of_the_controller(cluster, tmp_path):
    cluster.write_archive()
    registration = Registration(url="digits.mar", batch_size=4, workers=2)
    assert await cluster.administration.register(registration) == Scaled("digits", "1.0", 2)
    (change,) = cluster.changes
    assert (change.model, change.version, change.wait, change.replace) == ("digits", "1.0", True, False)
    assert change.options == {"url": "digits.mar", "batch_size": 4, "workers": 2}
    assert change.files.sources == ["node:a"]
    assert cluster.cache.open(change.files).place.name == "digits.mar"
    assert not list((tmp_path / "unpacked").iterdir())
    cluster.controller.versions.clear()
    scaled = await cluster.administration.register(Registration(url="digits.mar", name="mine"), wait=False)
    assert scaled == Scaled("mine", "1.0", 1, done=False)
    assert cluster.changes[-1].wait is False


async def test_a_registration_is_refused_in_the_words_of_one_machine(cluster):
    cluster.write_archive()
    with pytest.raises(ModelNotFound, match=r"no 'missing.mar'"):
        await cluster.administration.register(Registration(url="missing.mar"))
    with pytest.raises(SourceRefused):
        await cluster.administration.register(Registration(url="../digits.mar"))
    with pytest.raises(InvalidInput, match="RuntimeType"):
        await cluster.administration.register(Registration(url="digits.mar", runtime="ruby"))
    assert not cluster.changes
    await cluster.administration.register(Registration(url="digits.mar"))
    with pytest.raises(ModelExists, match=r"model 'digits' has a version '1.0' already"):
        await cluster.administration.register(Registration(url="digits.mar"))
    cluster.controller.failing = ModelLoadFailed("node b: no memory", detail="traceback")
    with pytest.raises(WorkersFailed, match="node b: no memory"):
        await cluster.administration.register(Registration(url="digits.mar", name="other"))


async def test_workers_are_scaled_on_every_replica(cluster):
    cluster.write_archive()
    await cluster.administration.register(Registration(url="digits.mar"))
    assert await cluster.administration.scale("digits", least=3, most=5) == Scaled("digits", "1.0", 3)
    assert cluster.changes[-1] == ScaleVersion("digits", "1.0", min_workers=3, max_workers=5)
    scaled = await cluster.administration.scale("digits", least=2, most=2, wait=False)
    assert scaled == Scaled("digits", "1.0", 2, done=False)
    with pytest.raises(ModelNotFound, match="model 'nobody' is not loaded"):
        await cluster.administration.scale("nobody", least=1, most=1)
    cluster.other.kind = "chain"
    with pytest.raises(Unsupported, match="model 'digits' is a chain: its stages have the workers"):
        await cluster.administration.scale("digits", least=1, most=1)


async def test_the_default_is_set_for_the_cluster_and_is_not_unregistered_while_there_are_others(cluster):
    for version in ("1.0", "2.0"):
        cluster.write_archive(version=version)
        await cluster.administration.register(Registration(url="digits.mar"))
    await cluster.administration.set_default("digits", "2.0")
    assert cluster.changes[-1] == SetDefault("digits", "2.0")
    with pytest.raises(VersionNotFound, match=r"model 'digits' has no version '3.0'"):
        await cluster.administration.set_default("digits", "3.0")
    with pytest.raises(
        VersionIsDefault, match=r"version '2.0' is the default of model 'digits', which has others"
    ):
        await cluster.administration.unregister("digits")
    await cluster.administration.unregister("digits", "1.0")
    await cluster.administration.unregister("digits")
    assert cluster.controller.view().versions == []
    with pytest.raises(ModelNotFound, match="model 'digits' is not loaded"):
        await cluster.administration.unregister("digits")


async def test_a_load_registers_every_version_that_is_to_be_served_and_unloads_the_others(cluster):
    cluster.write_model("talker", "1", "2", "10", config="[version_policy]\nlatest = 2\n")
    await cluster.administration.load("talker")
    assert [(each.version, each.make_default, each.replace, each.wait) for each in cluster.changes] == [
        ("2", False, True, True), ("10", True, True, True),
    ]  # fmt: skip
    await cluster.administration.load("talker", "1")
    assert cluster.controller.defaults == {"talker": "10"}
    assert cluster.changes[-1].options["pinned"] is True
    cluster.write_model("talker", "11", config="[version_policy]\nlatest = 1\n")
    await cluster.administration.load("talker")
    assert {version for _, version in cluster.controller.versions} == {"1", "11"}
    # One in the place of the default: the controller takes over and ends the old one in one change.
    registered = [each for each in cluster.changes if isinstance(each, RegisterVersion)]
    assert [each.version for each in registered if each.retire_previous] == ["11"]
    with pytest.raises(ModelNotFound, match="has no version '77' in the repository"):
        await cluster.administration.load("talker", "77")
    with pytest.raises(ModelNotFound, match="model 'nobody' is not in the repository"):
        await cluster.administration.load("nobody")


async def test_what_a_caller_sends_along_with_a_load_goes_to_the_nodes(cluster, tmp_path):
    await cluster.administration.load(
        "sent", files={"1/model.py": SOURCE.encode()}, config={"max_batch_size": 4}, parameters={"size": 3}
    )
    (change,) = cluster.changes
    assert (change.config, change.options["parameter:size"]) == ({"max_batch_size": 4}, 3)
    assert (cluster.cache.open(change.files).place / "1" / "model.py").read_text() == SOURCE
    assert not list((tmp_path / "uploads").iterdir())


async def test_a_model_of_another_nodes_repository_counts_as_loaded(cluster):
    cluster.controller.apply(RegisterVersion("elsewhere", "1", None))
    await cluster.administration.load("elsewhere")
    assert not cluster.changes
    with pytest.raises(ModelNotFound):
        await cluster.administration.load("elsewhere", "2")


async def test_an_ensemble_brings_its_steps_and_goes_everywhere(cluster):
    tensors = '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [1]\n[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [1]\n'
    cluster.write_model("step", "1", config=tensors)
    folder = cluster.repository / "all"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        'platform: "ensemble"\ninput { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
        'output { name: "y" data_type: TYPE_FP32 dims: 1 }\n'
        'ensemble_scheduling { step { model_name: "step" model_version: -1\n'
        'input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }\n'
    )
    await cluster.administration.load("all")
    assert [(each.model, each.placement) for each in cluster.changes] == [
        ("step", {"all_nodes": True}), ("all", {"all_nodes": True}),
    ]  # fmt: skip


async def test_unloads_take_one_version_or_all(cluster):
    cluster.write_model("talker", "1", "2")
    await cluster.administration.load("talker")
    await cluster.administration.unload("talker", "2")
    assert cluster.changes[-2:] == [SetDefault("talker", "1"), UnregisterVersion("talker", "2")]
    await cluster.administration.unload("talker")
    assert cluster.changes[-1] == UnregisterVersion("talker", "")
    with pytest.raises(ModelNotFound):
        await cluster.administration.unload("talker")


async def test_clients_load_nothing_where_the_settings_do_not_let_them(cluster):
    cluster.local.loading = False
    for change in (
        cluster.administration.load("m"),
        cluster.administration.unload("m"),
        cluster.administration.load_worker("fake", {}),
        cluster.administration.unload_worker("fake"),
    ):
        with pytest.raises(LoadingDisabled):
            await change
    assert not cluster.changes


async def test_amds_workers_have_names_and_instances_in_the_whole_cluster(cluster):
    load = cluster.administration.load_worker
    assert await load("CPlusPlus", {"model": "echo"}) == "cplusplus"
    assert await load("cplusplus", {"model": "echo"}) == "cplusplus"
    assert await load("cplusplus", {"model": "echo", "batch_size": 4}) == "cplusplus-0"
    assert await load("cplusplus", {"model": "echo", "share": False}) == "cplusplus"
    assert cluster.controller.workers == {("cplusplus", "1"): 2}
    await cluster.administration.unload_worker("cplusplus")
    assert cluster.controller.workers == {("cplusplus", "1"): 1}
    await cluster.administration.unload_worker("cplusplus")
    assert set(cluster.controller.versions) == {("cplusplus-0", "1")}
    with pytest.raises(InvalidInput, match="'share' of worker"):
        await load("cplusplus", {"share": "yes"})
    with pytest.raises(InvalidInput, match="unknown worker 'xmodel'"):
        await load("xmodel", {"model": "x"})
    with pytest.raises(InvalidInput, match="no such file"):
        await load("migraphx", {"model": "/missing.onnx"})
    with pytest.raises(Unsupported, match="'next'"):
        await load("cplusplus", {"model": "echo", "next": "cplusplus"})


async def test_a_version_is_described_by_this_node_where_it_has_it_and_else_by_one_that_has(cluster):
    cluster.write_model("talker", "1", "2")
    await cluster.administration.load("talker")
    cluster.local.versions = {("talker", "1")}
    found = await cluster.administration.describe("talker", "all")
    assert [(each.version, each.is_default) for each in found] == [("1", False), ("2", True)]
    assert {node for node, *_ in cluster.questions} == {"b"}
    (default,) = await cluster.administration.describe("talker")
    assert default.version == "2"
    with pytest.raises(VersionNotFound, match="model 'talker' has no version '3'"):
        await cluster.administration.describe("talker", "3")
    with pytest.raises(ModelNotFound, match="model 'nobody' is not loaded"):
        await cluster.administration.describe("nobody")


async def test_a_version_that_no_node_describes_now_is_still_there(cluster):
    cluster.write_model("talker", "1")
    await cluster.administration.load("talker")
    cluster.unreachable = True
    (found,) = await cluster.administration.describe("talker")
    assert (found.name, found.version, found.state, found.is_default) == ("talker", "1", "LOADING", True)
    with pytest.raises(ClusterUnavailable):
        await cluster.administration.usage("talker", "1")


async def test_statistics_are_those_of_all_models_of_the_cluster(cluster):
    cluster.write_model("talker", "1", "2")
    cluster.write_model("other", "1")
    await cluster.administration.load("talker")
    await cluster.administration.load("other")
    usage = await cluster.administration.usage()
    assert [(each.name, each.version) for each in usage] == [("other", "1"), ("talker", "1"), ("talker", "2")]
    assert len(await cluster.administration.usage("talker")) == 2


async def test_the_index_has_the_clusters_models_and_what_this_node_could_load(cluster):
    cluster.write_model("talker", "1")
    await cluster.administration.load("talker")
    assert [(each.name, each.state) for each in cluster.administration.index()] == [
        ("spare", "UNAVAILABLE"), ("talker", "READY"),
    ]  # fmt: skip


async def test_without_the_controller_nothing_is_changed_and_what_is_here_is_read(cluster):
    cluster.write_archive()
    cluster.controller.failing = ClusterUnavailable("no connection to the cluster's controller")
    with pytest.raises(ClusterUnavailable):
        await cluster.administration.register(Registration(url="digits.mar"))
    cluster.local.versions = {("digits", "1.0")}
    cluster.controller.versions["digits", "1.0"] = None
    assert len(await cluster.administration.describe("digits")) == 1


def test_a_description_survives_the_way_between_nodes():
    sent = description("m", "1", kind="handler", labels=["a"])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=ModelDescription) == sent

"""Reading workflow archives: what a spec says, what is wrong with one, and that no archive leaves its folder."""

import itertools
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_kit import defaults

from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, ModelNotFound, SourceRefused
from mooring.core.service import WorkflowRegistration
from mooring.repository.fetch import Fetcher
from mooring.repository.store import Store
from mooring.repository.workflow_spec import _topological_order, read_workflow
from mooring.repository.workflows import WorkflowCatalog

CODE = "def pre(data, context):\n    return data\n"
SPEC = "models: {m1: {url: m1.mar}}\ndag: {pre: [m1]}\n"


class Harness:
    def __init__(self, folder):
        self.store = folder / "store"
        self.unpacked = folder / "unpacked"
        self.workflows = folder / "workflows"
        for each in (self.store, self.unpacked, self.workflows):
            each.mkdir()
        self.opener = Store(self.unpacked, fetcher=Fetcher([f"file://{folder}/.*"]))
        self.catalog = WorkflowCatalog(
            self.opener,
            Config(model_store=self.store, workflow_store=self.workflows),
            defaults(response_timeout=7.0),
        )

    def war(self, spec=SPEC, name="wf.war", files=(), **said):
        place = self.workflows / name
        with zipfile.ZipFile(place, "w") as archive:
            said = {"workflowName": "wf", "specFile": "wf.yaml", "handler": "fn.py"} | said
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps({"workflow": said}))
            for file, text in {"wf.yaml": spec, "fn.py": CODE, **dict(files)}.items():
                archive.writestr(file, text)
        return place

    def mar(self, name="m1.mar", config="", **model):
        with zipfile.ZipFile(self.store / name, "w") as archive:
            model = {"modelName": "m1", "modelVersion": "3.0", "handler": "h.py"} | model
            if config:
                archive.writestr("c.yaml", config)
                model["configFile"] = "c.yaml"
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
            archive.writestr("h.py", "def handle(data, context):\n    return data\n")

    def open(self, url="wf.war", **said):
        return self.catalog.read_workflow(WorkflowRegistration(url=url, **said))

    def left(self):
        return list(self.unpacked.iterdir())


@pytest.fixture
def harness(tmp_path):
    return Harness(tmp_path)


def test_a_workflow_has_models_of_its_own_and_functions_of_its_handler(harness):
    harness.mar()
    harness.war()
    opened = harness.open()
    function, model = opened.parts
    assert (function.name, function.entry, function.function) == ("wf__pre", "fn.py:pre", True)
    assert (model.name, model.version, model.url, model.function) == ("wf__m1", "3.0", "m1.mar", False)
    assert {part.workflow for part in opened.parts} == {"wf"}
    assert [(node.name, node.model, node.parents) for node in opened.spec.nodes] == [
        ("pre", "wf__pre", []),
        ("m1", "wf__m1", ["pre"]),
    ]
    for spec in (*opened.parts, opened.spec):
        harness.catalog.release(spec)
    assert harness.left() == []


def test_no_snapshot_names_a_workflows_models(harness):
    harness.mar()
    harness.war()
    for part in harness.open().parts:
        assert harness.opener.archive_of(part, harness.store) == ""
    alone = harness.opener.read_archive(harness.store, "m1.mar")
    assert harness.opener.archive_of(alone, harness.store) == "m1.mar"


def test_a_model_that_keeps_sequences_or_refuses_a_second_run_is_not_asked_again(harness):
    harness.mar(config="sequenceBatching: true\nstateful: true\n")
    harness.war()
    opened = harness.open()
    assert opened.parts[1].sequence.enabled
    assert [node.retries for node in opened.spec.nodes] == [1, 0]


def test_what_nobody_says_is_as_torchserve_has_it(harness):
    harness.mar()
    harness.war()
    opened = harness.open()
    model, node = opened.parts[1], opened.spec.nodes[1]
    assert (
        model.scaling.min_workers,
        model.scaling.max_workers,
        model.batching.max_batch_size,
        model.batching.max_delay,
    ) == (1, 1, 1, 0.05)
    assert (node.timeout, node.retries) == (10.0, 1)
    assert model.timeouts.response_timeout == 7.0


def test_a_model_wins_over_all_models_and_the_spec_over_the_models_own_config(harness):
    harness.mar(config="batchSize: 8\nmaxBatchDelay: 7\nminWorkers: 2\nmaxWorkers: 3\n")
    harness.war(
        "models:\n  min-workers: 4\n  max-workers: 5\n  timeout-ms: 500\n  retry-attempts: 3\n"
        "  m1: {url: m1.mar, min-workers: 5, retry-attempts: 0}\ndag: {pre: [m1]}\n"
    )
    opened = harness.open(response_timeout=3.0, startup_timeout=4.0)
    model = opened.parts[1]
    assert (
        model.scaling.min_workers,
        model.scaling.max_workers,
        model.batching.max_batch_size,
        model.batching.max_delay,
    ) == (5, 5, 8, 0.007)
    assert (model.timeouts.response_timeout, model.timeouts.startup_timeout) == (3.0, 4.0)
    assert [(node.timeout, node.retries) for node in opened.spec.nodes] == [(0.5, 3), (0.5, 0)]
    description = opened.description
    assert (description.min_workers, description.max_workers, description.batch_size) == (4, 5, 1)


def test_the_name_given_wins_over_the_manifests_and_that_over_the_files(harness):
    harness.mar()
    harness.war()
    assert harness.open(name="mine").spec.name == "mine"
    assert harness.open().spec.name == "wf"
    harness.war(name="by_file.war", workflowName=None)
    assert harness.open("by_file.war").spec.name == "by_file"


def test_an_archive_may_come_from_an_allowed_url_and_so_may_its_models(harness, tmp_path):
    harness.mar()
    harness.war(f"models: {{m1: {{url: 'file://{tmp_path}/store/m1.mar'}}}}\ndag: {{pre: [m1]}}\n")
    opened = harness.open(f"file://{tmp_path}/workflows/wf.war")
    assert [part.name for part in opened.parts] == ["wf__pre", "wf__m1"]
    with pytest.raises(SourceRefused):
        harness.open("http://127.0.0.1/wf.war")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("models: [m1]\ndag: {pre: []}", "wf.yaml: models: expected a mapping"),
        ("models: {m1: m1.mar}\ndag: {m1: []}", "wf.yaml: models.m1: expected a mapping with 'url'"),
        ("models: {min-worker: 1}\ndag: {pre: []}", "wf.yaml: models.min-worker: expected a mapping"),
        ("models: {m1: {batch-size: 1}}\ndag: {m1: []}", "wf.yaml: models.m1.url: expected the name"),
        (
            "models: {m1: {url: m1.mar, batch-size: 0}}\ndag: {m1: []}",
            "models.m1.batch-size = 0: expected a whole number from 1",
        ),
        ("models: {timeout-ms: soon}\ndag: {pre: []}", "models.timeout-ms = 'soon'"),
        ("models: {min-workers: true}\ndag: {pre: []}", "models.min-workers = True"),
        (
            "models: {min-workers: 3, max-workers: 2}\ndag: {pre: []}",
            "models.min-workers = 3: it is above max-workers",
        ),
        ("models: {}", "wf.yaml: dag: expected a mapping"),
        ("dag: []", "wf.yaml: dag: expected a mapping"),
        ("dag: {}", "wf.yaml: dag: expected a mapping"),
        ("dag: {pre: [1]}", "dag.pre: 1 is not the name of a node"),
        ("dag: {yes: [pre]}", "dag.True: True is not the name of a node"),
        ("dag: {a/b: []}", "'a/b' cannot be the name of a node"),
        ("dag: {pre: pre}", "dag: pre -> pre is a cycle"),
        ("dag: {a: [b], b: [c], c: [d, b]}", "dag: b -> c -> b is a cycle"),
        ("[]", "wf.yaml: expected a mapping"),
        ("a: [", "wf.yaml: cannot be read"),
    ],
)
def test_a_spec_that_is_wrong_is_named_with_its_file_and_its_key(harness, spec, message):
    harness.war(spec)
    with pytest.raises(ModelLoadFailed) as caught:
        harness.open()
    assert message in caught.value.message
    assert "wf.yaml" in caught.value.message
    assert harness.left() == []


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"specFile": None}, "WAR-INF/MANIFEST.json: workflow.specFile is missing"),
        ({"specFile": 3}, "workflow.specFile must be text"),
        ({"specFile": "../wf.yaml"}, "names a file '../wf.yaml' that is not in it"),
        ({"handler": "gone.py"}, "names a file 'gone.py' that is not in it"),
        ({"handler": None}, "'pre' is not one of the models, and there is no handler"),
        ({"workflowName": "a/b"}, "'a/b' cannot be the name"),
    ],
)
def test_a_manifest_that_is_wrong_is_named_with_its_key(harness, said, message):
    harness.mar()
    harness.war(**said)
    with pytest.raises(ModelLoadFailed) as caught:
        harness.open()
    assert message in caught.value.message
    assert harness.left() == []


@pytest.mark.parametrize(
    ("url", "message"),
    [("gone.mar", "no 'gone.mar' in"), ("../m1.mar", "relative path"), ("http://x/m.mar", "")],
)
def test_a_model_that_is_not_there_is_named_with_its_key_and_nothing_stays_unpacked(harness, url, message):
    harness.mar()
    harness.war(f"models: {{m1: {{url: m1.mar}}, m2: {{url: '{url}'}}}}\ndag: {{m1: [m2]}}\n")
    with pytest.raises(ModelLoadFailed) as caught:
        harness.open()
    assert f"wf.war/wf.yaml: models.m2.url = '{url}': " in caught.value.message
    assert message in caught.value.message
    assert harness.left() == []


def test_an_archive_that_leads_out_of_its_folder_or_of_the_store_is_refused(harness, tmp_path):
    harness.mar()
    harness.war(files={"../out.py": ""})
    with pytest.raises(ModelLoadFailed, match="leads out"):
        harness.open()
    assert not (tmp_path / "out.py").exists()
    for url in ("../workflows/wf.war", "/etc/passwd"):
        with pytest.raises(SourceRefused):
            harness.open(url)
    with pytest.raises(ModelNotFound):
        harness.open("gone.war")
    with pytest.raises(ModelNotFound):
        harness.open("")


def test_models_on_no_path_are_not_opened(harness):
    harness.war("models: {m1: {url: gone.mar}}\ndag: {pre: []}\n")
    assert [part.name for part in harness.open().parts] == ["wf__pre"]


def test_a_store_of_its_own_is_where_workflows_are_and_the_model_store_where_models_are(harness):
    harness.mar()
    with pytest.raises(ModelNotFound):
        harness.open("m1.mar")


def test_a_workflow_that_only_the_model_store_has_is_found_there(harness):
    harness.mar()
    harness.war().rename(harness.store / "other.war")
    assert harness.open("other.war").spec.name == "wf"


nodes = st.sampled_from("abcdefg")


@given(st.dictionaries(nodes, st.lists(nodes, unique=True), min_size=1))
def test_an_order_has_every_node_after_those_before_it_or_the_cycle_that_is_named_is_there(dag):
    try:
        order = _topological_order(dag, "wf.yaml")
    except ModelLoadFailed as error:
        path = error.message.removeprefix("wf.yaml: dag: ").removesuffix(" is a cycle").split(" -> ")
        assert path[0] == path[-1]
        assert len(path) > 1
        assert all(after in dag[before] for before, after in itertools.pairwise(path))
    else:
        assert sorted(order) == sorted({*dag, *(node for after in dag.values() for node in after)})
        assert all(order.index(node) < order.index(child) for node, after in dag.items() for child in after)


def test_an_unpacked_folder_without_a_manifest_is_no_workflow(tmp_path):
    with pytest.raises(ModelLoadFailed, match="is not a workflow archive"):
        read_workflow(tmp_path, "x.war")


SPECS = st.text(max_size=60) | st.text(alphabet="&*!<>[]{}:,-?|#'\"%@` \nmodelsdag01", max_size=80)
PARTS = st.sampled_from(
    [
        "models",
        "dag",
        "pre",
        "m1",
        "url",
        "m1.mar",
        "min-workers",
        "batch-size",
        "retry-attempts",
        "timeout-ms",
        "",
    ]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | PARTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PARTS, inner, max_size=4),
    max_leaves=12,
)


@given(
    SPECS
    | TREES.map(json.dumps)
    | st.tuples(TREES, TREES).map(lambda two: json.dumps({"models": two[0], "dag": two[1]}))
)
def test_any_spec_is_a_workflow_or_a_refusal_that_names_the_archive(tmp_path_factory, spec):
    folder = tmp_path_factory.getbasetemp() / "any-workflow"
    (folder / "WAR-INF").mkdir(parents=True, exist_ok=True)
    said = {"workflowName": "wf", "specFile": "wf.yaml", "handler": "fn.py"}
    (folder / "WAR-INF/MANIFEST.json").write_text(json.dumps({"workflow": said}))
    (folder / "fn.py").write_text(CODE)
    (folder / "wf.yaml").write_bytes(spec.encode("utf-8", "surrogatepass"))
    try:
        assert read_workflow(folder, "wf.war").name == "wf"
    except ModelLoadFailed as error:
        assert "wf.war" in error.message or "wf.yaml" in error.message  # noqa: PT017 - either outcome is right

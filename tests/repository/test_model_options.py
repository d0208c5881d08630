"""Wherever a model comes from, the server's defaults reach it whole, and what it declares means the same."""

import json
import zipfile

import pytest
from model_kit import GROUP_OF, defaults
from options_kit import unlike_all

from mooring.config.model_options import model_options
from mooring.config.settings import Config
from mooring.core.options import Batching, declare, override
from mooring.core.service import Registration, WorkflowRegistration
from mooring.repository.catalog import Catalog, worker_spec
from mooring.repository.repository_model import read_versions
from mooring.repository.spec import Defaults
from mooring.repository.store import Store
from mooring.repository.workflows import WorkflowCatalog

HANDLER = "def handle(data, context):\n    return data\n\n\ndef pre(data, context):\n    return data\n"
WORKERS = {"min_workers", "max_workers", "workers_by_default"}
# What each source decides by itself, whatever the settings say.
OWN = {
    "archive": {"max_delay"},
    "registered": {"max_delay"},
    "declared": set(),
    "chain": set(),
    "stage": set(),
    "function": set(),
    "file": {"max_batch_size", "size_by_default"},
    "workflow": set(),
    "workflow function": WORKERS | {"max_batch_size"},
    "workflow model": WORKERS | {"max_batch_size", "max_delay"},
    "worker": WORKERS | {"mode", "max_batch_size", "max_delay"},
}


class Sources:
    """A folder with a model of each source, read with the server's defaults."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.store = folder / "store"
        for name in ("store", "unpacked", "workflows"):
            (folder / name).mkdir()
        self.opener = Store(folder / "unpacked", server)
        self.config = Config(model_store=self.store, workflow_store=folder / "workflows")
        self.archive("m.mar", {"modelName": "m", "handler": "h.py"}, {"h.py": HANDLER})
        self.write("declared/1/model.py", HANDLER)
        self.write("declared/config.toml", "")
        self.write("net.onnx", "")

    def write(self, name, text):
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def archive(self, name, model, files):
        self.write(f"store/{name}/MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        for file, text in files.items():
            self.write(f"store/{name}/{file}", text)

    def specs(self):
        catalog = Catalog(self.opener, self.config, self.folder, self.server)
        read = {
            "archive": self.opener.read_archive(self.store, "m.mar"),
            "registered": catalog.read_registration(Registration(url="m.mar", workers=8)),
            "declared": self.declared(""),
            "function": self.opener.read_target(f"{self.folder}/declared/1/model.py:pre")[0],
            "file": self.opener.read_target(f"{self.folder}/net.onnx")[0],
            "worker": worker_spec("fake", "fake", {}, self.server),
        }
        self.write("chain/1/model.py", HANDLER)
        self.write("chain/config.toml", '[[models]]\nname = "a"\n[[models]]\nname = "b"\n')
        read["stage"], _, read["chain"] = read_versions(self.folder / "chain", "", defaults=self.server)
        return read | self.workflow()

    def workflow(self):
        manifest = {"workflowName": "wf", "specFile": "wf.yaml", "handler": "h.py"}
        with zipfile.ZipFile(self.folder / "workflows" / "wf.war", "w") as archive:
            archive.writestr("WAR-INF/MANIFEST.json", json.dumps({"workflow": manifest}))
            archive.writestr("wf.yaml", "models: {m1: {url: m.mar}}\ndag: {pre: [m1]}\n")
            archive.writestr("h.py", HANDLER)
        catalog = WorkflowCatalog(self.opener, self.config, self.server)
        opened = catalog.read_workflow(WorkflowRegistration(url="wf.war"))
        return {
            "workflow": opened.spec,
            "workflow function": opened.parts[0],
            "workflow model": opened.parts[1],
        }

    def declared(self, text):
        (self.folder / "declared" / "config.toml").write_text(text)
        (spec,) = read_versions(self.folder / "declared", "", defaults=self.server)
        return spec

    def configured(self, text):
        """The archive with a model-config.yaml."""
        model = {"modelName": "m", "handler": "h.py", "configFile": "c.yaml"}
        self.archive("own.mar", model, {"h.py": HANDLER, "c.yaml": text})
        return self.opener.read_archive(self.store, "own.mar")


def values(options):
    return {option: getattr(getattr(options, group), option) for option, group in GROUP_OF.items()}


def test_every_source_of_a_model_has_every_default_of_the_server(tmp_path):
    server = Defaults(options=unlike_all(workers_by_default=True, max_workers=8, min_workers=8, retry=False))
    expected = values(server.options)
    for source, spec in Sources(tmp_path, server).specs().items():
        found = values(spec.options)
        differing = {option for option in expected if found[option] != expected[option]}
        assert differing <= OWN[source], source


def test_a_workflows_function_has_the_settings_of_handlers(tmp_path):
    config = Config(
        sequence_id_header="X-Id", service_envelope="body", exact_batch_delay=True, decode_input_request=False,
        max_requests_per_worker=9, json_nan="null", metrics_config=tmp_path / "metrics.yaml",
    )  # fmt: skip
    server = Defaults(options=model_options(config))
    function = Sources(tmp_path, server).specs()["workflow function"]
    assert function.sequence.headers.id == "X-Id"
    assert function.batching.exact_delay
    assert function.handler == server.options.handler
    assert (function.handler.envelope, function.handler.json_nan) == ("body", "null")
    assert function.handler.metrics_config == str(tmp_path / "metrics.yaml")
    assert function.scaling.max_requests == 9


@pytest.mark.parametrize(
    ("toml", "yaml", "options"),
    [
        (
            "max_batch_size = 4\nconcurrency = 3\n[batching]\nmax_delay_ms = 50\nexact_delay = true",
            "batchSize: 4\nmaxConcurrentRequests: 3\nmaxBatchDelay: 50\nexactBatchDelay: true",
            {"max_batch_size": 4, "concurrency": 3, "max_delay": 0.05, "exact_delay": True},
        ),
        (
            "[batching]\nmax_delay_ms = 0\n[workers]\nmin = 2\nmax = 4\nmax_requests = 9\nmemory_limit = 1000",
            "maxBatchDelay: 0\nminWorkers: 2\nmaxWorkers: 4\nmaxRequestsPerWorker: 9\nworkerMemoryLimit: 1000",
            {"min_workers": 2, "max_workers": 4, "max_requests": 9, "memory_limit": 1000},
        ),
        (
            ("[batching]\nmax_delay_ms = 0\n[workers]\nmin = 0\nmax = 4\n"
            "[scaling]\ntarget_queue_ms = 80\nwindow = 5\ncool_down = 30"),
            "maxBatchDelay: 0\nminWorkers: 0\nmaxWorkers: 4\ntargetQueueMs: 80\nscalingWindowInSec: 5\nscalingCoolDownInSec: 30",
            {"min_workers": 0, "max_workers": 4, "target_queue": 0.08, "scaling_window": 5.0, "cool_down": 30.0},
        ),
        (
            "queue_size = 7\njob_ticket = true\nretry = false\n[batching]\nmax_delay_ms = 0",
            "jobQueueSize: 7\nuseJobTicket: true\nretryRequests: false\nmaxBatchDelay: 0",
            {"queue_size": 7, "job_ticket": True, "retry": False},
        ),
        (
            'client_errors = ["ValueError", "KeyError"]\n[batching]\nmax_delay_ms = 0',
            "clientErrors: [ValueError, KeyError]\nmaxBatchDelay: 0",
            {"client_errors": ("ValueError", "KeyError")},
        ),
        (
            (
                '[placement]\nmin_replicas = 2\nnum_cpus = 0.5\nnum_gpus = 2\nmemory = 1000\nlabels = {zone = "a"}\n'
                'accelerator_type = "A100"\nresources = {licence = 1}\nstrategy = "pack"\n[batching]\nmax_delay_ms = 0'
            ),
            (
                "placement: {minReplicas: 2, numCpus: 0.5, numGpus: 2, memory: 1000, labels: {zone: a}, "
                "acceleratorType: A100, resources: {licence: 1}, strategy: pack}\nmaxBatchDelay: 0"
            ),
            {
                "min_replicas": 2,
                "max_replicas": 2,
                "num_cpus": 0.5,
                "num_gpus": 2.0,
                "memory": 1000,
                "labels": {"zone": "a"},
                "accelerator_type": "A100",
                "resources": {"licence": 1.0},
                "strategy": "pack",
            },
        ),
        (
            '[placement]\nnodes = "all"\n[batching]\nmax_delay_ms = 0',
            "placement: {nodes: all}\nmaxBatchDelay: 0",
            {"all_nodes": True, "min_replicas": 1},
        ),
        (
            "[placement]\nnodes = 3\n[batching]\nmax_delay_ms = 0",
            "placement: {nodes: 3}\nmaxBatchDelay: 0",
            {"all_nodes": False, "min_replicas": 3, "max_replicas": 3},
        ),
        (
            "[placement]\nmin_replicas = 0\n[batching]\nmax_delay_ms = 0",
            "placement: {minReplicas: 0}\nmaxBatchDelay: 0",
            {"min_replicas": 0, "max_replicas": 1},
        ),
        (
            "response_timeout = 5\nstartup_timeout = 6\nclient_timeout = 1.5\n[batching]\nmax_delay_ms = 0",
            "responseTimeout: 5\nstartupTimeout: 6\nclientTimeoutInMills: 1500\nmaxBatchDelay: 0",
            {"response_timeout": 5.0, "startup_timeout": 6.0, "client_timeout": 1.5},
        ),
        (
            "[batching]\nmax_delay_ms = 0\n[sequences]\nmax = 9\nqueue_size = 4\nmax_idle = 1.5\ntimeout = 60",
            (
                "maxBatchDelay: 0\nsequenceBatching: true\nmaxNumSequence: 9\nmaxSequenceJobQueueSize: 4\n"
                "sequenceMaxIdleMSec: 1500\nsequenceTimeoutMSec: 60000"
            ),
            {"enabled": True, "max_sequences": 9, "max_queued_steps": 4, "max_idle": 1.5, "timeout": 60.0},
        ),
    ],
)  # fmt: skip
def test_what_a_model_declares_is_the_same_in_toml_and_in_yaml(tmp_path, toml, yaml, options):
    sources = Sources(tmp_path, defaults())
    declared, configured = sources.declared(toml), sources.configured(yaml)
    # A function of ours may name its batch in its code, where its configuration does not; a handler cannot.
    named = override(declared.options, declare(Batching, size_by_default=False))
    assert named == configured.options
    assert values(declared.options).items() >= options.items()

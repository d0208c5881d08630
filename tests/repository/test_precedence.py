"""Who decides how a registered model is served: the registration, its model-config.yaml, the ``models`` setting, the defaults."""

import json

import pytest
from model_kit import GROUP_OF, defaults

from mooring.config.settings import Config, ModelSettings
from mooring.core.service import Registration
from mooring.repository.catalog import Catalog
from mooring.repository.store import Store

ALL = ("max_batch_size", "max_delay", "response_timeout", "startup_timeout", "min_workers", "max_workers")
YAML = (
    "batchSize: 2\nmaxBatchDelay: 20\nresponseTimeout: 20\nstartupTimeout: 21\nminWorkers: 2\nmaxWorkers: 3\n"
)
SETTING = ModelSettings(
    batch_size=3, max_batch_delay=30, response_timeout=30, startup_timeout=31, min_workers=3, max_workers=4
)
ASKED = Registration(
    url="m", batch_size=4, max_delay=0.04, response_timeout=40.0, startup_timeout=41.0, workers=4
)  # fmt: skip
DEFAULTS = (1, 0.1, 50.0, 51.0, 0, 1)


@pytest.mark.parametrize(
    ("registration", "yaml", "setting", "expected"),
    [
        (Registration(url="m"), None, None, DEFAULTS),
        (Registration(url="m"), None, SETTING, (3, 0.03, 30.0, 31.0, 3, 4)),
        (Registration(url="m"), YAML, SETTING, (2, 0.02, 20.0, 21.0, 2, 3)),
        (ASKED, None, None, (4, 0.04, 40.0, 41.0, 4, 4)),
        (ASKED, None, SETTING, (4, 0.04, 30.0, 31.0, 3, 4)),
        (ASKED, YAML, SETTING, (4, 0.04, 20.0, 21.0, 2, 3)),
        # TorchServe has 120 seconds here, because there is a file.
        (ASKED, "batchSize: 2\n", None, (4, 0.04, 40.0, 41.0, 4, 4)),
    ],
)
def test_of_those_who_say_something_the_first_counts(tmp_path, registration, yaml, setting, expected):
    model = tmp_path / "store" / "m"
    (model / "MAR-INF").mkdir(parents=True)
    (model / "handler.py").write_text("def handle(data, context):\n    return data\n")
    manifest = {"modelName": "m", "handler": "handler.py"}
    if yaml is not None:
        (model / "model-config.yaml").write_text(yaml)
        manifest["configFile"] = "model-config.yaml"
    (model / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": manifest}))
    settings = {"m": {"1.0": setting}} if setting is not None else {}
    server = defaults(response_timeout=50.0, startup_timeout=51.0, settings=settings)
    (tmp_path / "unpacked").mkdir()
    store = Store(tmp_path / "unpacked", server)
    catalog = Catalog(store, Config(model_store=tmp_path / "store"), tmp_path, server)
    spec = catalog.read_registration(registration)
    assert tuple(getattr(getattr(spec, GROUP_OF[name]), name) for name in ALL) == expected


def test_an_archive_that_names_no_handler_has_the_default_one(tmp_path):
    for name, manifest in (("bare", {}), ("own", {"handler": "own.py"})):
        (tmp_path / name / "MAR-INF").mkdir(parents=True)
        (tmp_path / name / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": manifest}))
    (tmp_path / "unpacked").mkdir()
    store = Store(tmp_path / "unpacked", defaults(handler="image_classifier"))
    specs = [store.read_archive(tmp_path, name) for name in ("bare", "own")]
    assert [spec.entry for spec in specs] == ["image_classifier", "own.py"]
    assert specs[0].manifest["model"]["handler"] == "image_classifier"

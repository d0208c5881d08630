"""Manifests and model-config.yaml: what they say reaches the spec, and whatever else they hold is a clear refusal."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_kit import defaults

from mooring.config.settings import ModelSettings
from mooring.core.errors import ModelLoadFailed
from mooring.core.options import SequenceOptions
from mooring.repository.mar import model_name_of, read_model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "MAR-INF").mkdir()
    return tmp_path


def write(folder, manifest=None, config=None, **model):
    """A model's folder with a manifest (or raw bytes in its place) and a model-config.yaml."""
    if config is not None:
        (folder / "model-config.yaml").write_text(config)
        model["configFile"] = "model-config.yaml"
    if manifest is None:
        manifest = {
            "runtime": "python",
            "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0"} | model,
        }
    raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    (folder / "MAR-INF" / "MANIFEST.json").write_bytes(raw)
    return folder


def read(folder, **more):
    return read_model(folder, "m.mar", **more)


def test_a_manifest_names_the_model_its_version_and_its_handler(folder):
    spec = read(
        write(folder, modelName="cats", modelVersion="2.5", handler="cat_handler:run", modelFile="net.py")
    )
    assert (spec.name, spec.version, spec.entry, spec.backend) == (
        "cats",
        "2.5",
        "cat_handler:run",
        "handler",
    )
    assert (spec.location, spec.url) == (str(folder), "m.mar")
    assert spec.manifest["model"]["modelFile"] == "net.py"


def test_what_torchserve_assumes_is_assumed(folder):
    spec = read(write(folder))
    assert (
        spec.batching.max_batch_size,
        spec.batching.max_delay,
        spec.scaling.min_workers,
        spec.scaling.max_workers,
    ) == (1, 0.1, 1, 1)
    assert (spec.timeouts.response_timeout, spec.timeouts.startup_timeout, spec.timeouts.retry_timeout) == (
        120,
        120,
        300,
    )
    assert (spec.timeouts.client_timeout, spec.limits.queue_size, spec.config) == (0, 100, {})


def test_the_servers_name_wins_and_the_handler_sees_it(folder):
    spec = read(write(folder), name="other")
    assert spec.name == spec.manifest["model"]["modelName"] == "other"


def test_a_model_without_a_name_is_called_after_its_file(folder):
    assert read(write(folder, modelName=None), fallback="file_name").name == "file_name"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("digits.mar", "digits"),
        ("a-b.c.mar", "a_b_c"),
        ("m.tar.gz", "m"),
        ("folder", "folder"),
        ("é.mar", "é"),
    ],
)
def test_other_signs_in_a_files_name_become_underscores(file, name):
    assert model_name_of(Path(file)) == name


def test_a_version_may_be_a_number(folder):
    assert read(write(folder, modelVersion=2)).version == "2"
    assert read(write(folder, modelVersion=None)).version == "1.0"


def test_a_byte_order_mark_does_no_harm(folder):
    raw = b"\xef\xbb\xbf" + json.dumps({"model": {"modelName": "m", "handler": "h"}}).encode()
    assert read(write(folder, manifest=raw)).name == "m"


def test_a_folder_without_a_manifest_is_taken_as_what_it_looks_like(tmp_path):
    for name in ("handler.py", "model.py", "weights.pt", "requirements.txt", "notes.md"):
        (tmp_path / name).touch()
    (tmp_path / "model-config.yaml").write_text("batchSize: 4")
    spec = read(tmp_path, fallback="m")
    assert (spec.name, spec.version, spec.entry, spec.batching.max_batch_size) == (
        "m",
        "1.0",
        "handler.py",
        4,
    )
    assert spec.manifest["model"]["serializedFile"] == "weights.pt"
    assert spec.manifest["model"]["modelFile"] == "model.py"


def test_two_files_of_weights_are_not_guessed_between(tmp_path):
    for name in ("handler.py", "a.pt", "b.pt"):
        (tmp_path / name).touch()
    assert "serializedFile" not in read(tmp_path, fallback="m").manifest["model"]


def test_a_workflow_is_called_one_where_a_model_is_wanted(tmp_path):
    (tmp_path / "WAR-INF").mkdir()
    with pytest.raises(ModelLoadFailed, match=r"'m\.mar' is a workflow: register it with POST /workflows"):
        read(tmp_path)


def test_nothing_that_looks_like_a_handler_is_refused(tmp_path):
    with pytest.raises(ModelLoadFailed, match=r"model 'm.mar' names no handler"):
        read(tmp_path, fallback="m")


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[]", "cannot be read"),
        (b"null", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b" " * 2_000_000, "larger than"),
        ({"model": []}, "'model' in MAR-INF/MANIFEST.json must be an object"),
        ({"model": {"handler": 5}}, "'handler' in MAR-INF/MANIFEST.json must be text"),
        ({"model": {"handler": "h", "modelName": ["m"]}}, "'modelName'"),
        ({"model": {"handler": "h", "modelVersion": True}}, "'modelVersion'"),
        ({"model": {"modelName": "m"}}, "names no handler"),
        ({"runtime": "LSP", "model": {"handler": "h"}}, "runtime 'LSP' cannot run here"),
        ({"runtime": 3, "model": {"handler": "h"}}, "runtime 3"),
        ({"model": {"handler": "h", "modelName": "a/b"}}, "cannot be the name"),
        ({"model": {"handler": "h", "modelName": ".."}}, "cannot be the name"),
        ({"model": {"handler": "h", "modelName": "a\nb"}}, "cannot be the name"),
        ({"model": {"handler": "h", "modelName": "m", "modelVersion": ""}}, "cannot be the version"),
        (
            {"model": {"handler": "h", "modelName": "m", "configFile": "gone.yaml"}},
            "'gone.yaml' that is not in it",
        ),
        ({"model": {"handler": "h", "modelName": "m", "configFile": "../x.yaml"}}, "that is not in it"),
        ({"model": {"handler": "h", "modelName": "m", "configFile": "/etc/passwd"}}, "that is not in it"),
        ({"model": {"handler": "h", "modelName": "m", "configFile": "a\0b"}}, "that is not in it"),
    ],
)
def test_a_bad_manifest_is_refused_with_the_reason(folder, manifest, match):
    with pytest.raises(ModelLoadFailed, match=match) as caught:
        read(write(folder, manifest=manifest))
    assert "'m.mar'" in caught.value.message


def test_a_config_that_links_out_of_the_model_is_not_read(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.yaml"
    secret.write_text("password: x")
    (folder / "model-config.yaml").symlink_to(secret)
    write(folder, configFile="model-config.yaml")
    with pytest.raises(ModelLoadFailed, match="not in it"):
        read(folder)


def test_the_servers_keys_of_a_config_reach_the_spec_and_all_of_it_the_handler(folder):
    config = """
minWorkers: 2
maxWorkers: 4
batchSize: 8
maxBatchDelay: 50
exactBatchDelay: true
responseTimeout: 10
startupTimeout: 20.5
maxRetryTimeoutInSec: 30
clientTimeoutInMills: 1500
jobQueueSize: 7
handler:
  profile: true
"""
    spec = read(write(folder, config=config))
    assert (
        spec.scaling.min_workers,
        spec.scaling.max_workers,
        spec.batching.max_batch_size,
        spec.batching.max_delay,
    ) == (2, 4, 8, 0.05)
    assert (spec.timeouts.response_timeout, spec.timeouts.startup_timeout, spec.timeouts.retry_timeout) == (
        10,
        20.5,
        30,
    )
    assert (spec.timeouts.client_timeout, spec.limits.queue_size, spec.batching.exact_delay) == (1.5, 7, True)
    assert spec.config["handler"] == {"profile": True}
    assert spec.config["minWorkers"] == 2


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("minWorkers: two", "minWorkers"),
        ("minWorkers: 0", "minWorkers"),
        ("maxWorkers: -1", "maxWorkers"),
        ("batchSize: 1.5", "batchSize"),
        ("batchSize: true", "batchSize"),
        ("batchSize: [4]", "batchSize"),
        ("maxBatchDelay: -5", "maxBatchDelay"),
        ("maxBatchDelay: .nan", "maxBatchDelay"),
        ("responseTimeout: .inf", "responseTimeout"),
        ("responseTimeout: 0", "responseTimeout"),
        ("jobQueueSize: '9'", "jobQueueSize"),
        ("exactBatchDelay: 1", "exactBatchDelay"),
    ],
)
def test_a_key_of_the_wrong_kind_is_named_and_ignored(folder, caplog, line, key):
    spec = read(write(folder, config=line))
    assert "setting ignored" in caplog.text
    assert key in caplog.text
    assert "model-config.yaml" in caplog.text
    (folder / "model-config.yaml").unlink()
    plain = read(write(folder))
    assert (spec.batching.max_batch_size, spec.batching.max_delay, spec.timeouts.response_timeout) == (
        1,
        0.1,
        plain.timeouts.response_timeout,
    )
    assert (spec.scaling.min_workers, spec.scaling.max_workers, spec.limits.queue_size) == (1, 1, 100)


def test_fewer_workers_at_most_than_at_least_are_ignored(folder, caplog):
    spec = read(write(folder, config="minWorkers: 3\nmaxWorkers: 2"))
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == (1, 1)
    assert "above maxWorkers" in caplog.text


@pytest.mark.parametrize(
    ("config", "workers"), [("minWorkers: 3", (3, 3)), ("maxWorkers: 3", (2, 3)), ("maxWorkers: 1", (1, 1))]
)
def test_one_bound_on_workers_is_enough(folder, config, workers):
    spec = read(write(folder, config=config), defaults=defaults(workers=2))
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == workers


def test_what_is_asked_for_in_vain_is_said(folder, caplog):
    read(write(folder, config="torchrun: {}\nuseVenv: false\ndeviceType: gpu\nparallelType: tp"))
    assert 'keys="deviceType, parallelType"' in caplog.text


def test_what_is_so_anyway_is_not_asked_for_in_vain(folder, caplog):
    read(write(folder, config="deviceType: cpu\nparallelLevel: 1\ndeviceIds: []"))
    assert "without effect" not in caplog.text


def test_an_empty_config_is_an_empty_mapping(folder):
    assert read(write(folder, config="# nothing\n")).config == {}


@pytest.mark.parametrize(
    "config",
    [
        "- a list",
        "text",
        "a: [",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!timestamp nonsense",
        "a: !!int ''",
        "a: 2020-13-45",
        "a: &a [*a]",
        "1: number as a key",
        "? [a, b]\n: list as a key",
        "a: 123456789012345678901234567890",
        "a: " + "[" * 2000 + "]" * 2000,
        "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(9)),
        "a: " + "x" * 1_100_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_config_that_is_no_config_is_refused_with_its_name(folder, config):
    with pytest.raises(ModelLoadFailed, match=r"model-config\.yaml"):
        read(write(folder, config=config))


def settings_of(**given):
    return defaults(
        workers=5,
        response_timeout=50.0,
        startup_timeout=60.0,
        settings={"m": {"1.0": ModelSettings(**given)}},
    )


def test_the_models_setting_wins_over_the_defaults(folder):
    given = settings_of(min_workers=2, max_workers=3, batch_size=4, max_batch_delay=7, response_timeout=8)
    spec = read(write(folder), defaults=given)
    assert (
        spec.scaling.min_workers,
        spec.scaling.max_workers,
        spec.batching.max_batch_size,
        spec.batching.max_delay,
    ) == (2, 3, 4, 0.007)
    assert (spec.timeouts.response_timeout, spec.timeouts.startup_timeout) == (8, 60)


def test_the_models_own_config_wins_over_the_models_setting(folder):
    given = settings_of(min_workers=2, max_workers=3, batch_size=4, response_timeout=8)
    spec = read(write(folder, config="minWorkers: 1\nbatchSize: 16\nresponseTimeout: 9"), defaults=given)
    assert (spec.scaling.min_workers, spec.scaling.max_workers, spec.batching.max_batch_size) == (1, 1, 16)
    assert (spec.timeouts.response_timeout, spec.timeouts.startup_timeout) == (9, 60)


def test_the_models_setting_is_of_one_version_of_one_model(folder):
    spec = read(write(folder, modelVersion="2.0"), defaults=settings_of(batch_size=4))
    assert (spec.batching.max_batch_size, spec.scaling.min_workers, spec.scaling.max_workers) == (1, 5, 5)


def test_the_servers_settings_reach_every_model(folder):
    server = defaults(
        decode_input=False, envelope="kserve", limit_image_pixels=False, max_response_bytes=9, queue_size=3,
        exact_delay=True,
    )  # fmt: skip
    spec = read(write(folder, envelope="json"), defaults=server)
    assert (spec.handler.decode_input, spec.handler.envelope, spec.handler.limit_image_pixels) == (
        False,
        "kserve",
        False,
    )
    assert (spec.limits.max_response_bytes, spec.limits.queue_size, spec.batching.exact_delay) == (9, 3, True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
KEYS = st.sampled_from(["modelName", "modelVersion", "handler", "configFile", "modelFile", "serializedFile"])
MANIFESTS = JSON | st.fixed_dictionaries(
    {}, optional={"runtime": JSON | st.just("python"), "model": JSON | st.dictionaries(KEYS, JSON)}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=MANIFESTS, name=st.text(max_size=20))
def test_any_manifest_is_a_spec_or_a_refusal(folder, manifest, name):
    write(folder, manifest=json.dumps(manifest).encode())
    try:
        spec = read(folder, name=name)
    except ModelLoadFailed:
        return
    assert spec.name
    assert spec.version
    assert spec.entry


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.text(max_size=60) | st.text(alphabet="&*!<>[]{}:,-?|#'\"%@` \nab01", max_size=60))
def test_any_config_is_a_mapping_or_a_refusal(folder, config):
    write(folder, configFile="model-config.yaml")
    (folder / "model-config.yaml").write_bytes(config.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(read(folder).config, dict)
    except ModelLoadFailed as error:
        assert "model-config.yaml" in error.message  # noqa: PT017 - either outcome is right


def test_a_model_that_keeps_state_says_how_many_sequences_it_has(folder):
    assert not read(write(folder)).sequence.enabled
    spec = read(
        write(
            folder,
            config="sequenceBatching: true\nbatchSize: 2\nmaxWorkers: 3\nmaxNumSequence: 9\n"
            "maxSequenceJobQueueSize: 4\nsequenceMaxIdleMSec: 1500\nsequenceTimeoutMSec: 60000",
        )
    )
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=9, max_queued_steps=4, max_idle=1.5, timeout=60.0
    )
    assert not spec.limits.retry


def test_every_row_of_every_worker_may_be_a_sequence(folder):
    spec = read(write(folder, config="sequenceBatching: true\nbatchSize: 8\nmaxWorkers: 4"))
    assert spec.sequence == SequenceOptions(enabled=True, max_sequences=32, max_queued_steps=1)


def test_what_is_said_of_sequences_means_nothing_to_a_model_without(folder):
    assert not read(write(folder, config="maxNumSequence: 9")).sequence.enabled


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "batchSize: " + "[" * 101])
def test_a_config_of_brackets_in_brackets_is_refused_at_the_first_that_is_too_deep(folder, text):
    """The scanner looks at every open one for each that it comes to: 20,000 took it eight seconds."""
    began = time.process_time()
    with pytest.raises(
        ModelLoadFailed, match=r"model-config\.yaml: cannot be read: more than 100 brackets are open"
    ):
        read(write(folder, config=text))
    assert time.process_time() - began < 2.0

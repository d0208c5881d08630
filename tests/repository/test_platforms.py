"""Which file is the model and what serves it, Triton's and AMD's configs, labels, and chains."""

import json
from contextlib import ExitStack

import pytest
from model_kit import defaults

from mooring.config.settings import Config
from mooring.core.errors import ModelLoadFailed, ModelNotFound
from mooring.core.options import BatchMode
from mooring.core.tensors import TensorSpec
from mooring.repository.platforms import BACKENDS, DEFAULT_BATCH
from mooring.repository.repository_model import read_versions
from mooring.repository.store import Store
from mooring.server.startup import Startup, workers_for
from mooring.workers.libraries import Libraries


@pytest.fixture
def model(tmp_path):
    """A folder ``m`` with a version 1 of the files named, and what is read of it."""
    folder = tmp_path / "m"

    def read(*files, config="", name="config.toml", versions=("1",), **more):
        for version in versions:
            for file in ("", *files):
                place = folder / version / file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch() if file else place.mkdir(exist_ok=True)
        if config:
            (folder / name).write_text(config)
        return read_versions(folder, "m", **more)

    read.folder = folder
    return read


@pytest.fixture
def store(tmp_path):
    (tmp_path / "unpacked").mkdir()
    return Store(tmp_path / "unpacked", defaults(workers=2, queue_size=7))


@pytest.mark.parametrize(
    ("files", "backend", "entry"),
    [
        (["model.py"], "function", "model.py"),
        (["model.py", "weights.pt"], "function", "model.py"),
        (["net.onnx"], "onnx", "net.onnx"),
        (["model.onnx", "other.onnx"], "onnx", "model.onnx"),
        (["model.onnx", "model.onnx.data", "notes.txt"], "onnx", "model.onnx"),
        (["model.pt2"], "pytorch", "model.pt2"),
        (["model.pt2", "model.pt"], "pytorch", "model.pt2"),
        (["net.pt", ".hidden.pt"], "pytorch", "net.pt"),
    ],
)
def test_without_a_config_the_files_tell(model, files, backend, entry):
    (spec,) = model(*files)
    assert (spec.name, spec.version, spec.backend, spec.entry) == ("m", "1", backend, entry)
    assert spec.location == str(model.folder / "1")


def test_a_version_of_several_files_must_name_one(model):
    with pytest.raises(ModelLoadFailed, match=r"has a\.onnx, b\.onnx; name the one"):
        model("a.onnx", "b.onnx")
    assert model("a.onnx", "b.onnx", config='entry = "b.onnx"')[0].entry == "b.onnx"


def test_of_a_model_without_a_configuration_the_latest_version_is_served(model):
    specs = model("model.onnx", versions=("1", "2", "10"))
    assert [(spec.version, spec.backend) for spec in specs] == [("10", "onnx")]


@pytest.mark.parametrize(
    "platform", sorted(name for name, kind in BACKENDS.items() if kind in ("onnx", "pytorch"))
)
def test_a_platform_by_whichever_name_takes_a_file_of_any_name(model, platform):
    (spec,) = model("some.thing", config=f'platform = "{platform}"')
    assert (spec.backend, spec.entry, spec.platform) == (BACKENDS[platform], "some.thing", platform)


def test_a_platform_chooses_among_files_of_several_kinds(model):
    (spec,) = model("model.py", "model.pt", config='platform = "pytorch_eager"')
    assert (spec.backend, spec.entry) == ("pytorch", "model.pt")


def test_only_models_that_show_their_batch_have_one_by_default(model):
    (spec,) = model("model.onnx")
    assert (spec.batching.max_batch_size, spec.batching.size_by_default) == (DEFAULT_BATCH, True)
    (spec,) = model("model.onnx", config="max_batch_size = 3")
    assert (spec.batching.max_batch_size, spec.batching.size_by_default) == (3, False)


def test_a_function_is_not_batched_by_default_but_its_code_may_say_so(model):
    (spec,) = model("model.py")
    assert (spec.batching.max_batch_size, spec.batching.size_by_default) == (1, True)
    (spec,) = model("model.py", config="max_batch_size = 1")
    assert (spec.batching.max_batch_size, spec.batching.size_by_default) == (1, False)


AMD = """
name = "m"
platform = "{platform}"
[[inputs]]
name = "x"
datatype = "FP32"
shape = {shape}
id = "in"
[[outputs]]
name = "y"
datatype = "FP32"
shape = [10]
"""


@pytest.mark.parametrize(
    ("platform", "shape", "mode"),
    [
        ("onnx_onnxv1", [3], BatchMode.STACK),
        ("pytorch_torchscript", [3], BatchMode.STACK),
        ("onnx_onnxv1", [-1, 3], BatchMode.CONCAT),
        ("onnxruntime", [3], BatchMode.CONCAT),
    ],
)
def test_a_request_to_amds_platforms_is_a_single_sample(model, platform, shape, mode):
    (spec,) = model("net.onnx", config=AMD.format(platform=platform, shape=shape))
    assert (spec.batching.mode, spec.inputs[0].shape) == (mode, shape)


def test_amds_libraries_are_the_builtins_of_their_names(model):
    (spec,) = model("libecho.so", config='platform = "amdinfer_cpp"')
    assert (spec.backend, spec.entry) == ("builtin", "echo")


TRITON = """
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NONE dims: [ 3, -1 ] } ]
output [ { name: "y" data_type: TYPE_STRING dims: [ 1 ] label_filename: "labels.txt" } ]
dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 500 }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0 ] } ]
parameters { key: "threads" value: { string_value: "2" } }
version_policy: { latest { num_versions: 1 } }
optimization { graph { level: 1 } }
"""


def test_a_config_of_triton_says_the_same_here(model):
    (model.folder / "1").mkdir(parents=True)
    (model.folder / "labels.txt").write_text("cat\ndog\n")
    (spec,) = model("model.onnx", config=TRITON, name="config.pbtxt")
    assert (spec.backend, spec.entry, spec.batching.mode) == ("onnx", "model.onnx", BatchMode.CONCAT)
    assert (spec.batching.max_batch_size, spec.batching.size_by_default, spec.batching.max_delay) == (
        4,
        False,
        0.0005,
    )
    assert spec.inputs == [TensorSpec("x", "FP32", [-1, 3, -1])]
    assert spec.outputs == [TensorSpec("y", "BYTES", [-1, 1])]
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == (3, 3)
    assert spec.parameters == {"threads": "2"}
    assert (spec.labels, spec.labels_of("y"), spec.labels_of("z")) == ({}, {"0": "cat", "1": "dog"}, {})


def test_triton_without_a_batch_has_the_shapes_as_they_stand(model):
    (spec,) = model("model.pt", config=TRITON.replace(": 4\ninput", ": 0\ninput").replace(
        'label_filename: "labels.txt"', "").replace("onnxruntime_onnx", "pytorch_libtorch"), name="config.pbtxt")  # fmt: skip
    assert (spec.backend, spec.batching.max_batch_size, spec.inputs[0].shape) == ("pytorch", 1, [3, -1])
    (spec,) = model(
        "net.onnx", config='backend: "onnxruntime" default_model_filename: "net.onnx"', name="config.pbtxt"
    )
    assert (spec.entry, spec.batching.mode, spec.batching.size_by_default) == (
        "net.onnx",
        BatchMode.CONCAT,
        True,
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "ensemble_scheduling { step [] } max_batch_size: 1 input []",
            "for a model of the platform 'ensemble'",
        ),
        ("output: 1", "expected a message in braces"),
        ("instance_group { count: 'x' }", "count: expected a whole number"),
        ("dynamic_batching { max_queue_delay_microseconds: 1.5 }", "max_queue_delay_microseconds"),
        (
            "input { name: 'x' data_type: TYPE_FP9 dims: [1] }",
            r"input\[0\]\.data_type: unknown value 'TYPE_FP9'",
        ),
        ("input { dims: [1] }", "config.pbtxt: "),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: [1] } max_batchsize: 3",
            "max_batchsize: unknown key; did you mean 'max_batch_size'",
        ),
    ],
)
def test_a_fault_in_a_config_of_triton_is_named(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        model("model.onnx", config=text, name="config.pbtxt")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "cat\ndog"),
        ("names.json", json.dumps(["cat", "dog"])),
        ("1/names.json", json.dumps({"0": "cat", "1": "dog"})),
    ],
)
def test_labels_come_from_a_file(model, file, content):
    (model.folder / "1").mkdir(parents=True)
    (model.folder / file).write_text(content)
    (spec,) = model("model.onnx", config=f'labels = "{file.removeprefix("1/")}"')
    assert spec.labels == {"0": "cat", "1": "dog"}


def test_labels_stand_in_the_config(model):
    assert model("model.onnx", config='labels = ["cat", "dog"]')[0].labels == {"0": "cat", "1": "dog"}
    assert model("model.onnx", config='[labels]\n5 = "cat"')[0].labels == {"5": "cat"}


def test_labels_that_are_none_are_named(model):
    (model.folder / "1").mkdir(parents=True)
    (model.folder / "names.json").write_text("[1]")
    with pytest.raises(ModelLoadFailed, match=r"names\.json: these are not labels"):
        model("model.onnx", config='labels = "names.json"')


CHAIN = """
[[models]]
name = "{first}"
platform = "amdinfer_cpp"
id = "libbase64_decode.so"
[[models.inputs]]
name = "text"
datatype = "BYTES"
shape = [1]
[[models.outputs]]
name = "image"
datatype = "UINT8"
shape = [8, 8, 3]
id = "a"

[[models]]
name = "net"
platform = "onnx_onnxv1"
id = "net.onnx"
[[models.inputs]]
name = "x"
datatype = "UINT8"
shape = [8, 8, 3]
id = "a"
[[models.outputs]]
name = "y"
datatype = "FP32"
shape = [10]
"""


def test_a_chain_is_a_model_for_each_stage_and_one_that_runs_them(model):
    specs = model("net.onnx", config=CHAIN.format(first="decode"))
    assert [(spec.name, spec.backend, spec.entry) for spec in specs] == [
        ("decode", "builtin", "base64_decode"),
        ("net", "onnx", "net.onnx"),
        ("m", "chain", ""),
    ]
    chain = specs[-1]
    assert chain.stages == ["decode", "net"]
    assert chain.inputs == [TensorSpec("text", "BYTES", [1])]
    assert chain.outputs == [TensorSpec("y", "FP32", [10])]
    assert [spec.batching.mode for spec in specs[:2]] == [BatchMode.STACK, BatchMode.STACK]


def test_a_stage_of_the_chains_own_name_makes_way(model):
    specs = model("net.onnx", config=CHAIN.format(first="m"))
    assert [spec.name for spec in specs] == ["m-0", "net", "m"]
    assert specs[-1].stages == ["m-0", "net"]


def test_every_version_of_a_chain_has_its_stages(model):
    specs = model("net.onnx", config=CHAIN.format(first="decode"), versions=("1", "2"))
    assert [(spec.name, spec.version) for spec in specs] == [
        (name, version) for version in ("1", "2") for name in ("decode", "net", "m")
    ]


def test_a_file_that_a_stage_names_must_be_there(model):
    with pytest.raises(ModelLoadFailed, match=r"'net\.onnx' that is not in it"):
        model("other.onnx", config=CHAIN.format(first="decode"))


@pytest.mark.parametrize(
    ("file", "backend"), [("net.onnx", "onnx"), ("net.pt2", "pytorch"), ("net.pt", "pytorch")]
)
def test_a_file_is_a_target_by_itself(store, tmp_path, file, backend):
    (tmp_path / file).touch()
    (spec,) = store.read_target(str(tmp_path / file))
    assert (spec.name, spec.version, spec.backend, spec.entry) == ("net", "1", backend, file)
    assert (spec.location, spec.url) == (str(tmp_path), str(tmp_path / file))
    assert (spec.batching.max_batch_size, spec.batching.size_by_default) == (DEFAULT_BATCH, True)
    assert (spec.scaling.min_workers, spec.limits.queue_size) == (2, 7)
    assert store.read_target(f"other={tmp_path / file}")[0].name == "other"


def test_a_link_to_a_file_of_another_name_is_a_target(store, tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "cafe").touch()
    (tmp_path / "model.onnx").symlink_to(tmp_path / "blobs" / "cafe")
    (spec,) = store.read_target(str(tmp_path / "model.onnx"))
    assert (spec.location, spec.entry) == (str(tmp_path), "model.onnx")


def test_a_folder_with_one_such_file_is_a_target(store, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "weights.onnx").touch()
    (spec,) = store.read_target(str(tmp_path / "net"))
    assert (spec.name, spec.backend, spec.entry) == ("net", "onnx", "weights.onnx")


def test_a_file_that_is_not_there_is_no_target(store, tmp_path):
    with pytest.raises(ModelNotFound):
        store.read_target(str(tmp_path / "gone.onnx"))


@pytest.mark.parametrize(
    ("file", "config", "workers"),
    [
        ("net.onnx", "", (4, 4)),
        ("net.pt", "", (4, 4)),
        ("net.onnx", "[workers]\nmax = 3", (3, 3)),
        ("net.onnx", "[workers]\nmin = 1", (1, 1)),
        ("net.onnx", "threads = 2", (1, 1)),
        ("net.pt", "preload = false", (1, 1)),
        ("net.pt", '[parameters]\nmodule = "net.py:Net"', (1, 1)),
        ("net.pt", 'preload = true\n[parameters]\nmodule = "net.py:Net"', (4, 4)),
        ("net.pt", "[sequences]", (1, 1)),
        ("model.py", "", (1, 1)),
    ],
)
def test_a_model_that_its_workers_share_has_more_of_them_where_nobody_says_how_many(
    model, file, config, workers
):
    (spec,) = model(file, config=config, defaults=defaults(sharing_workers=4))
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == workers


def test_a_file_by_itself_is_shared_too(tmp_path):
    (tmp_path / "unpacked").mkdir()
    store = Store(tmp_path / "unpacked", defaults(sharing_workers=4))
    for name, workers in (("net.onnx", 4), ("net.py", 1)):
        (tmp_path / name).write_text("def infer(x): return x")
        (spec,) = store.read_target(str(tmp_path / name))
        assert (spec.scaling.min_workers, spec.scaling.max_workers) == (workers, workers)


@pytest.mark.parametrize(
    ("machine", "workers"),
    [({"CPU": 1}, 1), ({"CPU": 2}, 2), ({"CPU": 64}, 4), ({"CPU": 8, "NVIDIA H200": 1}, 1)],
)
def test_workers_that_share_a_model_have_a_core_each_and_are_no_more_than_four(machine, workers):
    assert workers_for(machine) == workers


def test_a_number_of_workers_for_all_models_holds_for_those_that_are_shared():
    with ExitStack() as stack:
        startup = Startup(Config(default_workers_per_model=3), stack, libraries=Libraries({}))
    for sharing in (True, False):
        assert startup.defaults.options_for(sharing=sharing).scaling.min_workers == 3

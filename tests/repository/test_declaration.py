"""config.toml and config.pbtxt: what a model declares reaches the spec, and a typo never passes for a setting."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_kit import defaults

from mooring.core.errors import ModelLoadFailed
from mooring.core.options import BatchMode, Control, ControlKind, SequenceOptions
from mooring.core.tensors import TensorSpec
from mooring.repository.declaration_reader import read_declaration
from mooring.repository.layout import find_declaration, version_folders
from mooring.repository.repository_model import read_repository_model, read_versions

FULL = """
name = "adder"
platform = "python"
max_batch_size = 16
queue_size = 9
response_timeout = 5
threads = 2
retry = false

[[inputs]]
name = "a"
datatype = "FP32"
shape = [-1, 3]

[[inputs]]
name = "b"
datatype = "BYTES"
shape = [-1]

[[outputs]]
name = "sum"
datatype = "FP32"
shape = [-1, 3]

[batching]
max_delay_ms = 2.5
mode = "stack"
exact_delay = true

[workers]
min = 2
max = 3

[parameters]
scale = 1.5
label = "x"
flag = true
count = 3
"""

AMD = """
# the form of AMD's server
name: "adder"
versions: ["1"]
platform: "python"
max_batch_size: 4
inputs [
  { name: "a" datatype: "FP32" shape: [28, 28, 1] }
]
outputs { name: "sum" datatype: FP32 shape: 10 shape: 2 }
parameters { key: "scale" value { double_param: 1.5 } }
parameters { key: "label" value { string_param: "x" } }
batching { max_delay_ms: 5 }
workers { min: 1 max: 2 }
"""


@pytest.fixture
def model(tmp_path):
    """A function model in a folder ``adder`` with a version 1."""
    (tmp_path / "adder" / "1").mkdir(parents=True)
    (tmp_path / "adder" / "1" / "model.py").write_text("def infer(inputs, parameters): return inputs\n")
    return tmp_path / "adder"


def read(model, text, name="config.toml", **more):
    (model / name).write_text(text)
    return read_versions(model, "adder", **more)


def test_everything_a_config_says_reaches_the_spec(model):
    (spec,) = read(model, FULL)
    assert (spec.name, spec.version, spec.backend, spec.entry) == ("adder", "1", "function", "model.py")
    assert (spec.location, spec.url, spec.platform) == (str(model / "1"), "adder", "python")
    assert spec.inputs == [TensorSpec("a", "FP32", [-1, 3]), TensorSpec("b", "BYTES", [-1])]
    assert spec.outputs == [TensorSpec("sum", "FP32", [-1, 3])]
    assert (
        spec.batching.max_batch_size,
        spec.batching.max_delay,
        spec.batching.mode,
        spec.batching.exact_delay,
    ) == (
        16,
        0.0025,
        BatchMode.STACK,
        True,
    )
    assert (spec.scaling.min_workers, spec.scaling.max_workers, spec.runtime.threads) == (2, 3, 2)
    assert (
        spec.limits.queue_size,
        spec.timeouts.response_timeout,
        spec.timeouts.startup_timeout,
        spec.limits.retry,
    ) == (9, 5, 120, False)
    assert spec.parameters == {"scale": 1.5, "label": "x", "flag": True, "count": 3}


def test_what_a_config_leaves_out_comes_from_the_server(model):
    (spec,) = read(
        model, "", defaults=defaults(workers=3, queue_size=7, response_timeout=8.0, exact_delay=True)
    )
    assert (spec.name, spec.batching.max_batch_size, spec.batching.max_delay, spec.batching.mode) == (
        "adder",
        1,
        0.0,
        BatchMode.CONCAT,
    )
    assert (
        spec.scaling.min_workers,
        spec.scaling.max_workers,
        spec.limits.queue_size,
        spec.timeouts.response_timeout,
    ) == (3, 3, 7, 8.0)
    assert (spec.batching.exact_delay, spec.inputs, spec.outputs, spec.parameters) == (True, [], [], {})


def test_a_text_proto_says_the_same(model):
    (spec,) = read(model, AMD, "config.pbtxt")
    assert (spec.name, spec.backend, spec.batching.max_batch_size, spec.batching.max_delay) == (
        "adder",
        "function",
        4,
        0.005,
    )
    assert spec.inputs == [TensorSpec("a", "FP32", [28, 28, 1])]
    assert spec.outputs == [TensorSpec("sum", "FP32", [10, 2])]
    assert spec.parameters == {"scale": 1.5, "label": "x"}
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == (1, 2)


def test_a_request_to_a_text_proto_model_is_a_single_sample(model):
    assert read(model, AMD, "config.pbtxt")[0].batching.mode is BatchMode.STACK
    assert (
        read(model, AMD + 'batching { mode: "concat" }', "config.pbtxt")[0].batching.mode is BatchMode.CONCAT
    )


def test_explanations_are_declared_in_either_form(model):
    wanted = {"method": "Occlusion", "baselines": 0.5, "sliding_window_shapes": [1, 2]}
    toml = '[explain]\nmethod = "Occlusion"\nbaselines = 0.5\nsliding_window_shapes = [1, 2]\n'
    assert read(model, toml)[0].explain == wanted
    text = 'explain { method: "Occlusion" baselines: 0.5 sliding_window_shapes: [1, 2] }'
    assert read(model, AMD + text, "config.pbtxt")[0].explain == wanted


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


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("max_batchsize = 4", "unknown field `max_batchsize`; did you mean 'max_batch_size'?"),
        ("zzz = 4", "unknown field `zzz`$"),
        ("[batching]\nmax_delay = 4", "batching: unknown field `max_delay`; did you mean 'max_delay_ms'?"),
        (
            "[[models]]\n[models.batching]\nmod = 'stack'",
            r"models\[.*unknown field `mod`; did you mean 'mode'",
        ),
        ("[workers]\nminimum = 4", "workers: .*unknown field `minimum`"),
        (
            '[[inputs]]\nname = "a"\ndatatype = "FP32"\nshape = [1]\ndims = [1]',
            r"inputs\[.*unknown field `dims`",
        ),
        ('[[inputs]]\nname = "a"\ndatatype = "FP32"', r"inputs\[.*missing required field `shape`"),
        (
            '[[inputs]]\nname = "a"\ndatatype = "float"\nshape = [1]',
            "inputs 'a' has the unknown datatype 'float'; known",
        ),
        ('[[outputs]]\nname = "a"\ndatatype = "FP32"\nshape = [-2]', "outputs"),
        ('[[outputs]]\nname = "a"\ndatatype = "FP32"\nshape = ["x"]', "outputs"),
        ('[[outputs]]\nname = ""\ndatatype = "FP32"\nshape = [1]', "outputs"),
        ('inputs = "a"', "inputs: expected `array`"),
        ("max_batch_size = 0", "max_batch_size"),
        ('max_batch_size = "4"', "max_batch_size: expected `int.*`, got `str`"),
        ("max_batch_size = true", "max_batch_size"),
        ("[workers]\nmin = 3\nmax = 2", "workers.min is above workers.max"),
        ("[workers]\nmax = 0", "workers.max"),
        ("[batching]\nmax_delay_ms = -1", "max_delay_ms"),
        ("[batching]\nmode = 'sum'", "batching.mode"),
        ("[parameters]\na = [1]", "parameters"),
        ("response_timeout = 0", "response_timeout"),
        (
            'platform = "rocal_json"',
            "unknown platform 'rocal_json'; known are amdinfer_cpp, builtin, function",
        ),
        ('backend = "handlr"', "unknown backend 'handlr'"),
        ('name = "a/b"', "cannot be the name"),
        ('entry = "gone.py"', "'gone.py' that is not in it"),
        ('entry = "../../secret.py"', "that is not in it"),
        ('[[models]]\nname = "a"\n' * 2, "two of the models of the chain have the same name"),
        ('[[models]]\nname = "a/b"', "cannot be the name of a stage"),
        ('[[models]]\nname = "a"\n[[models.models]]\nname = "b"', "a chain itself"),
        ('[[models]]\nname = "a"\n[[models.inputs]]\nname = "x"\ndatatype = "q"\nshape = []', "datatype 'q'"),
        ('labels = "gone.txt"', "'gone.txt' that is not in it"),
        ("name = ", "config.toml"),
        ("name = 1", "name: expected `str`, got `int`"),
        ("a = " + "[" * 5000, "config.toml"),
        ("a = 1\na = 2", "config.toml"),
        ("#" * 2_000_000, "larger than"),
        (f"max_batch_size = {10**20}", "max_batch_size: expected `int` <= 9223372036854775807"),
        (f"queue_size = {10**20}", "queue_size: expected"),
        (f"[workers]\nmax_requests = {10**20}", "workers.max_requests: expected"),
        (f"[sequences]\nmax = {10**20}", "sequences.max: expected"),
        (f'[[inputs]]\nname = "a"\ndatatype = "FP32"\nshape = [{10**20}]', r"inputs\[.*shape.*: expected"),
        (f"[parameters]\na = {10**20}", "parameters.a is a whole number of more than 64 bits"),
        (f"[explain]\na = [1, {{ b = -{10**20} }}]", r"explain.a\[1\].b is a whole number of more"),
        (f'[[models]]\nname = "a"\n[models.parameters]\nb = {10**20}', "parameters.b is a whole number"),
        ("response_timeout = inf", "response_timeout: expected `float` <="),
        ("startup_timeout = 1e300", "startup_timeout: expected `float` <="),
        ("[batching]\nmax_delay_ms = inf", "max_delay_ms: expected `float` <="),
        ("[sequences]\nmax_idle = inf", "max_idle: expected `float` <="),
        ("[queue_policy]\ntimeout = inf", "queue_policy.timeout: expected `float` <="),
        (
            '[[sequences.controls]]\nname = "c"\nkind = "start"\nvalues = [0, 4294967296]',
            "control 'c' has values that are no INT32",
        ),
    ],
    ids=lambda text: text[:30],
)
def test_a_fault_in_a_config_is_named_with_its_file_and_its_key(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match) as caught:
        read(model, text)
    assert "adder" in caught.value.message


def test_two_tensors_with_one_name_are_refused(model):
    tensor = '[[inputs]]\nname = "a"\ndatatype = "FP32"\nshape = [1]\n'
    with pytest.raises(ModelLoadFailed, match="same name"):
        read(model, tensor + tensor)


def test_a_folder_without_any_version_is_refused(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(ModelLoadFailed, match=r"m/1/model\.py"):
        read(tmp_path / "m", "")


def test_a_version_without_a_file_is_refused(model):
    (model / "1" / "model.py").unlink()
    with pytest.raises(ModelLoadFailed, match=r"no model\.py"):
        read(model, "")


def test_text_that_is_no_text_is_refused(model):
    (model / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadFailed, match=r"config\.toml"):
        read_versions(model, "adder")


KEYS = st.sampled_from(
    [
        *("name", "platform", "inputs", "outputs", "parameters", "batching", "workers", "versions", "x"),
        *(
            "input",
            "output",
            "dynamic_batching",
            "instance_group",
            "max_batch_size",
            "default_model_filename",
        ),
    ]
)
VALUES = st.sampled_from(
    ["1", '"a"', "FP32", "{}", "[]", "{ name: 1 }", '{ key: "k" value { a: 1 } }', "[1, {}]", "{ value {} }"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(KEYS, VALUES), max_size=5))
def test_any_text_proto_is_a_declaration_or_a_refusal(tmp_path, fields):
    file = tmp_path / "config.pbtxt"
    file.write_text("\n".join(f"{key}: {value}" for key, value in fields))
    try:
        read_declaration(file)
    except ModelLoadFailed as error:
        assert "config.pbtxt" in error.message  # noqa: PT017 - either outcome is right


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text(alphabet="abcname=[]{}\"'\n.#1", max_size=60).map(str.encode))
def test_any_toml_is_a_declaration_or_a_refusal(tmp_path, data):
    file = tmp_path / "config.toml"
    file.write_bytes(data)
    try:
        read_declaration(file)
    except ModelLoadFailed as error:
        assert "config.toml" in error.message  # noqa: PT017 - either outcome is right


def test_a_model_that_keeps_state_says_so_with_a_table(model):
    (spec,) = read(model, "[sequences]\n")
    assert spec.sequence == SequenceOptions(enabled=True, max_sequences=1000, max_queued_steps=1000)
    assert not spec.limits.retry
    (spec,) = read(
        model,
        "[workers]\nmax = 3\n[sequences]\nper_worker = 4\nqueue_size = 2\nmax_idle = 1.5\ntimeout = 60\n"
        '[[sequences.controls]]\nname = "S"\nkind = "start"\ndatatype = "FP32"\nvalues = [-1, 1]\n'
        '[[sequences.controls]]\nname = "C"\nkind = "id"\ndatatype = "BYTES"\n',
    )
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=12, max_per_worker=4, max_queued_steps=2, max_idle=1.5, timeout=60.0,
        controls=(Control("S", ControlKind.START, "FP32", (-1, 1)), Control("C", ControlKind.ID, "BYTES")),
    )  # fmt: skip
    assert not read(model, "")[0].sequence.enabled


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[sequences]\nmaximum = 1", "maximum"),
        ("[sequences]\nmax = 0", "max"),
        (
            '[[sequences.controls]]\nname = "S"\nkind = "start"\ndatatype = "FP64"',
            "one of kind start is BOOL",
        ),
        ('[[sequences.controls]]\nname = "S"\nkind = "id"\ndatatype = "FP32"', "one of kind id is BYTES"),
        (
            'inputs = [{name = "S", datatype = "INT32", shape = [1]}]\nsequences.controls = [{name = "S", kind = "start"}]',
            "'S' is a control and an input",
        ),
    ],
)
def test_a_fault_in_the_table_of_sequences_is_named(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(model, text)


TRITON = """
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 2 } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  oldest { max_candidate_sequences: 8 max_queue_delay_microseconds: 100 }
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
}
"""


def test_triton_s_sequences_are_ours(model):
    (spec,) = read(model, TRITON, "config.pbtxt")
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=16, max_per_worker=8, max_queued_steps=1000, max_idle=5.0,
        controls=(
            Control("START", ControlKind.START, "FP32", (0, 1)), Control("READY", ControlKind.READY, "INT32", (0, 1)),
            Control("CORRID", ControlKind.ID, "UINT64"),
        ),
    )  # fmt: skip
    assert (spec.batching.max_delay, spec.scaling.max_workers, spec.batching.max_batch_size) == (0.0001, 2, 4)


def test_triton_s_direct_strategy_has_one_sequence_in_each_instance(model):
    (spec,) = read(
        model, "max_batch_size: 0 sequence_batching { } instance_group [ { count: 3 } ]", "config.pbtxt"
    )
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=3, max_per_worker=1, max_queued_steps=1000, max_idle=1.0
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "max_batch_size: 8 sequence_batching { direct { } }",
            "the direct strategy gives a sequence a place",
        ),
        ('sequence_batching { state [ { input_name: "a" } ] }', "sequence_batching.state is not served"),
        (
            'sequence_batching { control_input [ { name: "S" control [ { kind: NONE } ] } ] }',
            r"control_input\[0\]\.control\[0\]\.kind: unknown value 'NONE'",
        ),
    ],
)
def test_what_of_triton_s_sequences_cannot_be_kept_is_said(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(model, text, "config.pbtxt")


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
        ("config.toml", "[version_policy]\nnewest = 1", "unknown field `newest`"),
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
        with pytest.raises(ModelLoadFailed, match="is no folder"):
            read_repository_model(tmp_path / name)

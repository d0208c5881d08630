"""config.toml and config.pbtxt: what a model declares reaches the spec, and a typo never passes for a setting."""

import pytest
from declaration_kit import AMD, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.core.errors import ModelLoadFailed
from mooring.core.options import BatchMode
from mooring.core.tensors import TensorSpec
from mooring.repository.declaration_reader import read_declaration
from mooring.repository.repository_model import read_versions

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


def test_explanations_are_declared_in_either_form(model):
    wanted = {"method": "Occlusion", "baselines": 0.5, "sliding_window_shapes": [1, 2]}
    toml = '[explain]\nmethod = "Occlusion"\nbaselines = 0.5\nsliding_window_shapes = [1, 2]\n'
    assert read(model, toml)[0].explain == wanted
    text = 'explain { method: "Occlusion" baselines: 0.5 sliding_window_shapes: [1, 2] }'
    assert read(model, AMD + text, "config.pbtxt")[0].explain == wanted


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("max_batchsize = 4", "max_batchsize is not a known field; did you mean 'max_batch_size'?"),
        (
            "zzz = 4",
            "zzz is not a known field: the fields are name, platform, .*, [a-z_]+ and [0-9]+ more$",
        ),
        (
            "[batching]\nmax_delay = 4",
            "batching.max_delay is not a known field; did you mean 'max_delay_ms'?",
        ),
        (
            "[[models]]\n[models.batching]\nmod = 'stack'",
            r"models\[0\]\.batching\.mod is not a known field; did you mean 'mode'",
        ),
        ("[workers]\nminimum = 4", "workers.minimum is not a known field: the fields are min, max"),
        (
            '[[inputs]]\nname = "a"\ndatatype = "FP32"\nshape = [1]\ndims = [1]',
            r"inputs\[0\]\.dims is not a known field",
        ),
        ('[[inputs]]\nname = "a"\ndatatype = "FP32"', r"inputs\[0\]\.shape is missing"),
        (
            '[[inputs]]\nname = "a"\ndatatype = "float"\nshape = [1]',
            "inputs 'a' has the unknown datatype 'float'; known",
        ),
        ('[[outputs]]\nname = "a"\ndatatype = "FP32"\nshape = [-2]', "outputs"),
        ('[[outputs]]\nname = "a"\ndatatype = "FP32"\nshape = ["x"]', "outputs"),
        ('[[outputs]]\nname = ""\ndatatype = "FP32"\nshape = [1]', "outputs"),
        ('inputs = "a"', "inputs must be a list, not a string"),
        ("max_batch_size = 0", "max_batch_size"),
        ('max_batch_size = "4"', "max_batch_size must be a whole number, not a string"),
        ("max_batch_size = true", "max_batch_size"),
        ("[workers]\nmin = 3\nmax = 2", "workers.min is above workers.max"),
        ("[scaling]\ntarget_queue_ms = 100", r"give \[workers\] a max"),
        ("[workers]\nmax = 0", "workers.max"),
        ('[placement]\nnodes = "some"', "placement.nodes"),
        (
            "[placement]\nnodes = 2\nmin_replicas = 1",
            "placement.nodes says how many replicas there are; min_rep",
        ),
        (
            "[placement]\nmin_replicas = 3\nmax_replicas = 2",
            "placement.min_replicas is 3, which is above max_replicas, 2",
        ),
        ("[placement]\nnum_gpus = 1.5", "placement.num_gpus is 1.5; it is a whole number, or below 1"),
        ("[placement]\nnum_gpu = 1", "placement.num_gpu is not a known field; did you mean 'num_gpus'"),
        ("[batching]\nmax_delay_ms = -1", "max_delay_ms"),
        ("[batching]\nmode = 'sum'", "batching.mode"),
        ("[parameters]\na = [1]", "parameters"),
        ("response_timeout = 0", "response_timeout"),
        (
            'platform = "rocal_json"',
            "unknown platform 'rocal_json'; known are amdinfer_cpp, builtin, ensemble",
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
        ("name = 1", "name must be a string, not a whole number"),
        ("a = " + "[" * 5000, "config.toml"),
        ("a = 1\na = 2", "config.toml"),
        ("#" * 2_000_000, "larger than"),
        (
            f"max_batch_size = {10**20}",
            "max_batch_size must be a whole number of at most 9223372036854775807",
        ),
        (f"queue_size = {10**20}", "queue_size must be a whole number of at most"),
        (f"[workers]\nmax_requests = {10**20}", "workers.max_requests must be a whole number of at most"),
        (f"[sequences]\nmax = {10**20}", "sequences.max must be a whole number of at most"),
        (
            f'[[inputs]]\nname = "a"\ndatatype = "FP32"\nshape = [{10**20}]',
            r"inputs\[0\]\.shape\[0\] must be",
        ),
        (f"[parameters]\na = {10**20}", "parameters.a is a whole number of more than 64 bits"),
        (f"[explain]\na = [1, {{ b = -{10**20} }}]", r"explain.a\[1\].b is a whole number of more"),
        (f'[[models]]\nname = "a"\n[models.parameters]\nb = {10**20}', "parameters.b is a whole number"),
        ("response_timeout = inf", "response_timeout must be a number of at most"),
        ("startup_timeout = 1e300", "startup_timeout must be a number of at most"),
        ("[batching]\nmax_delay_ms = inf", "max_delay_ms must be a number of at most"),
        ("[sequences]\nmax_idle = inf", "max_idle must be a number of at most"),
        ("[queue_policy]\ntimeout = inf", "queue_policy.timeout must be a number of at most"),
        (
            '[[sequences.controls]]\nname = "c"\nkind = "start"\nvalues = [0, 4294967296]',
            "control 'c' has values that are not INT32",
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
        ('[sequences]\nstrategy = "direct"\nper_worker = 2', "leave per_worker out"),
        ('[sequences]\nstrategy = "newest"', "strategy"),
        (
            '[[sequences.states]]\ninput = "S"\noutput = "T"\ndatatype = "FP9"\nshape = [1]',
            "unknown datatype 'FP9'",
        ),
        (
            'inputs = [{name = "S", datatype = "INT32", shape = [1]}]\nsequences.controls = [{name = "S", kind = "start"}]',
            "'S' is a control and an input",
        ),
    ],
)
def test_a_fault_in_the_table_of_sequences_is_named(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(model, text)


def state(more=""):
    """A configuration with an implicit state of two numbers."""
    own = 'input_name: "S" output_name: "S_" data_type: TYPE_FP32 dims: [ 2 ]'
    return f"sequence_batching {{ state [ {{ {own} {more} }} ] }}"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
            "minimum_slot_utilization: expected a number from 0 to 1, got 1.5",
        ),
        (
            "max_batch_size: 4 sequence_batching { oldest { preferred_batch_size: [ 8 ] } }",
            "a preferred_batch_size of 8 is above max_batch_size, which is 4",
        ),
        ('sequence_batching { state [ { input_name: "a" } ] }', "state 'a': data_type is missing"),
        (state("initial_state { data_type: TYPE_FP32 dims: [ 2 ] }"), "has neither zero_data nor data_file"),
        (
            state("initial_state { data_type: TYPE_INT32 dims: [ 2 ] zero_data: true }"),
            "not that of the state",
        ),
        (
            state("initial_state { data_type: TYPE_FP32 dims: [ -1 ] zero_data: true }"),
            "every size must be from 1",
        ),
        (state("initial_state { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true }"), "does not fit"),
        (state("initial_state [ { zero_data: true }, { } ]"), "exactly one or zero element, and has 2"),
        (state("initial_state { data_type: TYPE_FP32 dims: [ 2 ] data_file: 'none' }"), "none"),
        (
            f"{state()} input {{ name: 'S' data_type: TYPE_FP32 dims: [ 2 ] }}",
            "has a tensor that is another's",
        ),
        (
            'sequence_batching { iterative_sequence: true control_input [ { name: "S" } ] }',
            "with iterative_sequence gets no control_input",
        ),
        (
            'sequence_batching { control_input [ { name: "S" control [ { kind: NONE } ] } ] }',
            r"control_input\[0\]\.control\[0\]\.kind: unknown value 'NONE'",
        ),
    ],
)
def test_what_of_triton_s_sequences_cannot_be_kept_is_said(model, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(model, text, "config.pbtxt")

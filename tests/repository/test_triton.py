"""What each key of config.pbtxt that is served becomes here, and how a caller's JSON is laid over it."""

import json

import msgspec
import pytest

from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.options import ControlKind, QueuePolicy, WaitPolicy
from mooring.core.tensors import TensorSpec
from mooring.repository.catalog import override_config
from mooring.repository.repository_model import read_versions


@pytest.fixture
def read(tmp_path):
    """The spec of a Python model with a config.pbtxt of this text, and files of these names and texts."""

    def read(text, **files):
        folder = tmp_path / "m"
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "1" / "model.py").touch()
        for name, content in files.items():
            (folder / f"{name}.txt").write_text(content)
        (folder / "config.pbtxt").write_text(f'backend: "python" {text}')
        return read_versions(folder, "m")[-1]

    return read


def tensor(name="x", dims="[ 1 ]", more=""):
    return f'{{ name: "{name}" data_type: TYPE_FP32 dims: {dims} {more} }}'


def test_a_reshape_is_kept_beside_the_shape_with_the_batch_in_front_of_both(read):
    spec = read(
        f"max_batch_size: 4 input {tensor(dims='[ 4, -1 ]', more='reshape { shape: [ 2, 2, -1 ] }')} "
        f"output {tensor('y', '[ 1 ]', 'reshape { shape: [ ] }')}"
    )
    assert spec.inputs == [TensorSpec("x", "FP32", [-1, 4, -1], reshape=[-1, 2, 2, -1])]
    assert spec.outputs == [TensorSpec("y", "FP32", [-1, 1], reshape=[-1])]
    assert spec.inputs[0].model_shape == [-1, 2, 2, -1]


@pytest.mark.parametrize(
    ("dims", "shape"), [("[ 4 ]", "[ 3 ]"), ("[ 2 ]", "[ ]"), ("[ -1, 2 ]", "[ 2, -1 ]"), ("[ 4 ]", "[ -1 ]")]
)
def test_a_reshape_of_other_elements_is_refused(read, dims, shape):
    with pytest.raises(ModelLoadFailed, match="does not hold as many elements"):
        read(f"input {tensor(dims=dims, more=f'reshape {{ shape: {shape} }}')}")


def test_an_optional_input_is_one_and_a_scalar_has_no_dims(read):
    spec = read(f"input [ {tensor(more='optional: true')}, {tensor('z', '[ ]')} ]")
    assert spec.inputs == [TensorSpec("x", "FP32", [1], optional=True), TensorSpec("z", "FP32", [])]


@pytest.mark.parametrize("dims", ["[ 0 ]", "[ -2 ]"])
def test_sizes_that_no_tensor_has_are_refused(read, dims):
    with pytest.raises(ModelLoadFailed, match=r"input 'x': dims: expected sizes from 1, or -1"):
        read(f"input {tensor(dims=dims)}")


def test_each_output_has_the_labels_of_its_own_file(read):
    outputs = ", ".join(
        tensor(name, more=f'label_filename: "{name}.txt"' if name != "C" else "") for name in "ABC"
    )
    spec = read(f"output [ {outputs} ]", A="cat\ndog", B="red\nblue")
    assert [spec.labels_of(name) for name in "ABC"] == [
        {"0": "cat", "1": "dog"},
        {"0": "red", "1": "blue"},
        {},
    ]


@pytest.mark.parametrize(("rows", "batched"), [(0, False), (1, True), (8, True)])
def test_max_batch_size_says_whether_shapes_have_a_batch_dimension(read, rows, batched):
    spec = read(f"max_batch_size: {rows} input {tensor()}")
    assert (spec.batching.batch_dimension, spec.batching.max_batch_size) == (batched, max(1, rows))
    assert spec.inputs[0].shape == ([-1, 1] if batched else [1])


def test_a_queue_of_a_size_alone_needs_no_policy(read):
    spec = read("dynamic_batching { default_queue_policy { max_queue_size: 3 } }")
    assert (spec.limits.queue_size, spec.limits.queue_policy) == (3, None)


def test_as_many_priorities_as_a_number_can_say_are_not_gone_through_one_by_one(read):
    policy = "default_queue_policy { max_queue_size: 5 } priority_queue_policy { key: 1 value { max_queue_size: 2 } }"
    levels = "priority_levels: %d default_priority_level: 2"
    assert (
        read(f"dynamic_batching {{ {levels % 1_000_000_000_000} {policy} }}").limits.queue_size
        == 5 * 10**12 - 3
    )
    assert read(f"dynamic_batching {{ {levels % ((1 << 63) - 1)} {policy} }}").limits.queue_size == 1 << 53


def test_what_may_wait_and_how_long_is_the_queue_policy(read):
    spec = read(
        """
        dynamic_batching {
          priority_levels: 2 default_priority_level: 2
          default_queue_policy { max_queue_size: 5 default_timeout_microseconds: 200000 }
          priority_queue_policy { key: 1 value { max_queue_size: 2 timeout_action: DELAY default_timeout_microseconds: 1 } }
        }
        """
    )
    assert spec.limits.queue_size == 7
    assert spec.limits.queue_policy == QueuePolicy(
        policy=WaitPolicy(5, 0.2),
        levels=2,
        default_level=2,
        by_level={1: WaitPolicy(2, 0.000001, delays=True)},
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (
            "priority_levels: 2",
            "default_priority_level must be from 1 to priority_levels, which is 2, and is 0",
        ),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level must be from 1"),
        ("priority_queue_policy { key: 1 value { } }", "there is no priority '1' to have a policy"),
        (
            "preserve_ordering: true priority_levels: 2 default_priority_level: 1",
            "preserve_ordering cannot be kept",
        ),
        (
            "preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }",
            "preserve_ordering cannot be kept",
        ),
    ],
)
def test_policies_that_contradict_themselves_are_refused_as_by_triton(read, text, match):
    with pytest.raises(ModelLoadFailed, match=match):
        read(f"dynamic_batching {{ {text} }}")


def test_passive_groups_have_no_workers(read):
    spec = read("instance_group [ { count: 2 }, { count: 3 passive: true }, { count: 0 } ]")
    assert (spec.scaling.min_workers, spec.scaling.max_workers) == (3, 3)
    with pytest.raises(ModelLoadFailed, match="all are passive"):
        read("instance_group [ { passive: true } ]")


def test_decoupled_and_the_configuration_itself_are_kept(read):
    spec = read('model_transaction_policy { decoupled: true } metric_tags { key: "a" value: "b" }')
    assert spec.decoupled
    assert spec.triton == {
        "backend": "python",
        "model_transaction_policy": {"decoupled": True},
        "metric_tags": {"a": "b"},
    }


def test_controls_are_the_inputs_that_are_named(read):
    spec = read(
        """
        max_batch_size: 1
        sequence_batching { control_input [ { name: "GO" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 2 ] } ] } ] }
        """
    )
    (control,) = spec.sequence.controls
    assert (control.name, control.kind, control.datatype, control.values) == (
        "GO",
        ControlKind.START,
        "FP32",
        (0, 2),
    )


def test_a_callers_json_means_what_the_file_would(read):
    spec = read(f"max_batch_size: 4 input {tensor()}")
    found = override_config(
        spec,
        {
            "max_batch_size": "0",
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [4], "reshape": {"shape": [2, 2]}}],
            "dynamic_batching": {
                "default_queue_policy": {"max_queue_size": 9, "default_timeout_microseconds": "500"}
            },
            "model_transaction_policy": {"decoupled": True},
            "instance_group": [{"count": 2}],
            "parameters": {"a": {"string_value": "b"}, "plain": 1},
        },
        {},
    )
    assert found.inputs == [TensorSpec("x", "FP32", [4], reshape=[2, 2])]
    assert (found.batching.max_batch_size, found.batching.batch_dimension, found.decoupled) == (
        1,
        False,
        True,
    )
    assert (found.limits.queue_size, found.scaling.min_workers) == (9, 2)
    assert found.limits.queue_policy == QueuePolicy(policy=WaitPolicy(0, 0.0005))
    assert found.parameters == {"a": "b", "plain": 1}
    assert found.triton["max_batch_size"] == 0


def test_a_size_alone_changes_the_shapes_with_it(read):
    spec = override_config(read(f"max_batch_size: 4 input {tensor()}"), {"max_batch_size": 0}, {})
    assert (spec.inputs[0].shape, spec.batching.batch_dimension) == ([1], False)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"dynamic_batching": {"max_queue_delay_microsecond": 1}},
            "max_queue_delay_microsecond: unknown key; did you",
        ),
        (
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}], "optimise": {}},
            "optimise: unknown key",
        ),
        (
            {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2], "reshape": {"shape": [3]}}]},
            "as many",
        ),
        ({"ensemble_scheduling": {}}, "for a model of the platform 'ensemble', and this one is 'python'"),
        ({"backend": "onnxruntime"}, "run by function, which cannot be changed"),
        ({"backend": "nonsense"}, "nonsense"),
    ],
)
def test_a_callers_json_that_cannot_be_meant_is_refused(read, config, said):
    with pytest.raises(InvalidInput) as caught:
        override_config(read(f"max_batch_size: 4 input {tensor()}"), config, {})
    assert said in caught.value.message


def test_a_configuration_may_be_sent_back_as_it_was_shown(read):
    spec = read(
        f"max_batch_size: 4 input {tensor(more='optional: true')} dynamic_batching {{ preserve_ordering: true }}"
    )
    assert override_config(spec, json.loads(json.dumps(spec.triton)), {}) == spec


def test_the_name_of_what_runs_a_model_may_be_sent_back_as_it_was_shown(read):
    spec = msgspec.structs.replace(read(""), backend="handler", platform="")
    assert (
        override_config(
            spec, {"backend": "handler", "platform": "", "max_batch_size": 2}, {}
        ).batching.max_batch_size
        == 2
    )

"""Reading Triton's configurations: what is known is brought into one form, all else is an error with its path."""

import re

import pytest

from mooring.repository.textproto import parse_textproto
from mooring.repository.triton_config import config_from_json, config_from_text, tuning_keys

TENSOR = 'name: "x" data_type: TYPE_FP32 dims: [ 1 ]'


def beginning(text):
    return f"^{re.escape(text)}"


def read(text):
    return config_from_text(parse_textproto(text))


def test_a_text_becomes_dicts_lists_and_numbers():
    assert read(
        f"""
        max_batch_size: 8
        input [ {{ {TENSOR} reshape {{ shape: [] }} optional: true }} ]
        parameters {{ key: "a" value {{ string_value: "b" }} }}
        dynamic_batching {{ priority_queue_policy {{ key: 2 value {{ timeout_action: DELAY }} }} }}
        """
    ) == {
        "max_batch_size": 8,
        "input": [
            {
                "name": "x",
                "data_type": "TYPE_FP32",
                "dims": [1],
                "reshape": {"shape": []},
                "optional": True,
            }
        ],
        "parameters": {"a": {"string_value": "b"}},
        "dynamic_batching": {"priority_queue_policy": {"2": {"timeout_action": "DELAY"}}},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "dynamic_batching { max_queue_delay_microsecond: 100 }",
            "dynamic_batching.max_queue_delay_microsecond: unknown key; did you mean 'max_queue_delay_microseconds'?",
        ),
        (f"input {{ {TENSOR} dim: [ 1 ] }}", "input[0].dim: unknown key; did you mean 'dims'?"),
        (
            f"input {{ {TENSOR} reshape {{ dims: [ 1 ] }} }}",
            "input[0].reshape.dims: unknown key; known are shape",
        ),
        (
            "optimization { cuda { graph: true } }",
            "optimization.cuda.graph: unknown key; did you mean 'graphs'?",
        ),
        (
            'parameters { key: "a" value { int_value: 4 } }',
            "parameters['a'].int_value: unknown key; did you mean",
        ),
        ("version_policy { all { x: 1 } }", "version_policy.all.x: unknown key; known are none"),
        ("max_batch_size: 1.5", "max_batch_size: expected a whole number, got 1.5"),
        ("max_batch_size: true", "max_batch_size: expected a whole number, got True"),
        ("max_batch_size: 1 max_batch_size: 2", "max_batch_size: expected one value, got 2"),
        ("max_batch_size: [ ]", "max_batch_size: expected one value, got an empty list"),
        (
            "dynamic_batching { priority_levels: -1 }",
            "dynamic_batching.priority_levels: expected a whole number from 0",
        ),
        (f"input {{ {TENSOR} optional: 5 }}", "input[0].optional: expected true or false, got 5"),
        ("default_model_filename: 5", "default_model_filename: expected a text in quotes, got 5"),
        (
            'input { name: "x" data_type: TYPE_FP9 dims: [] }',
            "input[0].data_type: unknown value 'TYPE_FP9'; known are",
        ),
        ('input { name: "x" data_type: TYPE_FP32 }', "input[0].dims is missing"),
        ("instance_group [ 2 ]", "instance_group[0]: expected a message in braces, got 2"),
        ("metric_tags { a: 1 }", "metric_tags: expected entries as in { key: ... value: ... }"),
        (
            "dynamic_batching { } sequence_batching { }",
            "dynamic_batching and sequence_batching cannot both be set",
        ),
        (
            "sequence_batching { direct { } oldest { } }",
            "sequence_batching: direct and oldest cannot both be set",
        ),
    ],
)
def test_what_is_unknown_or_wrong_is_named_with_its_path(text, said):
    with pytest.raises(ValueError, match=beginning(said)):
        read(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (
            'ensemble_scheduling { step { model_namespace: "a" } }',
            "ensemble_scheduling.step[0].model_namespace",
        ),
        ("batch_input [ { kind: BATCH_ITEM_SHAPE } ]", "batch_input"),
        ("batch_output [ { } ]", "batch_output"),
        ('model_operations { op_library_filename: "a.so" }', "model_operations"),
        ("model_repository_agents { agents [] }", "model_repository_agents"),
        (f"input {{ {TENSOR} is_shape_tensor: true }}", "input[0].is_shape_tensor"),
        (f"input {{ {TENSOR} allow_ragged_batch: true }}", "input[0].allow_ragged_batch"),
        (f"output {{ {TENSOR} is_non_linear_format_io: true }}", "output[0].is_non_linear_format_io"),
    ],
)
def test_what_would_change_the_answers_is_refused_by_its_path(text, path):
    with pytest.raises(ValueError, match=beginning(f"{path} is not served: ")):
        read(text)


def test_what_is_refused_may_be_said_to_be_off():
    assert read(f"input {{ {TENSOR} is_shape_tensor: false allow_ragged_batch: false }}")


def test_what_only_tunes_is_listed_with_the_reason():
    config = read(
        f"""
        input [ {{ {TENSOR} format: FORMAT_NCHW }}, {{ name: "z" data_type: TYPE_FP32 dims: [ 1 ] format: FORMAT_NONE }} ]
        optimization {{ graph {{ level: 1 }} }}
        dynamic_batching {{ preferred_batch_size: [ 4 ] default_queue_policy {{ allow_timeout_override: true }} }}
        instance_group [ {{ count: 2 kind: KIND_GPU gpus: [ 0 ] }}, {{ kind: KIND_CPU }} ]
        response_cache {{ enable: true }}
        parameters [ {{ key: "execution_mode" value {{ string_value: "1" }} }}, {{ key: "mine" value {{ }} }} ]
        """
    )
    assert {path for path, reason in tuning_keys(config) if reason} == {
        "input.format",
        "optimization",
        "dynamic_batching.preferred_batch_size",
        "dynamic_batching.default_queue_policy.allow_timeout_override",
        "instance_group.kind",
        "instance_group.gpus",
        "parameters['execution_mode']",
    }


def test_what_says_the_default_is_not_listed():
    assert not list(
        tuning_keys(read(f"input {{ {TENSOR} format: FORMAT_NONE }} instance_group {{ kind: KIND_AUTO }}"))
    )


def test_json_is_read_as_protobuf_writes_it():
    assert config_from_json(
        {
            "maxBatchSize": "16",
            "dynamic_batching": {"maxQueueDelayMicroseconds": "500", "priorityLevels": 2.0},
            "input": [{"name": "x", "dataType": 11, "dims": ["-1"], "optional": None}],
            "parameters": {"aKey": {"stringValue": "b"}},
        }
    ) == {
        "max_batch_size": 16,
        "dynamic_batching": {"max_queue_delay_microseconds": 500, "priority_levels": 2},
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1]}],
        "parameters": {"aKey": {"string_value": "b"}},
    }


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"dynamic_batching": {"max_delay": 1}}, "dynamic_batching.max_delay: unknown key"),
        ({"max_batchsize": 1}, "max_batchsize: unknown key; did you mean 'max_batch_size'?"),
        ({"input": {"name": "x"}}, "input: expected a list"),
        ({"parameters": [1]}, "parameters: expected an object"),
        ({"max_batch_size": "many"}, "max_batch_size: expected a whole number, got 'many'"),
        ({"instance_group": [{"passive": "yes"}]}, "instance_group[0].passive: expected true or false"),
        ({"ensemble_scheduling": {"step": {}}}, "ensemble_scheduling.step: expected a list"),
    ],
)
def test_json_that_is_unknown_or_wrong_is_named_with_its_path(document, said):
    with pytest.raises(ValueError, match=beginning(said)):
        config_from_json(document)

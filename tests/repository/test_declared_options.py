"""Options that a configuration declares, and what holds where it declares none."""

import json

import pytest
from declaration_kit import AMD, TRITON, read
from model_kit import defaults
from msgspec import structs

from mooring.core.options import (
    BatchMode,
    Control,
    ControlKind,
    ImplicitState,
    ModelOptions,
    SequenceOptions,
)
from mooring.repository.declaration import Declaration

# Options whose keys have their names; a queue policy is a table, which is tested by itself.
KEYS = [
    (group, name)
    for group in structs.fields(ModelOptions)
    for name in group.type.__struct_fields__
    if name in Declaration.__struct_fields__ and name not in ("queue_policy", "labels")
]


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


@pytest.mark.parametrize(("group", "name"), KEYS, ids=[name for _, name in KEYS])
def test_a_key_of_the_name_of_an_option_declares_it(model, group, name):
    default = getattr(group.default, name)
    value = not default if isinstance(default, bool | None) else ("ValueError",) if default == () else 7
    (spec,) = read(model, f"{name} = {json.dumps(value)}\n")
    assert getattr(getattr(spec, group.name), name) == value


def test_a_request_to_a_text_proto_model_is_a_single_sample(model):
    assert read(model, AMD, "config.pbtxt")[0].batching.mode is BatchMode.STACK
    assert (
        read(model, AMD + 'batching { mode: "concat" }', "config.pbtxt")[0].batching.mode is BatchMode.CONCAT
    )


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
        enabled=True, max_sequences=0, max_per_worker=4, max_queued_steps=2, max_idle=1.5, timeout=60.0,
        controls=(Control("S", ControlKind.START, "FP32", (-1, 1)), Control("C", ControlKind.ID, "BYTES")),
    )  # fmt: skip
    assert not read(model, "")[0].sequence.enabled


def test_triton_s_sequences_are_ours(model):
    (spec,) = read(model, TRITON, "config.pbtxt")
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=0, max_per_worker=8, max_queued_steps=1000, max_idle=5.0,
        controls=(
            Control("START", ControlKind.START, "FP32", (0, 1)), Control("READY", ControlKind.READY, "INT32", (0, 1)),
            Control("CORRID", ControlKind.ID, "UINT64"),
        ),
    )  # fmt: skip
    assert (spec.batching.max_delay, spec.scaling.max_workers, spec.batching.max_batch_size) == (0.0001, 2, 4)
    assert spec.batching.exact_delay


@pytest.mark.parametrize(("rows", "slots"), [(0, 1), (1, 1), (8, 8)])
def test_triton_s_direct_strategy_has_a_slot_for_every_row_of_an_instance(model, rows, slots):
    (spec,) = read(
        model,
        f"max_batch_size: {rows} instance_group [ {{ count: 3 }} ] sequence_batching {{ direct {{ "
        "max_queue_delay_microseconds: 100 minimum_slot_utilization: 0.5 } }",
        "config.pbtxt",
    )
    assert spec.sequence == SequenceOptions(
        enabled=True, max_sequences=0, max_per_worker=slots, max_queued_steps=1000, max_idle=1.0, direct=True,
        minimum_slot_utilization=0.5,
    )  # fmt: skip
    assert (spec.batching.max_delay, spec.batching.exact_delay) == (0.0001, True)


def test_triton_s_states_are_ours(model):
    (model / "initial_state").mkdir()
    (model / "initial_state" / "first").write_bytes(bytes(8))
    named = 'input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: [ -1 ] use_growable_memory: true'
    first = 'data_type: TYPE_FP32 dims: [ 2 ] name: "n" data_file: "first"'
    bare = 'input_name: "U" output_name: "V" data_type: TYPE_STRING dims: [ 3, -1 ]'
    (spec,) = read(
        model,
        f"sequence_batching {{ state [ {{ {named} initial_state: {{ {first} }} }}, {{ {bare} }} ] }}",
        "config.pbtxt",
    )
    assert spec.sequence.states == (
        ImplicitState("S", "T", "FP32", (-1,), (2,), str(model / "initial_state" / "first")),
        ImplicitState("U", "V", "BYTES", (3, -1), (3, 1)),
    )


def test_a_state_in_toml_is_the_same(model):
    (spec,) = read(
        model,
        '[sequences]\nstrategy = "direct"\n[[sequences.states]]\ninput = "S"\noutput = "T"\ndatatype = "FP32"\n'
        "shape = [-1]\ninitial_shape = [2]\n",
    )
    assert spec.sequence.states == (ImplicitState("S", "T", "FP32", (-1,), (2,)),)
    assert (spec.sequence.direct, spec.sequence.max_per_worker) == (True, 1)

"""What a load request may say: Triton's form, AMD's form, nothing; whatever else comes is the caller's fault."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_kit import model_spec

from mooring.core.errors import InvalidInput
from mooring.protocols.load_options import LoadOptions, parse_load_options
from mooring.repository.catalog import override_config

SPEC = model_spec(name="m", version="1", backend="function", location="/m", entry="model.py")


@pytest.mark.parametrize("body", [b"", b" ", b"null", b"{}"])
def test_nothing_said_is_nothing_asked_for(body):
    assert parse_load_options(body) == LoadOptions()


def test_tritons_form_has_a_configuration_files_and_parameters():
    body = {"parameters": {"config": '{"max_batch_size": 4}', "file:1/model.py": "eA==", "depth": 3}}
    options = parse_load_options(json.dumps(body).encode())
    assert (options.config, options.files, options.parameters) == (
        {"max_batch_size": 4},
        {"1/model.py": b"x"},
        {"depth": 3},
    )


NAMES = st.sampled_from(
    ["parameters", "config", "file:1/model.py", "file:", "max_batch_size", "dynamic_batching", "instance_group", "count",
     "max_queue_delay_microseconds", "input", "outputs", "name", "data_type", "dims", "string_value", ""]
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["TYPE_FP32", "eA=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "body", [b'"\x80"', b'{"\xff": 1}', b'{"parameters": {"config": "\\ud800"}}', b"[" * 100_000]
)
def test_what_is_no_text_is_invalid_input(body):
    with pytest.raises(InvalidInput):
        parse_load_options(body)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_options_or_invalid_input(body):
    with contextlib.suppress(InvalidInput):
        parse_load_options(body)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_configuration_is_used_or_invalid_input(config):
    with contextlib.suppress(InvalidInput):
        body = json.dumps({"parameters": {"config": json.dumps(config)}}).encode()
        override_config(SPEC, parse_load_options(body).config or {}, {})

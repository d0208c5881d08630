"""How a message is cut into calls of the model, and what its answers and exceptions become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.backends.model_calls import to_model_failure
from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidInput, InvalidOutput, ModelFailed, ModelLoadFailed, OutOfResources
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation
from mooring.core.tensors import Tensor
from mooring.worker_process.outcomes import (
    blame_clients,
    enforce_answer_limit,
    fails_again,
    failure_of,
    split_into_calls,
)


def request(rows, operation):
    return InferenceRequest(
        "m", "", "", [Tensor("instances", "BYTES", [rows], [])], form=Form.INSTANCES, operation=operation
    )


requests = st.lists(
    st.builds(request, st.integers(1, 9), st.sampled_from([Operation.INFER, Operation.EXPLAIN])), max_size=30
)


@given(requests, st.integers(1, 8))
def test_every_request_is_in_exactly_one_batch_in_order(items, most):
    runs = list(split_into_calls(items, most))
    assert [index for begin, end, _ in runs for index in range(begin, end)] == list(range(len(items)))


@given(requests, st.integers(1, 8))
def test_a_batch_never_exceeds_the_maximum_unless_it_is_one_request(items, most):
    for begin, end, rows in split_into_calls(items, most):
        assert rows == sum(item.rows for item in items[begin:end])
        assert rows <= most or end - begin == 1


@given(requests, st.integers(1, 8))
def test_a_batch_is_of_one_operation(items, most):
    for begin, end, _ in split_into_calls(items, most):
        assert len({item.operation for item in items[begin:end]}) == 1


def test_an_answer_over_the_limit_is_that_requests_error_and_names_both_sizes():
    large, small = (
        InferenceResponse([Tensor("out", "BYTES", [2], [bytes(size - 4), b"four"])]) for size in (11, 10)
    )
    lent = InferenceResponse([Tensor("out", "UINT8", [11], Buffer(memoryview(bytes(11))))])
    failed = ModelFailed("for its own reasons")
    bodies = [request(1, Operation.INFER)] * 4
    first, *rest, last = enforce_answer_limit(10, bodies, [large, small, failed, lent])
    assert rest == [small, failed]
    for error in (first, last):
        assert isinstance(error, InvalidOutput)
        assert error.message == "the model's answer has 11 bytes and max_response_size is 10"
        assert error.code == 500


def test_tensors_may_be_as_large_as_they_are():
    large = InferenceResponse([Tensor("out", "UINT8", [11], bytes(11))])
    asked = InferenceRequest("m", "", "", [], form=Form.TENSORS)
    assert enforce_answer_limit(10, [asked], [large]) == [large]


def raised(error, cause=None):
    try:
        raise error from cause
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (raised(ModelLoadFailed("no function")), True, True),
        (raised(ModelLoadFailed("bad file"), ValueError("opset 99")), False, True),
        (raised(ModelLoadFailed("model.py"), ConnectionError("no network")), True, False),
        (raised(ModelLoadFailed("model.py"), ModuleNotFoundError("no such module")), True, True),
        (raised(ModelLoadFailed("model.onnx"), OSError("too many open files")), False, False),
        (OutOfResources("no memory"), False, False),
        (ModuleNotFoundError("no such module"), True, True),
        (SyntaxError("invalid syntax"), True, True),
        (RuntimeError("the database is not there yet"), True, False),
        (MemoryError(), True, False),
    ],
)
def test_what_will_fail_again_is_told_from_what_may_pass(error, code, again):
    assert fails_again(error, code=code) is again


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (InvalidInput("odd shape"), InvalidInput, "odd shape"),
        (ValueError("odd shape"), ModelFailed, "ValueError: odd shape"),
        (MemoryError("80 GB"), OutOfResources, "MemoryError: 80 GB"),
    ],
)
def test_what_the_models_code_raises_is_an_error_with_its_traceback_for_the_log(raised, kind, text):
    try:
        raise raised
    except Exception as error:
        failure = failure_of(error)
    assert (type(failure), failure.message) == (kind, text)
    assert ("Traceback" in failure.detail) == (failure is not raised)


def test_a_failure_that_a_backend_made_of_a_clients_mistake_is_the_clients():
    failure = to_model_failure(ValueError("too short"))
    answer = InferenceResponse([])
    for names, kinds in (
        (frozenset({"ValueError"}), [InvalidInput, InferenceResponse]),
        (frozenset({"KeyError"}), [ModelFailed, InferenceResponse]),
        (frozenset(), [ModelFailed, InferenceResponse]),
    ):
        assert [type(each) for each in blame_clients([failure, answer], names)] == kinds
    assert failure_of(failure, frozenset({"ValueError"})).message == "too short"

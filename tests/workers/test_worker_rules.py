"""Pure rules of workers: how a message is cut into batches, and when a dead worker is replaced."""

from hypothesis import given
from hypothesis import strategies as st

from mooring.core.buffers import Buffer
from mooring.core.errors import InvalidOutput, ModelFailed
from mooring.core.requests import Form, InferenceRequest, InferenceResponse, Operation
from mooring.core.tensors import Tensor
from mooring.worker_process.outcomes import enforce_answer_limit, split_into_calls
from mooring.workers.retries import backoff


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


def test_the_first_restart_is_immediate_and_later_ones_wait_ever_longer_within_a_limit():
    waits = [backoff(n) for n in range(1, 40)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[-1] == 34.0


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

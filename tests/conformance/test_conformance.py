"""One suite, the same expectations, over every protocol."""

import numpy as np
import pytest
from e2e_kit import SAMPLES
from peers import Refused, same

from mooring import Tensor
from mooring.codecs.raw import make_tensor

SUMS = {"x": np.array([[1, 2, 3], [0.5, 0.25, 0]], np.float32), "factor": np.array([2, 4], np.float32)}
VALUES = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**53 + 1, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([[-32768], [32767]], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**53 + 1, 2**63 - 1], np.int64),
    "FP16": np.array([65504, 6e-8, -0.0, 0.1], np.float16),
    "FP32": np.array([0.1, 3.4028235e38, 1e-45, -0.0, 16777217, np.nan, np.inf, -np.inf], np.float32),
    "FP64": np.array(
        [0.1, 1 / 3, 2.0**-1074, 1.7976931348623157e308, -0.0, 2.0**53 + 2, np.nan, -np.inf], np.float64
    ),
    "BYTES": np.array([b"", b"text", "\u00fc\U0001f600\0".encode()], object),
}
# What each protocol says of every fault of the caller, and of the model's.
_REST, _RPC = ("v2 REST JSON", "v2 REST binary"), ("v2 gRPC raw", "v2 gRPC typed")
FAULTS = {
    # fault: (in process, v2 REST, gRPC, v1, TorchServe); None where the protocol has no way to commit it
    "unknown model": ("ModelNotFound", 404, "NOT_FOUND", 404, 404),
    "unknown version": ("VersionNotFound", 404, "NOT_FOUND", None, 404),
    "wrong datatype": ("InvalidInput", 400, "INVALID_ARGUMENT", 400, 400),
    "wrong shape": ("InvalidInput", 400, "INVALID_ARGUMENT", 400, 400),
    "missing input": ("InvalidInput", 400, "INVALID_ARGUMENT", 400, 400),
    "unknown input": ("InvalidInput", 400, "INVALID_ARGUMENT", 400, 400),
    "unknown output": ("InvalidInput", 400, "INVALID_ARGUMENT", None, None),
    "the model raises": ("ModelFailed", 500, "INTERNAL", 500, 500),
}
COMMITTED = {
    "unknown model": ("nobody", SUMS, {}),
    "unknown version": ("sums", SUMS, {"version": "9"}),
    "wrong datatype": ("sums", {**SUMS, "x": np.array([[b"a", b"b", b"c"]] * 2, object)}, {}),
    "wrong shape": ("sums", {**SUMS, "x": np.ones((2, 4), np.float32)}, {}),
    "missing input": ("sums", {"x": SUMS["x"]}, {}),
    "unknown input": ("sums", {**SUMS, "z": SUMS["factor"]}, {}),
    "unknown output": ("sums", SUMS, {"outputs": ["nothing"]}),
    "the model raises": ("sums", {**SUMS, "x": -SUMS["x"]}, {}),
}


def null_for_nonfinite(value):
    return None if isinstance(value, float) and not np.isfinite(value) else value


def said_by(peer, fault):
    column = next(
        index for index, names in enumerate([("in process",), _REST, _RPC, ("KServe v1",), ("TorchServe REST",)])
        if peer.name in names
    )  # fmt: skip
    return FAULTS[fault][column]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_handler_reads_every_digit(peer, sample):
    assert peer.picture("digits", sample.read_bytes())["class"] == sample.stem


@pytest.mark.parametrize("model", ["digits_onnx", "digits_pytorch"])
def test_the_network_in_other_formats_reads_every_digit_as_the_handler_does(peer, model):
    for sample in SAMPLES:
        assert peer.digit(model, sample.read_bytes()) == sample.stem


@pytest.mark.parametrize("datatype", VALUES)
def test_a_value_of_every_datatype_comes_back_as_it_went(peer, datatype):
    if datatype == "FP16" and not peer.halves:
        pytest.skip("FP16 has no typed contents: it travels raw")
    sent = VALUES[datatype]
    (found,) = peer.infer("mirror", {"x": sent}).values()
    # Where JSON has no word for a number, answers of these protocols have null.
    assert same(found, sent if peer.typed else [null_for_nonfinite(value) for value in sent.tolist()])
    if peer.typed:
        assert found.dtype == sent.dtype
        assert found.shape == sent.shape


def test_two_bytes_of_a_float_are_enough(peer):
    if not peer.halves:
        pytest.skip("BF16 has no typed contents: it travels raw")
    values = np.array([1.5, -2.25, 3.3895314e38, 0.0], np.float32)
    sent = make_tensor("x", values, "BF16") if peer.typed else values
    (found,) = peer.infer("half", {"x": sent}).values()
    assert same(found.astype(np.float32), values)


def test_bytes_that_are_no_text_come_back(peer):
    if not peer.octets:
        pytest.skip("JSON has no bytes but text")
    sent = np.array([b"\xff\x00", bytes(range(256))], object)
    assert same(peer.infer("mirror", {"x": sent})["x"], sent)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_a_tensor_may_be_empty(peer, shape):
    if not peer.typed:
        pytest.skip("JSON of an empty list does not say of what")
    found = peer.infer("mirror", {"x": np.zeros(shape, np.float32)})["x"]
    assert (found.shape, found.dtype) == (shape, np.float32)


@pytest.mark.parametrize("count", [9_000, 150_528])
def test_a_large_tensor_comes_back(peer, count):
    sent = np.random.default_rng(7).standard_normal((1, count)).astype(np.float32)
    (found,) = peer.infer("mirror", {"x": sent}).values()
    assert np.array_equal(found.astype(np.float32), sent)


def test_a_model_gets_its_inputs_and_gives_its_outputs_by_name(peer):
    found = peer.infer("sums", SUMS)
    assert set(found) == {"total", "peak"}
    assert found["total"].tolist() == [12, 3]
    assert found["peak"].tolist() == [3, 0.5]


def test_more_rows_than_a_batch_holds_are_split_but_in_tensors(peer):
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    inputs = {"x": x, "factor": np.ones(20, np.float32)}
    if not peer.typed:
        assert peer.infer("sums", inputs)["total"].tolist() == x.sum(axis=1).tolist()
        return
    # Triton's rule, and its clients know the limit from the configuration.
    with pytest.raises(Refused, match="batch-size must be <= 8") as refused:
        peer.infer("sums", inputs)
    assert refused.value.said == said_by(peer, "wrong shape")


def test_only_the_outputs_that_are_asked_for_come_and_in_that_order(peer):
    if not peer.typed:
        pytest.skip("the protocol has no way to ask for some")
    assert list(peer.infer("sums", SUMS, outputs=["peak"])) == ["peak"]
    assert list(peer.infer("sums", SUMS, outputs=["peak", "total"])) == ["peak", "total"]


def test_a_builtin_answers_with_amds_arithmetic(peer):
    (found,) = peer.infer("echo", {"input": np.array([41], np.uint32)}).values()
    assert found.ravel().tolist() == [42]


@pytest.mark.parametrize("fault", COMMITTED)
def test_every_fault_is_called_what_the_protocol_calls_it(peer, fault):
    expected = said_by(peer, fault)
    if expected is None:
        pytest.skip("the protocol has no way to commit it")
    model, inputs, how = COMMITTED[fault]
    with pytest.raises(Refused) as refused:
        peer.infer(model, inputs, **how)
    assert refused.value.said == expected, refused.value
    assert same(peer.infer("sums", SUMS)["total"], [12, 3])


def test_a_tensor_of_our_own_may_be_sent_as_it_is(peer):
    if not peer.typed:
        pytest.skip("the protocol has no tensors")
    sent = Tensor("", "UINT8", [2], b"\x01\x02")
    assert peer.infer("mirror", {"x": sent})["x"].tolist() == [1, 2]

"""The objects that Triton's Python models know as pb_utils."""

import json

import numpy as np
import pytest
from model_kit import model_spec

from mooring.backends.samples import Sample
from mooring.backends.triton_python import instance
from mooring.backends.triton_python.errors import (
    TritonError,
    TritonModelException,
    to_refusal,
    to_triton_error,
)
from mooring.backends.triton_python.exchanges import SampleExchange
from mooring.backends.triton_python.messages import (
    InferenceRequest,
    InferenceResponse,
    get_input_tensor_by_name,
)
from mooring.backends.triton_python.metrics import MetricFamily
from mooring.backends.triton_python.model_config import (
    ModelConfig,
    get_input_config_by_name,
    using_decoupled_model_transaction_policy,
)
from mooring.backends.triton_python.tensor import (
    Tensor,
    deserialize_bytes_tensor,
    numpy_to_triton_type,
    serialize_byte_tensor,
    to_strings,
    triton_string_to_numpy,
    triton_to_numpy_type,
)
from mooring.core.errors import ModelNotFound
from mooring.core.service import LoadContext


@pytest.mark.parametrize("number", range(1, 14))
def test_data_types_have_the_numbers_of_triton(number):
    assert numpy_to_triton_type(triton_to_numpy_type(number)) == number


def test_names_of_data_types():
    assert triton_string_to_numpy("TYPE_FP32") is np.float32
    assert triton_string_to_numpy("TYPE_STRING") is np.object_
    assert numpy_to_triton_type(np.complex64) is None


def test_strings_are_written_behind_their_lengths():
    array = np.array([[b"a", "bc"]], dtype=object)
    text = serialize_byte_tensor(array)
    assert text == b"\x01\0\0\0a\x02\0\0\0bc"
    assert deserialize_bytes_tensor(text).tolist() == [b"a", b"bc"]
    assert serialize_byte_tensor(np.empty(0, object)) is None


def test_tensor_goes_through_dlpack_and_back():
    tensor = Tensor("x", np.arange(6, dtype=np.float32).reshape(2, 3))
    for given in (tensor, tensor.to_dlpack()):
        back = Tensor.from_dlpack("y", given)
        assert (back.name(), back.shape(), back.is_cpu()) == ("y", [2, 3], True)
        np.testing.assert_array_equal(back.as_numpy(), tensor.as_numpy())


def test_strings_do_not_go_through_dlpack():
    with pytest.raises(TritonModelException, match="holds strings"):
        Tensor("x", np.array([b"a"], dtype=object)).to_dlpack()
    with pytest.raises(TritonModelException, match="cannot be read by DLPack"):
        Tensor.from_dlpack("x", "no capsule")


def test_brain_floats_of_torch_come_as_float32():
    torch = pytest.importorskip("torch")
    tensor = Tensor.from_dlpack("x", torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    assert (tensor.as_numpy().dtype, tensor.as_numpy().tolist()) == (np.float32, [1, 1])


def test_lists_are_no_tensors():
    with pytest.raises(TritonModelException, match="expected a numpy array, got list"):
        Tensor("x", [1, 2])
    with pytest.raises(TritonModelException, match="and has a ndarray"):
        InferenceResponse([np.ones(1)])


@pytest.mark.parametrize("code", range(1, 8))
def test_codes_of_errors_survive_the_way_to_a_calling_model(code):
    assert to_triton_error(to_refusal(TritonError("no", code))).code() == code


def test_errors_of_the_server_have_codes():
    assert to_triton_error(ModelNotFound("no 'm'")).code() == TritonError.NOT_FOUND
    assert TritonError("text").message() == "text"
    assert TritonModelException("text").message() == "text"


def exchange(request=None, cancelled=lambda: False) -> SampleExchange:
    made = request or InferenceRequest(inputs=[Tensor("x", np.ones(1))])
    return SampleExchange(Sample(0, {}), made, None, lambda response: {"y": response}, cancelled)


def test_sender_takes_one_response_and_is_closed_by_the_final_flag():
    sender = exchange().request.get_response_sender()
    sender.send(InferenceResponse([]))
    with pytest.raises(TritonModelException, match="may give one response"):
        sender.send(InferenceResponse([]))
    sender.send(flags=1)
    with pytest.raises(TritonModelException, match="has been closed"):
        sender.send(flags=1)


@pytest.mark.parametrize(
    ("response", "flags", "why"),
    [(None, 0, "must be provided"), (None, 4, "Unsupported flag"), ("text", 1, "found type 'str'")],
)
def test_sender_refuses_what_is_no_response(response, flags, why):
    with pytest.raises(TritonModelException, match=why):
        exchange().request.get_response_sender().send(response, flags)


def test_waiting_for_a_sender_ends_when_the_client_has_gone():
    exchange(cancelled=lambda: True).wait()


def test_own_request_has_no_sender():
    with pytest.raises(TritonModelException, match="get_response_sender"):
        InferenceRequest(model_name="m").get_response_sender()


@pytest.mark.parametrize("value", [None, [1], 2**63, b"text", "\ud800"])
def test_parameters_of_a_response_that_no_client_could_get_are_refused(value):
    with pytest.raises(TritonModelException, match="parameter 'key' is"):
        InferenceResponse([], parameters={"key": value})


def test_error_of_a_response_is_a_triton_error():
    with pytest.raises(TritonModelException, match=r"must be a pb_utils\.TritonError, not a str"):
        InferenceResponse([], error="bad")


def test_objects_in_an_array_of_strings_are_written():
    array = np.array([[b"a", "b", None, 5]], object)
    assert to_strings(array).tolist() == [[b"a", "b", "None", "5"]]
    assert to_strings(array[:, :2]).tolist() == [[b"a", "b"]]


def test_release_flags():
    taken = exchange()
    taken.request.set_release_flags(2)
    assert taken.rescheduled
    with pytest.raises(TritonModelException, match="Invalid release flags"):
        taken.request.set_release_flags(3)


def test_inputs_are_found_by_name():
    request = exchange().request
    assert get_input_tensor_by_name(request, "x") is request.inputs()[0]
    assert get_input_tensor_by_name(request, "z") is None
    assert json.loads(request.parameters()) == {}


def test_kinds_of_metrics_allow_what_they_are_for():
    counter = MetricFamily("c", "text", MetricFamily.COUNTER).Metric({})
    counter.increment(2)
    counter.increment(3)
    assert counter.value() == 5
    with pytest.raises(TritonModelException, match="counter cannot be set"):
        counter.set(1)
    with pytest.raises(TritonModelException, match="incremented by -1"):
        counter.increment(-1)
    gauge = MetricFamily("g", "text", MetricFamily.MetricKind.GAUGE).Metric(labels={"a": "b"})
    gauge.set(4)
    gauge.increment(-1)
    assert gauge.value() == 3
    histogram = MetricFamily(name="h", description="text", kind=MetricFamily.HISTOGRAM).Metric()
    histogram.observe(1)
    with pytest.raises(TritonModelException, match="no single value"):
        histogram.value()
    with pytest.raises(TritonModelException, match="ascending order"):
        MetricFamily(name="h", description="text", kind=MetricFamily.HISTOGRAM).Metric({}, [2, 1])


def config(**values) -> ModelConfig:
    return ModelConfig(json.dumps({"name": "m", "max_batch_size": 0, "input": [], "output": [], **values}))


def test_configuration_is_completed():
    made = config(input=[{"name": "x", "data_type": "TYPE_INVALID", "dims": []}])
    made.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [2]})
    made.add_input({"name": "o", "data_type": "TYPE_FP32", "dims": [2], "optional": True})
    made.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [2]})
    made.set_max_batch_size(8)
    made.set_dynamic_batching()
    made.set_model_transaction_policy({"decoupled": True})
    document = made.as_dict()
    assert get_input_config_by_name(document, "x") == {"name": "x", "data_type": "TYPE_FP32", "dims": [2]}
    assert [each["name"] for each in document["output"]] == ["y"]
    assert (document["max_batch_size"], document["dynamic_batching"]) == (8, {})
    assert using_decoupled_model_transaction_policy(document)


@pytest.mark.parametrize(
    ("groups", "there", "place", "device"),
    [
        ([], 2, 0, ("CPU", "0")),
        ([{"kind": "KIND_CPU", "count": 2}], 2, 0, ("CPU", "0")),
        ([{"kind": "KIND_GPU"}], 2, 1, ("GPU", "1")),
        ([{"kind": "KIND_GPU", "gpus": [1]}], 2, 0, ("GPU", "1")),
        ([{"kind": "KIND_GPU", "gpus": [7]}], 2, 0, ("CPU", "0")),
        ([{"kind": "KIND_GPU"}], 0, 0, ("CPU", "0")),
    ],
)
def test_instances_take_the_gpus_of_their_groups_in_turn(monkeypatch, groups, there, place, device):
    monkeypatch.setattr(instance, "find_devices", lambda: {"CPU": 4, "H200": there})
    spec = model_spec(backend="triton_python", location="/models/m/1", triton={"instance_group": groups})
    arguments = instance.initialize_arguments(spec, LoadContext(worker="9004", place=place))
    assert (arguments["model_instance_kind"], arguments["model_instance_device_id"]) == device
    assert arguments["model_repository"] == "/models/m"


WRITTEN = {"name": "x", "data_type": "TYPE_FP32", "dims": [2]}


@pytest.mark.parametrize(
    ("values", "completed", "why"),
    [
        ({"max_batch_size": 4}, lambda made: made.set_max_batch_size(2), "max_batch_size is 4"),
        ({"input": [WRITTEN]}, lambda made: made.add_input({**WRITTEN, "dims": [3]}), r"dims \[2\]"),
        ({"input": [WRITTEN]}, lambda made: made.add_input({**WRITTEN, "data_type": "TYPE_INT8"}), "TYPE_FP32"),
        ({}, lambda made: made.add_input({"name": "x", "dims": [3]}), "no 'data_type'"),
        ({}, lambda made: made.add_output({**WRITTEN, "optional": True}), "unknown key 'optional'"),
        ({"sequence_batching": {}}, lambda made: made.set_dynamic_batching(), "sequence_batching"),
        ({"model_transaction_policy": {"decoupled": True}}, lambda made: made.set_model_transaction_policy({}), "true"),
        ({}, lambda made: made.set_model_transaction_policy({"other": True}), "no key 'other'"),
    ],
)  # fmt: skip
def test_completion_does_not_contradict_what_is_written(values, completed, why):
    with pytest.raises(ValueError, match=why):
        completed(config(**values))

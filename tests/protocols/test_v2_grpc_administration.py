"""What Triton's, KServe's and AMD's clients ask beside inference over gRPC."""

import asyncio
import os
import uuid
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_kit import SERVICE, Talk, TensorService, serve
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.proto import reflection_pb2 as reflection
from mooring.core.buffers import HeapAllocator
from mooring.core.requests import InferenceResponse
from mooring.core.tensors import Tensor
from mooring.protocols.dialect import AMD
from mooring.protocols.kserve.shared_memory import SharedMemory


def talking(**how):
    @pytest.fixture
    async def fixture():
        service = TensorService()
        server = await serve(service, **how)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Talk(service, server, channel)
        await server.close()

    return fixture


talk = talking()
amd = talking(dialect=AMD)
guarded = talking(changes=False)


async def test_a_configuration_is_tritons(talk):
    config = (await talk.call("ModelConfig", pb.ModelConfigRequest(name="echo"))).config
    assert (config.name, config.platform, config.backend, config.max_batch_size) == (
        "echo", "onnxruntime_onnx", "onnxruntime", 8,
    )  # fmt: skip
    assert [(t.name, t.data_type, list(t.dims)) for t in config.input] == [
        ("x", pb.TYPE_FP32, [4]), ("t", pb.TYPE_STRING, [1]),
    ]  # fmt: skip
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [("y", pb.TYPE_BF16, [])]
    assert config.instance_group[0].count == 2
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    assert config.parameters["flag"].string_value == "true"
    assert (await talk.refused("ModelConfig", pb.ModelConfigRequest(name="nobody")))[0] == "NOT_FOUND"


async def test_statistics_are_tritons(talk):
    found = await talk.call("ModelStatistics", pb.ModelStatisticsRequest(name="echo"))
    assert [(stats.name, stats.version) for stats in found.model_stats] == [("echo", "1.0"), ("echo", "2.0")]
    stats = found.model_stats[0]
    assert (stats.inference_count, stats.execution_count, stats.last_inference) == (
        2**63 + 5,
        4,
        1_700_000_000_000,
    )
    assert (stats.inference_stats.success.count, stats.inference_stats.success.ns) == (3, 30)
    assert (stats.inference_stats.queue.ns, stats.inference_stats.compute_infer.ns) == (8, 32)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in stats.batch_stats] == [(2, 4)]
    assert len((await talk.call("ModelStatistics")).model_stats) == 3
    assert (await talk.refused("ModelStatistics", pb.ModelStatisticsRequest(name="nobody")))[0] == "NOT_FOUND"


async def test_the_index_has_what_is_loaded_and_what_could_be(talk):
    models = (await talk.call("RepositoryIndex")).models
    assert [(model.name, model.version, model.state) for model in models] == [
        ("echo", "1.0", "READY"), ("echo", "2.0", "READY"), ("sleepy", "1.0", "LOADING"), ("shelved", "", ""),
    ]  # fmt: skip
    ready = (await talk.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))).models
    assert [model.name for model in ready] == ["echo", "echo"]


async def test_a_load_takes_tritons_configuration_and_files(talk):
    message = pb.RepositoryModelLoadRequest(model_name="digits")
    message.parameters["config"].string_param = '{"max_batch_size": 4}'
    message.parameters["file:1/model.onnx"].bytes_param = b"\x00\xff"
    message.parameters["threads"].int64_param = 2
    answer = await talk.call("RepositoryModelLoad", message)
    assert (answer.model_name, answer.is_loaded) == ("digits", True)
    how = {
        "config": {"max_batch_size": 4},
        "files": {"1/model.onnx": b"\x00\xff"},
        "parameters": {"threads": 2},
    }
    assert talk.service.changes == [("load", "digits", "", how)]


async def test_the_first_field_names_kserves_model_and_tritons_repository(talk):
    await talk.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(repository_name="kserves"))
    both = pb.RepositoryModelLoadRequest(repository_name="store", model_name="tritons")
    await talk.call("RepositoryModelLoad", both)
    await talk.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(repository_name="kserves"))
    assert [change[:2] for change in talk.service.changes] == [
        ("load", "kserves"), ("load", "tritons"), ("unload", "kserves"),
    ]  # fmt: skip


async def test_a_load_that_cannot_be_says_why(talk):
    load = pb.RepositoryModelLoadRequest
    assert (await talk.refused("RepositoryModelLoad", load(model_name="nobody")))[0] == "NOT_FOUND"
    code, text = await talk.refused("RepositoryModelLoad", load(model_name="broken"))
    assert (code, text) == ("FAILED_PRECONDITION", "model 'broken' has no weights")
    message = load(model_name="digits")
    message.parameters["config"].string_param = "{"
    assert (await talk.refused("RepositoryModelLoad", message))[0] == "INVALID_ARGUMENT"
    del message.parameters["config"]
    message.parameters["odd"].bytes_param = b"x"
    assert (await talk.refused("RepositoryModelLoad", message))[0] == "INVALID_ARGUMENT"


async def test_a_load_goes_on_when_its_client_has_gone(talk):
    talk.service.held.clear()
    message = pb.RepositoryModelLoadRequest(model_name="digits")
    assert (await talk.refused("RepositoryModelLoad", message, timeout=0.1))[0] == "DEADLINE_EXCEEDED"
    talk.service.held.set()
    await asyncio.sleep(0.05)
    assert talk.service.changes


async def test_an_unload_may_take_dependents_along(talk):
    message = pb.RepositoryModelUnloadRequest(model_name="digits")
    message.parameters["unload_dependents"].bool_param = True
    assert (await talk.call("RepositoryModelUnload", message)).is_unloaded
    assert talk.service.changes == [("unload", "digits", "", {"dependents": True})]
    unknown = pb.RepositoryModelUnloadRequest(model_name="nobody")
    assert (await talk.refused("RepositoryModelUnload", unknown))[0] == "NOT_FOUND"


async def test_log_settings_are_shown_and_changed(talk):
    shown = (await talk.call("LogSettings")).settings
    assert shown["log_info"].bool_param
    assert shown["log_verbose_level"].uint32_param == 0
    assert shown["log_format"].string_param == "default"
    message = pb.LogSettingsRequest()
    message.settings["log_info"].bool_param = False
    assert not (await talk.call("LogSettings", message)).settings["log_info"].bool_param
    assert talk.service.administration.level == "warning"
    message.settings["log_info"].string_param = "no"
    assert (await talk.refused("LogSettings", message))[0] == "INVALID_ARGUMENT"


async def test_trace_settings_are_shown_changed_and_taken_back(talk):
    message = pb.TraceSettingRequest(model_name="echo")
    message.settings["trace_rate"].value.append("5")
    message.settings["trace_level"].value.append("TIMESTAMPS")
    settings = (await talk.call("TraceSetting", message)).settings
    assert (list(settings["trace_rate"].value), list(settings["trace_level"].value)) == (
        ["5"],
        ["TIMESTAMPS"],
    )
    assert list((await talk.call("TraceSetting")).settings["trace_rate"].value) == ["1000"]
    message.Clear()
    message.model_name = "echo"
    message.settings["trace_rate"].SetInParent()
    assert list((await talk.call("TraceSetting", message)).settings["trace_rate"].value) == ["1000"]
    assert (await talk.refused("TraceSetting", pb.TraceSettingRequest(model_name="nobody")))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="digits")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="digits")),
        ("ModelLoad", pb.ModelLoadRequest(name="digits")),
        ("ModelUnload", pb.ModelUnloadRequest(name="digits")),
        ("WorkerLoad", pb.WorkerLoadRequest(name="cplusplus")),
        ("WorkerUnload", pb.WorkerUnloadRequest(name="cplusplus")),
        ("LogSettings", pb.LogSettingsRequest(settings={"log_info": pb.LogSettingsRequest.SettingValue()})),
        (
            "TraceSetting",
            pb.TraceSettingRequest(settings={"trace_rate": pb.TraceSettingRequest.SettingValue()}),
        ),
    ],
)
async def test_where_changes_are_not_allowed_they_are_refused(guarded, method, message):
    code, text = await guarded.refused(method, message)
    assert code == "PERMISSION_DENIED"
    assert "insecure" in text
    assert not guarded.service.changes


async def test_where_changes_are_not_allowed_looking_is(guarded):
    assert (await guarded.call("LogSettings")).settings
    assert (await guarded.call("TraceSetting")).settings
    assert (await guarded.call("ModelList")).models


async def test_amds_models_are_loaded_listed_and_unloaded(talk):
    assert list((await talk.call("ModelList")).models) == ["echo"]
    message = pb.ModelLoadRequest(name="ECHO", version="1")
    message.parameters["batch_size"].int64_param = 4
    message.parameters["share"].bool_param = False
    await talk.call("ModelLoad", message)
    await talk.call("ModelUnload", pb.ModelUnloadRequest(name="echo"))
    await talk.call("ModelUnload", pb.ModelUnloadRequest(name="nobody"))
    assert talk.service.changes[0] == ("load", "echo", "1", {"parameters": {"batch_size": 4, "share": False}})
    assert [change[:2] for change in talk.service.changes[1:]] == [("unload", "echo"), ("unload", "nobody")]
    assert (await talk.refused("ModelLoad", pb.ModelLoadRequest(name="nobody")))[0] == "NOT_FOUND"


async def test_amds_workers_are_loaded_by_kind(talk):
    message = pb.WorkerLoadRequest(name="CPlusPlus")
    message.parameters["model"].string_param = "echo"
    assert (await talk.call("WorkerLoad", message)).endpoint == "cplusplus-0"
    await talk.call("WorkerUnload", pb.WorkerUnloadRequest(name="cplusplus-0"))
    await talk.call("WorkerUnload", pb.WorkerUnloadRequest(name="nobody"))
    assert talk.service.changes[0] == ("load_worker", "cplusplus", {"parameters": {"model": "echo"}})
    assert talk.service.changes[1][:2] == ("unload_worker", "cplusplus-0")


@pytest.mark.parametrize(
    ("name", "number", "found"),
    [("CPU", 4, True), ("CPU", 0, True), ("CPU", 5, False), ("MI300X", 2, True), ("DPUCADF8H", 1, False)],
)
async def test_hardware_is_there_or_not(talk, name, number, found):
    assert (await talk.call("HasHardware", pb.HasHardwareRequest(name=name, num=number))).found is found


async def test_amds_dialect_has_its_words_and_shapes(amd):
    assert (await amd.call("ServerMetadata")).name == "amdinfer"
    asked = pb.ModelMetadataRequest(name="nobody")
    assert await amd.refused("ModelMetadata", asked) == ("NOT_FOUND", "Worker nobody not found")
    await amd.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="nobody"))
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="BYTES", shape=[5]).contents.bytes_contents.append(b"hello")
    answer = await amd.call("ModelInfer", message)
    assert answer.model_version == ""
    assert list(answer.outputs[0].shape) == [5]
    assert list(answer.outputs[0].contents.bytes_contents) == [b"hello"]


async def test_amds_halves_come_and_go_as_floats(amd):
    message = pb.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="FP16", shape=[2]).contents.fp32_contents.extend([0.5, 2])
    answer = await amd.call("ModelInfer", message)
    assert amd.service.requests[0].inputs[0].array().dtype == np.float16
    assert list(answer.outputs[0].contents.fp32_contents) == [0.5, 2.0]


@pytest.fixture
def region():
    """A shared memory object of 64 bytes, and its key."""
    key = f"mooring-test-{uuid.uuid4().hex}"
    path = Path("/dev/shm", key)
    if not path.parent.is_dir():
        pytest.skip("this system has no /dev/shm")
    path.write_bytes(bytes(64))
    yield path, f"/{key}"
    path.unlink()


def placed(message, size, offset=0):
    message.parameters["shared_memory_region"].string_param = "r"
    message.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        message.parameters["shared_memory_offset"].int64_param = offset


@pytest.fixture
async def sharing():
    memory = SharedMemory(HeapAllocator())
    service = TensorService()
    server = await serve(service, memory=memory)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Talk(service, server, channel)
    await server.close()
    memory.unregister()


async def test_tensors_come_from_shared_memory_and_go_there(sharing, region):
    path, key = region
    register = pb.SystemSharedMemoryRegisterRequest(name="r", key=key, offset=8, byte_size=32)
    await sharing.call("SystemSharedMemoryRegister", register)
    (found,) = (await sharing.call("SystemSharedMemoryStatus")).regions.values()
    assert (found.name, found.key, found.offset, found.byte_size) == ("r", key, 8, 32)
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\x01\x02\x03\x04", 8 + 4)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 16}
    sharing.service.answer = lambda request: [
        InferenceResponse([Tensor("y", "UINT8", [4], request.inputs[0].data, dict(place))])
    ]
    message = pb.ModelInferRequest(model_name="echo")
    placed(message.inputs.add(name="x", datatype="UINT8", shape=[4]), 4, 4)
    answer = await sharing.call("ModelInfer", message)
    assert not answer.raw_output_contents
    assert not answer.outputs[0].parameters
    assert path.read_bytes()[24:28] == b"\x01\x02\x03\x04"
    await sharing.call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name="r"))
    assert (await sharing.refused("ModelInfer", message))[0] == "INVALID_ARGUMENT"


async def test_an_answer_that_does_not_fit_its_place_is_the_callers_fault(sharing, region):
    _, key = region
    register = pb.SystemSharedMemoryRegisterRequest(name="r", key=key, byte_size=32)
    await sharing.call("SystemSharedMemoryRegister", register)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 1}
    sharing.service.answer = lambda _request: [
        InferenceResponse([Tensor("y", "UINT8", [4], b"abcd", dict(place))])
    ]
    message = pb.ModelInferRequest(model_name="echo", raw_input_contents=[b"x"])
    message.inputs.add(name="x", datatype="UINT8", shape=[1])
    assert (await sharing.refused("ModelInfer", message))[0] == "INVALID_ARGUMENT"


async def test_regions_that_are_not_there_have_their_statuses(sharing):
    status = pb.SystemSharedMemoryStatusRequest(name="r")
    code, text = await sharing.refused("SystemSharedMemoryStatus", status)
    assert (code, text) == ("NOT_FOUND", "shared memory region 'r' is not registered")
    missing = pb.SystemSharedMemoryRegisterRequest(name="r", key="/mooring-none", byte_size=8)
    assert (await sharing.refused("SystemSharedMemoryRegister", missing))[0] == "INVALID_ARGUMENT"


async def test_shared_memory_that_is_off_is_unimplemented(talk):
    assert (await talk.refused("SystemSharedMemoryStatus"))[0] == "UNIMPLEMENTED"


async def test_a_gpus_shared_memory_is_as_where_there_is_none(talk):
    status = await talk.call("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest())
    assert not status.regions
    await talk.call("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="r"))
    code, text = await talk.refused("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="r"))
    assert (code, text) == ("NOT_FOUND", "Unable to find cuda shared memory region: 'r'")
    new = pb.CudaSharedMemoryRegisterRequest(name="r", raw_handle=b"h", byte_size=8)
    code, text = await talk.refused("CudaSharedMemoryRegister", new)
    assert code == "INVALID_ARGUMENT"
    assert text == "failed to register CUDA shared memory region: 'r', GPUs not supported"


async def test_the_librarys_reflection_client_learns_every_service(talk):
    def ask():
        with grpc.insecure_channel(talk.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            services = set(database.get_services())
            methods = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name
            alias = pool.FindServiceByName("org.pytorch.serve.grpc.openinference.GRPCInferenceService")
            message = pool.FindMessageTypeByName("inference.ModelInferRequest")
            with pytest.raises(KeyError):
                pool.FindMessageTypeByName("inference.Nothing")
            return (
                services,
                set(methods),
                alias.methods[0].input_type.full_name,
                message.fields_by_name["id"].number,
            )

    services, methods, alias, number = await asyncio.to_thread(ask)
    assert {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} < services
    assert {"ModelStreamInfer", "HasHardware", "TraceSetting"} < methods
    assert (alias, number) == ("inference.ServerLiveRequest", 3)


async def test_every_method_that_reflection_lists_is_served(talk):
    service = pb.ModelInferRequest.DESCRIPTOR.file.services_by_name["GRPCInferenceService"]
    for name in service.methods_by_name:
        said = ""
        try:
            await talk.channel.unary_unary(SERVICE + name)(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            said = error.details()
        assert said != "Method not found!", name


async def test_reflection_answers_under_its_new_name_too(talk):
    call = talk.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
    asked = reflection.ServerReflectionRequest(host="h", file_by_filename="inference.proto")
    await call.write(asked.SerializeToString())
    answer = reflection.ServerReflectionResponse.FromString(await call.read())
    assert (answer.valid_host, answer.original_request) == ("h", asked)
    (file,) = answer.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == "inference"
    await call.write(
        reflection.ServerReflectionRequest(all_extension_numbers_of_type="x").SerializeToString()
    )
    answer = reflection.ServerReflectionResponse.FromString(await call.read())
    assert answer.error_response.error_code == grpc.StatusCode.UNIMPLEMENTED.value[0]
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


async def test_a_client_that_asks_no_more_does_not_hold_up_the_end(talk):
    call = talk.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")()
    await call.write(reflection.ServerReflectionRequest(list_services="*").SerializeToString())
    await call.read()
    await asyncio.wait_for(talk.server.drain(30), 5)
    assert await call.code() is grpc.StatusCode.OK

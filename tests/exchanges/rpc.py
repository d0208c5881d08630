"""gRPC: KServe's service with its extensions, TorchServe's two services, health and reflection, byte for byte."""

from exchanges.asks import (
    KSERVE,
    administer,
    floats,
    infer_request,
    message,
    predictions,
    rpc,
    serve,
)
from exchanges.kserve import REGION, texts
from exchanges.player import Call

X = ("x", "FP32", [1, 3], {"fp32_contents": [1, 2, 3]})
FACTOR = ("factor", "FP32", [1], {"fp32_contents": [2]})
TYPED = {
    "BOOL": ("bool_contents", [True, False]), "UINT8": ("uint_contents", [0, 255]), "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 4294967295]), "UINT64": ("uint64_contents", [0, 18446744073709551615]),
    "INT8": ("int_contents", [-128, 127]), "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-2147483648, 2147483647]), "INT64": ("int64_contents", [-9223372036854775808, 7]),
    "FP32": ("fp32_contents", [0.5, -2]), "FP64": ("fp64_contents", [0.1, 1e308]), "BYTES": ("bytes_contents", [b"text", b"\xff\x00"]),
}  # fmt: skip
RAW = {
    "BOOL": b"\x00\x01", "UINT8": b"\x00\xff", "INT16": b"\x01\x80\xff\x7f", "FP16": b"\x00\x3c\x00\xc0", "FP32": floats(0.5, -2),
    "FP64": b"\0" * 16, "INT64": b"\xff" * 16, "BYTES": texts(b"text", b"\xff\x00"),
}  # fmt: skip


def ask(name: str, *inputs: tuple, model: str = "sums", **more) -> Call:
    return rpc(f"rpc: {name}", "ModelInfer", infer_request(model, *inputs, **more))


def stream(name: str, *messages: bytes, **metadata: str) -> Call:
    return rpc(f"rpc stream: {name}", "ModelStreamInfer", *messages, stream=True, **metadata)


def n(count: int, **parameters) -> bytes:
    return infer_request("steps", ("n", "INT32", [1], {"int_contents": [count]}), parameters=parameters)


def x(*numbers: float) -> tuple:
    return ("x", "FP32", [len(numbers)], {"fp32_contents": numbers})


SERVER = [
    rpc("rpc: live", "ServerLive"),
    rpc("rpc: ready", "ServerReady"),
    rpc("rpc: the server's metadata", "ServerMetadata"),
    rpc("rpc: a model is ready", "ModelReady", message(_1="sums")),
    rpc("rpc: a version is ready", "ModelReady", message(_1="sums", _2="1")),
    rpc("rpc: a version that is not there is ready", "ModelReady", message(_1="sums", _2="9")),
    rpc("rpc: an unknown model is ready", "ModelReady", message(_1="nobody")),
    rpc("rpc: no model is ready", "ModelReady"),
    *(rpc(f"rpc: metadata of {model}", "ModelMetadata", message(_1=model)) for model in ("sums", "mirror", "rows", "affine", "labeled", "twice", "nobody")),
    rpc("rpc: metadata of a version", "ModelMetadata", message(_1="versions", _2="1")),
    rpc("rpc: metadata of an unknown version", "ModelMetadata", message(_1="versions", _2="9")),
    *(rpc(f"rpc: configuration of {model}", "ModelConfig", message(_1=model)) for model in ("sums", "kept", "twice", "rows", "nobody")),
    rpc("rpc: statistics of a model", "ModelStatistics", message(_1="typed")),
    rpc("rpc: statistics of an unknown model", "ModelStatistics", message(_1="nobody")),
    rpc("rpc: the index", "RepositoryIndex"),
    rpc("rpc: the index of what is ready", "RepositoryIndex", message(_2=1)),
    rpc("rpc: a model is unloaded", "RepositoryModelUnload", message(_2="negative")),
    rpc("rpc: an unloaded model is asked", "ModelInfer", infer_request("negative", ("image", "UINT8", [1, 1, 3]), raw=[b"abc"])),
    rpc("rpc: a model is loaded", "RepositoryModelLoad", message(_2="negative")),
    rpc("rpc: a loaded model is asked", "ModelInfer", infer_request("negative", ("image", "UINT8", [1, 1, 3]), raw=[b"abc"])),
    rpc("rpc: an unknown model is loaded", "RepositoryModelLoad", message(_2="nobody")),
    rpc("rpc: an unknown model is unloaded", "RepositoryModelUnload", message(_2="nobody")),
    rpc("rpc: a broken model is loaded", "RepositoryModelLoad", message(_2="broken")),
    rpc("rpc: no shared memory", "SystemSharedMemoryStatus"),
    rpc("rpc: shared memory is registered", "SystemSharedMemoryRegister", message(_1="rpc", _2=f"/{REGION}", _4=64)),
    rpc("rpc: shared memory that is not there is registered", "SystemSharedMemoryRegister", message(_1="none", _2="/no_such_region", _4=64)),
    rpc("rpc: shared memory", "SystemSharedMemoryStatus"),
    ask("an input from shared memory", ("x", "FP32", [4], {"parameters": {"shared_memory_region": "rpc", "shared_memory_byte_size": 16}}), model="mirror"),
    ask("an input from unknown shared memory", ("x", "FP32", [4], {"parameters": {"shared_memory_region": "none", "shared_memory_byte_size": 16}}), model="mirror"),
    rpc("rpc: shared memory is unregistered", "SystemSharedMemoryUnregister", message(_1="rpc")),
    rpc("rpc: CUDA's shared memory", "CudaSharedMemoryStatus"),
    rpc("rpc: the log's settings", "LogSettings"),
    rpc("rpc: the log's settings are changed badly", "LogSettings", message(_1=message(_1="nothing", _2=message(_3="x")))),
    rpc("rpc: the traces' settings", "TraceSetting"),
    rpc("rpc: the traces' settings of an unknown model", "TraceSetting", message(_2="nobody")),
    rpc("rpc: AMD's list of models", "ModelList"),
    rpc("rpc: AMD's question for hardware", "HasHardware", message(_1="CPU", _2=1)),
    rpc("rpc: AMD's load of an unknown worker", "WorkerLoad", message(_1="nothing")),
    rpc("rpc: an unknown method", "Nothing"),
    Call("rpc: an unknown service", "/nothing.Service/Nothing"),
    Call("rpc: a path that is none", "/nothing"),
    rpc("rpc: what is no message", "ModelReady", b"\xff\xff"),
    rpc("rpc: a name that is no UTF-8", "ModelReady", message(_1=b"\xff")),
    rpc("rpc: an unknown field", "ModelReady", message(_1="sums", _99="later")),
]  # fmt: skip
TENSORS = [
    ask("an inference", X, FACTOR),
    ask("the same again", X, FACTOR),
    ask("an inference with an id", X, FACTOR, id="mine"),
    ask("an inference of a version", X, FACTOR, model_version="1"),
    ask("an inference of an unknown version", X, FACTOR, model_version="9"),
    ask("an inference of an unknown model", X, model="nobody"),
    ask("raw contents", ("x", "FP32", [1, 3]), ("factor", "FP32", [1]), raw=[floats(1, 2, 3), floats(2)]),
    ask("raw contents of too few inputs", ("x", "FP32", [1, 3]), ("factor", "FP32", [1]), raw=[floats(1, 2, 3)]),
    ask("raw contents of too many inputs", ("x", "FP32", [1, 3]), raw=[floats(1, 2, 3), floats(2)]),
    ask("raw contents of a wrong size", ("x", "FP32", [1, 3]), ("factor", "FP32", [1]), raw=[floats(1, 2), floats(2)]),
    ask("raw contents and typed ones", X, ("factor", "FP32", [1]), raw=[floats(1, 2, 3), floats(2)]),
    ask("typed contents of another kind", ("x", "FP32", [1, 3], {"int_contents": [1, 2, 3]}), FACTOR),
    ask("typed contents of a wrong number", ("x", "FP32", [1, 3], {"fp32_contents": [1, 2]}), FACTOR),
    ask("no contents", ("x", "FP32", [1, 3]), FACTOR),
    ask("no inputs"),
    ask("an input too few", X),
    ask("an input too many", X, FACTOR, ("z", "FP32", [1], {"fp32_contents": [1]})),
    ask("an input of another datatype", ("x", "INT32", [1, 3], {"int_contents": [1, 2, 3]}), FACTOR),
    ask("an unknown datatype", ("x", "FP8", [1, 3], {"fp32_contents": [1, 2, 3]}), FACTOR),
    ask("an input of another shape", ("x", "FP32", [3, 1], {"fp32_contents": [1, 2, 3]}), FACTOR),
    ask("a negative shape", ("x", "FP32", [-1, 3], {"fp32_contents": [1, 2, 3]}), FACTOR),
    ask("an input without a name", ("", "FP32", [1, 3], {"fp32_contents": [1, 2, 3]}), FACTOR),
    ask("an input that is there twice", X, X, FACTOR),
    ask("one output", X, FACTOR, outputs=["peak"]),
    ask("an unknown output", X, FACTOR, outputs=["nothing"]),
    ask("classes", ("x", "FP32", [1, 3], {"fp32_contents": [1, 3, 2]}), model="labeled", outputs=[("scores", {"classification": 2})]),
    ask("a model that raises", ("x", "FP32", [1, 3], {"fp32_contents": [-1, 2, 3]}), FACTOR),
    ask("parameters for the model", x(1), model="told", parameters={"a": 1, "b": "two", "c": True, "d": 0.5}),
    ask("a timeout that passes", ("seconds", "FP64", [1], {"fp64_contents": [0.3]}), model="slow", parameters={"timeout": 50000}),
    ask("a chain", x(1, 2), model="twice"),
    ask("a chain whose second model raises", x(1, 2000), model="twice"),
    ask("an ONNX file", ("x", "FP32", [1, 2], {"fp32_contents": [1, 2]}), model="affine"),
    ask("a handler", ("body", "BYTES", [1], {"bytes_contents": [b"one"]}), model="rows"),
    ask("a handler that refuses", ("body", "BYTES", [1], {"bytes_contents": [b"refuse 429"]}), model="answers"),
    ask("a handler that is out of memory", ("body", "BYTES", [1], {"bytes_contents": [b"memory"]}), model="answers"),
    ask("a model that streams", ("n", "INT32", [1], {"int_contents": [3]}), model="steps"),
    ask("a sequence begins", x(1), model="kept", parameters={"sequence_id": 7, "sequence_start": True}),
    ask("a sequence ends", x(2), model="kept", parameters={"sequence_id": 7, "sequence_end": True}),
    ask("a sequence that has not begun", x(2), model="kept", parameters={"sequence_id": 7}),
    ask("a large tensor", ("x", "FP32", [50000]), raw=[floats(*range(50000))], model="mirror"),
    *(ask(f"{kind} as typed contents", ("x", kind, [2], {field: values}), model="mirror") for kind, (field, values) in TYPED.items()),
    *(ask(f"{kind} as raw contents", ("x", kind, [2]), model="mirror", raw=[data]) for kind, data in RAW.items()),
    rpc("rpc: an inference that is no message", "ModelInfer", b"\x0a\xff"),
    rpc("rpc: an inference of nothing", "ModelInfer"),
]  # fmt: skip
SUMS = infer_request("sums", X, FACTOR)
STREAMS = [
    stream("one request", SUMS),
    stream("two requests", SUMS, infer_request("sums", X, FACTOR, id="two")),
    stream("no request"),
    stream("a request of nothing", b""),
    stream("three answers", n(3)),
    stream("three answers and their end", n(3, triton_enable_empty_final_response=True)),
    stream("no answer", n(0)),
    stream("no answer and its end", n(0, triton_enable_empty_final_response=True)),
    stream("answers and a failure", n(3, fails=1)),
    stream("an unknown model", infer_request("nobody", X)),
    stream("a bad request and a good one", infer_request("sums", X), SUMS),
    stream("an error that ends it", infer_request("sums", X), SUMS, triton_grpc_error="true"),
    stream("a sequence", *(infer_request("kept", x(each), parameters={"sequence_id": 9, "sequence_start": each == 1, "sequence_end": each == 3}) for each in (1, 2, 3))),
    stream("what is no message", b"\x0a\xff"),
]  # fmt: skip
HEALTH, REFLECTION = "/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/"


def reflect(name: str, question: bytes, service: str = REFLECTION) -> Call:
    return Call(f"reflection: {name}", f"{service}ServerReflectionInfo", [question], streaming=True)


OTHERS = [
    Call("health: the server", f"{HEALTH}Check", [b""]),
    Call("health: KServe's service", f"{HEALTH}Check", [message(_1="inference.GRPCInferenceService")]),
    Call("health: an unknown service", f"{HEALTH}Check", [message(_1="nothing")]),
    reflect("services", message(_7="")),
    reflect("services, the old way", message(_7=""), REFLECTION.replace("v1", "v1alpha")),
    reflect("a file", message(_3="health.proto")),
    reflect("a symbol", message(_4="grpc.health.v1.Health")),
    reflect("a symbol of KServe", message(_4="inference.GRPCInferenceService")),
    reflect("an unknown symbol", message(_4="nothing")),
    reflect("an unknown file", message(_3="nothing.proto")),
    reflect("nothing", b""),
    serve("torchserve rpc: ping", "Ping"),
    serve("torchserve rpc: a prediction", "Predictions", predictions("rows", data=b"one", other=b"\xff")),
    serve("torchserve rpc: a prediction of a version", "Predictions", predictions("rows", "1.0", data=b"one")),
    serve("torchserve rpc: a prediction of an unknown version", "Predictions", predictions("rows", "9.9", data=b"one")),
    serve("torchserve rpc: a prediction of an unknown model", "Predictions", predictions("nobody", data=b"one")),
    serve("torchserve rpc: a prediction of no model", "Predictions"),
    serve("torchserve rpc: a prediction without input", "Predictions", predictions("rows")),
    serve("torchserve rpc: what a handler knows of metadata", "Predictions", predictions("rows", data=b"x"), show="headers", own="a"),
    *(serve(f"torchserve rpc: a handler that answers with {item}", "Predictions", predictions("answers", body=item.encode()))
      for item in ("bytes", "dict", "list", "none", "empty", "raise", "memory", "refuse", "refuse 400", "refuse 429", "set", "too few", "head status", "stream")),
    serve("torchserve rpc: a stream", "StreamPredictions", predictions("answers", body=b"stream")),
    serve("torchserve rpc: a stream of one", "StreamPredictions", predictions("answers", body=b"int")),
    serve("torchserve rpc: a stream that breaks off", "StreamPredictions", predictions("answers", body=b"stream break")),
    serve("torchserve rpc: a stream of an unknown model", "StreamPredictions", predictions("nobody", body=b"x")),
    serve("torchserve rpc: words under continuous batching", "StreamPredictions", predictions("talking", text=b"one two three")),
    serve("torchserve rpc: a sequence in both directions", "StreamPredictions2", *(predictions("tally", sequence="r1", data=each) for each in (b"1", b"2", b"3")), stream=True),
    serve("torchserve rpc: both directions and an unknown model", "StreamPredictions2", predictions("nobody", sequence="r1", data=b"1"), stream=True),
    serve("torchserve rpc: a tensor model", "Predictions", predictions("scale", x=b"[[1, 2]]")),
    serve("torchserve rpc: an unknown method", "Nothing"),
    administer("management rpc: models are listed", "ListModels", _1=2),
    administer("management rpc: models are listed from a page on", "ListModels", _1=2, _2=2),
    administer("management rpc: a model is described", "DescribeModel", _1="rows"),
    administer("management rpc: a model is described by itself", "DescribeModel", _1="described", _3=1),
    administer("management rpc: an unknown model is described", "DescribeModel", _1="nobody"),
    administer("management rpc: an unknown version is described", "DescribeModel", _1="rows", _2="9.9"),
    administer("management rpc: a model is registered", "RegisterModel", _3=1, _8=1, _9="talker-1.0.mar"),
    administer("management rpc: a model is registered again", "RegisterModel", _3=1, _8=1, _9="talker-1.0.mar"),
    administer("management rpc: another version is registered", "RegisterModel", _3=1, _8=1, _9="talker-2.0.mar"),
    administer("management rpc: an archive that is not there is registered", "RegisterModel", _9="nope.mar"),
    administer("management rpc: an archive that is broken is registered", "RegisterModel", _3=1, _8=1, _9="broken-archive.mar"),
    administer("management rpc: nothing is registered", "RegisterModel"),
    administer("management rpc: a model is scaled", "ScaleWorker", _1="talker", _2="1.0", _3=2, _4=2, _6=1),
    administer("management rpc: an unknown model is scaled", "ScaleWorker", _1="nobody", _4=1),
    administer("management rpc: the default is set", "SetDefault", _1="talker", _2="2.0"),
    administer("management rpc: an unknown default is set", "SetDefault", _1="talker", _2="9.9"),
    administer("management rpc: a version is unregistered", "UnregisterModel", _1="talker", _2="1.0"),
    administer("management rpc: the model is unregistered", "UnregisterModel", _1="talker"),
    administer("management rpc: an unknown model is unregistered", "UnregisterModel", _1="talker"),
    Call("management rpc: at the inference address", "/org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels"),
    Call("rpc: an inference at the management address", f"{KSERVE}ServerLive", port="grpc management"),
]  # fmt: skip
EXCHANGES: list[Call] = [*SERVER, *TENSORS, *STREAMS, *OTHERS]

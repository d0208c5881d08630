"""How exchanges are written down: short words for requests over HTTP and calls over gRPC."""

import json
import struct
from collections.abc import Sequence

from e2e_kit import request
from exchanges.player import Call, Http
from tritonclient.grpc import service_pb2 as pb

JSON = "Content-Type: application/json"
KSERVE = "/inference.GRPCInferenceService/"
INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"


def ask(
    name: str, line: str, body: bytes | str = b"", *headers: str, port: str = "inference", version="1.1"
) -> Http:
    """One request; ``line`` is its method and target."""
    method, _, target = line.partition(" ")
    data = body.encode() if isinstance(body, str) else body
    return Http(name, port, [request(method, target, data, *headers, version=version)])


def manage(name: str, line: str, body: bytes | str = b"", *headers: str) -> Http:
    """One request to the management API."""
    return ask(name, line, body, *headers, port="management")


def post(name: str, target: str, document: object, *headers: str, port: str = "inference") -> Http:
    """A JSON document."""
    return ask(name, f"POST {target}", json.dumps(document), JSON, *headers, port=port)


def tensor(name: str, datatype: str, shape: Sequence[int], data: object, **parameters: object) -> dict:
    """An input of a v2 request as JSON."""
    entry = {"name": name, "datatype": datatype, "shape": list(shape), "data": data}
    return entry | ({"parameters": parameters} if parameters else {})


def infer(name: str, model: str, *inputs: dict, **more: object) -> Http:
    """A v2 request as JSON."""
    return post(name, f"/v2/models/{model}/infer", {"inputs": list(inputs)} | more)


def binary(name: str, model: str, document: dict, *payloads: bytes, length: int | None = None) -> Http:
    """A v2 request with binary data behind its JSON."""
    text = json.dumps(document).encode()
    header = f"Inference-Header-Content-Length: {len(text) if length is None else length}"
    return ask(
        name, f"POST /v2/models/{model}/infer", text + b"".join(payloads), "Content-Type: application/octet-stream", header
    )  # fmt: skip


def floats(*numbers: float) -> bytes:
    """FP32 as it is on the wire."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A multipart form with the boundary ``cut``: name, further attributes, content."""
    text = b"".join(
        f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"
        for name, more, content in parts
    )
    return text + b"--cut--\r\n"


def message(**fields: object) -> bytes:
    """A protobuf message from fields by number, ``_1="text"``: texts, bytes, messages, numbers, lists of these."""
    return b"".join(_field(int(number[1:]), value) for number, value in fields.items())


def _field(number: int, value: object) -> bytes:
    if isinstance(value, list):
        return b"".join(_field(number, each) for each in value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value % 2**64)
    data = value.encode() if isinstance(value, str) else value
    assert isinstance(data, bytes)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def rpc(name: str, method: str, *messages: bytes, stream: bool = False, **metadata: str) -> Call:
    """A call of KServe's service."""
    return Call(
        name, KSERVE + method, messages if stream else messages or (b"",), stream, list(metadata.items())
    )


def serve(name: str, method: str, *messages: bytes, stream: bool = False, **metadata: str) -> Call:
    """A call of TorchServe's inference service."""
    return Call(name, INFERENCE + method, messages or (b"",), stream, list(metadata.items()))


def administer(name: str, method: str, **fields: object) -> Call:
    """A call of TorchServe's management service."""
    return Call(name, MANAGEMENT + method, (message(**fields),), port="grpc management")


def predictions(model: str, version: str = "", sequence: str | None = None, **fields: bytes) -> bytes:
    """TorchServe's PredictionsRequest."""
    rows = [message(_1=key, _2=value) for key, value in fields.items()]
    more = {} if sequence is None else {"_4": sequence}
    return message(_1=model, **({"_2": version} if version else {}), _3=rows, **more)


def infer_request(
    model: str, *inputs: tuple, outputs: Sequence = (), raw: Sequence[bytes] = (), **more
) -> bytes:
    """KServe's ModelInferRequest; an input is name, datatype, shape and contents by field, ``{"fp32_contents": [1]}``."""
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=raw)
    for key, value in more.pop("parameters", {}).items():
        _set(asked.parameters[key], value)
    for key, value in more.items():
        setattr(asked, key, value)
    for name, datatype, shape, *rest in inputs:
        entry = asked.inputs.add(name=name, datatype=datatype, shape=shape)
        for contents in rest:
            for field, values in contents.items():
                if field == "parameters":
                    for key, value in values.items():
                        _set(entry.parameters[key], value)
                else:
                    getattr(entry.contents, field).extend(values)
    for output in outputs:
        name, parameters = output if isinstance(output, tuple) else (output, {})
        entry = asked.outputs.add(name=name)
        for key, value in parameters.items():
            _set(entry.parameters[key], value)
    return asked.SerializeToString(deterministic=True)


def _set(parameter: pb.InferParameter, value: object) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(parameter, kinds[type(value)], value)

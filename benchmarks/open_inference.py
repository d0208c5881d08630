"""Requests and answers of the Open Inference Protocol with one tensor (FP32 by default), written without our codecs."""

import json
import struct
from collections.abc import Sequence

from mooring.codecs.proto import inference_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"


def json_body(name: str, shape: Sequence[int], raw: bytes) -> bytes:
    """Return a JSON request with the elements of an FP32 tensor as a flat list."""
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    entry = {"name": name, "datatype": "FP32", "shape": shape, "data": values}
    return json.dumps({"inputs": [entry]}, separators=(",", ":")).encode()


def binary_body(
    name: str, shape: Sequence[int], raw: bytes, *, datatype: str = "FP32", output: str = ""
) -> tuple[bytes, int]:
    """Return a request with binary data after the JSON, and the size of the JSON. It asks for binary outputs (``output``, or all)."""
    parameters = {"binary_data_size": len(raw)}
    entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
    document: dict[str, object] = {"inputs": [entry]}
    if output:
        document["outputs"] = [{"name": output, "parameters": {"binary_data": True}}]
    else:
        document["parameters"] = {"binary_data_output": True}
    text = json.dumps(document, separators=(",", ":")).encode()
    return text + raw, len(text)


def message(model: str, name: str, shape: Sequence[int], raw: bytes, *, datatype: str = "FP32") -> bytes:
    """Return a ModelInferRequest with raw contents."""
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw])
    return bytes(request.SerializeToString())


def from_json(answer: bytes) -> bytes:
    """Return the elements of the only output of a JSON answer, as FP32 bytes."""
    (output,) = json.loads(answer)["outputs"]
    return struct.pack(f"<{len(output['data'])}f", *output["data"])


def from_binary(answer: bytes) -> bytes:
    """Return the bytes of the only output after the JSON; empty where their number is wrong."""
    document, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    (output,) = document["outputs"]
    raw = answer[end:]
    return raw if len(raw) == output["parameters"]["binary_data_size"] else b""


def from_message(answer: bytes) -> bytes:
    """Return the raw contents of the only output of a ModelInferResponse."""
    (raw,) = pb.ModelInferResponse.FromString(answer).raw_output_contents
    return bytes(raw)

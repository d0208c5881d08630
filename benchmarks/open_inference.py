"""One tensor (of FP32 where nothing else is said) as the Open Inference Protocol sends it, and what is in an answer: by its definition, not our codecs."""

import json
import struct
from collections.abc import Sequence

from mooring.codecs.proto import inference_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"


def json_body(name: str, shape: Sequence[int], raw: bytes) -> bytes:
    """Its elements as a flat list, with the digits that Python gives a float32."""
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    entry = {"name": name, "datatype": "FP32", "shape": shape, "data": values}
    return json.dumps({"inputs": [entry]}, separators=(",", ":")).encode()


def binary_body(
    name: str, shape: Sequence[int], raw: bytes, *, datatype: str = "FP32", output: str = ""
) -> tuple[bytes, int]:
    """Its elements behind the JSON, which asks for a binary answer (of ``output``, or of all); and the JSON's size."""
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
    """A ModelInferRequest with raw contents."""
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    request = pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw])
    return bytes(request.SerializeToString())


def from_json(answer: bytes) -> bytes:
    """The elements of an answer's only output, in JSON."""
    (output,) = json.loads(answer)["outputs"]
    return struct.pack(f"<{len(output['data'])}f", *output["data"])


def from_binary(answer: bytes) -> bytes:
    """Those that stand behind the JSON of an answer."""
    document, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    (output,) = document["outputs"]
    raw = answer[end:]
    return raw if len(raw) == output["parameters"]["binary_data_size"] else b""


def from_message(answer: bytes) -> bytes:
    """Those of a ModelInferResponse."""
    (raw,) = pb.ModelInferResponse.FromString(answer).raw_output_contents
    return bytes(raw)

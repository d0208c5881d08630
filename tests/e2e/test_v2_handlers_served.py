"""TorchServe's documented v2 requests to an image handler: pixels, base64 texts, explanations, with and without its envelope."""

import base64
import io
import json

import grpc
import pytest
from e2e_kit import JSON, Server, free_ports
from PIL import Image
from stream_kit import folder

from mooring.codecs.proto import inference_pb2 as pb

HANDLER = """
import torch
from ts.torch_handler.vision_handler import VisionHandler

def brightness(images):
    bright = images.mean((1, 2, 3))
    return torch.stack([1 - bright, bright], dim=1)

def to_pixels(image):
    return torch.tensor(list(image.convert("L").tobytes()), dtype=torch.float32).reshape(1, 4, 4) / 255

class Bright(VisionHandler):
    image_processing = staticmethod(to_pixels)

    def initialize(self, context):
        self.context, self.device, self.model = context, "cpu", brightness
        self.initialized = True

    def postprocess(self, data):
        return data.argmax(1).tolist()
"""
RPC = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module", params=["", "kservev2"])
def server(request, tmp_path_factory):
    model = folder(tmp_path_factory.mktemp("models"), "bright", HANDLER)
    (port,) = free_ports(1)
    flags = ["--service-envelope", request.param] if request.param else []
    server = Server(tmp_path_factory.mktemp("server"), model, f"--grpc-address=127.0.0.1:{port}", *flags)
    server.grpc, server.envelope = f"127.0.0.1:{port}", request.param
    try:
        yield server.started()
    finally:
        server.kill()


def image_text(shade):
    """The base64 of an image of 4 by 4 pixels."""
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def ask(server, call, data, datatype, shape, **members):
    tensor = {"name": "input-0", "shape": shape, "datatype": datatype, "data": data}
    answer = server.ask(
        "POST",
        f"/v2/models/bright{call}",
        json.dumps({"inputs": [tensor], **members}).encode(),
        f"Content-Type: {JSON}",
    )
    assert answer.code == 200, answer
    return answer.json()


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "found"),
    [
        ([[[1] * 4] * 4], "FP32", [1, 4, 4], 1),
        ([0] * 16, "FP32", [1, 4, 4], 0),
        ([image_text(255)], "BYTES", [1], 1),
        ([image_text(0)], "BYTES", [-1], 0),
    ],
)
def test_an_input_of_any_name_is_what_the_handler_reads(server, data, datatype, shape, found):
    answer = ask(server, "/infer", data, datatype, shape, id="7")
    assert answer["id"] == "7"
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("INT64", [1], [found])


@pytest.mark.parametrize("call", ["/explain", "/versions/1.0/explain"])
def test_an_explanation_has_a_number_for_every_pixel(server, call):
    (output,) = ask(server, call, [image_text(255)], "BYTES", [-1])["outputs"]
    assert (output["datatype"], output["shape"][-2:], len(output["data"])) == ("FP64", [4, 4], 16)
    assert sum(output["data"]) == pytest.approx(-1, abs=0.01)  # target 0 is the dark one


def test_texts_over_grpc_are_counted_where_the_shape_does_not_say_how_many(server):
    message = pb.ModelInferRequest(model_name="bright")
    message.inputs.add(name="x", datatype="BYTES", shape=[-1]).contents.bytes_contents.append(
        image_text(255).encode()
    )
    with grpc.insecure_channel(server.grpc) as channel:
        answer = channel.unary_unary(RPC)(message.SerializeToString(), timeout=20)
    found = pb.ModelInferResponse.FromString(answer)
    assert list(found.outputs[0].shape) == [1]
    assert bool(found.id) == bool(server.envelope)


def test_an_answer_through_the_envelope_has_an_id_though_the_request_had_none(server):
    answer = ask(server, "/infer", [0] * 16, "FP32", [1, 4, 4])
    assert bool(answer.get("id")) == bool(server.envelope)


def test_explain_refuses_an_unknown_model_and_an_unknown_version(server):
    for path in ("/v2/models/none/explain", "/v2/models/bright/versions/9/explain"):
        assert server.ask("POST", path, b"{}", f"Content-Type: {JSON}").code == 404

"""A pickle that leaves a mark where it is opened, sent in by every way there is: the mark is never made.

At the end the same pickle is opened where that was asked for: it does leave its mark.
"""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from e2e_kit import JSON, Server, Wire, free_ports, request

from mooring.codecs.proto import inference_pb2 as v2
from mooring.codecs.proto import torchserve_inference_pb2 as torchserve

NET = (
    "import torch\n\n\nclass Net(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
)
ROWS = "def handle(data, context):\n    return [str(sorted(row)) for row in data or ()]\n"
OCTETS = "Content-Type: application/octet-stream"


class Exploit:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def archive(file: Path, handler: str, *, config: str = "", **files: bytes) -> None:
    model = {"modelName": file.stem, "modelVersion": "1.0", "handler": handler}
    model |= {"modelFile": "net.py", "serializedFile": "weights.pt"} if "weights" in files else {}
    model |= {"configFile": "model-config.yaml"} if config else {}
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
        made.writestr("net.py", NET)
        made.writestr("rows.py", ROWS)
        made.writestr("model-config.yaml", config)
        for name, content in files.items():
            made.writestr(f"{name}.pt", content)


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    return tmp_path_factory.mktemp("mark") / "opened"


@pytest.fixture(scope="module")
def weights(mark):
    """What torch.save makes of the exploit: the zip of today, and the older form."""
    made = {}
    for name, new in (("zipped", True), ("legacy", False)):
        file = io.BytesIO()
        torch.save({"weight": Exploit(mark)}, file, _use_new_zipfile_serialization=new)
        made[name] = file.getvalue()
    return made | {"bare": pickle.dumps(Exploit(mark))}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("attacked")
    store, repository = folder / "store", folder / "repository"
    store.mkdir()
    for name, code in (
        ("mirror", "def infer(inputs, parameters):\n    return dict(inputs)\n"),
        ("numbers", "def infer(inputs, parameters):\n    return {'y': next(iter(inputs.values()))}\n"),
    ):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/model.py").write_text(code)
    archive(store / "rows.mar", "rows.py")
    for name, content in weights.items():
        archive(store / f"{name}.mar", "base_handler", weights=content)
        archive(store / f"{name}_trusted.mar", "base_handler", config="allow_pickle: true", weights=content)
    (rpc,) = free_ports(1)
    server = Server(
        folder, "--model-store", store, "--models", "rows=rows.mar", "--model-repository", repository,
        f"--grpc-address=127.0.0.1:{rpc}",
    )  # fmt: skip
    server.rpc = rpc
    try:
        yield server.started()
        assert server.stop() == 0
    finally:
        server.kill()


def managed(server: Server, method: str, target: str) -> tuple[int, str]:
    with Wire(server.ports[1]) as wire:
        wire.send(request(method, target))
        answer = wire.answer()
    return answer.code, answer.body.decode()


def bodies(mark: Path) -> dict[str, tuple[str, bytes]]:
    """The exploit as a body of each content type."""
    pickled = pickle.dumps(Exploit(mark))
    array = np.array([Exploit(mark)], dtype=object)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, array, allow_pickle=True)
    np.savez(npz, x=array)
    encoded = base64.b64encode(pickled).decode()
    return {
        "npy": ("application/x-npy", npy.getvalue()),
        "npz": ("application/x-npz", npz.getvalue()),
        "pickle": ("application/x-pickle", pickled),
        "BentoML's pickle": ("application/vnd.bentoml+pickle", pickled),
        "bytes": ("application/octet-stream", pickled),
        "no type": ("", pickled),
        "text": ("text/plain", pickled),
        "image": ("image/png", pickled),
        "base64 in JSON": (JSON, json.dumps({"instances": [{"b64": encoded}], "x": {"b64": encoded}}).encode()),
        "JSON that names a class": (JSON, b'{"py/reduce": [{"py/type": "pathlib.Path"}], "__reduce__": ["os.system", ["x"]]}'),
        "a form": (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="data"; filename="x.npy"\r\n'
            b"Content-Type: application/x-npy\r\n\r\n" + npy.getvalue() + b"\r\n--b--\r\n",
        ),
    }  # fmt: skip


TARGETS = [
    "/predictions/rows", "/predictions/mirror", "/predictions/numbers", "/v1/models/rows:predict", "/v1/models/numbers:predict",
    "/explanations/rows", "/v2/models/mirror/infer", "/v2/models/rows/infer", "/invocations?model_name=rows",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_no_body_is_unpickled(attacked, mark, target):
    for name, (kind, body) in bodies(mark).items():
        lines = [f"Content-Type: {kind}"] if kind else []
        answer = attacked.ask("POST", target, body, *lines, "Payload-Container: serialize", "X-Kind: pickle")
        assert answer.code < 500 or target.startswith("/explanations"), (name, answer)
        assert not mark.exists(), name


@pytest.mark.parametrize("model", ["mirror", "rows"])
def test_no_tensor_is_unpickled(attacked, mark, model):
    pickled = pickle.dumps(Exploit(mark))
    sized = len(pickled).to_bytes(4, "little") + pickled
    for datatype, data in (("BYTES", sized), ("BYTES", pickled), ("UINT8", pickled)):
        tensor = {"name": "x", "datatype": datatype, "shape": [1 if datatype == "BYTES" else len(data)]}
        tensor["parameters"] = {
            "binary_data_size": len(data),
            "content_type": "pickle",
            "headers": {"x": "pickle"},
        }
        head = json.dumps({"inputs": [tensor], "parameters": {"content_type": "pickle"}}).encode()
        size = f"Inference-Header-Content-Length: {len(head)}"
        answer = attacked.ask("POST", f"/v2/models/{model}/infer", head + data, OCTETS, size)
        assert answer.code < 500, answer
    with grpc.insecure_channel(f"127.0.0.1:{attacked.rpc}") as channel:
        message = v2.ModelInferRequest(model_name=model, raw_input_contents=[sized])
        message.inputs.add(name="x", datatype="BYTES", shape=[1])
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(
            message.SerializeToString(), timeout=30
        )
        asked = torchserve.PredictionsRequest(model_name=model, input={"data": pickled, "body": pickled})
        predict = channel.unary_unary("/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions")
        try:
            predict(asked.SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 - either outcome is right
    assert not mark.exists()


@pytest.mark.parametrize("form", ["zipped", "legacy", "bare"])
def test_weights_are_not_unpickled_unless_their_model_asks_for_it(attacked, mark, form):
    where = f"initial_workers=1&synchronous=true&url={form}"
    code, said = managed(attacked, "POST", f"/models?{where}.mar")
    assert (code, "allow_pickle" in said + attacked.log) == (500, True)
    assert not mark.exists()
    managed(attacked, "DELETE", f"/models/{form}")
    managed(attacked, "POST", f"/models?{where}_trusted.mar")
    assert mark.exists(), "the pickle is none, and proves nothing"
    mark.unlink()
    managed(attacked, "DELETE", f"/models/{form}_trusted")


def test_weights_that_come_with_a_load_are_not_unpickled(attacked, mark, weights):
    for form, content in weights.items():
        for name in ("1/model.pt", "1/model.pt2", "1/model.onnx", "1/model.pth"):
            files = {f"file:{name}": base64.b64encode(content).decode()}
            config = json.dumps({"name": "sent", "platform": "pytorch_libtorch"})
            for parameters in (files, files | {"config": config}):
                body = json.dumps({"parameters": parameters}).encode()
                answer = attacked.ask("POST", "/v2/repository/models/sent/load", body)
                assert 400 <= answer.code < 600, (form, name)
                assert not mark.exists(), (form, name)

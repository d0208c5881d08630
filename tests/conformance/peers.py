"""Every way to ask a model, behind one method: arrays in, arrays out, and what the protocol calls a refusal."""

import asyncio
import base64
import io
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

import grpc
import numpy as np
import requests
from PIL import Image

from mooring import Client, MooringError, Tensor
from mooring.client.conversion import request_of
from mooring.client.result import Result
from mooring.codecs.proto import inference_pb2 as pb
from mooring.codecs.protobuf import decode_response
from mooring.core.requests import InferenceRequest
from mooring.protocols.kserve.v2_grpc import TORCHSERVE_NAME

PATIENCE = 30.0
_CONTENTS = {
    "BOOL": "bool_contents", "UINT64": "uint64_contents", "INT64": "int64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents", "UINT8": "uint_contents", "UINT16": "uint_contents",
    "UINT32": "uint_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
}  # fmt: skip


def as_given(model: str, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of the types that the values have: these go as they are, and the server says whether they fit."""
    return {tensor.name: tensor for tensor in request_of(model, inputs).inputs}


class Refused(Exception):
    """A model was not asked, or failed. ``said`` is the protocol's own word for it."""

    def __init__(self, said: int | str, text: str) -> None:
        super().__init__(f"{said}: {text}")
        self.said = said
        self.text = text


class Peer:
    """One protocol. ``typed`` ones carry datatypes and names; the others are JSON for people."""

    name: ClassVar[str]
    typed: ClassVar[bool] = True
    halves: ClassVar[bool] = True
    # Bytes that are no text.
    octets: ClassVar[bool] = True

    def infer(
        self, model: str, inputs: Mapping[str, Any], *, version: str = "", outputs: Any = ()
    ) -> Mapping[str, Any]:
        """The outputs by name. Raises ``Refused``."""
        raise NotImplementedError

    def picture(self, model: str, png: bytes) -> Any:
        """What a handler says of an image, or of its pixels where the protocol has no bytes that are no text."""
        data = np.array([png], object) if self.octets else pixels(png)[0, 0]
        outputs = self.infer(model, {"data": data})
        (text,) = next(iter(outputs.values())).ravel().tolist()
        return json.loads(text)

    def digit(self, model: str, png: bytes) -> str:
        """What a network makes of an image."""
        (scores,) = self.infer(model, {"image": pixels(png)}).values()
        return str(int(scores.astype(np.float32).argmax()))

    def close(self) -> None:
        """Nobody asks any more."""


class InProcess(Peer):
    """The engine itself."""

    name = "in process"

    def __init__(self, served: Any) -> None:
        self._served = served

    def infer(self, model, inputs, *, version="", outputs=()):
        request = request_of(model, inputs, version=version, request_id="", parameters=None, outputs=outputs)
        return Result(self._ask(request))

    def _ask(self, request: InferenceRequest) -> Any:
        async def submit() -> Any:
            future = asyncio.get_running_loop().create_future()
            self._served.engine.submit(request, future.set_result)
            return await asyncio.wait_for(future, PATIENCE)

        outcome = self._served.run(submit())
        if isinstance(outcome, MooringError):
            raise Refused(type(outcome).__name__, outcome.message)
        return outcome


class Rest(Peer):
    """v2 over HTTP, through our own client."""

    def __init__(self, served: Any, *, binary: bool) -> None:
        self.name = f"v2 REST {'binary' if binary else 'JSON'}"
        self.octets = binary
        self._client = Client(served.url, timeout=PATIENCE, binary=binary)

    def infer(self, model, inputs, *, version="", outputs=()):
        try:
            return self._client.infer(model, as_given(model, inputs), version=version, outputs=outputs)
        except MooringError as error:
            raise Refused(error.code, error.message) from error

    def close(self):
        self._client.close()


class Rpc(Peer):
    """v2 over gRPC with raw contents, through our own client."""

    name = "v2 gRPC raw"

    def __init__(self, served: Any) -> None:
        self._client = Client(served.grpc_url, timeout=PATIENCE)

    def infer(self, model, inputs, *, version="", outputs=()):
        try:
            return self._client.infer(model, as_given(model, inputs), version=version, outputs=outputs)
        except MooringError as error:
            cause = error.__context__
            assert isinstance(cause, grpc.RpcError)
            raise Refused(cause.code().name, error.message) from error

    def close(self):
        self._client.close()


class TypedRpc(Peer):
    """v2 over gRPC with typed contents, in messages made by protobuf itself, under the name that answers them typed."""

    name = "v2 gRPC typed"
    halves = False

    def __init__(self, served: Any) -> None:
        self._channel = grpc.insecure_channel(served.grpc_url.removeprefix("grpc://"))
        self._ask = self._channel.unary_unary(f"/{TORCHSERVE_NAME}/ModelInfer")

    def infer(self, model, inputs, *, version="", outputs=()):
        whole = request_of(model, inputs, version=version, request_id="", parameters=None, outputs=())
        request = pb.ModelInferRequest(model_name=model, model_version=version)
        for tensor in whole.inputs:
            contents = pb.InferTensorContents()
            elements = tensor.data if isinstance(tensor.data, list) else tensor.array().ravel().tolist()
            getattr(contents, _CONTENTS[tensor.datatype]).extend(elements)
            request.inputs.add(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, contents=contents
            )
        for name in outputs:
            request.outputs.add(name=name)
        try:
            answer = self._ask(request.SerializeToString(), timeout=PATIENCE)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from error
        message = pb.ModelInferResponse.FromString(answer)
        assert not message.raw_output_contents, "typed asks get typed answers"
        return Result(decode_response(answer))

    def close(self):
        self._channel.close()


class Http(Peer):
    """JSON over HTTP, without a client library of its own."""

    typed = False
    octets = False

    def __init__(self, served: Any) -> None:
        self._url = served.url
        self._session = requests.Session()

    def _post(self, path: str, body: bytes, content_type: str = "application/json") -> Any:
        answer = self._session.post(
            self._url + path, data=body, headers={"content-type": content_type}, timeout=PATIENCE
        )
        if answer.status_code != 200:
            raise Refused(answer.status_code, answer.text)
        return answer.json()

    def close(self):
        self._session.close()


class KServeV1(Http):
    """Instances, one for each row."""

    name = "KServe v1"

    def infer(self, model, inputs, *, version="", outputs=()):
        assert not version
        assert not outputs
        columns = {name: plain(value) for name, value in inputs.items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        answer = self._post(f"/v1/models/{model}:predict", json.dumps({"instances": rows}).encode())
        predictions = answer["predictions"]
        if predictions and isinstance(predictions[0], dict):
            return {name: values([row[name] for row in predictions]) for name in predictions[0]}
        return {"": values(predictions)}

    def picture(self, model, png):
        instance = {"data": base64.b64encode(png).decode()}
        answer = self._post(f"/v1/models/{model}:predict", json.dumps({"instances": [instance]}).encode())
        return answer["predictions"][0]


class TorchServe(Http):
    """A body, as TorchServe's clients send it."""

    name = "TorchServe REST"

    def infer(self, model, inputs, *, version="", outputs=()):
        assert not outputs
        path = f"/predictions/{model}/{version}" if version else f"/predictions/{model}"
        body = {name: plain(value) for name, value in inputs.items()}
        return {name: values(value) for name, value in self._post(path, json.dumps(body).encode()).items()}

    def picture(self, model, png):
        return self._post(f"/predictions/{model}", png, "application/octet-stream")

    def digit(self, model, png):
        return self.picture(model, png)["class"]


def pixels(png: bytes) -> Any:
    """An image as the digits network takes it."""
    return (np.asarray(Image.open(io.BytesIO(png)).convert("L"), np.float32) / 255)[None, None]


def values(read: Any) -> Any:
    """An array of what JSON had, number by number as it was read."""
    return np.array(read, object)


def plain(value: Any) -> Any:
    """What JSON has in an array's place."""
    if isinstance(value, Tensor):
        value = value.array()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode()
    return value


def same(found: Any, expected: Any) -> bool:
    """Whether two arrays hold the same values, whatever their types; NaN is NaN, and -0.0 is not 0.0."""
    ours, theirs = plain(found), plain(expected)
    return repr_of(ours) == repr_of(theirs)


def repr_of(value: Any) -> Any:
    """Numbers so that they compare as values do, and as bits do where that differs."""
    if isinstance(value, list):
        return [repr_of(each) for each in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if isinstance(value, int):
        return ("number", value)
    if math.isfinite(value) and value == int(value) and (value or math.copysign(1, value) > 0):
        return ("number", int(value))
    return ("float", repr(value))

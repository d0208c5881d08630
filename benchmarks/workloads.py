"""The workloads: bodies, paths, and the checks of their answers.

The workloads of a group share their body and therefore their floor: the bare front, and for small bodies nginx, with the
same body in the same minute. A gRPC message goes to a method; its floor is bare gRPC.
"""

import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import open_inference as v2

HERE = Path(__file__).parent
FUNCTIONS = HERE / "models" / "function.py"
DIGITS = HERE.parent / "examples" / "digits"
SEVEN = DIGITS / "samples" / "7.png"

# The arguments of `mooring serve`. Workers do not compete, for only one workload runs at a time.
MODELS = [
    *(f"{name}={HERE / 'models' / name}" for name in ("echo", "length", "total", "identity")),
    f"batched={HERE / 'models' / 'echo'}",
    f"function={FUNCTIONS}:plus_one",
    f"tensor_total={FUNCTIONS}:total",
    f"tensor_identity={FUNCTIONS}:identity",
    f"digits={DIGITS}",
]

# TorchServe's default is one request per call of the model; this one takes eight.
OPTIONS = [
    "--model-settings",
    '{"batched": {"1.0": {"marName": "echo", "batchSize": 8, "maxBatchDelay": 0}}}',
]

JSON = "application/json"
BYTES = "application/octet-stream"
SHAPE = [1, 3, 224, 224]
ONE, TWO = struct.pack("<f", 1.0), struct.pack("<f", 2.0)
BOUNDARY = "of-the-benchmark"


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request or a gRPC message. ``json_size`` is the length of its JSON where binary tensors follow."""

    name: str
    content: bytes
    content_type: str = ""
    json_size: int = 0
    grpc: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the HTTP request."""
        fields = {"Content-Type": self.content_type}
        return fields | {"Inference-Header-Content-Length": str(self.json_size)} if self.json_size else fields


@dataclass(frozen=True, slots=True)
class Workload:
    """One model over one protocol. ``is_right`` checks an answer."""

    name: str
    path: str
    body: Body
    is_right: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Group:
    """Workloads that are measured side by side. ``floor`` is the path of the bare front beside them."""

    name: str
    concurrencies: tuple[int, ...]
    workloads: tuple[Workload, ...]
    floor: str = "/small"
    nginx: bool = False


def equals_json(value: object) -> Callable[[bytes], bool]:
    """Return a check that an answer is JSON equal to ``value``."""
    return lambda answer: bool(json.loads(answer) == value)


def make_groups() -> list[Group]:
    """Return all groups. Bodies are random but the same every time."""
    noise = random.Random(2)
    # Padded to the size of the peers' smallest body.
    number = Body("13 B JSON", b'{"x": 1.0}   ', JSON)
    instances = Body("27 B JSON", b'{"instances": [{"x": 1.0}]}', JSON)
    picture = noise.randbytes(102_400)
    raw = Body("100 KB", picture, "image/jpeg")
    form = Body("100 KB in a form", _make_form(picture), f"multipart/form-data; boundary={BOUNDARY}")
    values = [noise.gauss(0.0, 1.0) for _ in range(3 * 224 * 224)]
    image = Body("602 KB", struct.pack(f"<{len(values)}f", *values), BYTES)
    total = math.fsum(struct.unpack(f"<{len(values)}f", image.content))
    number_tensor = Body("83 B JSON", v2.json_body("x", [1], ONE), JSON)
    tiny_message = Body("tiny message", v2.message("function", "x", [1], ONE), grpc=True)
    image_message = Body(
        "602 KB message", v2.message("tensor_identity", "image", SHAPE, image.content), grpc=True
    )
    json_image = Body("3 MB JSON", v2.json_body("image", SHAPE, image.content), JSON)
    binary, json_size = v2.binary_body("image", SHAPE, image.content)
    binary_image = Body("602 KB binary tensor", binary, BYTES, json_size)
    digit = Body("PNG", SEVEN.read_bytes(), "image/png")

    def is_total(found: float) -> bool:
        return abs(found - total) < 0.5

    def is_image(read: Callable[[bytes], bytes]) -> Callable[[bytes], bool]:
        return lambda answer: read(answer) == image.content

    def number_of(raw: bytes) -> float:
        return float(*struct.unpack("<f", raw))

    return [
        Group(
            "tiny",
            (1, 8, 32, 64),
            (
                Workload("echo handler", "/predictions/echo", number, equals_json({"x": 2.0})),
                Workload("echo handler, batch 8", "/predictions/batched", number, equals_json({"x": 2.0})),
                Workload("echo function", "/predictions/function", number, equals_json({"x": 2.0})),
                Workload(
                    "echo KServe v1",
                    "/v1/models/echo:predict",
                    instances,
                    equals_json({"predictions": [{"x": 2.0}]}),
                ),
                Workload(
                    "echo v2",
                    "/v2/models/function/infer",
                    number_tensor,
                    lambda answer: v2.from_json(answer) == TWO,
                ),
            ),
            nginx=True,
        ),
        Group(
            "raw",
            (1, 8),
            (Workload("100 KB raw", "/predictions/length", raw, equals_json({"length": len(picture)})),),
        ),
        Group(
            "form",
            (1, 8),
            (Workload("100 KB form", "/predictions/length", form, equals_json({"length": len(picture)})),),
        ),
        Group(
            "sum",
            (1, 8),
            (
                Workload(
                    "602 KB sum",
                    "/predictions/total",
                    image,
                    lambda answer: is_total(json.loads(answer)["total"]),
                ),
            ),
        ),
        Group(
            "identity",
            (1, 8),
            (
                Workload(
                    "602 KB both ways", "/predictions/identity", image, lambda answer: answer == image.content
                ),
            ),
            floor="/large",
        ),
        Group(
            "json_tensor",
            (1, 8),
            (
                Workload(
                    "v2 JSON, sum",
                    "/v2/models/tensor_total/infer",
                    json_image,
                    lambda answer: is_total(number_of(v2.from_json(answer))),
                ),
                Workload(
                    "v2 JSON, both ways",
                    "/v2/models/tensor_identity/infer",
                    json_image,
                    is_image(v2.from_json),
                ),
            ),
        ),
        Group(
            "binary_tensor",
            (1, 8),
            (
                Workload(
                    "v2 binary, sum",
                    "/v2/models/tensor_total/infer",
                    binary_image,
                    lambda answer: is_total(number_of(v2.from_binary(answer))),
                ),
            ),
        ),
        Group(
            "binary_identity",
            (1, 8),
            (
                Workload(
                    "v2 binary, both ways",
                    "/v2/models/tensor_identity/infer",
                    binary_image,
                    is_image(v2.from_binary),
                ),
            ),
            floor="/large",
        ),
        Group(
            "grpc",
            (1, 8, 32),
            (Workload("echo gRPC", v2.INFER, tiny_message, lambda answer: v2.from_message(answer) == TWO),),
            floor="/bare/small",
        ),
        Group(
            "grpc_identity",
            (1, 8),
            (Workload("602 KB gRPC, both ways", v2.INFER, image_message, is_image(v2.from_message)),),
            floor="/bare/large",
        ),
        Group(
            "digits",
            (1, 8),
            (
                Workload(
                    "digits, a real model",
                    "/predictions/digits",
                    digit,
                    lambda answer: str(json.loads(answer)["class"]) == "7",
                ),
            ),
        ),
    ]


def _make_form(content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
    return f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()

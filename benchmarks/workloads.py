"""What is asked of the server: bodies, paths, and the answer that makes a workload worth timing.

Workloads of a group share their body, so they share their floor: the bare front answering the same body in the same
minute, and for small bodies nginx too.
"""

import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DIGITS = HERE.parent / "examples" / "digits"
SEVEN = DIGITS / "samples" / "7.png"

# What `mooring serve` is started with; no two workers compete, for only one workload runs at a time.
MODELS = [
    *(f"{name}={HERE / 'models' / name}" for name in ("echo", "length", "total", "identity")),
    f"batched={HERE / 'models' / 'echo'}",
    f"function={HERE / 'models' / 'function.py'}:plus_one",
    f"digits={DIGITS}",
]

# TorchServe's default is one request per call of the model; this one takes eight.
OPTIONS = [
    "--model-settings",
    '{"batched": {"1.0": {"marName": "echo", "batchSize": 8, "maxBatchDelay": 0}}}',
]

JSON = "application/json"
BYTES = "application/octet-stream"
BOUNDARY = "of-the-benchmark"


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent, in which type."""

    name: str
    content: bytes
    content_type: str


@dataclass(frozen=True, slots=True)
class Workload:
    """One model asked one way. ``right`` tells whether an answer is the model's."""

    name: str
    path: str
    body: Body
    right: Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class Group:
    """Workloads measured side by side. ``floor`` is the path of the bare front they are compared with."""

    name: str
    concurrencies: tuple[int, ...]
    workloads: tuple[Workload, ...]
    floor: str = "/small"
    nginx: bool = False


def says(value: object) -> Callable[[bytes], bool]:
    """A JSON answer equal to this."""
    return lambda answer: bool(json.loads(answer) == value)


def groups() -> list[Group]:
    """All of them. Bodies are random but the same every time."""
    noise = random.Random(2)
    # Padded to the size of the peers' smallest body.
    number = Body("13 B JSON", b'{"x": 1.0}   ', JSON)
    instances = Body("27 B JSON", b'{"instances": [{"x": 1.0}]}', JSON)
    picture = noise.randbytes(102_400)
    raw = Body("100 KB", picture, "image/jpeg")
    form = Body("100 KB in a form", _form(picture), f"multipart/form-data; boundary={BOUNDARY}")
    values = [noise.gauss(0.0, 1.0) for _ in range(3 * 224 * 224)]
    image = Body("602 KB", struct.pack(f"<{len(values)}f", *values), BYTES)
    total = math.fsum(struct.unpack(f"<{len(values)}f", image.content))
    digit = Body("PNG", SEVEN.read_bytes(), "image/png")

    def close_to_total(answer: bytes) -> bool:
        return abs(float(json.loads(answer)["total"]) - total) < 0.5

    return [
        Group(
            "tiny",
            (1, 8, 32, 64),
            (
                Workload("echo handler", "/predictions/echo", number, says({"x": 2.0})),
                Workload("echo handler, batch 8", "/predictions/batched", number, says({"x": 2.0})),
                Workload("echo function", "/predictions/function", number, says({"x": 2.0})),
                Workload(
                    "echo KServe v1",
                    "/v1/models/echo:predict",
                    instances,
                    says({"predictions": [{"x": 2.0}]}),
                ),
            ),
            nginx=True,
        ),
        Group(
            "raw",
            (1, 8),
            (Workload("100 KB raw", "/predictions/length", raw, says({"length": len(picture)})),),
        ),
        Group(
            "form",
            (1, 8),
            (Workload("100 KB form", "/predictions/length", form, says({"length": len(picture)})),),
        ),
        Group("sum", (1, 8), (Workload("602 KB sum", "/predictions/total", image, close_to_total),)),
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


def _form(content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="a.jpg"\r\n'
    return f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()

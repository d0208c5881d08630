"""The cases of the comparison: workloads, bodies, and the checks of their answers."""

import json
import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_inference as v2
from workloads import BOUNDARY, BYTES, JSON, Body

sys.path.insert(0, str(Path(__file__).parent / "peers"))
import models


@dataclass(frozen=True, slots=True)
class Case:
    """Workloads that are measured while the same servers run, each with its concurrencies.

    A repetition takes ``seconds``. ``steady`` is for slow answers, whose rate is the slope of their count (load.py).
    """

    name: str
    models: tuple[str, ...]
    workloads: dict[str, tuple[int, ...]]
    seconds: float = 2.0
    steady: bool = False


CASES = (
    Case("echo", ("echo",), {"echo": (1, 16, 64), "echo v2": (1, 16, 64)}),
    Case("json", ("total", "identity"), {"total JSON": (1, 8), "identity JSON": (1, 8)}, 2.0, steady=True),
    Case("binary", ("total", "identity"), {"total binary": (1, 8), "identity binary": (1, 8)}, 1.0),
    Case("body", ("echo",), {"length raw": (1, 16), "length form": (1, 16)}, 1.0),
    Case("resnet18", ("resnet18",), {"resnet18": (1, 8, 32)}, 4.0, steady=True),
    Case("transformer", ("transformer",), {"transformer": (1, 32)}, 2.0, steady=True),
    Case("grpc", ("echo", "identity"), {"gRPC echo": (1, 16), "gRPC identity": (1, 8)}, 1.0),
)


class Bodies:
    """The bodies by kind, and the right answers by model."""

    def __init__(self) -> None:
        image = models.example("resnet18", 1)
        words = models.example("transformer", 1)
        picture = image.tobytes()[:102_400]
        nested = json.dumps(
            {"input": [[[[round(float(v), 6) for v in row] for row in plane] for plane in image[0]]]}
        )
        shape = [1, *models.IMAGE]
        raw, tokens = image.tobytes(), [1, models.TOKENS]
        number = struct.pack("<f", 1.0)
        self.kinds: dict[str, Callable[[], Body]] = {
            "number": lambda: Body("number", b'{"input":1.0}', JSON),
            "number v2": lambda: Body("number-v2", v2.json_body("x", [1, 1], number), JSON),
            "image": lambda: Body("image", raw, BYTES),
            "image json": lambda: Body("image-json", nested.encode(), JSON),
            "image v2 json": lambda: Body("image-v2-json", v2.json_body("x", shape, raw), JSON),
            "image v2": lambda: _make_binary("image-v2", "FP32", shape, raw),
            "image form": lambda: _make_form("image-form", raw),
            "words": lambda: Body("words", words.tobytes(), BYTES),
            "words v2": lambda: _make_binary("words-v2", "INT64", tokens, words.tobytes()),
            "words v2 json": lambda: Body("words-v2-json", _make_words_json(words.ravel().tolist()), JSON),
            "words json": lambda: Body("words-json", json.dumps({"input": words.tolist()}).encode(), JSON),
            "words form": lambda: _make_form("words-form", words.tobytes()),
            "picture": lambda: Body("picture", picture, "image/jpeg"),
            "picture form": lambda: _make_form("picture-form", picture),
        }
        for model, kind, datatype, size, content in (
            *((f"echo{kind}", "number", "FP32", [1, 1], number) for kind in ("", "_function")),
            *((name, "image", "FP32", shape, raw) for name in ("identity", "identity_function", "resnet18")),
            ("transformer", "words", "INT64", tokens, words.tobytes()),
        ):
            body = Body(
                f"message-{model}", v2.message(model, "x", size, content, datatype=datatype), grpc=True
            )
            self.kinds[f"{kind} message {model}"] = lambda body=body: body
        self.expected: dict[str, list[float]] = {
            "echo": [2.0],
            "total": [math.fsum(map(float, image.ravel()))],
            "identity": image.ravel()[:8].tolist(),
            "length": [102_400.0],
        }
        self._made: dict[str, Body] = {}

    def body(self, kind: str) -> Body:
        """Return the body of a kind; each is made once."""
        if kind not in self._made:
            self._made[kind] = self.kinds[kind]()
        return self._made[kind]

    def is_right(self, workload: str, kind: str, answer: bytes) -> bool:
        """Return whether an answer has the numbers that the model gives in this process."""
        model = workload.replace("gRPC ", "").split()[0]
        if model not in self.expected:
            self.expected[model] = models.load(model, 1)(models.example(model, 1))[0, :4].tolist()
        expected = self.expected[model]
        tolerance = 0.5 if model == "total" else 1e-3
        found = read_numbers(kind, answer)
        return len(found) >= len(expected) and all(
            abs(mine - theirs) <= tolerance for mine, theirs in zip(expected, found, strict=False)
        )


def _make_binary(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Body:
    content, size = v2.binary_body("x", shape, raw, datatype=datatype, output="y")
    return Body(name, content, BYTES, size)


def _make_words_json(words: list[int]) -> bytes:
    entry = {"name": "x", "datatype": "INT64", "shape": [1, len(words)], "data": words}
    return json.dumps({"inputs": [entry]}).encode()


def _make_form(name: str, content: bytes) -> Body:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="data"; filename="data"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    whole = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Body(name, whole, f"multipart/form-data; boundary={BOUNDARY}")


def read_numbers(kind: str, answer: bytes) -> list[float]:
    """Return the numbers of an answer, in order."""
    if kind == "message":
        answer, kind = v2.from_message(answer), "raw"
    if kind == "v2":
        document, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
        if len(answer) > end:
            answer, kind = answer[end:], "raw"
        else:
            return list(_iterate_floats(document["outputs"][0]["data"]))
    if kind == "raw":
        return list(struct.unpack(f"<{len(answer) // 4}f", answer)) if len(answer) % 4 == 0 else []
    return list(_iterate_floats(json.loads(answer)))


def _iterate_floats(value: object) -> Iterator[float]:
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _iterate_floats(each)

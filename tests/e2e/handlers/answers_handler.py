"""Gives the answer that the body names: one of every kind, well or badly done. A handler as a module's function."""

import os
import time

import torch
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

ITEMS = {
    "bytes": b"\x00raw\xff",
    "bytearray": bytearray(b"changeable"),
    "str": "plain \u00e9",
    "empty": "",
    "dict": {"class": "7", "probability": 0.5},
    "nested": {"a": [1, {"b": None}], "c": {}},
    "list": [1, "two", None],
    "tuple": (1, 2),
    "int": 7,
    "float": 0.5,
    "none": None,
    "true": True,
    "nan": float("nan"),
    "accent": {"name": "\u00e9"},
    "set": {1, 2},
    "object": object(),
    "large": "x" * 300_000,
    "oversized": "x" * 1_100_000,
}
WHOLES = {
    "whole tuple": ("a",),
    "whole dict": {"a": 1},
    "whole str": "a",
    "whole none": None,
    "whole tensor": torch.zeros(1),
    "too many": ["a", "b"],
    "too few": [],
}


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


def raised(name):
    kinds = {
        "raise": lambda: ValueError("secret detail"),
        "memory": MemoryError,
        "cuda": lambda: RuntimeError("CUDA error: out of memory"),
        "unprintable": Unprintable,
        "refuse": lambda: PredictionException("not today"),
        "refuse 400": lambda: PredictionException("bad picture", 400),
        "refuse 413": lambda: PredictionException("too big", 413),
        "refuse 418": lambda: PredictionException("a teapot", 418),
        "refuse 429": lambda: PredictionException("slow down", 429),
        "refuse quoted": lambda: PredictionException('say "please"\n', 422),
    }
    return kinds[name]() if name in kinds else None


def in_pieces(name, context):
    if name == "stream":
        for piece in ("one ", "two "):
            send_intermediate_predict_response([piece], context.request_ids, "Intermediate", 200, context)
        return "three"
    if name == "stream json":
        send_intermediate_predict_response([{"n": 1}], context.request_ids, "Intermediate", 200, context)
        return {"n": 2}
    if name == "stream typed":
        context.set_response_content_type(0, "text/event-stream")
        send_intermediate_predict_response(["data: 1\n\n"], context.request_ids, "Intermediate", 200, context)
        return "data: 2\n\n"
    send_intermediate_predict_response(["one "], context.request_ids, "Intermediate", 200, context)
    raise ValueError("broken off")


def with_head(name, context):
    if name == "head type":
        context.set_response_content_type(0, "image/png")
    elif name == "head status":
        context.set_response_status(code=201, phrase="Made", idx=0)
    elif name == "head all":
        context.set_all_response_status(202, "Taken")
    elif name == "head error":
        context.set_response_status(code=422, phrase="Not So", idx=0)
    elif name == "head lines":
        context.set_response_header(0, "X-Model", "first")
        context.set_response_header(0, "X-Model", "answers")
        context.set_response_header(0, "x-request-id", "forged")
    elif name == "head content-type":
        context.set_response_header(0, "Content-Type", "text/csv")
    return name


def handle(data, context):
    if data is None:
        return None
    name = bytes(data[0]["body"]).decode()
    error = raised(name)
    if error is not None:
        raise error
    if name in WHOLES:
        return WHOLES[name]
    if name.startswith("stream"):
        return [in_pieces(name, context)]
    if name.startswith("head"):
        return [with_head(name, context)]
    if name.startswith("sleep"):
        time.sleep(float(name[5:]))
        return [name]
    if name == "exit":
        os._exit(3)
    return [torch.arange(3) if name == "tensor" else ITEMS[name]]

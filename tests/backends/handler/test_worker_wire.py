"""TorchServe's worker messages: what is written is what its front reads, and its orders are read whole."""

import socket
import struct

import pytest

from mooring.backends.handler.worker_wire import (
    create_load_model_response,
    create_predict_response,
    retrieve_msg,
)


def text(value):
    return struct.pack(">i", len(value)) + value


def number(value):
    return struct.pack(">i", value)


def test_a_load_is_answered_with_code_and_text():
    assert create_load_model_response(200, "loaded") == number(200) + text(b"loaded") + number(-1)


def test_every_request_of_a_batch_is_answered_with_its_body():
    reply = create_predict_response(["a", {"b": 1}], {0: "first", 1: "second"}, "Prediction success", 200)
    one = text(b"first") + text(b"") + number(200) + text(b"Prediction success") + number(0) + text(b"a")
    two = text(b"second") + text(b"") + number(200) + text(b"Prediction success") + number(0)
    assert reply == number(200) + text(b"Prediction success") + one + two + text(b'{\n  "b": 1\n}') + number(
        -1
    )


def test_a_failed_batch_answers_everyone_with_the_reason():
    reply = create_predict_response(None, {0: "only"}, "Prediction failed", 503, ts_stream_next=True)
    assert text(b"ts_stream_next") + text(b"true") in reply
    assert reply.endswith(text(b"Prediction failed") + number(-1))


def test_orders_are_read_whole_however_they_arrive():
    theirs, ours = socket.socketpair()
    with theirs, ours:
        load = (
            b"L"
            + text(b"m")
            + text(b"/models/m")
            + number(4)
            + text(b"h.py")
            + number(-1)
            + text(b"json")
            + b"\1"
        )
        infer = (
            b"I" + text(b"id") + text(b"Accept") + text(b"*/*") + number(-1)
            + text(b"data") + text(b"image/png") + text(b"\x89PNG") + number(-1) + number(-1)
        )  # fmt: skip
        theirs.sendall(load + infer)
        command, order = retrieve_msg(ours)
        assert (command, order["modelName"], order["batchSize"], order["gpu"]) == (b"L", b"m", 4, None)
        assert order["limitMaxImagePixels"] is True
        command, (request,) = retrieve_msg(ours)
        assert (command, request["requestId"]) == (b"I", b"id")
        assert request["headers"] == [{"name": b"Accept", "value": b"*/*"}]
        assert request["parameters"] == [{"name": "data", "contentType": "image/png", "value": b"\x89PNG"}]
        theirs.sendall(b"X")
        with pytest.raises(ValueError, match="unknown order"):
            retrieve_msg(ours)
        theirs.close()
        with pytest.raises(EOFError):
            retrieve_msg(ours)

"""TorchServe's own messages between its front and a worker, for code that imports the functions that make them.

Nothing here is sent anywhere in this server. Integers are four bytes, big-endian; a text or body has its length before
it. Source: docs/contracts/torchserve.md, section 3.1.
"""

import socket
import struct
from typing import Any

from mooring.backends.handler.context import Context
from mooring.backends.handler.forms import body_answer

_INT = struct.Struct(">i")
_END = _INT.pack(-1)


def create_load_model_response(code: int, message: str) -> bytes:
    """Return a worker's answer to the order to load: a code, a text, and no predictions."""
    return _INT.pack(code) + _with_length(message.encode()) + _END


def create_predict_response(
    ret: Any,
    req_id_map: dict[int, str],
    message: str,
    code: int,
    context: Context | None = None,
    ts_stream_next: bool = False,
) -> bytearray:
    """Return a worker's answer to a batch: id, content type, status, headers and body of every request.

    ``ret`` is the list that the handler returned, or None where the batch failed. Raises ``InvalidOutput`` for an item
    that no body can hold.
    """
    reply = bytearray(_INT.pack(code) + _with_length(message.encode()))
    for row, request_id in req_id_map.items():
        status, reason, content_type = code, message, ""
        headers: dict[str, str] = {}
        if context is not None:
            content_type = context.get_response_content_type(row) or ""
            status, reason = context.get_response_status(row)
            headers = dict(context.get_response_headers(row) or {})
        if ts_stream_next:
            headers["ts_stream_next"] = "true"
        body = message.encode() if ret is None else body_answer(ret[row], None).outputs[0].data[0]
        reply += _with_length(request_id.encode()) + _with_length(content_type.encode())
        reply += _INT.pack(status or code) + _with_length((reason or "").encode()) + _INT.pack(len(headers))
        for name, value in headers.items():
            reply += _with_length(str(name).encode()) + _with_length(str(value).encode())
        reply += _with_length(body)
    reply += _END
    return reply


def retrieve_msg(conn: socket.socket) -> tuple[bytes, Any]:
    """Receive the next order on a worker's socket: b"L" with a dict, or b"I" with a list of requests.

    Raises ``ValueError`` for any other order and ``EOFError`` when the socket ends.
    """
    command = _read_exactly(conn, 1)
    if command == b"L":
        return command, _read_load_order(conn)
    if command == b"I":
        return command, _read_requests(conn)
    raise ValueError(f"unknown order {command!r} for a worker; expected b'L' or b'I'")


def _read_load_order(conn: socket.socket) -> dict[str, Any]:
    order: dict[str, Any] = {"modelName": _read_text(conn).encode(), "modelPath": _read_text(conn).encode()}
    order["batchSize"] = _read_int(conn)
    order["handler"] = _read_text(conn).encode()
    gpu = _read_int(conn)
    order["gpu"] = gpu if gpu >= 0 else None
    order["envelope"] = _read_text(conn).encode()
    order["limitMaxImagePixels"] = _read_exactly(conn, 1) != b"\0"
    return order


def _read_requests(conn: socket.socket) -> list[dict[str, Any]]:
    requests = []
    while (size := _read_int(conn)) != -1:
        request: dict[str, Any] = {"requestId": _read_exactly(conn, size), "headers": [], "parameters": []}
        while (size := _read_int(conn)) != -1:
            name = _read_exactly(conn, size)
            request["headers"].append({"name": name, "value": _read_exactly(conn, _read_int(conn))})
        while (size := _read_int(conn)) != -1:
            field, content_type = _read_exactly(conn, size).decode(), _read_text(conn)
            value = bytearray(_read_exactly(conn, _read_int(conn)))
            request["parameters"].append({"name": field, "contentType": content_type, "value": value})
        requests.append(request)
    return requests


def _with_length(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _read_int(conn: socket.socket) -> int:
    number: int = _INT.unpack(_read_exactly(conn, _INT.size))[0]
    return number


def _read_text(conn: socket.socket) -> str:
    return _read_exactly(conn, _read_int(conn)).decode()


def _read_exactly(conn: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = conn.recv(size - len(data))
        if not more:
            raise EOFError(f"the socket ended {size - len(data)} bytes early")
        data += more
    return bytes(data)

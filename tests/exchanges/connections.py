"""HTTP itself: what is malformed, what is too large, and how connections are kept and ended."""

import json

from e2e_kit import request
from exchanges.asks import JSON, ask, tensor
from exchanges.player import Http, Pause

PING = request("GET", "/ping")
INT = request("PUT", "/predictions/answers", b"int")
MALFORMED = {
    "an unknown method": b"BREW /predictions/answers HTTP/1.1\r\nHost: t\r\n\r\n",
    "nonsense": b"nonsense\r\n\r\n",
    "no target": b"GET HTTP/1.1\r\nHost: t\r\n\r\n",
    "a version of the future": b"GET / HTTP/3.7\r\nHost: t\r\n\r\n",
    "HTTP/0.9": b"GET /ping\r\n\r\n",
    "HTTP/2 without TLS": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nno colon\r\nHost: t\r\n\r\n",
    "a header with a space before its colon": b"GET /ping HTTP/1.1\r\nHost : t\r\n\r\n",
    "a header with a control character": b"GET /ping HTTP/1.1\r\nHost: t\r\nX-A: a\x00b\r\n\r\n",
    "a folded header": b"GET /ping HTTP/1.1\r\nHost: t\r\nX-A: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /ping HTTP/1.1\nHost: t\n\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /ping HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
    "a length that is no number": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: -3\r\n\r\n",
    "a length with a sign": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: +3\r\n\r\nint",
    "two lengths": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nint",
    "a length and chunks": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a chunk without a size": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "an unknown transfer encoding": b"POST /predictions/answers HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: brotli\r\n\r\n",
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "empty lines first": b"\r\n\r\nGET /ping HTTP/1.1\r\nHost: t\r\n\r\n",
    "an absolute target": b"GET http://t/ping HTTP/1.1\r\nHost: t\r\n\r\n",
    "an upgrade to nothing": b"GET /ping HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: nothing\r\n\r\n",
    "an upgrade to HTTP/2": b"GET /ping HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n",
    "a target that is too long": request("GET", "/" + "x" * 70_000),
    "a header that is too long": request("GET", "/ping", b"", "X-Long: " + "x" * 70_000),
    "too many headers": request("GET", "/ping", b"", *(f"X-{n}: 1" for n in range(1000))),
    "another expectation": request("PUT", "/predictions/answers", b"", "Content-Length: 3", "Expect: a miracle"),
    "a body that is too large": request("POST", "/predictions/fake", b"", "Content-Length: 6553501"),
    "a body that is too large, asked for": request("POST", "/predictions/rows", b"", "Content-Length: 6553501", "Expect: 100-continue"),
    "a body beyond all measure": request("POST", "/predictions/rows", b"", "Content-Length: 99999999999999999999999"),
    "a body that is too large for nothing": request("POST", "/nowhere", b"", "Content-Length: 6553501"),
}  # fmt: skip


def chunked(*pieces: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + last


CHUNKS = request("POST", "/predictions/rows", b"", "Transfer-Encoding: chunked")
CONTINUE = Pause(b"HTTP/1.1 100 Continue\r\n\r\n")
V2 = json.dumps({"inputs": [tensor("x", "INT32", [1], [1])]}).encode()


def conversation(name: str, *sent: bytes, answers: int = 1, ends: bool = False) -> Http:
    return Http(name, "inference", sent, answers, ends)


EXCHANGES: list[Http] = [
    *(conversation(what, data) for what, data in MALFORMED.items()),
    conversation("two requests on one connection", INT, INT, answers=2),
    conversation("six requests at once", INT + PING + request("GET", "/nowhere") + request("POST", "/v2/models/mirror/infer", V2, JSON) + INT + request("HEAD", "/ping") + PING, answers=7),
    conversation("slow and quick requests at once", request("PUT", "/predictions/answers", b"sleep 0.05") + PING + INT, answers=3),
    conversation("a request and nonsense behind it", PING + b"nonsense\r\n\r\n", answers=2),
    conversation("a request that fails and another behind it", request("PUT", "/predictions/answers", b"raise") + INT, answers=2),
    conversation("a stream and another request behind it", request("PUT", "/predictions/answers", b"stream") + INT, answers=2),
    conversation("the head of an answer to HEAD and another behind it", request("HEAD", "/ping") + PING, answers=2),
    conversation("a client that wants its connection closed", request("PUT", "/predictions/answers", b"int", "Connection: close")),
    conversation("a client that says two things", request("PUT", "/predictions/answers", b"int", "Connection: Keep-Alive, Close")),
    conversation("a lost client that wants its connection closed", request("GET", "/nowhere", b"", "Connection: close")),
    conversation("HTTP/1.0", request("PUT", "/predictions/answers", b"int", version="1.0")),
    conversation("HTTP/1.0 without a host", b"GET /ping HTTP/1.0\r\n\r\n"),
    conversation("HTTP/1.0 that keeps its connection", request("PUT", "/predictions/answers", b"int", "Connection: keep-alive", version="1.0"), INT, answers=2),
    conversation("a stream over HTTP/1.0", request("POST", "/predictions/answers", b"stream", version="1.0"), ends=True),
    conversation("a stream that breaks off", request("POST", "/predictions/answers", b"stream break")),
    conversation("a client that closes its side", PING, ends=True),
    conversation("a client that leaves in the middle", request("POST", "/predictions/answers", b"", "Content-Length: 10") + b"int", ends=True),
    conversation("a client that says nothing", b"", ends=True, answers=0),
    conversation("a body in chunks", CHUNKS + chunked(b"one ", b"two")),
    conversation("a body in chunks with extensions and trailers", CHUNKS + b"3;a=b\r\none\r\n0\r\nX-Trailer: a\r\n\r\n"),
    conversation("a body in no chunks", CHUNKS + chunked()),
    conversation("a body in chunks of v2", request("POST", "/v2/models/mirror/infer", b"", JSON, "Transfer-Encoding: chunked") + chunked(V2[:10], V2[10:])),
    conversation("a client that asks first", request("PUT", "/predictions/rows", b"", "Content-Length: 3", "Expect: 100-continue"), CONTINUE, b"int"),
    conversation("a client that asks first and sends chunks", request("PUT", "/predictions/rows", b"", "Transfer-Encoding: chunked", "Expect: 100-continue"), CONTINUE, chunked(b"int")),
    conversation("a client that asks first for an unknown model", request("PUT", "/predictions/nobody", b"", "Content-Length: 3", "Expect: 100-continue"), CONTINUE, b"int"),
    conversation("a client that asks first over HTTP/1.0", request("PUT", "/predictions/rows", b"int", "Expect: 100-continue", version="1.0")),
    conversation("a client that asks first and sends at once", request("PUT", "/predictions/rows", b"int", "Expect: 100-continue")),
    conversation("a body by GET", request("GET", "/ping", b"body") + PING, answers=2),
    conversation("a large body", request("POST", "/predictions/rows", b"x" * 70_000)),
    conversation("a websocket that is no websocket", request("GET", "/models/infer", b"", "Connection: Upgrade", "Upgrade: websocket")),
    ask("a page of another site", "GET /ping", b"", "Origin: https://evil.example"),
    ask("a page of another site asks beforehand", "OPTIONS /predictions/rows", b"", "Origin: https://evil.example", "Access-Control-Request-Method: POST"),
    ask("a page of another site changes what is served", "POST /models?url=shout.mar", b"", "Origin: https://evil.example", port="management"),
    ask("a page of another site loads a model", "POST /v2/repository/models/negative/load", b"", "Origin: https://evil.example"),
]  # fmt: skip

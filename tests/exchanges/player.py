"""Plays exchanges with a server, byte for byte, and writes each as text that reads well and leaves nothing out.

An exchange is what a client sends and all that it gets back: over HTTP on a connection of its own, over gRPC as one
call. In the text a CRLF is a line break; a line feed alone is ``\\n`` before one; a backslash at the end of a line
joins it with the next; bytes that are no printable ASCII are ``\\x00``. Long bodies are told by length and digest.
"""

import hashlib
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import grpc
from exchanges.masks import masked, masked_message, masked_response

# How long a server may take to answer or to end a connection, in seconds.
_PATIENCE = 30.0
# Bytes of the longest body that is written whole, and of what is shown of a longer one.
_WHOLE, _SHOWN = 12_000, 120
_WIDTH = 160


class Pause(bytes):
    """In what is sent: wait until the server has sent exactly this, then go on."""


class Until(bytes):
    """In what is sent: wait until what the server has sent ends with this, then go on."""


class Http(NamedTuple):
    """Bytes to a listener of the server, and so many responses; then the connection ends, by the server if it says so."""

    name: str
    port: str
    sent: Sequence[bytes]
    answers: int = 1
    # Whether the client says that it will send no more, and reads until the server ends the connection.
    ends: bool = False
    # Whether all that comes until the server ends the connection is the answer.
    until_end: bool = False
    # Whether the answer is written whole, however long it is.
    whole: bool = False

    def play(self, ports: Mapping[str, int]) -> Iterator[str]:
        yield f">>> {self.port}"
        for piece in self.sent:
            if isinstance(piece, Pause | Until):
                yield "--- waits for"
            yield from lines_of(masked(piece))
        with (
            socket.create_connection(("127.0.0.1", ports[self.port]), timeout=_PATIENCE) as client,
            client.makefile("rb") as file,
        ):
            before = self._send(client, file)
            if not self.until_end and before != b"".join(
                each for each in self.sent if isinstance(each, Pause)
            ):
                yield "<<< not what was waited for"
                yield from lines_of(masked(before))
            yield from self._received(client, file, before)

    def _send(self, client: socket.socket, file: BinaryIO) -> bytes:
        """Send what is to be sent, and return what came while it was waited for."""
        before = b""
        for piece in self.sent:
            if isinstance(piece, Until):
                while not before.endswith(piece):
                    before += file.read(1) or piece
            elif isinstance(piece, Pause):
                before += file.read(len(piece))
            else:
                client.sendall(piece)
        return before

    def _received(self, client: socket.socket, file: BinaryIO, before: bytes) -> Iterator[str]:
        if self.ends or self.until_end:
            if self.ends:
                client.shutdown(socket.SHUT_WR)
            yield "<<< until the server ends the connection"
            yield from lines_of(masked(before + _rest(file)))
            return
        methods = re.findall(rb"([A-Z]+) \S+ HTTP/1", b"".join(self.sent))
        for number in range(self.answers):
            head, body = _response(file, methods[number : number + 1] == [b"HEAD"])
            yield "<<<"
            head, body = masked_response(head, body)
            yield from lines_of(head + b"\r\n")
            yield from lines_of(body, whole=self.whole)
            last = head
        if b"\r\nconnection: close" in last.lower():
            rest = _rest(file)
            yield "<<< the server ends the connection"
            yield from lines_of(masked(rest))


def _response(file: BinaryIO, bodiless: bool) -> tuple[bytes, bytes]:
    """The next response: its head without the empty line, and its body as it came, chunks and all."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            return head, b""
        head += line
    head = head[:-2]
    if re.match(rb"HTTP/1\.1 1\d\d", head) and not head.startswith(b"HTTP/1.1 101"):
        further, body = _response(file, bodiless)
        return head + b"\r\n" + further, body
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if bodiless or re.match(rb"HTTP/1\.1 (?:204|304|101)", head):
        return head, b""
    if re.search(rb"(?i)\r\ntransfer-encoding: chunked", head):
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            line = file.readline()
            if not line:
                return head, body
            body += line + file.read(int(line, 16) + 2)
        return head, body
    return head, file.read(int(length[1])) if length else file.read()


def _rest(file: BinaryIO) -> bytes:
    try:
        return file.read()
    except ConnectionResetError:
        return b""


class Call(NamedTuple):
    """A call over gRPC: messages as bytes, and whatever comes back."""

    name: str
    path: str
    messages: Sequence[bytes] = (b"",)
    streaming: bool = False
    metadata: Sequence[tuple[str, str]] = ()
    port: str = "grpc"

    def play(self, ports: Mapping[str, int]) -> Iterator[str]:
        yield f">>> {self.port} {self.path}"
        for key, value in self.metadata:
            yield f"--- {key}: {value}"
        for message in self.messages:
            yield "--- message"
            yield from lines_of(masked(message))
        with grpc.insecure_channel(f"127.0.0.1:{ports[self.port]}") as channel:
            kind = channel.stream_stream if self.streaming else channel.unary_stream
            asked = iter(self.messages) if self.streaming else self.messages[0]
            call = kind(self.path)(asked, metadata=self.metadata, timeout=_PATIENCE)
            got = []
            try:
                got.extend(call)
            except grpc.RpcError as error:
                if error is not call:
                    raise
            yield from _metadata("initial", call.initial_metadata())
            for message in got:
                yield "<<< message"
                yield from lines_of(masked_message(self.path, message))
            yield f"<<< {call.code().name}"
            yield from lines_of(masked((call.details() or "").encode()))
            yield from _metadata("trailing", call.trailing_metadata())


def _metadata(which: str, metadata) -> Iterator[str]:
    for key, value in metadata or ():
        data = value if isinstance(value, bytes) else value.encode()
        yield f"<<< {which} {key}: {_escaped(masked(data))}"


def lines_of(data: bytes, *, whole: bool = False) -> Iterator[str]:
    """``data`` as lines, each of them indented."""
    if len(data) > _WHOLE and not whole:
        yield from lines_of(data[:_SHOWN])
        yield f"  [... {len(data)} bytes in all, SHA-256 {hashlib.sha256(data).hexdigest()}]"
        return
    for line in re.findall(rb"[^\n]*\n|[^\n]+$", data):
        text, end = (line[:-2], "") if line.endswith(b"\r\n") else (line, "\\")
        if end and line.endswith(b"\n"):
            text, end = line[:-1], "\\n"
        while len(text) > _WIDTH:
            yield f"  {_escaped(text[:_WIDTH])}\\"
            text = text[_WIDTH:]
        yield f"  {_escaped(text)}{end}"


def _escaped(data: bytes) -> str:
    return "".join(
        "\\\\" if each == 0x5C else chr(each) if 0x20 <= each < 0x7F else f"\\x{each:02x}" for each in data
    )


def play(exchanges: Sequence[Http | Call], ports: Mapping[str, int]) -> str:
    """The text of all of these, asked one after the other."""
    text = []
    for exchange in exchanges:
        text.append(f"=== {exchange.name}")
        try:
            text.extend(exchange.play(ports))
        except (OSError, ValueError) as error:
            text.append(f"!!! {type(error).__name__}: {error}")
        text.append("")
    return "\n".join(text) + "\n"

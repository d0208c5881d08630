"""ModelInfer's messages, both directions: bytes to requests and responses, and back, without message objects.

Every other message is small and rare, and is one of ``codecs.proto.inference_pb2``.
"""

import struct
from collections.abc import Mapping
from typing import Any

from mooring.codecs.protobuf_tensors import (
    HALF_FLOATS,
    RAW_LAYOUT,
    TYPED_LAYOUT,
    ContentsLayout,
    ElementReader,
    Part,
    Regions,
    TensorEntry,
    encode_raw_contents,
    encode_typed_contents,
)
from mooring.codecs.protobuf_wire import (
    CountingReader,
    FieldReader,
    Malformed,
    encode_nested,
    encode_text,
    encode_varint,
    read_fields,
    read_varints,
    to_signed,
)
from mooring.core.buffers import Allocator, Buffer, Payload, Share
from mooring.core.errors import InvalidInput
from mooring.core.requests import InferenceRequest, InferenceResponse, RequestedOutput
from mooring.core.tensors import Parameter, RequestValue, Tensor, clear_names

_BINARY = "binary_data"
# Bytes of a message up to which it is decoded to the last element at once.
_MAX_UNPACKED_BYTES = 4096
# A shape has at most 32 sizes, and a varint at most ten bytes.
_MAX_SHAPE_BYTES = 320


def decode_request(
    payload: Payload,
    allocator: Allocator | None = None,
    regions: Regions | None = None,
    *,
    lenient: bool = False,
) -> tuple[InferenceRequest, ContentsLayout]:
    """Decode a ModelInferRequest; return it and its layout. Takes the message over: large elements of a buffer stay where they lie.

    Those of bytes are copied to the allocator's memory, or borrowed where there is none. Of a message above a few
    kilobytes, elements stay packed that cost time one by one. ``lenient`` is that of ``v2_json.decode_request``. Raises
    ``InvalidInput``, or what ``regions`` raises; nothing is held then.
    """
    if not isinstance(payload, Buffer):
        return _decode_request(payload, None, allocator, regions, lenient=lenient)
    share = Share(payload)
    try:
        return _decode_request(payload.view, share, allocator, regions, lenient=lenient)
    finally:
        share.release()


def _decode_request(
    message: bytes | memoryview,
    share: Share | None,
    allocator: Allocator | None,
    regions: Regions | None,
    *,
    lenient: bool,
) -> tuple[InferenceRequest, ContentsLayout]:
    request = InferenceRequest("", "", "", [])
    entries: list[TensorEntry] = []
    raw: list[tuple[int, int]] = []
    outputs: list[RequestedOutput] = []
    large = len(message) > _MAX_UNPACKED_BYTES
    read: FieldReader = CountingReader().read_fields if large else read_fields
    try:
        for tag, start, end in read(message, 0, len(message)):
            if tag == 0x0A:
                request.model = str(message[start:end], "utf-8")
            elif tag == 0x12:
                request.version = str(message[start:end], "utf-8")
            elif tag == 0x1A:
                request.id = str(message[start:end], "utf-8")
            elif tag == 0x22:
                request.parameters = request.parameters or {}
                _read_parameter(message, start, end, request.parameters, read)
            elif tag == 0x2A:
                entries.append(_read_tensor(message, start, end, read))
            elif tag == 0x32:
                outputs.append(_read_requested_output(message, start, end, read))
            elif tag == 0x3A:
                raw.append((start, end))
        elements = ElementReader(message, "input", allocator, share, pack=large, lenient=lenient)
        request.inputs, layout = elements.read_tensors(entries, raw, regions)
        if lenient:
            clear_names(request.inputs)
    except InvalidInput as error:
        error.model, error.version = request.model, request.version
        raise
    except (Malformed, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"the message is not a ModelInferRequest: {error}", model=request.model, version=request.version
        ) from None
    if outputs:
        request.outputs = outputs
    return request, layout


def decode_response(message: bytes) -> InferenceResponse:
    """Decode a ModelInferResponse; large elements are borrowed from the message. Raises ``InvalidInput``."""
    response = InferenceResponse([])
    entries: list[TensorEntry] = []
    raw: list[tuple[int, int]] = []
    try:
        for tag, start, end in read_fields(message, 0, len(message)):
            if tag == 0x0A:
                response.model = str(message[start:end], "utf-8")
            elif tag == 0x12:
                response.version = str(message[start:end], "utf-8")
            elif tag == 0x1A:
                response.id = str(message[start:end], "utf-8")
            elif tag == 0x22:
                response.parameters = response.parameters or {}
                _read_parameter(message, start, end, response.parameters)
            elif tag == 0x2A:
                entries.append(_read_tensor(message, start, end))
            elif tag == 0x32:
                raw.append((start, end))
        tensors, _ = ElementReader(message, "output", None).read_tensors(entries, raw, None)
        response.outputs = [*tensors]
    except (Malformed, UnicodeDecodeError) as error:
        raise InvalidInput(f"the message is not a ModelInferResponse: {error}") from None
    return response


def _read_tensor(
    message: bytes | memoryview, at: int, stop: int, read: FieldReader = read_fields
) -> TensorEntry:
    entry = TensorEntry("", "", [], None, [])
    for tag, start, end in read(message, at, stop):
        if tag == 0x0A:
            entry.name = str(message[start:end], "utf-8")
        elif tag == 0x12:
            entry.datatype = str(message[start:end], "utf-8")
        elif tag == 0x1A:
            if end - start > _MAX_SHAPE_BYTES:
                raise InvalidInput(f"tensor '{entry.name}' has a shape that no tensor can have")
            sizes = bytes(message[start:end])
            entry.shape += sizes if sizes.isascii() else map(to_signed, read_varints(sizes).tolist())
        elif tag == 0x18:  # a number by itself, which a reader of proto3 must take too
            entry.shape.append(to_signed(start))
        elif tag == 0x22:
            entry.parameters = entry.parameters or {}
            _read_parameter(message, start, end, entry.parameters, read)
        elif tag == 0x2A:
            entry.contents.append((start, end))
    return entry


def _read_requested_output(
    message: bytes | memoryview, at: int, stop: int, read: FieldReader
) -> RequestedOutput:
    name = ""
    parameters: dict[str, Parameter] = {}
    for tag, start, end in read(message, at, stop):
        if tag == 0x0A:
            name = str(message[start:end], "utf-8")
        elif tag == 0x12:
            _read_parameter(message, start, end, parameters, read)
    parameters.pop(_BINARY, None)  # of no use: over gRPC every output is binary
    return RequestedOutput(name, parameters or None)


def _read_parameter(
    message: bytes | memoryview, at: int, stop: int, into: dict[str, Any], read: FieldReader = read_fields
) -> None:
    """Read an entry of a map of InferParameter into ``into``; an entry without a value is left out."""
    key = ""
    value: Parameter | None = None
    for tag, start, end in read(message, at, stop):
        if tag == 0x0A:
            key = str(message[start:end], "utf-8")
        elif tag == 0x12:
            for choice, begin, finish in read(message, start, end):
                if choice == 0x08:
                    value = begin != 0
                elif choice == 0x10:
                    value = to_signed(begin)
                elif choice == 0x1A:
                    value = str(message[begin:finish], "utf-8")
                elif choice == 0x21:
                    value = struct.unpack_from("<d", message, begin)[0]
                elif choice == 0x28:
                    value = begin
    if value is not None:
        into[key] = value


def encode_response(response: InferenceResponse, layout: ContentsLayout = ContentsLayout.RAW) -> list[Part]:
    """Encode a ModelInferResponse, in parts. An output whose data is None lies in shared memory, and has no elements here.

    Parts may be views of the outputs: they are to be released when the parts have been sent.
    """
    return _encode_response(response, layout)


def encode_piece(
    response: InferenceResponse, layout: ContentsLayout = ContentsLayout.RAW, error: str = ""
) -> bytes:
    """Encode a ModelStreamInferResponse; ``error`` is its ``error_message``."""
    parts = _encode_response(response, layout)
    size = sum(len(part) for part in parts)
    return b"".join([encode_text(b"\x0a", error), b"\x12", encode_varint(size), *parts])


def encode_request(request: InferenceRequest) -> bytes:
    """Encode a ModelInferRequest with raw contents."""
    parts: list[Part] = [
        encode_text(b"\x0a", request.model),
        encode_text(b"\x12", request.version),
        encode_text(b"\x1a", request.id),
        *_encode_parameters(b"\x22", request.parameters),
    ]
    parts += [encode_nested(b"\x2a", _encode_tensor_head(tensor)) for tensor in request.inputs]
    for output in request.outputs or ():
        inner = encode_text(b"\x0a", output.name) + b"".join(_encode_parameters(b"\x12", output.parameters))
        parts.append(encode_nested(b"\x32", inner))
    return b"".join(parts + encode_raw_contents(b"\x3a", request.inputs))


def _encode_response(response: InferenceResponse, layout: ContentsLayout) -> list[Part]:
    outputs = response.tensors
    if layout is TYPED_LAYOUT and any(tensor.datatype in HALF_FLOATS for tensor in outputs):
        layout = RAW_LAYOUT  # all or none: a raw entry belongs to the output at its place
    parts: list[Part] = [
        encode_text(b"\x0a", response.model),
        encode_text(b"\x12", response.version),
        encode_text(b"\x1a", response.id),
        *_encode_parameters(b"\x22", response.parameters),
    ]
    if layout is RAW_LAYOUT:
        parts += [encode_nested(b"\x2a", _encode_tensor_head(tensor)) for tensor in outputs]
        return parts + encode_raw_contents(b"\x32", outputs)
    for tensor in outputs:
        head, contents = _encode_tensor_head(tensor), encode_typed_contents(tensor)
        inner = sum(len(part) for part in contents)
        prefix = head + b"\x2a" + encode_varint(inner)
        parts += [b"\x2a", encode_varint(len(prefix) + inner), prefix, *contents]
    return parts


def _encode_tensor_head(tensor: Tensor) -> bytes:
    """Encode all of a tensor but its elements."""
    name, datatype, shape = tensor.name.encode(), tensor.datatype.encode(), tensor.shape
    sizes = bytes(shape) if not shape or max(shape) < 0x80 else b"".join(map(encode_varint, shape))
    head = b"%b\x12%c%b" % (encode_nested(b"\x0a", name), len(datatype), datatype)
    if sizes:
        head += encode_nested(b"\x1a", sizes)
    return head + b"".join(_encode_parameters(b"\x22", tensor.parameters)) if tensor.parameters else head


def _encode_parameters(tag: bytes, parameters: Mapping[str, RequestValue] | None) -> list[Part]:
    """Encode a map of InferParameter."""
    if not parameters:
        return []
    return [
        encode_nested(tag, encode_text(b"\x0a", name) + encode_nested(b"\x12", _encode_parameter(value)))
        for name, value in parameters.items()
    ]


def _encode_parameter(value: RequestValue) -> bytes:
    if isinstance(value, list | dict):
        raise InvalidInput(
            "parameters that are lists or objects cannot be sent over gRPC; send them over REST"
        )
    if isinstance(value, bool):
        return b"\x08%c" % value
    if isinstance(value, int):
        return (
            b"\x10" + encode_varint(value & 0xFFFF_FFFF_FFFF_FFFF)
            if value < 1 << 63
            else b"\x28" + encode_varint(value)
        )
    if isinstance(value, float):
        return b"\x21" + struct.pack("<d", value)
    # Not encode_text(): of a oneof the empty string is a value too.
    return encode_nested(b"\x1a", value.encode())

"""Elements that nobody looks at on the event loop: packed where they come in, unpacked in a worker, and the way back.

A loop that reads element by element is deaf to everybody else meanwhile: a million empty texts take it seconds. So above
a few kilobytes the server passes on what came, checked only as far as its size tells, and the worker reads it. What is
wrong with the elements is therefore said by the worker, in the words of ``unpack_tensor``.
"""

import math
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

import msgspec

from mooring.codecs.protobuf_tensors import (
    HALF_FLOATS,
    ContentsLayout,
    ElementReader,
    TensorEntry,
    encode_typed_contents,
)
from mooring.codecs.protobuf_wire import Malformed
from mooring.codecs.raw import check_booleans, join_texts, split_texts
from mooring.core.buffers import LARGE, Buffer, Payload, view_of
from mooring.core.errors import InvalidInput
from mooring.core.tensors import CONTENTS, ESCAPED, PLAIN, RAW, ROWS, Output, Tensor

# Elements of a list up to which it travels as it is, and bytes up to which the loop may encode numbers itself.
MAX_UNPACKED = 256
_MAX_LOOP_NUMBERS = 16_384
# Those contents fields are the elements as they lie in memory: the loop only puts a head before them.
_PACKED_AS_THEY_LIE = frozenset({"FP32", "FP64", "BOOL"})
_REGION = "shared_memory_region"
_predictions_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def unpack_tensor(tensor: Tensor) -> None:
    """Give a tensor plain data. Raises ``InvalidInput`` for data that is at fault; its memory stays the caller's."""
    if tensor.packed == RAW:
        tensor.data = _unpack_raw(tensor)
    elif tensor.packed == CONTENTS:
        _unpack_contents(tensor)
    elif tensor.packed == ESCAPED:
        tensor.data = [unquote_to_bytes(bytes(view_of(tensor.data[0])).replace(b"+", b" "))]
    tensor.packed = PLAIN


def _unpack_raw(tensor: Tensor) -> Payload | list[Payload]:
    view = view_of(tensor.data)
    if tensor.datatype != "BYTES":
        check_booleans(view, f"input '{tensor.name}'")
        payload: Payload = tensor.data
        return payload
    texts = split_texts(view, tensor.name, lambda begin, end: _keep_element(view[begin:end]))
    if len(texts) != math.prod(tensor.shape):
        raise InvalidInput(
            f"input '{tensor.name}' has {len(texts)} elements, "
            f"its shape {tensor.shape} needs {math.prod(tensor.shape)}"
        )
    return texts


def _keep_element(view: memoryview) -> Payload:
    """Copy a small element, leave a large one where it lies: the memory stays its owner's."""
    return bytes(view) if len(view) <= LARGE else Buffer(view)


def _unpack_contents(tensor: Tensor) -> None:
    view = view_of(tensor.data)
    found = TensorEntry(tensor.name, tensor.datatype, tensor.shape, None, [(0, len(view))])
    try:
        plain = ElementReader(view, "input", None).read_typed(found)
    except Malformed as error:
        raise InvalidInput(f"the message is not a ModelInferRequest: {error}") from None
    tensor.data, tensor.shape = plain.data, plain.shape


def with_plain_data(tensor: Tensor) -> Tensor:
    """The tensor with plain data, which may be views of the packed: itself, or one beside it. Raises as ``unpack_tensor``."""
    if not tensor.packed:
        return tensor
    plain = msgspec.structs.replace(tensor)
    unpack_tensor(plain)
    return plain


def unpack_tensors(tensors: Sequence[Tensor]) -> None:
    """As ``unpack_tensor``, for every tensor that is packed."""
    for tensor in tensors:
        if tensor.packed:
            unpack_tensor(tensor)


def pack_outputs(outputs: Sequence[Output], layout: int = ContentsLayout.RAW) -> None:
    """Pack outputs of many elements for the loop, which is to send them in this layout."""
    if layout == ContentsLayout.BARE:
        _join_first(outputs)
        return
    if layout == ContentsLayout.TYPED and any(tensor.datatype in HALF_FLOATS for tensor in outputs):
        layout = ContentsLayout.RAW  # as the encoder does: all or none
    for tensor in outputs:
        if type(tensor) is not Tensor or tensor.packed or tensor.data is None:
            continue
        if layout != ContentsLayout.RAW and not _in_shared_memory(tensor):
            _pack_typed(tensor)
        elif type(tensor.data) is list and len(tensor.data) > MAX_UNPACKED:
            tensor.data, tensor.packed = join_texts(tensor.data), RAW


def _join_first(outputs: Sequence[Output]) -> None:
    if outputs and type(outputs[0].data) is list and len(outputs[0].data) > MAX_UNPACKED:
        outputs[0].data = [b"".join(map(view_of, outputs[0].data))]


def _pack_typed(tensor: Tensor) -> None:
    is_list = type(tensor.data) is list
    if (
        len(tensor.data) > (MAX_UNPACKED if is_list else _MAX_LOOP_NUMBERS)
        and tensor.datatype not in _PACKED_AS_THEY_LIE
    ):
        tensor.data, tensor.packed = b"".join(encode_typed_contents(tensor)), CONTENTS


def _in_shared_memory(tensor: Tensor) -> bool:
    return tensor.parameters is not None and _REGION in tensor.parameters


def join_predictions(tensor: Tensor) -> bytes:
    """Return the JSON of all predictions, with a comma between any two."""
    if tensor.packed:
        return bytes(view_of(tensor.data)[1:-1])
    return b",".join(map(view_of, tensor.data))


def split_predictions(predictions: Tensor) -> list[bytes]:
    """Return the JSON of every prediction."""
    if predictions.packed:
        return [bytes(each) for each in _predictions_decoder.decode(view_of(predictions.data))]
    return [bytes(each) for each in predictions.data]


def pack_predictions(outputs: Sequence[Tensor]) -> None:
    """Pack the predictions of KServe v1, where they are many: each is JSON, and so is the list of them."""
    for tensor in outputs:
        if type(tensor.data) is list and len(tensor.data) > MAX_UNPACKED:
            tensor.data, tensor.packed = b"[" + b",".join(map(view_of, tensor.data)) + b"]", ROWS

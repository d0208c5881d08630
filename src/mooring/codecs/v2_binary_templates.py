"""Bodies of v2 with binary tensors, whose JSON is known to the byte: that of most clients never changes.

What such a document says was worked out when it came before, in the general way. Then a body is its tensors' bytes, at
places that are known, too. That is exact: the length of the body is all that remains to be looked at. Datatypes whose
bytes may be wrong (BOOL, BYTES) are left to the general way, and so is whatever is at fault.
"""

import re

import msgspec
import orjson

from mooring.codecs.v2_json import InferBody, Parameters, Wanted, wanted_of
from mooring.core.buffers import LARGE, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import NUMPY_TYPES, RequestValue, Tensor

# Of longer documents the reading is not what costs.
_LONGEST = 4096
_KEPT = 512
_SIZE = "binary_data_size"
_ANY_BYTES = frozenset(NUMPY_TYPES) - {"BOOL"}
# An id is another one each time. Where clients write it first, what follows is the document without it.
_ID_FIRST = re.compile(rb'\{[ \t\r\n]*"id"[ \t\r\n]*:[ \t\r\n]*"([ !#-\[\]-~]*)"[ \t\r\n]*,[ \t\r\n]*')


class _Place(msgspec.Struct, frozen=True, gc=False):
    """A tensor, and where behind the document its bytes are."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None
    start: int
    end: int

    def tensor(self, data: Payload) -> Tensor:
        """The tensor of a request, with its own bytes."""
        parameters = self.parameters
        return Tensor(
            self.name, self.datatype, self.shape, data, None if parameters is None else {**parameters}
        )


class _Layout(msgspec.Struct, frozen=True, gc=False):
    """What a document says of the bytes behind it, which are ``size``."""

    size: int
    inputs: list[_Place]
    outputs: list[RequestedOutput] | None
    parameters: dict[str, RequestValue] | None
    wanted: Wanted


class KnownBinaries:
    """Reads bodies of binary tensors once the same document has come twice, but for an id at its beginning."""

    def __init__(self) -> None:
        # None for a document that must be read each time.
        self._layouts: dict[bytes, _Layout | None] = {}
        self._seen: set[bytes] = set()

    def read(self, document: bytes, body: Payload) -> tuple[InferBody, Wanted] | None:
        """The request that begins with this document, and what it wants in binary: takes the body over.

        None where it must be read in the general way, and then may be given to ``learn``.
        """
        given, rest = _parted(document)
        layout = self._layouts.get(rest)
        if layout is None or layout.size != len(body) - len(document):
            return None
        parameters = layout.parameters
        inputs = _cut(body, layout.inputs, len(document))
        return (
            InferBody(given, inputs, layout.outputs, None if parameters is None else {**parameters}),
            layout.wanted,
        )

    def learn(self, document: bytes, size: int, found: InferBody) -> None:
        """Remember what was found in a body of so many bytes that begins with this document, if that came before."""
        given, rest = _parted(document)
        if found.id != given or not rest or rest in self._layouts or len(self._layouts) >= _KEPT:
            return
        if rest in self._seen:
            self._layouts[rest] = _layout_of(rest, size - len(document), found)
            return
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        self._seen.add(rest)


def document_of(body: Payload, size: int) -> bytes:
    """The JSON that a body begins with; nothing where it is too long to be kept."""
    return view_of(body)[:size].tobytes() if 0 < size <= _LONGEST else b""


def _parted(document: bytes) -> tuple[str, bytes]:
    """The id that a document begins with, and the document without it."""
    first = _ID_FIRST.match(document)
    return ("", document) if first is None else (first[1].decode(), b"{" + document[first.end() :])


def _cut(body: Payload, places: list[_Place], at: int) -> list[Tensor]:
    """The tensors in what follows the first ``at`` bytes of a body."""
    if not isinstance(body, Buffer):
        return [place.tensor(body[at + place.start : at + place.end]) for place in places]
    first = places[0]
    if len(places) == 1 and first.end > LARGE:
        return [first.tensor(body.tail(at))]
    share = Share(body)
    tensors = [place.tensor(share.part(at + place.start, at + place.end)) for place in places]
    share.release()
    return tensors


def _layout_of(rest: bytes, size: int, found: InferBody) -> _Layout | None:
    """None where a tensor is not all bytes behind the JSON, or has such as must be looked at, and for a second id."""
    document = orjson.loads(rest)
    if "id" in document:
        return None
    places = []
    end = 0
    for entry, tensor in zip(document["inputs"], found.inputs, strict=True):
        parameters = entry.get("parameters") or {}
        size_there = parameters.get(_SIZE)
        if "data" in entry or tensor.datatype not in _ANY_BYTES or size_there != len(tensor.data):
            return None
        start, end = end, end + size_there
        places.append(_Place(tensor.name, tensor.datatype, tensor.shape, tensor.parameters, start, end))
    if end != size:
        return None
    try:
        wanted = wanted_of(found.outputs, found.parameters)
    except InvalidInput:
        return None
    return _Layout(size, places, found.outputs, found.parameters, wanted)

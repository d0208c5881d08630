"""Bodies of v2 with binary tensors, whose JSON is known to the byte: that of most clients never changes.

What such a document says was worked out when it came before, in the general way. Then a body is its tensors' bytes, at
places that are known, too. That is exact: the length of the body is all that remains to be looked at. Datatypes whose
bytes may be wrong (BOOL, BYTES) are left to the general way, and so is whatever is at fault.
"""

import msgspec
import orjson

from mooring.codecs.v2_json import InferBody, Parameters, Wanted, wanted_of
from mooring.core.buffers import LARGE, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import NUMPY_TYPES, Tensor

# Of longer documents the reading is not what costs.
_LONGEST = 4096
_KEPT = 512
_SIZE = "binary_data_size"
_ANY_BYTES = frozenset(NUMPY_TYPES) - {"BOOL"}


class _Place(msgspec.Struct, frozen=True, gc=False):
    """A tensor, and where in the body its bytes are."""

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
    """What a document says of the body that begins with it. ``size`` is the whole body's."""

    size: int
    inputs: list[_Place]
    outputs: list[RequestedOutput] | None
    parameters: Parameters | None
    wanted: Wanted


class KnownBinaries:
    """Reads bodies of binary tensors that have no id, once the same document has come twice."""

    def __init__(self) -> None:
        # None for a document that must be read each time.
        self._layouts: dict[bytes, _Layout | None] = {}
        self._seen: set[bytes] = set()

    def read(self, document: bytes, body: Payload) -> tuple[InferBody, Wanted] | None:
        """The request that begins with this document, and what it wants in binary: takes the body over.

        None where it must be read in the general way, and then may be given to ``learn``.
        """
        layout = self._layouts.get(document)
        if layout is None or layout.size != len(body):
            return None
        parameters = layout.parameters
        inputs = _cut(body, layout.inputs)
        return (
            InferBody("", inputs, layout.outputs, None if parameters is None else {**parameters}),
            layout.wanted,
        )

    def learn(self, document: bytes, size: int, found: InferBody) -> None:
        """Remember what was found in a body of so many bytes that begins with this document, if that came before."""
        if found.id or not document or document in self._layouts or len(self._layouts) >= _KEPT:
            return
        if document in self._seen:
            self._layouts[document] = _layout_of(document, size, found)
            return
        if len(self._seen) >= _KEPT:
            self._seen.clear()
        self._seen.add(document)


def document_of(body: Payload, size: int) -> bytes:
    """The JSON that a body begins with; nothing where it is too long to be kept."""
    return view_of(body)[:size].tobytes() if 0 < size <= _LONGEST else b""


def _cut(body: Payload, places: list[_Place]) -> list[Tensor]:
    if not isinstance(body, Buffer):
        return [place.tensor(body[place.start : place.end]) for place in places]
    first = places[0]
    if len(places) == 1 and first.end - first.start > LARGE:
        return [first.tensor(body.tail(first.start))]
    share = Share(body)
    tensors = [place.tensor(share.part(place.start, place.end)) for place in places]
    share.release()
    return tensors


def _layout_of(document: bytes, size: int, found: InferBody) -> _Layout | None:
    """None where a tensor is not all bytes behind the JSON, or has such as must be looked at."""
    places = []
    end = len(document)
    for entry, tensor in zip(orjson.loads(document)["inputs"], found.inputs, strict=True):
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

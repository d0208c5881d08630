"""Bodies of v2 with binary tensors, whose JSON is known to the byte: that of most clients never changes.

What such a document says was worked out when it came before, in the general way. Then a body is its tensors' bytes, at
places that are known, too. That is exact: the length of the body is all that remains to be looked at. Datatypes whose
bytes may be wrong (BOOL, BYTES) are left to the general way, and so is whatever is at fault.
"""

import re
from collections.abc import Mapping

import msgspec
import orjson

from mooring.codecs.v2_json import InferBody, OutputSelection, select_outputs
from mooring.core.buffers import LARGE, Buffer, Payload, Share, view_of
from mooring.core.errors import InvalidInput
from mooring.core.requests import RequestedOutput
from mooring.core.tensors import NUMPY_TYPES, Parameter, RequestValue, Tensor

# Of longer documents the reading is not what costs.
_MAX_DOCUMENT = 4096
_MAX_TEMPLATES = 512
_SIZE = "binary_data_size"
_ANY_BYTES = frozenset(NUMPY_TYPES) - {"BOOL"}
# An id is another one each time. Where clients write it first, what follows is the document without it.
_ID_FIRST = re.compile(rb'\{[ \t\r\n]*"id"[ \t\r\n]*:[ \t\r\n]*"([ !#-\[\]-~]*)"[ \t\r\n]*,[ \t\r\n]*')


class _Place(msgspec.Struct, frozen=True, gc=False):
    """A tensor, and where behind the document its bytes are."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Parameter] | None
    start: int
    end: int

    def tensor(self, data: Payload) -> Tensor:
        """The tensor of a request, with its own bytes."""
        parameters = self.parameters
        return Tensor(
            self.name, self.datatype, [*self.shape], data, None if parameters is None else {**parameters}
        )


class _Template(msgspec.Struct, frozen=True, gc=False):
    """What a document says of the bytes behind it, which are ``size``."""

    size: int
    inputs: tuple[_Place, ...]
    outputs: tuple[RequestedOutput, ...] | None
    parameters: Mapping[str, RequestValue] | None
    selection: OutputSelection


class BinaryTemplates:
    """Reads bodies of binary tensors once the same document has come twice, but for an id at its beginning.

    How this works: the document without its id is the key of a template. A body of a new document is read in the general
    way and given to ``remember``; at its second time a template is made of it, where one can be. From then on ``read``
    cuts the tensors out of the body, whose length is all that may differ.
    """

    def __init__(self) -> None:
        # None for a document that must be read each time.
        self._templates: dict[bytes, _Template | None] = {}
        self._seen_once: set[bytes] = set()

    def read(self, document: bytes, body: Payload) -> tuple[InferBody, OutputSelection] | None:
        """Return the request that begins with this document, and what it wants in binary. Takes the body over.

        None where the body must be read in the general way; what that finds may be given to ``remember``.
        """
        client_id, rest = _split_id(document)
        template = self._templates.get(rest)
        if template is None or template.size != len(body) - len(document):
            return None
        parameters, outputs = template.parameters, template.outputs
        decoded = InferBody(
            client_id,
            _cut_tensors(body, template.inputs, len(document)),
            None if outputs is None else [*outputs],
            None if parameters is None else {**parameters},
        )
        return decoded, template.selection

    def remember(self, document: bytes, size: int, decoded: InferBody) -> None:
        """Make a template of a body of so many bytes that begins with this document, where that came before."""
        client_id, rest = _split_id(document)
        if (
            decoded.id != client_id
            or not rest
            or rest in self._templates
            or len(self._templates) >= _MAX_TEMPLATES
        ):
            return
        if rest in self._seen_once:
            self._templates[rest] = _make_template(rest, size - len(document), decoded)
            return
        if len(self._seen_once) >= _MAX_TEMPLATES:
            self._seen_once.clear()
        self._seen_once.add(rest)


def read_document(body: Payload, size: int) -> bytes:
    """Return the JSON that a body begins with; nothing where it is too long to be kept."""
    return view_of(body)[:size].tobytes() if 0 < size <= _MAX_DOCUMENT else b""


def _split_id(document: bytes) -> tuple[str, bytes]:
    """Return the id that a document begins with, and the document without it."""
    first = _ID_FIRST.match(document)
    return ("", document) if first is None else (first[1].decode(), b"{" + document[first.end() :])


def _cut_tensors(body: Payload, places: tuple[_Place, ...], at: int) -> list[Tensor]:
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


def _make_template(rest: bytes, size: int, decoded: InferBody) -> _Template | None:
    """None where a tensor is not all bytes behind the JSON, or has such as must be looked at, and for a second id."""
    document = orjson.loads(rest)
    if "id" in document:
        return None
    places = []
    end = 0
    for entry, tensor in zip(document["inputs"], decoded.inputs, strict=True):
        parameters = entry.get("parameters") or {}
        size_there = parameters.get(_SIZE)
        if "data" in entry or tensor.datatype not in _ANY_BYTES or size_there != len(tensor.data):
            return None
        start, end = end, end + size_there
        places.append(
            _Place(tensor.name, tensor.datatype, tuple(tensor.shape), tensor.parameters, start, end)
        )
    if end != size:
        return None
    try:
        selection = select_outputs(decoded.outputs, decoded.parameters)
    except InvalidInput:
        return None
    outputs = None if decoded.outputs is None else tuple(decoded.outputs)
    return _Template(size, tuple(places), outputs, decoded.parameters, selection)

"""Bodies of v2 that differ from one before them in nothing but a few numbers: most of what a busy server gets.

A body is  ``{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": `` + numbers + ``}]}``. Where what stands
before the numbers and after them is known to the byte, only the numbers are read. That is exact: JSON has one grammar
for a value wherever it stands, so that another value in the same place changes nothing else of what the document says.
"""

from typing import Any, cast

import msgspec
import orjson

from mooring.codecs.short_lists import pack_numbers
from mooring.codecs.v2_json import InferBody
from mooring.core.tensors import Tensor

# Of longer bodies the numbers are what costs.
_MAX_BODY = 4096
_MAX_TEMPLATES = 512
_DATA = b'"data"'


class _Template(msgspec.Struct, frozen=True, gc=False):
    """A body without its numbers: the bytes around them, the tensor that they are of, and how many they are."""

    before: bytes
    after: bytes
    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int


class JsonTemplates:
    """Reads bodies with one tensor of numbers and nothing else, once two bodies of the same template have come.

    How this works: the bytes before the word ``"data"`` are the key of a template. A body of a new key is read in the
    general way and given to ``remember``; at its second time a template is made of it, where one can be proven. From
    then on ``read`` compares the bytes before and after the numbers, and decodes only the numbers.
    """

    def __init__(self) -> None:
        # By what stands before the word "data"; None for a body of which no template can be made.
        self._templates: dict[bytes, _Template | None] = {}
        self._seen_once: set[bytes] = set()
        # The last template that fitted: it is tried first, since a client is likely to send the same again.
        self._last: _Template | None = None

    def read(self, body: bytes) -> Tensor | None:
        """Return the request's only input, which is all that the body says.

        None where the body must be read in the general way; what that finds may be given to ``remember``.
        """
        template = self._last
        if template is None or not body.startswith(template.before):
            template = self._templates.get(body[: body.find(_DATA)])
            if template is None or not body.startswith(template.before):
                return None
            self._last = template
        before, after = template.before, template.after
        if not body.endswith(after):
            return None
        try:
            values = orjson.loads(body[len(before) : -len(after)])
        except orjson.JSONDecodeError:
            return None
        if type(values) is not list or len(values) != template.size:
            return None
        elements = pack_numbers(values, template.datatype)
        if elements is None:
            return None
        return Tensor(template.name, template.datatype, [*template.shape], elements)

    def remember(self, body: bytes, decoded: InferBody) -> None:
        """Make a template of a body that was read in the general way, where one like it came before."""
        if (
            decoded.id
            or decoded.outputs is not None
            or decoded.parameters is not None
            or len(decoded.inputs) != 1
        ):
            return
        at = body.find(_DATA)
        if at < 0 or len(body) > _MAX_BODY or len(self._templates) >= _MAX_TEMPLATES:
            return
        head = body[:at]
        if head in self._templates:
            return
        if head not in self._seen_once:
            if len(self._seen_once) >= _MAX_TEMPLATES:
                self._seen_once.clear()
            self._seen_once.add(head)
            return
        self._templates[head] = _make_template(body, at, decoded.inputs[0])


def _make_template(body: bytes, at: int, tensor: Tensor) -> _Template | None:
    begin = body.find(b"[", at)
    end = body.find(b"]", begin) + 1
    before, after = body[:begin], body[end:]
    if begin < 0 or not end or not after or tensor.parameters is not None:
        return None
    try:
        # With null in the place of the numbers it must be the same document with null for its data: the list that was
        # found is that data, and no part of a name or of something nobody reads.
        document, numbers = cast("dict[str, Any]", orjson.loads(body)), orjson.loads(body[begin:end])
        blank = cast("dict[str, Any]", orjson.loads(before + b"null" + after))
    except orjson.JSONDecodeError:
        return None
    (entry,) = document["inputs"]
    if entry.get("data") != numbers or blank == document:
        return None
    entry["data"] = None
    if blank != document or pack_numbers(numbers, tensor.datatype) is None:
        return None
    return _Template(before, after, tensor.name, tensor.datatype, tuple(tensor.shape), len(numbers))

"""What a body is, where it is not what its content type says or not what a model takes: the text for each case."""

# How the formats of images begin; a WEBP file has its length between two marks.
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
_OTHERS = (
    (b"\x93NUMPY", "an array of NumPy's (.npy)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip file"),
    (b"<", "HTML or XML"),
    (b"\xef\xbb\xbf", "text behind a byte order mark"),
)
_LOOKED_AT = 512  # bytes
_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
_BRACKETS = {b"{": b"}", b"[": b"]"}
# With what a JSON document begins; NaN and Infinity are read, too.
_JSON_STARTS = frozenset(bytes([each]) for each in b'{["-0123456789tfnNI')
SEND_JSON = f"-H 'content-type: {_JSON}'"
"""The option of curl that says that a body is JSON."""


def image_format(head: bytes) -> str:
    """Return the name of the format of an encoded image by its first 12 bytes; empty for what is not one."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for mark, name in _IMAGES if head.startswith(mark)), "")


def is_json_in_form(body: bytes | memoryview, content_type: str) -> bool:
    """Whether a body of this type is JSON that was sent as an urlencoded form, as ``curl -d`` does without a header."""
    if not content_type.lower().startswith(_FORM):
        return False
    closing = _BRACKETS.get(bytes(body[:_LOOKED_AT]).lstrip()[:1])
    return closing is not None and bytes(body[-_LOOKED_AT:]).rstrip()[-1:] == closing


JSON_IN_FORM = f"the body is JSON, and its content type is {_FORM}, which curl -d sends by itself: send it with {SEND_JSON}"
"""The text for a body that ``is_json_in_form``."""


def describe_data(data: bytes | memoryview) -> str:
    """Return what some bytes are, by what they begin with: "a PNG image", "text", "binary data"."""
    head = bytes(data[:_LOOKED_AT])
    if not head.strip() and len(data) <= _LOOKED_AT:
        return "empty"
    if image := image_format(head[:12]):
        return f"a {image} image"
    start = head.lstrip()
    for mark, what in _OTHERS:
        if start.startswith(mark):
            return what
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) < _LOOKED_AT or error.start < len(head) - 3:  # a character may be cut at the end
            return "binary data"
        text = head[: error.start].decode()
    return "text" if all(each.isprintable() or each.isspace() for each in text) else "binary data"


def explain_not_json(data: bytes | memoryview, reason: str, content_type: str = "") -> str:
    """Return why a body is not JSON: what it is instead, or what the decoder says of it.

    >>> explain_not_json(b"", "")
    'the body is empty; send JSON'
    """
    what = describe_data(data)
    if what == "empty":
        return "the body is empty; send JSON"
    if what == "text" and bytes(data[:_LOOKED_AT]).lstrip()[:1] in _JSON_STARTS:
        return f"the body is not JSON: {reason}"
    stated = f" ({content_type})" if content_type else ""
    return f"the body is {what}{stated}, not JSON"

"""What a model logs, as one line of its worker's output: a control character that no text begins with, then JSON.

Python's ``logging`` in a worker writes such lines between those that the model prints, so that their order stays. A line that
is no record is text.
"""

import msgspec

MARK = b"\x1e"  # the record separator of RFC 7464
MAX_BYTES = 65_000
# Ids of a batch that a record names.
MAX_REQUESTS = 16


class ModelRecord(msgspec.Struct, array_like=True, frozen=True):
    """One record. ``details`` is a traceback or what else has several lines, ``requests`` how many were running.

    ``request_ids`` has the first ids of those.
    """

    level: int
    level_name: str
    logger: str
    text: str
    details: str = ""
    requests: int = 0
    request_ids: list[str] = []


def encode_record(record: ModelRecord) -> bytes:
    """Return the whole line, of at most ``MAX_BYTES``: long texts lose their middle."""
    limit = MAX_BYTES
    while True:
        shortened = msgspec.structs.replace(
            record, text=_clean(record.text, limit), details=_clean(record.details, limit)
        )
        line = MARK + msgspec.json.encode(shortened) + b"\n"
        if len(line) <= MAX_BYTES or limit < 100:
            return line
        limit //= 2


def decode_record(line: bytes) -> ModelRecord | None:
    """Return the record of a line without its end; None for a line that is text."""
    if not line.startswith(MARK):
        return None
    try:
        return msgspec.json.decode(line[len(MARK) :], type=ModelRecord)
    except msgspec.DecodeError:  # another process of the model has written into it
        return None


def _clean(text: str, limit: int) -> str:
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()

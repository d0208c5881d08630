"""How an answer in JSON says NaN and Infinity, for which JSON has no number: as null, or as bare tokens.

Python and Triton write and read the tokens ``NaN``, ``Infinity`` and ``-Infinity``; parsers of other languages refuse
them. The setting ``json_nan`` decides, and a client that wants null anyway says so in its Accept header:
``application/json; nan=null``.
"""

import re

BY_PROTOCOL, NULL, TOKENS = "by_protocol", "null", "nan"

_WANTS_NULL = re.compile(rb';\s*nan\s*=\s*"?null"?\s*(?:[;,]|$)', re.IGNORECASE)


def asks_for_null(accept: bytes | None) -> bool:
    """Whether an Accept header asks for null in place of the tokens.

    >>> asks_for_null(b"application/json; nan=null"), asks_for_null(b"application/json"), asks_for_null(None)
    (True, False, False)
    """
    # Most say nothing that has a semicolon, and are not searched.
    return accept is not None and b";" in accept and _WANTS_NULL.search(accept) is not None


def writes_null(setting: str, *, asked: bool = False, by_default: bool = False) -> bool:
    """Whether an answer has null. ``asked``: the client wants it so; ``by_default`` is its protocol's own habit."""
    return asked or setting == NULL or (setting == BY_PROTOCOL and by_default)

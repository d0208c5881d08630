"""Takes secrets out of what was logged, before a page shows it. Nothing of ours logs one; what models print is their own."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}")
_HIDDEN = "***"
_FIELDS = ("message", "traceback")


def hide_secrets(documents: Sequence[dict[str, Any]], secrets: Iterable[str]) -> list[dict[str, Any]]:
    """Return lines or errors without these secrets, and without whatever stands behind the word Bearer.

    >>> hide_secrets([{"message": "got Bearer abcdefgh and pass-word-1"}], ["pass-word-1"])
    [{'message': 'got Bearer *** and ***'}]
    """
    hidden = [secret for secret in secrets if secret]
    return [
        {name: _hide(value, hidden) if name in _FIELDS else value for name, value in document.items()}
        for document in documents
    ]


def _hide(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, _HIDDEN)
    return _BEARER.sub(rf"\1{_HIDDEN}", text)

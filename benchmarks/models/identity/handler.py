"""Returns its input: a large body both ways."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[bytes] | None:
    if data is None:
        return None
    return [bytes(row["body"]) for row in data]

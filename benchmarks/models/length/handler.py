"""Returns the number of bytes of a raw body or of a form field."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[dict[str, int]] | None:
    if data is None:
        return None
    return [{"length": len(row.get("body") or row["data"])} for row in data]

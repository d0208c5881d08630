"""Tells how many bytes came, as a raw body or as a field of a form."""

from typing import Any


def handle(data: list[dict[str, Any]] | None, _context: Any) -> list[dict[str, int]] | None:
    if data is None:
        return None
    return [{"length": len(row.get("body") or row["data"])} for row in data]

"""Lists in pages, as TorchServe cuts them."""

from collections.abc import Callable, Sequence

from mooring.protocols.torchserve.registration import number, texts_of

PAGE = 100


def window(query: bytes) -> tuple[int, int]:
    """How many entries a client wants, and from which on. What is no number, or out of range, is the default."""
    texts = texts_of(query)
    limit, first = number(texts, "limit", PAGE), number(texts, "next_page_token", 0)
    return limit if 0 <= limit <= PAGE else PAGE, max(first, 0)


def page(
    key: str, names: Sequence[str], limit: int, first: int, told: Callable[[str], dict[str, str]]
) -> dict[str, object]:
    """So many entries from this one on, and what is told of each, under ``key``."""
    document: dict[str, object] = {}
    # The token comes first, and comes even when the last page is exactly full.
    if first + limit <= len(names):
        document["nextPageToken"] = str(first + limit)
    document[key] = [told(name) for name in names[first : first + limit]]
    return document

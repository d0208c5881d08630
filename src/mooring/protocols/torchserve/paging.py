"""Lists in pages, as TorchServe returns them."""

from collections.abc import Callable, Mapping, Sequence

from mooring.core.errors import InvalidInput
from mooring.protocols.torchserve.registration import int_parameter, parse_query

MAX_PAGE_SIZE = 100


def read_page_range(query: bytes) -> tuple[int, int]:
    """Return the limit and the index of the first entry. A value that is no number or out of range is the default."""
    texts = parse_query(query)
    limit, first = _read_number(texts, "limit", MAX_PAGE_SIZE), _read_number(texts, "next_page_token", 0)
    return limit if 0 <= limit <= MAX_PAGE_SIZE else MAX_PAGE_SIZE, max(first, 0)


def _read_number(texts: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int_parameter(texts, name, default)
    except InvalidInput:
        return default


def build_page(
    key: str, names: Sequence[str], limit: int, first: int, describe: Callable[[str], dict[str, str]]
) -> dict[str, object]:
    """Return up to ``limit`` entries from index ``first`` on under ``key``, each as ``describe`` returns it."""
    document: dict[str, object] = {}
    # The token comes first, and comes even when the last page is exactly full.
    if first + limit <= len(names):
        document["nextPageToken"] = str(first + limit)
    document[key] = [describe(name) for name in names[first : first + limit]]
    return document

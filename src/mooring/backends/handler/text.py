"""Cleaning and cutting English text as models trained with torchtext expect it."""

import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from mooring.backends.handler.contractions import CONTRACTION_MAP

CLEANUP_REGEX = re.compile(r"<.*?>|&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")

_LONGEST_FIRST = sorted(CONTRACTION_MAP, key=len, reverse=True)
_CONTRACTION = re.compile(
    r"(?<!\w)(" + "|".join(re.escape(each) for each in _LONGEST_FIRST) + r")(?!\w)", re.IGNORECASE
)
_PUNCTUATION = str.maketrans("", "", string.punctuation)

# torchtext's basic_english, in order: marks become words of their own, quotes and breaks go.
_BASIC_ENGLISH = (
    (re.compile(r"'"), " '  "),
    (re.compile(r'"'), ""),
    (re.compile(r"\."), " . "),
    (re.compile(r"<br \/>"), " "),
    (re.compile(r","), " , "),
    (re.compile(r"\("), " ( "),
    (re.compile(r"\)"), " ) "),
    (re.compile(r"!"), " ! "),
    (re.compile(r"\?"), " ? "),
    (re.compile(r";"), " "),
    (re.compile(r":"), " "),
    (re.compile(r"\s+"), " "),
)


def without_html(text: str) -> str:
    """The text without tags and entities."""
    return CLEANUP_REGEX.sub("", text)


def expand_contractions(text: str) -> str:
    """``don't`` as ``do not``; a capital at the start stays one. A curly apostrophe counts as a straight one."""

    def expand_match(match: re.Match[str]) -> str:
        contraction = match[0]
        words = CONTRACTION_MAP[contraction.lower()]
        return contraction[0] + words[1:] if contraction[0].lower() == words[0] else words

    return _CONTRACTION.sub(expand_match, text.replace("\u2019", "'"))


def without_accents(text: str) -> str:
    """Plain ASCII letters; a character that has none goes."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def without_punctuation(text: str) -> str:
    return text.translate(_PUNCTUATION)


def basic_english(line: str) -> list[str]:
    """Words in lower case, and marks as words."""
    line = line.lower()
    for pattern, replacement in _BASIC_ENGLISH:
        line = pattern.sub(replacement, line)
    return line.split()


def get_tokenizer(
    tokenizer: str | Callable[[str], list[str]] | None, language: str = "en"
) -> Callable[[str], list[str]]:
    """``basic_english``, plain splitting for None, or the function given. Raises ``ValueError`` for other names."""
    if tokenizer is None:
        return str.split
    if callable(tokenizer):
        return tokenizer
    if tokenizer == "basic_english" and language == "en":
        return basic_english
    raise ValueError(
        f"unknown tokenizer '{tokenizer}' for language '{language}'; known is basic_english for en"
    )


def ngrams_iterator(token_list: Sequence[str], ngrams: int) -> Iterator[str]:
    """Every token, then every run of two up to ``ngrams`` neighbors.

    >>> list(ngrams_iterator(["a", "b", "c"], 2))
    ['a', 'b', 'c', 'a b', 'b c']
    """
    yield from token_list
    for size in range(2, ngrams + 1):
        for start in range(len(token_list) - size + 1):
            yield " ".join(token_list[start : start + size])

"""English contractions and what they stand for, in lower case: built from their parts, so that none is forgotten."""

_NEGATED = {
    "are": "are", "could": "could", "did": "did", "does": "does", "do": "do", "had": "had", "has": "has",
    "have": "have", "is": "is", "might": "might", "must": "must", "need": "need", "ought": "ought",
    "should": "should", "was": "was", "were": "were", "would": "would", "ca": "can", "wo": "will", "sha": "shall",
    "may": "may", "dare": "dare", "ai": "is",
}  # fmt: skip
_PRONOUNS = ("i", "you", "he", "she", "it", "we", "they", "who", "that", "there", "what", "this")
_IS = ("he", "she", "it", "who", "that", "there", "what", "where", "when", "why", "how", "here", "this", "so")
_ARE = ("you", "we", "they", "who", "what", "there", "where", "why", "how")
_HAVE = (
    "i", "you", "we", "they", "who", "what", "there", "could", "should", "would", "might", "must", "may",
    "couldn't", "shouldn't", "wouldn't", "mightn't", "mustn't",
)  # fmt: skip
_SINGLE = {
    "i'm": "i am", "let's": "let us", "ma'am": "madam", "o'clock": "of the clock", "y'all": "you all",
    "'cause": "because", "'tis": "it is", "'twas": "it was", "gonna": "going to", "gotta": "got to",
    "wanna": "want to", "gimme": "give me", "lemme": "let me", "cannot": "can not", "c'mon": "come on",
    "ne'er": "never", "e'er": "ever", "o'er": "over", "how'd": "how did", "where'd": "where did",
    "why'd": "why did", "when'd": "when did",
}  # fmt: skip


def _build_map() -> dict[str, str]:
    expansions = {f"{short}n't": f"{full} not" for short, full in _NEGATED.items()}
    expansions["can't"] = "can not"
    expansions |= {f"{word}'ll": f"{word} will" for word in _PRONOUNS}
    expansions |= {f"{word}'d": f"{word} would" for word in _PRONOUNS}
    expansions |= {f"{word}'s": f"{word} is" for word in _IS}
    expansions |= {f"{word}'re": f"{word} are" for word in _ARE}
    expansions |= {f"{word}'ve": f"{expansions.get(word, word)} have" for word in _HAVE}
    return expansions | _SINGLE


CONTRACTION_MAP: dict[str, str] = _build_map()

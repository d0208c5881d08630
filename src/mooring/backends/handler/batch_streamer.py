"""Text of several sequences while a Hugging Face model still generates it."""

import queue
from collections.abc import Iterator
from typing import Any

_END = object()


class TextIteratorStreamerBatch:
    """A streamer for ``model.generate``, iterated in another thread: a list with the new text of every sequence.

    Text comes when a word is complete, since its tokens may change how it is written; ``timeout`` is how many
    seconds the iterator waits for more, after which it raises ``queue.Empty``.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.skip_prompt = skip_prompt
        self.timeout = timeout
        self.decode_kwargs = decode_kwargs
        self._texts: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._prompt_is_next = True
        self._tokens: list[list[int]] = [[] for _ in range(batch_size)]
        self._printed = [0] * batch_size

    def put(self, value: Any) -> None:
        """Add the next tokens of every sequence, the prompts first. Raises ``ValueError`` for another batch size."""
        if value.shape[0] != self.batch_size:
            raise ValueError(f"the streamer is for {self.batch_size} sequences, got {value.shape[0]}")
        prompt, self._prompt_is_next = self._prompt_is_next, False
        if prompt and self.skip_prompt:
            return
        rows = value.tolist()
        self._texts.put([self._append_tokens(index, row) for index, row in enumerate(rows)])

    def end(self) -> None:
        """Send the text that was held back, and end the iteration."""
        rest = []
        for index, tokens in enumerate(self._tokens):
            rest.append(self._decode_tokens(tokens)[self._printed[index] :] if tokens else "")
            self._tokens[index], self._printed[index] = [], 0
        self._prompt_is_next = True
        self._texts.put(rest)
        self._texts.put(_END)

    def _append_tokens(self, index: int, row: Any) -> str:
        tokens = self._tokens[index]
        tokens.extend(row if isinstance(row, list) else [row])
        text = self._decode_tokens(tokens)
        if text.endswith("\n"):
            new = text[self._printed[index] :]
            self._tokens[index], self._printed[index] = [], 0
            return new
        upto = len(text) if text and _is_cjk(text[-1]) else text.rfind(" ") + 1
        new = text[self._printed[index] : upto]
        self._printed[index] = max(upto, self._printed[index])
        return new

    def _decode_tokens(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, **self.decode_kwargs)
        return text

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        text = self._texts.get(timeout=self.timeout)
        if text is _END:
            raise StopIteration
        new_texts: list[str] = text
        return new_texts


def _is_cjk(character: str) -> bool:
    """Whether a character is a word of its own in Chinese, Japanese or Korean text."""
    code = ord(character)
    return 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x2FA1F

"""A text classification of the transformers library, and a model that streams what it writes."""

import os
from collections.abc import Iterator
from threading import Thread

from transformers import TextIteratorStreamer, pipeline

import mooring

MODELS = os.environ.get("MODELS", "models")


class Mood:
    """Classifies texts. Up to 16 requests that wait at the same time share a call of the pipeline."""

    def load(self, context):
        self.classify = pipeline("text-classification", f"{MODELS}/mood", device=context.gpu)

    @mooring.batch(max_size=16)
    def infer(self, text: list[str]) -> list[dict[str, str | float]]:
        return self.classify(text)


class Writer:
    """Goes on with a text, and sends each token as soon as it is there."""

    def load(self, context):
        self.writer = pipeline("text-generation", f"{MODELS}/writer", device=context.gpu)

    def infer(self, text: str, tokens: int = 8) -> Iterator[str]:
        pieces = TextIteratorStreamer(
            self.writer.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
        )
        Thread(
            target=self.writer, args=(text,), kwargs={"max_new_tokens": tokens, "streamer": pieces}
        ).start()
        yield from filter(None, pieces)

"""A text classification of the transformers library, and a model that streams what it writes."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
        self.threads = ThreadPoolExecutor()

    def infer(self, text: str, tokens: int = 8) -> Iterator[str]:
        pieces = TextIteratorStreamer(
            self.writer.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60
        )
        writing = self.threads.submit(self.writer, text, max_new_tokens=tokens, streamer=pieces)
        writing.add_done_callback(lambda _: pieces.end())  # where it fails, it has not said that it ended
        yield from filter(None, pieces)
        writing.result()  # raises what the model raised

"""A language model of the transformers library that streams its answer.

MODEL names a folder or a model of the Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M-Instruct. Without it there is a
tiny model of random weights, which talks nonsense, so that all of this runs at once and offline.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


@dataclass
class Message:
    """A part of a chat."""

    role: Literal["user", "assistant", "system"]
    content: str


class Model:
    """Each worker process loads the model once, and calls infer for every request."""

    def load(self, context):
        """Load tokenizer and model, onto the GPU of this worker where it has one."""
        self.device = "cpu" if context.gpu is None else f"cuda:{context.gpu}"
        name = os.environ.get("MODEL", "")
        if name:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name)
        else:
            from tiny_model import make_tiny_model

            self.tokenizer, model = make_tiny_model()
        self.model = model.to(self.device).eval()
        self.threads = ThreadPoolExecutor()

    def infer(self, messages: list[Message], max_tokens: int = 64) -> Iterator[str]:
        """Yield the answer piece by piece: each is sent to the client at once."""
        inputs = self.tokenizer(self.prompt_of(messages), return_tensors="pt").to(self.device)
        pieces = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
        options = {"max_new_tokens": max_tokens, "streamer": pieces}
        generating = self.threads.submit(self.model.generate, **inputs, **options)
        generating.add_done_callback(lambda _: pieces.end())  # where it fails, it has not said that it ended
        yield from filter(None, pieces)
        generating.result()  # raises what generate raised

    def prompt_of(self, messages):
        """Write a chat as the text that the model was trained to go on with."""
        if not self.tokenizer.chat_template:
            return " ".join(message.content for message in messages)
        chat = [{"role": message.role, "content": message.content} for message in messages]
        return self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

"""A TorchServe handler: a batch of texts in, the language of each out."""

import torch
from model import LONGEST
from ts.torch_handler.base_handler import BaseHandler

LANGUAGES = ("English", "German", "Japanese")


class LanguageHandler(BaseHandler):
    """BaseHandler loads model and weights; these are the steps before and after the network."""

    def preprocess(self, data):
        """Turn each request into a row of numbers, one for each character."""
        texts = [row.get("data") or row.get("body") or "" for row in data]
        rows = torch.zeros(len(texts), LONGEST, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            decoded = text.decode() if isinstance(text, bytes | bytearray) else str(text)
            for place, character in enumerate(decoded[:LONGEST]):
                row[place] = 1 + ord(character) % 1023
        return rows.to(self.device)

    def postprocess(self, data):
        """Name the language with the highest score."""
        return [
            {"language": LANGUAGES[scores.argmax()], "probability": round(scores.max().item(), 3)}
            for scores in data.softmax(dim=1)
        ]

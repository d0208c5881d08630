"""TextHandler: a vocabulary and the cleaning of text, for handlers of text models."""

from pathlib import Path
from typing import Any

import torch

from mooring.backends.handler import text as english
from mooring.backends.handler.base_handler import BaseHandler
from mooring.backends.handler.context import Context
from mooring.backends.handler.weights import load_weights


class TextHandler(BaseHandler):
    """Loads ``source_vocab.pt`` (or what the manifest calls the source vocabulary) beside the model.

    ``source_vocab`` may be anything that maps a token to its number with ``[]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer: Any = english.basic_english

    def initialize(self, context: Context) -> None:
        super().initialize(context)
        self.source_vocab = load_weights(
            self.get_source_vocab_path(context),
            device=self.device,
            allow_pickle=bool(self.model_yaml_config.get("allow_pickle")),
        )

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Raises ``RuntimeError`` when the archive has no vocabulary."""
        name = ctx.manifest.get("model", {}).get("sourceVocab") or "source_vocab.pt"
        path = Path(ctx.system_properties["model_dir"]) / name
        if not path.is_file():
            raise RuntimeError(f"vocabulary '{name}' is not in the archive; add it with --extra-files")
        return str(path)

    def _remove_html_tags(self, text: str) -> str:
        return english.without_html(text)

    def _lowercase_text(self, text: str) -> str:
        return text.lower()

    def _expand_contractions(self, text: str) -> str:
        return english.expand_contractions(text)

    def _remove_accented_characters(self, text: str) -> str:
        return english.without_accents(text)

    def _remove_punctuation(self, text: str) -> str:
        return english.without_punctuation(text)

    def _tokenize(self, text: str) -> list[str]:
        tokens: list[str] = self.tokenizer(text)
        return tokens

    def get_word_token(self, input_tokens: Any) -> list[str]:
        """The words of a text, or the tokens as given."""
        return self._tokenize(input_tokens) if isinstance(input_tokens, str) else list(input_tokens)

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """One number per token, all of them together of length one."""
        summed = attributions.sum(dim=-1) if attributions.dim() > 1 else attributions
        length = torch.linalg.vector_norm(summed)
        return summed / length if length > 0 else summed

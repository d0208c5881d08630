"""TextClassifier: a text in, a probability for every class out."""

from collections.abc import Mapping
from typing import Any

import torch

from mooring.backends.handler.insights import check_target, input_of
from mooring.backends.handler.labels import map_class_to_label
from mooring.backends.handler.text import ngrams_iterator
from mooring.backends.handler.text_handler import TextHandler
from mooring.backends.handler.timer import timed


class TextClassifier(TextHandler):
    """For models called with token numbers and the offsets of texts in them, one text at a time.

    The tokens are the words and their ``ngrams``; the model's ``embedding`` is what an explanation looks into.
    """

    ngrams = 2

    @timed
    def preprocess(self, data: Any) -> Any:
        """The token numbers and the cleaned text. Raises ``ValueError`` for a batch of more than one text."""
        if len(data) != 1:
            raise ValueError(f"text_classifier takes one text at a time, got {len(data)}")
        row = data[0]
        text: Any = input_of(row)
        if isinstance(text, (bytes, bytearray)):
            text = text.decode()
        for clean in (
            self._remove_html_tags,
            self._lowercase_text,
            self._expand_contractions,
            self._remove_accented_characters,
            self._remove_punctuation,
        ):
            text = clean(text)
        numbers = [self._token_number(token) for token in ngrams_iterator(self._tokenize(text), self.ngrams)]
        return torch.as_tensor(numbers, dtype=torch.long, device=self.device), text

    def _token_number(self, token: str) -> int:
        vocabulary = self.source_vocab
        if isinstance(
            vocabulary, Mapping
        ):  # a plain one raises for a word it has not seen, torchtext's does not
            return int(vocabulary.get(token, vocabulary.get("<unk>", 0)))
        return int(vocabulary[token])

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        numbers, _ = data
        return super().inference(
            numbers, torch.zeros(1, dtype=torch.long, device=self.device), *args, **kwargs
        )

    @timed
    def postprocess(self, data: Any) -> Any:
        return map_class_to_label(torch.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, text_preprocess: Any, _: Any, target: Any = 0) -> Any:
        """How much every word spoke for ``target``, a run of words being shared out among its words.

        Raises ``InvalidInput`` for a target there is not.
        """
        from captum.attr import IntegratedGradients

        numbers, text = text_preprocess
        offsets = torch.zeros(1, dtype=torch.long, device=self.device)
        target = check_target(self.model, (numbers, offsets), target, self.mapping)
        words = self.get_word_token(text)
        # Captum varies a gate per token from closed to open: the embedding itself takes numbers, which do not vary.
        gates = torch.ones(1, len(numbers), device=self.device)
        gradients = IntegratedGradients(lambda gate: self._run_gated(numbers, gate))
        by_token = gradients.attribute(gates, target=target, n_steps=50)[0]
        importances = self.summarize_attributions(_share_among_words(by_token, len(words), self.ngrams))
        return [{"importances": [importances.tolist()], "words": words}]

    def _run_gated(self, numbers: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """Return the model's output for every row of gates; each token's embedding is multiplied by its gate."""
        return torch.cat([self._gated_once(numbers, row) for row in gates])

    def _gated_once(self, numbers: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        def apply_gates(layer: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
            embedded = torch.nn.functional.embedding(numbers, layer.weight) * gates[:, None]
            if not isinstance(layer, torch.nn.EmbeddingBag):
                return embedded.reshape(output.shape)
            if layer.mode == "max":
                return embedded.max(dim=0, keepdim=True).values
            return getattr(embedded, layer.mode)(dim=0, keepdim=True)  # type: ignore[no-any-return]

        handle = self.model.embedding.register_forward_hook(apply_gates)
        try:
            answer: torch.Tensor = self.model(numbers, torch.zeros(1, dtype=torch.long, device=self.device))
        finally:
            handle.remove()
        return answer


def _share_among_words(by_token: torch.Tensor, words: int, ngrams: int) -> torch.Tensor:
    """Divide the attribution of every run of n words equally among its words."""
    shares = by_token[:words].clone()
    position = words
    for size in range(2, ngrams + 1):
        for start in range(words - size + 1):
            shares[start : start + size] += by_token[position] / size
            position += 1
    return shares

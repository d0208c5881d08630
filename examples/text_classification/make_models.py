"""Makes two tiny models of random weights, so that the example needs no download: what they say means nothing.

python make_models.py writes models/mood and models/writer, each with its tokenizer, as save_pretrained does.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

# One token for each character: German, Japanese and English are equally well, or badly, known.
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZäöüÄÖÜß .,!?この店は本当に素晴らしい天気良料理不味かった"


def make_tokenizer():
    """Return a tokenizer whose tokens are single characters."""
    vocabulary = {"[UNK]": 0, "[PAD]": 1, "[END]": 2}
    for character in CHARACTERS:
        vocabulary.setdefault(character, len(vocabulary))
    tokens = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, unk_token="[UNK]", pad_token="[PAD]", eos_token="[END]"
    )


def make_models(folder: Path):
    """Write both models below a folder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    mood = BertForSequenceClassification(
        BertConfig(
            vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            initializer_range=0.5,
            pad_token_id=1, id2label={0: "übel", 1: "schön"}, label2id={"übel": 0, "schön": 1},
        )
    )  # fmt: skip
    writer = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=2, pad_token_id=1
        )
    )
    writer.generation_config.suppress_tokens = [0, 1, 2]  # characters alone, and no early end
    for name, model in (("mood", mood), ("writer", writer)):
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)


if __name__ == "__main__":
    make_models(Path(sys.argv[1] if len(sys.argv) > 1 else "models"))

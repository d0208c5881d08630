"""A language model of random weights and a few words, made in memory: it knows nothing, and needs no download."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

WORDS = """the ship sails over sea at night and morning a cat sleeps in harbour das Schiff fährt über Meer bei Nacht
eine Möwe schläft am Hafen 船 は 海 を 渡る 猫 が 港 で 眠る""".split()


def make_tiny_model():
    """Return a tokenizer of a few words, and a model with random weights."""
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[END]", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", eos_token="[END]", pad_token="[END]"
    )
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = GPT2LMHeadModel(config)
    model.generation_config.do_sample = True
    model.generation_config.suppress_tokens = [0, 1]  # words alone, and no early end
    return tokenizer, model

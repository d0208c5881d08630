from mooring.backends.handler.text import get_tokenizer, ngrams_iterator

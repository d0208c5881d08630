"""Asks the models as their clients do, in this process. Run it with pytest."""

from app import Model, shorten

from mooring.testing import Client


def test_a_good_word_is_positive():
    with Client(Model) as client:
        assert client.predict({"text": "I love it!"}) == {"label": "positive", "score": 0.667}


def test_the_first_words_are_left():
    with Client(shorten) as client:
        assert client.predict({"text": "one two three", "words": 2}) == "one two"

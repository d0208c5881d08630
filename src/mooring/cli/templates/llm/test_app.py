"""Asks the model as its clients do, in this process. Run it with pytest."""

from app import Model

from mooring.testing import Client


def test_an_answer_comes_in_pieces():
    with Client(Model) as client:
        chat = [{"role": "user", "content": "das Schiff fährt über"}]
        assert "".join(client.stream({"messages": chat, "max_tokens": 8})).strip()

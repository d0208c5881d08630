"""Trains the network on a few sentences, in a second, and writes weights.pt."""

import torch
from handler import LANGUAGES, LanguageHandler
from model import Languages

SENTENCES = {
    "English": ["Where is the harbour?", "The weather is good today.", "We would like the bill, please."],
    "German": ["Wo ist der Hafen?", "Das Wetter ist heute schön.", "Wir möchten bitte zahlen."],
    "Japanese": ["港はどこですか。", "今日はいい天気です。", "お会計をお願いします。"],
}


def main():
    """Write weights.pt, a state_dict."""
    torch.manual_seed(0)
    handler = LanguageHandler()
    handler.device = "cpu"
    texts = [(text, kind) for kind, name in enumerate(LANGUAGES) for text in SENTENCES[name]]
    rows = handler.preprocess([{"body": text} for text, _ in texts])
    kinds = torch.tensor([kind for _, kind in texts])
    network = Languages()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(rows), kinds).backward()
        optimizer.step()
    torch.save(network.state_dict(), "weights.pt")


if __name__ == "__main__":
    main()

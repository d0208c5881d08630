"""The network, as the archive's model file: one class, which TorchServe's BaseHandler makes and fills with the weights."""

from torch import nn

LONGEST = 64


class Languages(nn.Module):
    """Scores a text, as the numbers of its characters, for each language."""

    def __init__(self):
        super().__init__()
        self.characters = nn.EmbeddingBag(1024, 16, padding_idx=0)
        self.scores = nn.Linear(16, 3)

    def forward(self, characters):
        return self.scores(self.characters(characters))

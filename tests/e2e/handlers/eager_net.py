from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.layer(x)

"""Write the trained network into the example repository: an ONNX file and a program of torch.export.

    pip install onnx torch
    python export.py

Both take "image", FP32 [-1, 1, 8, 8] from 0 (black) to 1 (white), and give "scores", FP32 [-1, 10]: the probability
of each digit.
"""

import warnings
from pathlib import Path

import torch
from model import DigitNet
from torch import nn

HERE = Path(__file__).parent
REPOSITORY = HERE.parent / "repository"
ONNX = REPOSITORY / "digits_onnx" / "1" / "model.onnx"
EXPORTED = REPOSITORY / "digits_pytorch" / "1" / "model.pt2"


class Reader(nn.Module):
    """The network with the probabilities that the handler takes of its scores."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return {"scores": torch.softmax(self.network(image), dim=1)}


def main():
    network = DigitNet()
    network.load_state_dict(torch.load(HERE / "digits.pt", weights_only=True))
    reader = Reader(network).eval()
    # Two images: an exporter may take a batch of one for a batch that is always one.
    example = torch.zeros(2, 1, 8, 8)
    batch = torch.export.Dim("batch")
    program = torch.export.export(reader, (example,), dynamic_shapes={"image": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would tell where the files lay on this machine
    torch.export.save(program, EXPORTED)
    with warnings.catch_warnings():
        # The newer exporter needs one more package, and writes the same network.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            reader,
            (example,),
            ONNX,
            dynamo=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )
    for file in (ONNX, EXPORTED):
        print(f"{file.relative_to(REPOSITORY)}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

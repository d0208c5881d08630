"""Asks the model as its clients do, in this process. Run it with pytest."""

from mooring.testing import Client


def test_long_petals_are_the_third_kind():
    with Client("flowers.onnx") as client:
        (flower,) = client.predict({"measurements": [[6.6, 3.0, 5.6, 2.0]]})["probabilities"]
        assert flower.index(max(flower)) == 2

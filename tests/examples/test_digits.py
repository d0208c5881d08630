"""The shipped digits example: the files agree with each other, and the handler reads what clients send."""

import base64
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
SAMPLES = {digit: (DIGITS / "samples" / f"{digit}.png").read_bytes() for digit in range(10)}


@pytest.fixture(scope="module")
def handler():
    """The handler as a worker makes it: its own folder and the `ts` package on the path, initialized once."""
    paths = [str(DIGITS), str(ROOT / "src" / "mooring" / "compat")]
    sys.path[:0] = paths
    try:
        spec = importlib.util.spec_from_file_location("digits_handler", DIGITS / "handler.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made = module.DigitHandler()
        made.initialize(context())
        yield made
    finally:
        for path in paths:
            sys.path.remove(path)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ts", "model")]:
            del sys.modules[name]


def context():
    return SimpleNamespace(
        manifest={"model": {"modelName": "digits", "modelFile": "model.py", "serializedFile": "digits.pt"}},
        system_properties={"model_dir": str(DIGITS), "gpu_id": None, "batch_size": 8},
        model_yaml_config={},
    )


def answers(handler, rows):
    return handler.postprocess(handler.inference(handler.preprocess(rows)))


def classes(handler, rows):
    return [answer["class"] for answer in answers(handler, rows)]


def test_every_sample_is_recognized_in_one_batch(handler):
    rows = [{"body": bytearray(SAMPLES[digit])} for digit in range(10)]
    assert classes(handler, rows) == [str(digit) for digit in range(10)]


def test_an_answer_is_a_class_and_its_probability(handler):
    (answer,) = answers(handler, [{"data": SAMPLES[7]}])
    assert list(answer) == ["class", "probability"]
    assert answer["class"] == "7"
    assert 0.5 < answer["probability"] <= 1.0
    json.dumps(answer)


def test_base64_text_is_an_image_in_every_place_clients_put_it(handler):
    text = base64.b64encode(SAMPLES[3]).decode()
    assert classes(handler, [text, {"data": text}, {"body": {"data": text}}]) == ["3", "3", "3"]


def test_pixels_may_come_as_nested_lists(handler, tmp_path):
    pixels = (np.asarray(Image.open(DIGITS / "samples" / "4.png")) / 255).tolist()
    assert classes(handler, [{"data": pixels}, {"data": [pixels]}]) == ["4", "4"]


def test_a_larger_image_is_brought_to_size(handler, tmp_path):
    Image.open(DIGITS / "samples" / "0.png").resize((64, 64)).convert("RGB").save(tmp_path / "large.png")
    assert classes(handler, [{"body": (tmp_path / "large.png").read_bytes()}]) == ["0"]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"body": bytearray()},
        {"body": b"not an image"},
        {"data": "not base64!"},
        {"data": 5},
        {"data": 10**12},
        {"data": [[1, 2], [3]]},
        {"data": [["a"] * 8] * 8},
        {"body": SAMPLES[1][:60]},
        None,
    ],
)
def test_what_is_no_image_is_the_callers_fault(handler, row):
    with pytest.raises(Exception, match="image") as caught:
        handler.preprocess([row])
    assert type(caught.value).__name__ == "PredictionException"
    assert caught.value.error_code == 400


def test_an_explanation_has_channels_rows_and_columns(handler):
    rows = [{"body": SAMPLES[7]}]
    (explanation,) = handler.explain_handle(handler.preprocess(rows), rows)
    assert np.shape(explanation) == (1, 8, 8)
    assert np.any(np.asarray(explanation) != 0)


def test_a_named_target_is_explained_instead_of_the_recognized_digit(handler):
    rows = [
        {"body": SAMPLES[7]},
        {"body": SAMPLES[7], "target": 3},
        {"body": SAMPLES[7], "target": bytearray(b"7")},
    ]
    recognized, named, same = handler.explain_handle(handler.preprocess(rows), rows)
    assert recognized == same
    assert recognized != named


@pytest.mark.parametrize("target", [10, -1, "seven", bytearray(b"\xff")])
def test_a_target_that_is_no_digit_is_the_callers_fault(handler, target):
    rows = [{"body": SAMPLES[7], "target": target}]
    with pytest.raises(Exception, match="no digit") as caught:
        handler.explain_handle(handler.preprocess(rows), rows)
    assert caught.value.error_code == 400


def test_the_weights_are_a_small_state_dict():
    import torch

    assert (DIGITS / "digits.pt").stat().st_size < 200_000
    state = torch.load(DIGITS / "digits.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_the_shipped_weights_read_the_held_out_images(handler):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    _, held, _, truth = train_test_split(pixels, labels, test_size=0.2, stratify=labels, random_state=7)
    rows = [{"data": (image.reshape(8, 8) / 16).tolist()} for image in held]
    read = np.array([int(name) for name in classes(handler, rows)])
    assert (read == truth).mean() >= 0.97

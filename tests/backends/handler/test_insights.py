"""Explanations by the default handlers: which class they are of, and model-config.yaml's own method for them."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from captum import attr
from handler_kit import answer, request
from PIL import Image

from mooring.core.errors import InvalidInput, ModelLoadFailed
from mooring.core.requests import Form, InferenceRequest, Operation
from mooring.core.tensors import Tensor

MANIFEST = {"model": {"modelFile": "model.py", "serializedFile": ""}}
NET = """
import torch
class Net(torch.nn.Module):
    def forward(self, x):
        means = x.mean(dim=(2, 3))
        return torch.cat([means, means * means], dim=1)
"""
SMALL = """
import torch
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.vision_handler import VisionHandler
class Small(ImageClassifier):
    @staticmethod
    def image_processing(image):
        return torch.tensor([[[each / 255 for each in image.resize((1, 1)).getpixel((0, 0))]]]).permute(2, 0, 1) + torch.zeros(3, 2, 2)
"""
LABELS = json.dumps({"0": "red", "1": ["n1", "green"], "2": "blue", "3": "a", "4": "b", "5": "c"})
FILES = {"model.py": NET, "handler.py": SMALL, "index_to_name.json": LABELS}


@pytest.fixture
def picture():
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 128, 0)).save(file, "PNG")
    return file.getvalue()


def form(**fields):
    tensors = [
        Tensor(name, "BYTES", [1], [data], {"content_type": kind}) for name, (data, kind) in fields.items()
    ]
    return InferenceRequest("m", "", "r", tensors, form=Form.BODY, operation=Operation.EXPLAIN)


def of(model, asked):
    return np.array(json.loads(answer(model.infer(asked)[0])))


def test_a_class_is_named_in_every_form_that_clients_send(load, picture):
    model = load(FILES, manifest=MANIFEST)
    text = base64.b64encode(picture).decode()
    asked = [
        form(data=(picture, "image/png"), target=(b"1", "")),
        form(data=(picture, "image/png"), target=(b"green", "text/plain")),
        form(data=(picture, "image/png"), target=(b"1", "application/json")),
        *(
            request(json.dumps({"data": text, "target": target}).encode(), "application/json", operation=Operation.EXPLAIN)
            for target in (1, "1", "green")
        ),
    ]  # fmt: skip
    for each in asked:
        found = of(model, each)
        assert found.shape == (3, 2, 2)
        np.testing.assert_allclose(found.sum(axis=(1, 2)), [0, 128 / 255, 0], atol=1e-6)
    # As in TorchServe, the first class where nobody names one.
    plain = request(picture, operation=Operation.EXPLAIN)
    np.testing.assert_allclose(of(model, plain).sum(axis=(1, 2)), [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("target", "reason"),
    [(b"6", "target 6: output .* takes 0 to 5, or one of 'red'"), (b"mauve", "is not a class: .* such as 'red', 'green'"),
     (b"[0, 1]", "target"), (b"[", "not a JSON list"), (b"\xff", "is not a class")],
)  # fmt: skip
def test_a_class_that_is_not_there_is_the_callers_fault(load, picture, target, reason):
    model = load(FILES, manifest=MANIFEST)
    with pytest.raises(InvalidInput, match=reason):
        of(model, form(data=(picture, "image/png"), target=(target, "")))


def test_model_config_chooses_the_method_and_the_class(load, picture):
    config = {"explain": {"method": "Occlusion", "sliding_window_shapes": [1, 2, 2], "baselines": 0.25}}
    model = load(FILES, manifest=MANIFEST, config=config)

    def net(x):
        means = x.mean(dim=(2, 3))
        return torch.cat([means, means * means], dim=1)

    pixels = torch.tensor([1, 128 / 255, 0])[None, :, None, None] + torch.zeros(1, 3, 2, 2)
    for target, index in ((b"4", 4), (b"", 0)):  # of equal ones the first is the predicted one
        whole = attr.Occlusion(net).attribute(pixels, (1, 2, 2), target=index, baselines=0.25)[0]
        found = of(model, form(data=(picture, "image/png"), target=(target, "")))
        np.testing.assert_allclose(found, whole, atol=1e-6)


def test_a_method_that_there_is_not_fails_the_load(load):
    with pytest.raises(ModelLoadFailed, match=r"explain\.method: there is no 'Guess'; known are"):
        load(FILES, manifest=MANIFEST, config={"explain": {"method": "Guess"}})


def test_a_handlers_own_setting_of_that_name_is_left_alone(load, picture):
    own = (
        SMALL
        + "    def get_insights(self, prepared, row, target=0):\n        return [[target, self.model_yaml_config['explain']]]\n"
    )
    model = load({**FILES, "handler.py": own}, manifest=MANIFEST, config={"explain": {"method": "Guess"}})
    (outcome,) = model.infer(form(data=(picture, "image/png")))
    assert json.loads(answer(outcome)) == [0, {"method": "Guess"}]


TEXT = """
import torch
class Text(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(6, 2)
        self.embedding.weight.data = torch.tensor([[0.0, 0], [1, 0], [0, 1], [2, 2], [0, 0], [0, 0]])
    def forward(self, text, offsets):
        return self.embedding(text, offsets)
"""


def test_a_text_in_json_may_name_its_class_and_only_one_that_there_is(load):
    vocabulary = io.BytesIO()
    torch.save({"hello": 1, "world": 2, "hello world": 3}, vocabulary)
    files = {"model.py": TEXT, "source_vocab.pt": vocabulary.getvalue(),
             "index_to_name.json": '{"0": "World", "1": "Sports"}'}  # fmt: skip
    model = load(files, "text_classifier", manifest=MANIFEST)

    def explained(target):
        body = json.dumps({"data": "hello world", "target": target}).encode()
        return json.loads(
            answer(model.infer(request(body, "application/json", operation=Operation.EXPLAIN))[0])
        )

    found = explained("Sports")
    assert found["words"] == ["hello", "world"]
    # "world" and half of the pair, against half of the pair alone.
    np.testing.assert_allclose(found["importances"], [np.array([1, 2]) / np.sqrt(5)], rtol=1e-4)
    assert explained(1) == found != explained(0)
    with pytest.raises(InvalidInput, match="takes 0 to 1, or one of 'World', 'Sports'"):
        explained(2)


def test_text_in_a_json_body_is_judged_by_who_explains(load):
    own = SMALL + (
        "    def preprocess(self, data):\n        return data\n"
        "    def get_insights(self, prepared, row, target=0):\n        return [[row['target'], target]]\n"
    )
    asked = request(b'{"data": "x", "target": "french"}', "application/json", operation=Operation.EXPLAIN)
    model = load({**FILES, "handler.py": own}, manifest=MANIFEST)
    assert json.loads(answer(model.infer(asked)[0])) == ["french", "french"]


def test_text_in_a_json_body_that_is_no_class_is_refused_by_the_default_handlers(load, picture):
    body = json.dumps({"data": base64.b64encode(picture).decode(), "target": "mauve"}).encode()
    model = load(FILES, manifest=MANIFEST)
    with pytest.raises(InvalidInput, match=r"target 'mauve': .* takes 0 to 5, or one of 'red', 'green'"):
        of(model, request(body, "application/json", operation=Operation.EXPLAIN))

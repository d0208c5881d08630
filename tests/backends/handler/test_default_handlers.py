"""The default handlers: what they make of an image or a text, against numbers worked out by hand (2.4)."""

import base64
import collections
import io
import json
import math

import numpy as np
import pytest
import torch
from handler_kit import answer, instances, request
from PIL import Image

from mooring.backends.handler import image_transforms
from mooring.backends.handler.text import basic_english, expand_contractions, get_tokenizer, ngrams_iterator
from mooring.core.errors import ModelFailed, ModelLoadFailed
from mooring.core.requests import Operation

MANIFEST = {"model": {"modelFile": "model.py", "serializedFile": ""}}
# Every class gets the mean of one channel, so that the answer can be worked out from the picture.
MEANS = """
import torch
class Means(torch.nn.Module):
    def forward(self, x):
        means = x.mean(dim=(2, 3))
        return torch.cat([means, -means], dim=1)
"""


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def plain(color, size=(300, 260), mode="RGB"):
    return png(Image.new(mode, size, color))


def expected_means(color):
    normal = [
        (value / 255 - mean) / std
        for value, mean, std in zip(
            color, image_transforms.IMAGENET_MEAN, image_transforms.IMAGENET_STD, strict=True
        )
    ]
    return normal + [-value for value in normal]


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_image_classifier_answers_the_five_best_best_first(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST)
    found = json.loads(model.body(plain((255, 128, 0))))
    probabilities = softmax(expected_means((255, 128, 0)))
    best = sorted(range(6), key=lambda index: -probabilities[index])[:5]
    assert list(found) == [str(index) for index in best]
    assert list(found.values()) == pytest.approx([probabilities[index] for index in best], rel=1e-4)


@pytest.mark.parametrize(
    ("mapping", "first"),
    [
        ({str(n): f"class {n}" for n in range(6)}, "class 0"),
        ({str(n): [f"n0{n}", f"class {n}"] for n in range(6)}, "class 0"),
        ({"object_type_names": [f"class {n}" for n in range(6)]}, "class 0"),
    ],
)
def test_classes_have_the_names_of_index_to_name(load, mapping, first):
    files = {"model.py": MEANS, "index_to_name.json": json.dumps(mapping)}
    model = load(files, "image_classifier", manifest=MANIFEST)
    assert next(iter(json.loads(model.body(plain((255, 128, 0)))))) == first


def test_a_batch_of_images_is_one_batch_for_the_model(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST, max_batch_size=2)
    red, blue = (
        json.loads(answer(outcome))
        for outcome in model.infer(request(plain((255, 0, 0)), name="data"), request(plain((0, 0, 255))))
    )
    assert next(iter(red)) == "0"
    assert next(iter(blue)) == "2"


def test_an_image_may_come_as_base64_text_or_as_numbers(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST)
    picture = plain((255, 128, 0))
    expected = json.loads(model.body(picture))
    text = json.dumps({"data": base64.b64encode(picture).decode()}).encode()
    assert [json.loads(each) for each in model.infer(instances(text))[0].outputs[0].data] == [expected]
    numbers = json.dumps(torch.zeros(3, 4, 4).tolist()).encode()
    assert list(json.loads(model.body(numbers, "application/json")).values()) == pytest.approx([1 / 6] * 5)


def test_a_lone_number_is_no_picture_and_no_size_of_one(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST)
    with pytest.raises(ModelFailed, match="IndexError"):
        model.body(b"200000000000", "application/json")


@pytest.mark.parametrize(("mode", "color"), [("L", 128), ("RGBA", (128, 128, 128, 255)), ("P", 0), ("1", 1)])
def test_pictures_without_three_channels_are_classified_too(load, mode, color):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST)
    assert len(json.loads(model.body(plain(color, mode=mode)))) == 5


def test_fewer_classes_than_asked_for_fail_and_the_number_can_be_set(load):
    two = "import torch\nclass Two(torch.nn.Module):\n    def forward(self, x):\n        return x.mean(dim=(2, 3))[:, :2]\n"
    with pytest.raises(ModelFailed):
        load({"model.py": two}, "image_classifier", manifest=MANIFEST).body(plain((1, 2, 3)))
    source = """
        from ts.torch_handler.image_classifier import ImageClassifier
        class Mine(ImageClassifier):
            def initialize(self, context):
                super().initialize(context)
                self.set_max_result_classes(2)
                assert self.get_max_result_classes() == 2
    """
    model = load({"model.py": two, "mine.py": source}, "mine.py", manifest=MANIFEST)
    assert len(json.loads(model.body(plain((1, 2, 3))))) == 2


def test_the_models_own_file_name_does_not_hide_a_bad_picture(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST)
    with pytest.raises(ModelFailed, match="UnidentifiedImageError"):
        model.body(b"no picture")


def test_an_explanation_of_a_picture_is_channels_of_rows_of_columns(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST, max_response_bytes=10**8)
    picture = plain((255, 128, 0))
    found = np.array(json.loads(model.body(picture, operation=Operation.EXPLAIN)))
    assert found.shape == (3, 224, 224)
    # The model is linear, so integrated gradients are exact: the input times its weight, 1 / pixels for channel 0.
    assert found[0].sum() == pytest.approx(expected_means((255, 128, 0))[0], rel=1e-3)
    assert found[1:].sum() == pytest.approx(0, abs=1e-6)


def test_an_explanation_may_name_the_class_it_is_of(load):
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST, max_response_bytes=10**8)
    row = json.dumps({"data": base64.b64encode(plain((255, 128, 0))).decode(), "target": 1}).encode()
    (outcome,) = model.infer(instances(row, operation=Operation.EXPLAIN))
    found = np.array(json.loads(outcome.outputs[0].data[0]))
    assert found.shape == (3, 224, 224)
    assert found[1].sum() == pytest.approx(expected_means((255, 128, 0))[1], rel=1e-3)


def test_the_limit_on_pixels_can_be_lifted(load, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    model = load({"model.py": MEANS}, "image_classifier", manifest=MANIFEST, limit_image_pixels=False)
    assert len(json.loads(model.body(plain((1, 2, 3))))) == 5


def test_object_detector_answers_what_it_is_sure_of(load):
    source = """
        import torch
        class Detector(torch.nn.Module):
            def forward(self, images):
                assert images.shape[1:] == (3, 20, 30)
                return [{"boxes": torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]),
                         "labels": torch.tensor([1, 2, 1]), "scores": torch.tensor([0.75, 0.25, 0.5])} for _ in images]
    """
    files = {"model.py": source, "index_to_name.json": '{"1": "cat", "2": "dog"}'}
    model = load(files, "object_detector", manifest=MANIFEST)
    found = json.loads(model.body(plain((1, 2, 3), size=(30, 20))))
    assert found == [
        {"cat": [0.0, 1.0, 2.0, 3.0], "score": 0.75},
        {"cat": [8.0, 9.0, 9.0, 9.0], "score": 0.5},
    ]
    assert [list(each) for each in found] == [["cat", "score"], ["cat", "score"]]


def test_image_segmenter_answers_a_class_and_a_probability_for_every_pixel(load):
    source = """
        import torch
        class Segmenter(torch.nn.Module):
            def forward(self, x):
                return {"out": torch.stack([torch.zeros_like(x[:, 0]), torch.full_like(x[:, 0], 2.0)], dim=1)}
    """
    model = load({"model.py": source}, "image_segmenter", manifest=MANIFEST)
    found = np.array(json.loads(model.body(plain((1, 2, 3)))))
    assert found.shape == (224, 224, 2)
    assert (found[..., 0] == 1.0).all()
    assert found[..., 1] == pytest.approx(softmax([0, 2])[1], rel=1e-6)


def test_the_old_densenet_handler_is_called_through_its_function(load):
    model = load({"model.py": MEANS}, "densenet_handler", manifest=MANIFEST)
    assert len(json.loads(model.body(plain((1, 2, 3))))) == 5


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
VOCABULARY = {"hello": 1, "world": 2, "hello world": 3, "not": 4}


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture(params=[dict, collections.Counter, collections.OrderedDict])
def text_files(request):
    return {
        "model.py": TEXT,
        "source_vocab.pt": saved(request.param(VOCABULARY)),
        "index_to_name.json": '{"0": "World", "1": "Sports"}',
    }


def test_text_classifier_answers_a_probability_for_every_class(load, text_files):
    model = load(text_files, "text_classifier", manifest=MANIFEST)
    found = json.loads(model.body("<b>HÉLLO</b>, World!".encode(), "text/plain"))
    # hello, world and "hello world" have the mean embedding (1, 1).
    assert found == pytest.approx({"World": 0.5, "Sports": 0.5})
    assert json.loads(model.body(b"hello")) == pytest.approx(
        dict(zip(["World", "Sports"], softmax([1, 0]), strict=True))
    )


def test_an_explanation_of_a_text_has_a_number_for_every_word(load, text_files):
    model = load(text_files, "text_classifier", manifest=MANIFEST)
    found = json.loads(model.body(b"hello world", operation=Operation.EXPLAIN))
    assert list(found) == ["importances", "words"]
    assert found["words"] == ["hello", "world"]
    # For class 0 the mean takes 1/3 from "hello" and 2/3 from the pair, which the two words share.
    expected = np.array([1 / 3 + 1 / 3, 1 / 3])
    assert found["importances"] == [pytest.approx(list(expected / np.linalg.norm(expected)), rel=1e-4)]


def test_a_text_model_without_its_vocabulary_says_so(load):
    with pytest.raises(ModelLoadFailed, match=r"vocabulary 'source_vocab\.pt' is not in the archive"):
        load({"model.py": TEXT}, "text_classifier", manifest=MANIFEST)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("i don't know", "i do not know"),
        ("You're late, and it's 5 o'clock", "You are late, and it is 5 of the clock"),
        ("they can\u2019t and won't", "they can not and will not"),
        ("we couldn't've", "we could not have"),
        ("the dog's bone", "the dog's bone"),
        ("wonton shant", "wonton shant"),
    ],
)
def test_contractions_are_expanded_and_nothing_else_is(text, expanded):
    assert expand_contractions(text) == expanded


def test_basic_english_makes_words_and_marks():
    assert basic_english("You can now; install (TorchText)!  OK? \"it's\"") == [
        "you", "can", "now", "install", "(", "torchtext", ")", "!", "ok", "?", "it", "'", "s",
    ]  # fmt: skip
    assert get_tokenizer("basic_english") is basic_english
    assert get_tokenizer(None)("a B") == ["a", "B"]
    with pytest.raises(ValueError, match="unknown tokenizer"):
        get_tokenizer("other")


def test_ngrams_come_after_their_tokens():
    assert list(ngrams_iterator(["a", "b", "c"], 3)) == ["a", "b", "c", "a b", "b c", "a b c"]


@pytest.mark.parametrize(
    ("size", "resized"),
    [((300, 200), (384, 256)), ((200, 300), (256, 384)), ((256, 999), (256, 999)), ((100, 333), (256, 852))],
)
def test_resize_makes_the_shorter_side_as_long_as_asked_and_rounds_the_longer_down(size, resized):
    assert image_transforms.Resize(256)(Image.new("RGB", size)).size == resized


def test_center_crop_takes_the_middle_and_pads_what_is_small_with_black():
    wide = Image.fromarray(np.tile(np.arange(230, dtype=np.uint8), (224, 1)))
    assert np.array(image_transforms.CenterCrop(224)(wide))[0].tolist() == list(range(3, 227))
    small = image_transforms.CenterCrop(4)(Image.new("L", (2, 3), 9))
    assert np.array(small).tolist() == [[0, 9, 9, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 0]]


def test_to_tensor_scales_bytes_and_leaves_other_numbers():
    assert image_transforms.ToTensor()(Image.new("RGB", (2, 1), (0, 51, 255))).tolist() == [
        [[0.0, 0.0]],
        [[pytest.approx(0.2), pytest.approx(0.2)]],
        [[1.0, 1.0]],
    ]
    assert image_transforms.ToTensor()(Image.new("F", (1, 1), 7.5)).tolist() == [[[7.5]]]
    assert image_transforms.ToTensor()(Image.new("I;16", (1, 1), 700)).tolist() == [[[700]]]

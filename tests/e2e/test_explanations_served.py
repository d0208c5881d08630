"""The guide to explanations, carried out: its models, its configurations, its lines, and what Captum itself says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import requests
import torch
from captum import attr
from e2e_kit import ROOT, SAMPLES, Server
from PIL import Image

GUIDE = (ROOT / "docs/guide-explanations.md").read_text()
SEVEN = next(sample for sample in SAMPLES if sample.stem == "7")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)


LINES = [
    command.replace("\\\n", "")
    for block in blocks("console")
    for command in re.findall(r"^\$ (curl (?:.*\\\n)*.*)", block, re.MULTILINE)
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A repository with all that the guide tells of, and the guide's own modules."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("digits_pytorch", "digits_onnx"):
        shutil.copytree(ROOT / "examples/repository" / name, folder / name)
    for name in ("flowers", "mood"):
        (folder / name / "1").mkdir(parents=True)
    for block in blocks("toml"):
        place = re.match(r"# (\w+/config.toml)", block)
        if place:
            with (folder / place[1]).open("a") as file:
                file.write(block)
    made, before = {}, os.getcwd()  # noqa: PTH109 - to go back to
    os.chdir(folder)
    try:
        for block in blocks("python"):
            exec(block, made)
    finally:
        os.chdir(before)
    return folder, made


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    folder, _ = models
    server = Server(tmp_path_factory.mktemp("server"), "--model-repository", folder)
    try:
        yield server.started()
        assert server.stop() == 0
        assert server.faults() == []
    finally:
        server.kill()


@pytest.fixture
def run(server, tmp_path):
    def run(line):
        shutil.copy(SEVEN, tmp_path)
        arguments = shlex.split(line.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}"))
        done = subprocess.run([*arguments, "-sS"], cwd=tmp_path, capture_output=True, timeout=60, check=True)
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="module")
def digits(models):
    folder, _ = models
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(folder / "digits_pytorch/1/model.pt2").module()
    return lambda images: module(images)["scores"]


@pytest.fixture(scope="module")
def pixels():
    return torch.tensor(
        np.asarray(Image.open(SEVEN).convert("L"))[None, None] / np.float32(255)
    ).requires_grad_()


@needs_curl
@pytest.mark.parametrize(("line", "target"), [(LINES[0], 7), (LINES[1], 1)])
def test_the_image_of_the_guide_is_explained(run, digits, pixels, line, target):
    whole = attr.IntegratedGradients(digits).attribute(pixels, target=target)[0]
    found = run(line)
    assert list(found) == ["image"]
    np.testing.assert_allclose(found["image"], whole.detach(), atol=1e-4)


def test_an_onnx_file_is_explained_by_occlusion(server, digits, pixels):
    found = requests.post(
        f"{server.url}/explanations/digits_onnx", data=SEVEN.read_bytes(), timeout=60
    ).json()
    whole = attr.Occlusion(digits).attribute(pixels, (1, 2, 2), strides=(1, 2, 2), target=7)[0]
    np.testing.assert_allclose(found["image"], whole.detach(), atol=1e-4)


@needs_curl
def test_the_table_of_the_guide_is_explained_row_by_row(run, models):
    _, made = models
    rows = torch.tensor([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], requires_grad=True)
    average = torch.tensor([[5.8, 3.1, 3.8, 1.2]])
    net = made["net"]
    whole = (
        attr.IntegratedGradients(net)
        .attribute(rows, average, target=torch.tensor([0, 2]), n_steps=100)
        .detach()
    )
    (found,) = run(LINES[2]).values()
    np.testing.assert_allclose(found, whole, atol=1e-4)
    with torch.no_grad():
        gained = (net(rows) - net(average))[[0, 1], [0, 2]]
    np.testing.assert_allclose(np.sum(found, axis=1), gained, atol=1e-2)
    np.testing.assert_allclose(run(LINES[3])["explanations"], whole[:1], atol=1e-4)


@needs_curl
def test_the_text_of_the_guide_has_a_number_for_every_token(run, models):
    _, made = models
    mood = made["Mood"]().eval()
    tokens = torch.tensor([[17, 204, 9]])
    whole = attr.LayerIntegratedGradients(mood, mood.embedding).attribute(
        tokens, torch.zeros_like(tokens), target=1
    )
    np.testing.assert_allclose(run(LINES[4])["tokens"], whole.sum(-1).detach(), atol=1e-4)


def test_every_line_of_the_guide_is_carried_out_here():
    assert len(LINES) == 5


@pytest.mark.parametrize(
    ("path", "body", "code", "said"),
    [
        (
            "/explanations/flowers",
            {"data": [[1, 2, 3, 4]], "target": 3},
            400,
            "takes 0 to 2, or one of 'setosa'",
        ),
        (
            "/v1/models/flowers:explain",
            {"instances": [{"data": [1, 2, 3, 4], "target": "tulip"}]},
            400,
            "'tulip'",
        ),
        ("/explanations/flowers", {"data": [[1, 2, 3]], "target": 1}, 400, "shape"),
        ("/explanations/mood", {"tokens": [[1, 1001]], "target": 1}, None, ""),
        ("/explanations/flowers", {"target": 1}, 400, "no inputs"),
    ],
)
def test_what_cannot_be_explained_is_refused_and_the_model_goes_on(server, path, body, code, said):
    answer = requests.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == code if code else answer.status_code >= 400
    assert said in answer.json()["message"]
    again = requests.post(
        f"{server.url}/predictions/flowers", json={"data": [[5.1, 3.5, 1.4, 0.2]]}, timeout=60
    )
    assert again.json()["class"] in {"setosa", "versicolor", "virginica"}


def test_a_form_with_a_target_reaches_the_model(server):
    rows = {"data": (None, json.dumps([[5.1, 3.5, 1.4, 0.2]]), "application/json")}
    url = f"{server.url}/explanations/flowers"
    named = requests.post(url, files={**rows, "target": (None, "virginica")}, timeout=60).json()
    typed = requests.post(
        url, files={**rows, "target": ("t.json", "2", "application/json")}, timeout=60
    ).json()
    other = requests.post(url, files={**rows, "target": (None, "0")}, timeout=60).json()
    assert named == typed
    assert named != other

"""The shipped example, asked as its users ask: curl, requests, and the very lines of TorchServe's documentation."""

import base64
import json
import math
import re
import shlex
import shutil
import subprocess

import pytest
import requests
from e2e_kit import DIGITS, JSON, SAMPLES, answered

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
PING = '{\n  "status": "Healthy",\n  "health": "healthy!"\n}\n'


def curl(*arguments: object) -> str:
    """What curl prints; it must succeed."""
    done = subprocess.run(
        ["curl", "-sS", *map(str, arguments)], capture_output=True, check=False, timeout=60, cwd=DIGITS
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def is_digit(found: dict, digit: str) -> bool:
    return (
        list(found) == ["class", "probability"]
        and found["class"] == digit
        and 0.5 < found["probability"] <= 1.0
    )


def encoded(digit: int) -> str:
    return base64.b64encode((DIGITS / f"samples/{digit}.png").read_bytes()).decode()


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    """A body of 20 digits: more than this model takes in one batch."""
    file = tmp_path_factory.mktemp("body") / "digits.json"
    file.write_text(json.dumps({"instances": [{"data": encoded(number % 10)} for number in range(20)]}))
    return file


@needs_curl
@every_sample
@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/1.0"])
def test_every_sample_is_recognized_however_it_is_sent(server, sample, path):
    for arguments in (
        ["-T", sample],
        ["-F", f"data=@{sample}"],
        ["-H", "Content-Type: image/png", "--data-binary", f"@{sample}"],
    ):
        assert is_digit(json.loads(curl(f"{server.url}{path}", *arguments)), sample.stem), arguments


def test_a_prediction_is_written_as_torchserve_writes_it(server):
    body = (DIGITS / "samples/7.png").read_bytes()
    answer = server.ask("PUT", "/predictions/digits", body)
    probability = answer.json()["probability"]
    assert answer == answered(f'{{\n  "class": "7",\n  "probability": {probability}\n}}', JSON)


@needs_curl
def test_more_instances_than_a_batch_holds_are_answered_in_their_order(server, instances):
    lines = ["-H", "Content-Type: application/json", "--data", f"@{instances}"]
    found = json.loads(curl(f"{server.url}/v1/models/digits:predict", *lines))
    assert [prediction["class"] for prediction in found["predictions"]] == [str(n % 10) for n in range(20)]


def test_an_explanation_has_a_number_for_every_pixel_of_every_channel(server):
    answer = requests.put(
        f"{server.url}/explanations/digits", data=(DIGITS / "samples/3.png").read_bytes(), timeout=30
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    (channel,) = answer.json()
    assert len(channel) == 8
    assert all(len(row) == 8 for row in channel)
    assert all(math.isfinite(number) for row in channel for number in row)
    assert any(number for row in channel for number in row)


def test_explanations_of_instances_are_wrapped_and_in_order(server):
    alone = [
        requests.put(
            f"{server.url}/explanations/digits", data=base64.b64decode(encoded(n)), timeout=30
        ).json()
        for n in (3, 7)
    ]
    body = {"instances": [{"data": encoded(3)}, {"data": encoded(7)}]}
    answer = requests.post(f"{server.url}/v1/models/digits:explain", json=body, timeout=30).json()
    assert list(answer) == ["explanations"]
    for explanation, expected in zip(answer["explanations"], alone, strict=True):
        assert explanation[0] == [pytest.approx(row, abs=1e-5) for row in expected[0]]


def test_an_explanation_of_another_digit_can_be_asked_for(server):
    body = {"instances": [{"data": encoded(3), "target": target} for target in (3, 8)]}
    first, second = requests.post(f"{server.url}/v1/models/digits:explain", json=body, timeout=30).json()[
        "explanations"
    ]
    assert first != second


def test_what_is_no_image_is_the_callers_fault(server):
    answer = server.predict("digits", "no image")
    assert (answer.status, answer.json()["type"]) == ("400 Bad Request", "InternalServerException")
    assert answer.json()["message"].startswith("this is no image: ")


# TorchServe's documentation, word for word but for the host and the files it talks of.
WITH_JSON = 'curl -H "Content-Type: application/json" --data @kubernetes/kserve/kf_request_json/mnist.json'
SEED = [
    "curl -X OPTIONS http://localhost:8080",
    "curl http://localhost:8080/ping",
    "curl http://localhost:8080/predictions/resnet-18 -T kitten_small.jpg",
    'curl http://localhost:8080/predictions/resnet-18 -F "data=@kitten_small.jpg"',
    "curl http://localhost:8080/predictions/resnet-18/2.0 -T kitten_small.jpg",
    'curl http://localhost:8080/predictions/resnet-18/2.0 -F "data=@kitten_small.jpg"',
    "curl http://127.0.0.1:8080/explanations/mnist -T examples/image_classifier/mnist/test_data/0.png",
    f"{WITH_JSON} http://127.0.0.1:8080/v1/models/mnist:predict",
    f"{WITH_JSON} http://127.0.0.1:8080/v1/models/mnist:explain",
]


def here(line: str, port: int, instances: object) -> list[str]:
    """A line of the documentation for this server, this model and these files."""
    line = re.sub(r"(localhost|127\.0\.0\.1):8080", f"127.0.0.1:{port}", line)
    line = line.replace("kubernetes/kserve/kf_request_json/mnist.json", str(instances))
    line = line.replace("examples/image_classifier/mnist/test_data/0.png", "samples/0.png")
    line = line.replace("kitten_small.jpg", "samples/7.png").replace("resnet-18/2.0", "digits/1.0")
    return shlex.split(re.sub(r"resnet-18|mnist", "digits", line))[1:]


@needs_curl
@pytest.mark.parametrize("line", SEED)
def test_the_documented_lines_work_word_for_word(server, instances, line):
    found = json.loads(curl(*here(line, server.port, instances)))
    if "OPTIONS" in line:
        assert found["openapi"] == "3.0.1"
    elif "ping" in line:
        assert found == json.loads(PING)
    elif "/predictions" in line:
        assert is_digit(found, "7")
    elif "/explanations" in line:
        assert [len(found), len(found[0]), len(found[0][0])] == [1, 8, 8]
    elif ":predict" in line:
        assert [each["class"] for each in found["predictions"]] == [str(n % 10) for n in range(20)]
    else:
        assert [len(found["explanations"]), len(found["explanations"][0][0])] == [20, 8]


def test_the_requests_library_keeps_its_connection(server):
    with requests.Session() as session:
        for sample in SAMPLES:
            answer = session.post(
                f"{server.url}/predictions/digits", files={"data": sample.read_bytes()}, timeout=30
            )
            assert answer.json()["class"] == sample.stem
            assert answer.reason == "OK"

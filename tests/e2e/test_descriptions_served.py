"""The OpenAPI documents of a running server: valid, complete, and good enough for a client generator."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
from e2e_kit import DIGITS, JSON, SCRIPTS, answered

TARGETS = ["/", "/api-description", "/predictions/digits", "/predictions/rows"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_description_is_valid_openapi(server, target):
    from openapi_spec_validator import OpenAPIV30SpecValidator, validate

    answer = server.ask("OPTIONS", target)
    assert answer == answered(answer.body, JSON)
    document = answer.json()
    assert document["openapi"] == "3.0.1"
    validate(document, cls=OpenAPIV30SpecValidator)


def test_any_method_reads_the_description_by_its_other_name(server):
    whole = server.ask("OPTIONS", "/").body
    assert [server.ask(method, "/api-description").body for method in ("GET", "POST", "PUT")] == [whole] * 3


def test_everything_mounted_is_described(server):
    paths = server.ask("OPTIONS", "/").json()["paths"]
    assert {
        "/predictions/{model_name}", "/predictions/{model_name}/{model_version}", "/explanations/{model_name}",
        "/ping", "/v1/models", "/v1/models/{model_name}", "/v1/models/{model_name}:predict",
        "/v1/models/{model_name}:explain", "/invocations",
    } <= set(paths)  # fmt: skip
    for path, operations in paths.items():
        if path.endswith(("load", "register")):  # other tests need the models of this server
            continue
        for method in operations:
            target = path.replace("{model_name}", "rows").replace("{model_version}", "1.0")
            answer = server.ask(method.upper(), target)
            assert answer.code not in (405, 501), (method, path)
            assert answer.body != b'{"error":"Not Found"}', (method, path)
            assert b"ResourceNotFoundException" not in answer.body, (method, path)


CLIENT = """
import sys

from openapi_client import ApiClient, Configuration, DefaultApi

url, sample = sys.argv[1:]
with ApiClient(Configuration(host=url)) as client, open(sample, "rb") as image:
    api = DefaultApi(client)
    print(api.ping().health)
    found = api.predictions("digits", image.read())
    print(found.decode() if isinstance(found, (bytes, bytearray)) else found)
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH")
@pytest.mark.skipif(
    not (SCRIPTS / "openapi-generator-cli").exists(), reason="openapi-generator-cli is not installed"
)
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("urllib3", "pydantic", "dateutil")),
    reason="what a generated client needs is not installed: urllib3, pydantic, python-dateutil",
)
def test_a_generated_python_client_predicts(server, tmp_path):
    (tmp_path / "api.json").write_bytes(server.ask("OPTIONS", "/").body)
    made = subprocess.run(
        [SCRIPTS / "openapi-generator-cli", "generate", "-g", "python", "-i", "api.json", "-o", "client",
         "--global-property", "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false"],
        cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, server.url, DIGITS / "samples/7.png"],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "client")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    health, prediction = done.stdout.split("\n", 1)
    assert health == "healthy!"
    assert json.loads(prediction)["class"] == "7"

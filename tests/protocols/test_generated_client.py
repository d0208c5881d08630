"""A Python client that openapi-generator makes from OPTIONS / works as it is, without a switch set."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from protocol_wire import JSON, elements, output

from mooring.core.requests import Form

GENERATOR = Path(sys.executable).with_name("openapi-generator-cli")

CALLS = """
import json, sys
import mooring_client as generated

api = generated.DefaultApi(generated.ApiClient(generated.Configuration(host=sys.argv[1])))
try:
    api.v1_ready("nobody")
except generated.exceptions.NotFoundException as error:
    missing = error.data.type
print(json.dumps([
    api.predictions("echo", b"\\x89PNG").decode(),
    api.version_predictions("echo", "1.0", b"\\x89PNG").decode(),
    api.explanations("echo", b"\\x89PNG").decode(),
    api.ping().health,
    api.v1_ready("echo").ready,
    api.v1_predict("echo", {"instances": [1, [2]]}).predictions,
    missing,
]))
"""

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not GENERATOR.exists() or shutil.which("java") is None, reason="needs openapi-generator-cli and Java"
    ),
]


async def run(*command: object, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_a_generated_client_predicts(inference, tmp_path):
    inference.service.answer = lambda request: [
        elements(*request.inputs[0].data)
        if request.form is Form.INSTANCES
        else output(b'{"class": "7"}', content_type=JSON)
    ]
    document = tmp_path / "api.json"
    document.write_bytes((await inference.call("OPTIONS", "/")).body)
    await run(
        GENERATOR, "generate", "-g", "python", "-i", document, "-o", ".", "--package-name", "mooring_client",
        cwd=tmp_path,
    )  # fmt: skip
    said = await run(sys.executable, "-c", CALLS, f"http://127.0.0.1:{inference.port}", cwd=tmp_path)
    seven = '"{\\"class\\": \\"7\\"}"'
    expected = f'[{seven}, {seven}, {seven}, "healthy!", true, [1, [2]], "ModelNotFoundException"]'
    assert said.splitlines()[-1] == expected
    assert [bytes(request.inputs[0].data[0]) for request in inference.service.requests[:3]] == [
        b"\x89PNG"
    ] * 3

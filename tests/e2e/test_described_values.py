"""What a running server says of functions of Python values is true: its own examples are requests that work, and answers fit."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_kit import JSON, SCRIPTS, serving
from openapi_schema_validator import OAS30Validator
from openapi_spec_validator import validate

from mooring import Client
from mooring.core.example_values import example_value

APP = '''
import dataclasses
import enum
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import pydantic
from PIL import Image


class Language(enum.StrEnum):
    DE = "de"
    JA = "ja"


@dataclasses.dataclass
class Point:
    """A place."""

    x: float
    y: float = 0.0
    label: str | None = None
    parent: "Point | None" = None


class Order(pydantic.BaseModel):
    """What somebody wants."""

    item: str = pydantic.Field(min_length=1, examples=["茶"])
    count: int = pydantic.Field(1, ge=1, le=9)
    language: Language = Language.DE
    where: Point | None = None


class Bill(pydantic.BaseModel):
    total: float
    lines: list[tuple[str, int]]
    note: str | None = None


def order(order: Order) -> Bill:
    """Take an order.

    Nothing is delivered.
    """
    return Bill(total=order.count * 2.5, lines=[(order.item, order.count)])


def distance(
    a: Point, b: Point = Point(0.0), power: Annotated[int, msgspec.Meta(ge=1, le=3)] = 2, mode: Literal["l", "m"] = "l"
) -> float:
    return (abs(a.x - b.x) ** power + abs(a.y - b.y) ** power) ** (1 / power)


def size(image: Image.Image) -> dict[str, int]:
    return {"width": image.width, "height": image.height}


def gray(image: Image.Image) -> Image.Image:
    return image.convert("L")


def count(text: str) -> int:
    return len(text.split())


def words(text: str, upper: bool = False) -> Iterator[str]:
    for word in text.split():
        yield word.upper() if upper else word


def points(n: int) -> Iterator[Point]:
    for x in range(n):
        yield Point(x)


def total(values: list[float]) -> float:
    return sum(values)


def same(x):
    return x
'''
MODELS = ("order", "distance", "size", "gray", "count", "words", "points", "total", "same")
GENERATOR = Path(sys.executable).with_name("openapi-generator-cli")
CALLS = """
import sys
import ordering

api = ordering.DefaultApi(ordering.ApiClient(ordering.Configuration(host=sys.argv[1])))
bill = api.predictions(ordering.Order(item="Tee", count=2, language="ja"))
print(type(bill).__name__, bill.total, bill.lines)
try:
    ordering.Order(item="Tee", count=10)
except ValueError:
    print("refused")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described")
    (folder / "app.py").write_text(APP)
    with serving(folder, *(f"{name}=app.py:{name}" for name in MODELS)) as server:
        yield server


@pytest.fixture(scope="module")
def documents(server):
    found = {name: json.loads(server.ask("OPTIONS", f"/predictions/{name}").body) for name in MODELS}
    for document in found.values():
        validate(document)
    return found


def ask(server, documents, model, path):
    """The answer to the example that the document has for a call, both checked by their schemas there."""
    document = documents[model]
    (call,) = (each["post"] for name, each in document["paths"].items() if name == path)
    schema = call["requestBody"]["content"][JSON]["schema"]
    body = schema["example"]
    fits(body, schema, document)
    answer = server.ask("POST", path, json.dumps(body).encode(), f"Content-Type: {JSON}")
    assert answer.code == 200, answer
    ((kind, content),) = call["responses"]["200"]["content"].items()
    assert kind == "*/*" or answer.headers["content-type"].startswith(kind)
    if kind == JSON:
        fits(answer.json(), content["schema"], document)
    return answer


def fits(value, schema, document):
    OAS30Validator({"allOf": [schema], "components": document["components"]}).validate(value)


@pytest.mark.parametrize("model", MODELS)
def test_the_example_of_the_document_is_a_request_that_works(server, documents, model):
    ask(server, documents, model, f"/predictions/{model}")


@pytest.mark.parametrize("model", MODELS)
def test_the_example_of_instances_works_too(server, documents, model):
    assert len(ask(server, documents, model, f"/v1/models/{model}:predict").json()["predictions"]) == 1


@pytest.mark.parametrize(
    "model", [each for each in MODELS if each not in ("size", "gray", "words", "points")]
)
def test_the_example_of_tensors_works_too(server, documents, model):
    answer = ask(server, documents, model, f"/v2/models/{model}/infer").json()
    (declared,) = server.ask("GET", f"/v2/models/{model}").json()["outputs"]
    (output,) = answer["outputs"]
    if declared["datatype"]:
        assert (output["name"], output["datatype"]) == (declared["name"], declared["datatype"])
    assert output.get("parameters", {}).get("content_type") == declared.get("content_type")


def test_the_metadata_says_the_same_over_rest_and_grpc(server):
    metadata = server.ask("GET", "/v2/models/distance").json()
    assert metadata["inputs"] == [
        {"name": "a", "datatype": "BYTES", "shape": [1], "content_type": JSON},
        {"name": "b", "datatype": "BYTES", "shape": [1], "content_type": JSON, "optional": True},
        {"name": "power", "datatype": "INT64", "shape": [1], "optional": True},
        {"name": "mode", "datatype": "BYTES", "shape": [1], "optional": True},
    ]
    with Client(f"grpc://{server.grpc}") as over_grpc, Client(server.url) as over_rest:
        for model in MODELS:
            assert over_grpc.metadata(model) == over_rest.metadata(model)
    config = server.ask("GET", "/v2/models/distance/config").json()
    assert [(each["name"], each["data_type"]) for each in config["input"]][2:] == [
        ("power", "TYPE_INT64"), ("mode", "TYPE_STRING"),
    ]  # fmt: skip


def test_the_command_line_says_which_inputs_are_json_and_which_may_be_left_out(server):
    said = subprocess.run(
        [SCRIPTS / "mooring", "models", "describe", "distance", "--url", server.url],
        check=True, capture_output=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    rows = [line.split() for line in said.splitlines()]
    assert ["input", "a", "BYTES", "[1]", "JSON", "text"] in rows
    assert ["input", "b", "BYTES", "[1]", "JSON", "text,", "optional"] in rows
    assert ["input", "power", "INT64", "[1]", "optional"] in rows
    assert ["output", "output", "FP64", "[1]"] in rows


def test_the_docstring_and_the_limits_are_in_the_document(documents):
    call = documents["order"]["paths"]["/predictions/order"]["post"]
    assert call["description"].startswith("Take an order.\n\nNothing is delivered.\n\n")
    schema = call["requestBody"]["content"][JSON]["schema"]
    assert schema["properties"]["count"]["maximum"] == 9
    assert schema["example"] == {"item": "茶"}
    images = documents["size"]["paths"]["/predictions/size"]["post"]["requestBody"]["content"]
    assert set(images) == {JSON, "image/*"}


def test_an_image_may_be_the_body_as_the_document_says(server, documents):
    example = ask(server, documents, "size", "/predictions/size")
    body = documents["size"]["paths"]["/predictions/size"]["post"]["requestBody"]["content"][JSON]["schema"]
    image = base64.b64decode(
        body["example"] if isinstance(body["example"], str) else body["example"]["image"]
    )
    answer = server.ask("POST", "/predictions/size", image, "Content-Type: image/png")
    assert answer.json() == example.json() == {"width": 1, "height": 1}


def test_the_servers_own_document_has_the_calls_to_all_of_them(server, documents):
    document = json.loads(server.ask("OPTIONS", "/").body)
    validate(document)
    assert document == server.ask("GET", "/openapi.json").json()
    for model in MODELS:
        assert (
            document["paths"][f"/predictions/{model}"]["post"]["operationId"]
            == f"predictions{model.capitalize()}"
        )
    assert "/predictions/{model_name}" in document["paths"]


def test_a_schema_of_a_function_is_one_that_examples_are_made_of(documents):
    for document in documents.values():
        for definition in document["components"]["schemas"].values():
            fits(
                example_value({**definition, "$defs": document["components"]["schemas"]}),
                definition,
                document,
            )


@pytest.mark.skipif(
    not GENERATOR.exists() or shutil.which("java") is None, reason="needs openapi-generator-cli and Java"
)
def test_a_generated_client_has_the_types_of_the_function(server, documents, tmp_path):
    (tmp_path / "api.json").write_text(json.dumps(documents["order"]))
    subprocess.run(
        [GENERATOR, "generate", "-g", "python", "-i", "api.json", "-o", ".", "--package-name", "ordering"],
        cwd=tmp_path, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    said = subprocess.run(
        [sys.executable, "-c", CALLS, server.url],
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert said.stdout.splitlines() == ["Bill 5.0 [['Tee', 2]]", "refused"], said.stderr

"""The try-it form in a browser, at a real server: what is asked, what is shown of it, and the lines of code, which are run."""

import json
import os
import re
import subprocess
import sys
from urllib.parse import quote

import numpy as np
import pytest
from browser_kit import NARROW
from conftest import HOSTILE
from e2e_kit import DIGITS, SAMPLES, SCRIPTS, Server, serving
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

PICTURE = next(each for each in SAMPLES if each.name == "7.png")
MODELS = f'''
import asyncio
import enum
from dataclasses import dataclass, field

from PIL import Image


class Tone(enum.Enum):
    PLAIN = "plain"
    FORMAL = "formal"


@dataclass
class Person:
    """Somebody to greet."""

    name: str
    age: int | None = None
    tags: list[str] = field(default_factory=list)


def greet(person: Person, tone: Tone = Tone.PLAIN, times: int = 1, loud: bool = False, score: float | str = 0.5) -> dict:
    """Greet a person."""
    return {{"text": f"Hello {{person.name}}" * times, "age": person.age, "tags": person.tags, "tone": tone.value, "loud": loud, "score": score}}


def turn(picture: Image.Image) -> Image.Image:
    return picture.rotate(90)


async def count(text: str, times: int = 3):
    for number in range(times):
        yield f"{{text}}{{number}} "


async def drip(text: str):
    try:
        while True:
            yield text
            await asyncio.sleep(0.05)
    finally:
        print("the drip has ended")


async def wait(text: str) -> str:
    await asyncio.sleep(600)


def fail(text: str) -> str:
    raise RuntimeError("no <b>weights</b> {HOSTILE}")


def attack(text: str) -> dict:
    return {{"markup": "{HOSTILE}</script><script>alert(2)</script>", "hidden": "a\\u202eb\\0c", "long": "x" * 100_000}}
'''
SHOUT = """
def shout(row):
    value = row.get("data") or row.get("body")
    if isinstance(value, dict):
        return {"loud": value["text"].upper()}
    return (value if isinstance(value, str) else bytes(value).decode()).upper()


def handle(data, context):
    return [shout(row) for row in data or []]
"""
REPOSITORY = {
    "scale/config.toml": 'max_batch_size = 512\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 3]\n'
    '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 3]\n',
    "scale/1/model.py": 'def infer(inputs, parameters):\n    return {"y": inputs["x"] * parameters.get("factor", 2)}\n',
    "odd/config.toml": f"name = '{HOSTILE}'\n[[inputs]]\nname = \"it's\"\ndatatype = \"BYTES\"\nshape = [1]\n",
    "odd/1/model.py": "def infer(inputs, parameters):\n    return {'<b>': inputs[\"it's\"]}\n",
    "free/1/model.py": 'def infer(inputs, parameters):\n    return {"y": inputs["a b"] + 1}\n',
    "total/config.toml": '[[inputs]]\nname = "x"\ndatatype = "INT64"\nshape = [1, 1]\n[[outputs]]\nname = "y"\ndatatype = "INT64"\nshape = [1, 1]\n'
    "[sequences]\n",
    "total/1/model.py": "class Model:\n    def load(self, context):\n        self.totals = {}\n\n"
    "    def infer(self, x, sequence_id, sequence_start):\n        for row, name in enumerate(sequence_id):\n"
    "            self.totals[name] = x[row] + (0 if sequence_start[row] else self.totals[name])\n"
    '        return {"y": [self.totals[name] for name in sequence_id]}\n',
    "chain/config.toml": 'name = "chain"\n[[models]]\nname = "first"\nplatform = "python"\nentry = "a.py:infer"\n'
    '[[models]]\nname = "second"\nplatform = "python"\nentry = "b.py:infer"\n',
    "chain/1/a.py": 'def infer(inputs, parameters):\n    return {"x": inputs["x"] + 1}\n',
    "chain/1/b.py": 'def infer(inputs, parameters):\n    return {"y": inputs["x"] * 10}\n',
}  # fmt: skip


@pytest.fixture(scope="module")
def server(driver, tmp_path_factory):
    """A server with a model of every kind."""
    folder = tmp_path_factory.mktemp("tried")
    for name, text in REPOSITORY.items():
        file = folder / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    source = folder / "app.py"
    source.write_text(MODELS)
    (folder / "shout").mkdir()
    (folder / "shout/handler.py").write_text(SHOUT)
    functions = [f"{source}:{name}" for name in ("greet", "turn", "count", "drip", "wait", "fail", "attack")]
    served = [*functions, folder / "shout", DIGITS / "digits.mar"]
    server = Server(folder, *served, "--model-repository", folder / "models", "--show-errors")
    try:
        yield server.started()
        assert server.stop() == 0, server.log
    finally:
        server.kill()


@pytest.fixture
def open_model(server, open_console):
    """Open the page of a model, and return the browser when its form is there."""

    def open_model(name, **shown):
        browser = open_console(server, f"#/models/{name}", **shown)
        browser.find("mooring-try form")
        return browser

    return open_model


def send(browser, said="Answered"):
    browser.click("mooring-try button[type=submit]")
    browser.until(lambda: said in browser.text(".try-status"), said)


def answer(browser):
    """The text of the answer's first box."""
    return browser.run("return document.querySelector('.try-result .try-text').textContent")


def timings(browser):
    """Milliseconds by step, as the table has them."""
    rows = browser.run(
        "return [...document.querySelectorAll('.try-timings tbody tr')].map((row) => [row.cells[0].textContent, row.cells[2].textContent])"
    )
    return {name: float(time) for name, time in rows}


def lines(browser):
    """The lines of code by their titles."""
    script = "return Object.fromEntries([...document.querySelectorAll('.try-text.code')].map((each) => [each.ariaLabel, each.textContent]))"
    return {title.removesuffix(" line"): text for title, text in browser.run(script).items()}


def run_lines(browser, folder):
    """What each line of code prints, run as it stands in the page."""
    printed = {}
    environ = os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    for title, text in lines(browser).items():
        command = [sys.executable, "-c", text] if title == "Python" else ["bash", "-c", text]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, (text, done.stderr.decode())
        printed[title] = done.stdout.decode()
    return printed


def test_tensors_are_asked_and_shown_as_a_table(open_model, tmp_path):
    browser = open_model("scale")
    browser.fill("mooring-try textarea", "1, 2, 3, 4.5, 5, 6")
    assert browser.find("mooring-try fieldset input").get_attribute("value") == "2, 3"  # the shape follows
    assert not browser.find_all("[aria-invalid]")
    send(browser)
    cells = [each.text for each in browser.find_all(".try-output td")]
    assert cells == ["2", "4", "6", "9", "10", "12"]
    assert {"Queue", "Model", "Total"} <= {each.split()[0] for each in timings(browser)}
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["curl"])["outputs"][0]["data"] == [2, 4, 6, 9, 10, 12]
    assert [float(each) for each in re.findall(r"[\d.]+", printed["Python"])] == [2, 4, 6, 9, 10, 12]
    assert json.loads(printed["gRPC"]) == {"y": [[2, 4, 6], [9, 10, 12]]}
    assert browser.overflow() == 0


def test_values_that_do_not_fill_the_shape_are_refused_beside_the_field(open_model):
    browser = open_model("scale")
    browser.fill("mooring-try textarea", "1, 2")
    send(browser, "does not fit")
    assert "2 values do not fill the shape" in browser.text(".try-error")
    assert browser.focused().get_attribute("aria-invalid") == "true"


def test_the_json_of_tensors_is_in_step_with_the_form_and_may_have_parameters(open_model, tmp_path):
    browser = open_model("scale")
    browser.fill("mooring-try textarea", "[[1, 2, 3]]")
    browser.click("[role=tab]", "JSON")
    body = json.loads(browser.find(".try-pane textarea").get_attribute("value"))
    assert body["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2, 3]]}]
    body["inputs"][0]["data"] = [[4, 5, 6]]
    browser.fill(".try-pane textarea", json.dumps(body | {"parameters": {"factor": 10}}))
    send(browser)
    assert [each.text for each in browser.find_all(".try-output td")] == ["40", "50", "60"]
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["gRPC"]) == {"y": [[40, 50, 60]]}
    assert "40" in printed["Python"]
    browser.click("[role=tab]", "Tensors")
    assert browser.find("mooring-try textarea").get_attribute("value") == "[[4, 5, 6]]"


def test_a_large_request_is_saved_to_a_file_that_the_lines_read(open_model, tmp_path):
    browser = open_model("scale")
    values = np.arange(900).reshape(300, 3)
    browser.run(
        "const box = document.querySelector('mooring-try textarea'); box.value = arguments[0]; box.dispatchEvent(new Event('input', {bubbles: true}))",
        json.dumps(values.tolist()),
    )
    send(browser)
    assert json.loads(answer(browser)) == (values * 2).tolist()
    assert "@request.json" in lines(browser)["curl"]
    (tmp_path / "request.json").write_text(
        json.dumps(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [300, 3], "data": values.tolist()}]}
        )
    )
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["gRPC"]) == {"y": (values * 2).tolist()}
    assert "1798" in printed["Python"]


def test_inputs_that_a_model_does_not_declare_are_named_by_hand(open_model, tmp_path):
    browser = open_model("free")
    values = '{"name": "a b", "datatype": "INT64", "shape": [1, 2], "data": [[9007199254740993, 2]]}'
    browser.fill(".try-pane textarea", f'{{"inputs": [{values}]}}')
    send(browser)
    assert [each.text for each in browser.find_all(".try-output td")] == ["9007199254740994", "3"]
    printed = run_lines(browser, tmp_path)
    assert "9007199254740994" in printed["Python"]
    assert json.loads(printed["gRPC"]) == {"y": [[9007199254740994, 3]]}


def test_a_function_is_asked_by_a_form_of_its_schema(open_model, tmp_path):
    browser = open_model("greet")
    browser.fill("mooring-try textarea", 'Bö \'n "co" $HOME\\')
    Select(browser.find("[aria-label='tone: what is sent']")).select_by_value("value")
    Select(browser.find("[aria-label='tags: what is sent']")).select_by_value("value")
    browser.click("mooring-try button", "Add an item")
    browser.focused().send_keys("one")
    Select(browser.find("[aria-label='age: what is sent']")).select_by_value("value")
    browser.run("document.querySelector('input[inputmode=numeric]').value = '12'")
    send(browser)
    shown = json.loads(answer(browser))
    assert shown == {
        "text": "Hello Bö 'n \"co\" $HOME\\", "age": 12, "tags": ["one"], "tone": "plain", "loud": False, "score": 0.5,
    }  # fmt: skip
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["curl"]) == shown
    assert eval(printed["Python"]) == shown
    assert json.loads(printed["gRPC"]) == shown


def test_form_and_json_keep_in_step(open_model):
    browser = open_model("greet")
    browser.click("[role=tab]", "JSON")
    browser.fill(
        ".try-pane textarea", '{"person": {"name": "A", "age": null, "tags": ["x", "y"]}, "score": "high"}'
    )
    browser.click("[role=tab]", "Form")
    assert [each.get_attribute("value") for each in browser.find_all("mooring-try .try-items textarea")] == [
        "x",
        "y",
    ]
    assert Select(browser.find("[aria-label='age: what is sent']")).first_selected_option.text == "null"
    assert Select(browser.find("[aria-label='score: kind of value']")).first_selected_option.text == "text"
    browser.fill("mooring-try textarea", "B")
    browser.click("[role=tab]", "JSON")
    shown = json.loads(browser.find(".try-pane textarea").get_attribute("value"))
    assert shown == {"person": {"name": "B", "age": None, "tags": ["x", "y"]}, "score": "high"}
    browser.fill(".try-pane textarea", '{"other": 1}')
    browser.find(".try-hint", "The form cannot show this")
    browser.expect_error("status of 400")
    send(browser, "Refused: 400")


def test_a_wrong_number_is_said_here_and_a_refusal_of_the_server_beside_its_field(open_model):
    browser = open_model("greet")
    Select(browser.find("[aria-label='times: what is sent']")).select_by_value("value")
    number = browser.find("#" + browser.find("label", "times").get_attribute("for"))
    number.clear()
    number.send_keys("many")
    send(browser, "does not fit")
    assert 'a whole number is needed, not "many"' in browser.text(".try-error")
    number.clear()
    number.send_keys("1")
    browser.click("[role=tab]", "JSON")
    browser.fill(".try-pane textarea", '{"person": {"name": "A"}, "times": "many"}')
    browser.expect_error("status of 400")
    send(browser, "Refused: 400")
    assert browser.text(".try-result .message.error") == "times must be a whole number, not a string"
    assert "request " in browser.text(".try-head")
    browser.click("[role=tab]", "Form")
    browser.find(".try-error", "times must be a whole number")


def test_a_handler_is_asked_with_text_json_and_fields(open_model, tmp_path):
    browser = open_model("shout")
    browser.click("[role=tab]", "Text")
    browser.fill(".try-pane textarea", "it's a 'text'\nof two lines")
    send(browser)
    assert answer(browser) == "IT'S A 'TEXT'\nOF TWO LINES"
    printed = run_lines(browser, tmp_path)
    assert printed["curl"] == answer(browser)
    assert printed["Python"].strip() == answer(browser)
    assert json.loads(printed["gRPC"]) == {"body": [answer(browser)]}
    browser.click("[role=tab]", "JSON")
    browser.run("document.querySelectorAll('.try-pane textarea')[1].value = '{\"text\": \"a\"}'")
    send(browser)
    assert json.loads(answer(browser)) == {"loud": "A"}
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["curl"]) == json.loads(printed["Python"]) == {"loud": "A"}
    browser.click("[role=tab]", "Form fields")
    browser.fill("mooring-try .try-items textarea", "by a form")
    send(browser)
    assert answer(browser) == "BY A FORM"
    assert run_lines(browser, tmp_path)["curl"] == "BY A FORM"


def test_an_image_is_previewed_and_classified(open_model, tmp_path):
    browser = open_model("digits")
    browser.find("mooring-try input[type=file]").send_keys(str(PICTURE))
    browser.find("mooring-try img[alt='Preview of 7.png']")
    assert browser.run("return document.querySelector('mooring-try img').naturalWidth") > 0
    send(browser)
    shown = json.loads(answer(browser))
    assert shown["class"] == "7"
    (tmp_path / "7.png").write_bytes(PICTURE.read_bytes())
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["curl"]) == json.loads(printed["Python"]) == shown
    assert json.loads(json.loads(printed["gRPC"])["body"][0]) == shown


def test_a_function_of_one_input_has_a_field_of_its_name(open_model):
    browser = open_model("fail")
    assert browser.find("mooring-try label").text == "text"
    browser.click("[role=tab]", "JSON")
    browser.fill("mooring-try [role=tabpanel]:not([hidden]) textarea", '"alone"')
    browser.find(".try-hint", "The form cannot show this")


def test_an_answer_that_is_an_image_is_shown_as_one(open_model, tmp_path):
    browser = open_model("turn")
    browser.find("mooring-try input[type=file]").send_keys(str(PICTURE))
    send(browser)
    browser.until(lambda: browser.run("return document.querySelector('.try-result img').naturalWidth") == 8)
    (tmp_path / "7.png").write_bytes(PICTURE.read_bytes())
    for title, text in lines(browser).items():
        if title != "gRPC":
            assert "answer.png" in text
    run_lines(browser, tmp_path)
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("route", ["predict", "generate_stream"])
def test_a_stream_is_shown_piece_by_piece(open_model, tmp_path, route):
    browser = open_model("count")
    Select(browser.find(".toolbar select")).select_by_value(route)
    browser.fill("mooring-try textarea", "n")
    send(browser)
    assert answer(browser) == "n0 n1 n2 "
    assert "piece" in browser.text(".try-head")
    printed = run_lines(browser, tmp_path)
    assert printed["Python"] == "n0 n1 n2 "
    assert [json.loads(each) for each in printed["gRPC"].splitlines()] == [
        {"output": [f"n{number} "]} for number in range(3)
    ]
    if route == "predict":
        assert printed["curl"] == "n0 n1 n2 "
    else:
        assert re.findall(r'"output":"(.*?)"', printed["curl"]) == ["n0 ", "n1 ", "n2 "]


def test_a_stream_is_stopped_and_the_model_told(server, open_model):
    browser = open_model("drip")
    browser.fill("mooring-try textarea", "drop ")
    browser.click("mooring-try button[type=submit]")
    browser.find(".try-text", "drop drop")
    browser.click("mooring-try button", "Stop")
    browser.until(lambda: "Stopped" in browser.text(".try-status"))
    browser.until(lambda: "the drip has ended" in server.log, "the model was not told")


def test_a_request_ends_when_its_page_is_left(server, open_model):
    browser = open_model("wait")
    browser.click("mooring-try button[type=submit]")
    browser.find(".try-status", "Waiting")
    browser.go("#/")
    browser.find(".models")

    def running():
        script = (
            "const done = arguments[0]; fetch('/console/api/state').then((each) => each.json()).then(done)"
        )
        state = browser.driver.execute_async_script(script)
        return next(each["in_flight"] for each in state["models"] if each["name"] == "wait")

    browser.until(lambda: running() == 0, "the request still runs")


def test_a_chain_shows_the_times_of_its_nodes(open_model):
    browser = open_model("chain")
    values = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    browser.fill(".try-pane textarea", json.dumps({"inputs": [values]}))
    send(browser)
    assert [each.text for each in browser.find_all(".try-output td")] == ["20", "30"]
    steps = {each.split(" ")[0] for each in timings(browser)}
    assert {"First.model", "Second.model", "Total"} <= steps


def test_a_model_that_raises_shows_its_error_as_text(open_model):
    browser = open_model("fail")
    browser.expect_error("status of 500")
    send(browser, "Failed: 500")
    assert f"RuntimeError: no <b>weights</b> {HOSTILE}" in browser.text(".message.error")
    assert "500 Internal Server Error" in browser.text(".try-head")
    assert timings(browser)


def test_markup_and_hidden_characters_of_an_answer_are_text(open_model):
    browser = open_model("attack")
    send(browser)
    text = answer(browser)
    assert f'"{HOSTILE}</script><script>alert(2)</script>"' in text
    assert r"a\u202eb\u0000c" in text
    assert len(text) < 21_000
    assert browser.run("return document.querySelectorAll('.try-result img, .try-result script').length") == 0
    browser.click(".try-result button", "Show all")
    assert len(answer(browser)) > 100_000


def test_a_model_and_an_input_of_odd_names_are_asked(open_model, tmp_path):
    browser = open_model(quote(HOSTILE))
    browser.fill("mooring-try textarea", f"{HOSTILE} 'x'")
    send(browser)
    assert answer(browser) == f"{HOSTILE} 'x'"
    assert browser.text(".try-output h4").startswith("<b>")
    printed = run_lines(browser, tmp_path)
    assert json.loads(printed["curl"])["outputs"][0]["data"] == [f"{HOSTILE} 'x'"]
    assert json.loads(printed["gRPC"]) == {"<b>": [f"{HOSTILE} 'x'"]}
    assert HOSTILE in printed["Python"]


def test_steps_of_a_sequence_are_asked_one_after_another(open_model, tmp_path):
    browser = open_model("total")
    browser.fill("mooring-try textarea", "5")
    send(browser)
    browser.click("mooring-try label.check", "first step")
    send(browser)
    assert [each.text for each in browser.find_all(".try-output td")] == ["10"]
    assert json.loads(run_lines(browser, tmp_path)["gRPC"]) == {"y": [[25]]}  # after curl's and Python's


def test_the_form_is_used_by_keys_alone(open_model):
    browser = open_model("greet")
    browser.run("document.querySelector('[role=tab]').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.focused().text == "JSON"
    browser.press(Keys.TAB)
    assert browser.focused().tag_name == "textarea"
    browser.focused().send_keys(Keys.CONTROL, Keys.ENTER)
    browser.until(lambda: "Answered" in browser.text(".try-status"))


@pytest.mark.parametrize("model", ["greet", "scale", "turn", "shout", "total"])
def test_the_form_is_accessible_and_fits_a_small_screen(open_model, model):
    browser = open_model(model, size=NARROW, scheme="dark")
    if browser.find_all("mooring-try input[type=file]"):
        browser.find("mooring-try input[type=file]").send_keys(str(PICTURE))
    browser.expect_error("status of 500")
    browser.click("mooring-try button[type=submit]")
    browser.find(".try-result h3", "The same in code")
    assert browser.overflow() == 0
    assert [each for each in browser.accessibility_faults() if "try-" in each] == []
    browser.show_as(size=NARROW, scheme="light")
    assert [each for each in browser.accessibility_faults() if "try-" in each] == []


NASTY = [
    "it's",
    '"$HOME" `id` \\ !',
    "two\nlines\r\n",
    "a\u202eb\u200b",
    "grün 😀",
    "-n",
    "@file",
    "",
    "a\tb",
    "%s {}[]*?",
]


@pytest.fixture
def call(browser, server):
    """Call a function of a module of the page: ``call("json-text.js", "parseJson", text)`` returns what it does."""
    browser.expect_error("favicon.ico")
    browser.open(f"{server.url}/console/static/json-text.js")  # a small page of the same origin
    script = (
        "const [url, name, ...rest] = arguments; const done = rest.pop();"
        "import(url).then((module) => done(module[name](...rest)), (error) => done(String(error)))"
    )

    def call(module, function, *arguments):
        return browser.driver.execute_async_script(script, f"/console/static/{module}", function, *arguments)

    return call


def test_texts_are_quoted_for_bash_and_for_python(call):
    for text in NASTY:
        word = call("code-lines.js", "quoteShell", text)
        done = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
        assert done.stdout.decode() == text
        assert eval(call("json-text.js", "quotePython", text)) == text


def test_a_text_with_hidden_characters_goes_by_a_file(call):
    ask = {
        "path": "predictions/m",
        "headers": {"content-type": "text/plain"},
        "body": "a\u202eb",
        "save": "request.txt",
    }
    context = {"server": "http://h:1/", "grpc": "grpc://h:2", "answer": "text/plain"}
    curl, python, _ = call("code-lines.js", "codeLines", ask, context)
    assert "--data-binary @request.txt" in curl["text"]
    assert curl["file"] == "request.txt"
    assert python["note"] == "The client has no call for this request: use curl's line."


def test_a_token_is_named_and_never_shown(call):
    ask = {
        "path": "predictions/m", "headers": {"content-type": "text/plain"}, "body": "x", "save": "request.txt",
        "call": {"model": "m", "version": "2", "stream": False, "parameters": {}, "row": [["body", "x"]]},
    }  # fmt: skip
    context = {"server": "http://h:1/", "grpc": "grpc://h:2", "token": True, "answer": "text/plain"}
    curl, python, grpc = [each["text"] for each in call("code-lines.js", "codeLines", ask, context)]
    assert '-H "authorization: Bearer $TOKEN"' in curl
    assert 'Client("http://h:1", token=os.environ["TOKEN"])' in python
    assert 'version="2"' in python
    assert 'MOORING_TOKEN="$TOKEN" mooring infer m' in grpc
    assert "--version 2" in grpc


def test_a_server_timing_header_is_read_with_its_quotes(call):
    header = 'queue;dur=1.2, batch;dur=0.4;desc="8 rows, or 9", model;dur=11.9, odd, total;dur=13.8'
    entries = call("timing-bars.js", "readServerTiming", header)
    assert [(each["name"], each["duration"]) for each in entries] == [
        ("queue", 1.2), ("batch", 0.4), ("model", 11.9), ("odd", None), ("total", 13.8),
    ]  # fmt: skip
    assert entries[1]["text"] == "8 rows, or 9"
    bars = call("timing-bars.js", "placeBars", entries)
    assert [round(begin, 2) for begin, _ in bars] == [0, 0.09, 0.12, 0.98, 0]
    assert bars[-1] == [0, 1]
    assert call("timing-bars.js", "readServerTiming", None) == []


SCHEMA = {
    "type": "object", "required": ["p"], "additionalProperties": False,
    "properties": {
        "p": {"$ref": "#/$defs/P"}, "o": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "t": {"allOf": [{"$ref": "#/$defs/T"}], "default": "a"}, "u": {"type": ["integer", "string"]},
        "l": {"type": "array", "items": {"type": "number"}}, "m": {"type": "array", "items": {"type": "array", "items": {}}},
        "d": {"type": "object", "additionalProperties": {"type": "integer"}}, "n": {"anyOf": [{"type": "integer"}, {"const": None}]},
        "c": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
        "f": {"type": "string", "contentEncoding": "base64"}, "a": {},
    },
    "$defs": {"P": {"type": "object", "properties": {"self": {"$ref": "#/$defs/P"}}}, "T": {"enum": ["a", "b"]}},
}  # fmt: skip


def test_a_schema_becomes_fields(call):
    field = call("schema-fields.js", "toField", SCHEMA)
    kinds = {each["name"]: (each["kind"], each["required"], each["nullable"]) for each in field["fields"]}
    assert kinds == {
        "p": ("object", True, False), "o": ("text", False, True), "t": ("choice", False, False), "u": ("either", False, False),
        "l": ("list", False, False), "m": ("json", False, False), "d": ("json", False, False), "n": ("integer", False, True),
        "c": ("json", False, False), "f": ("file", False, False), "a": ("json", False, False),
    }  # fmt: skip
    assert json.loads(call("schema-fields.js", "initialJson", field)) == {"p": {}}
    (nested,) = [each for each in field["fields"] if each["name"] == "p"]
    assert [each["path"] for each in nested["fields"]] == ["p.self"]  # a schema within itself ends


NODE = {"properties": {each: {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]} for each in "abcdefghij"}}
LOOP = {"anyOf": [{"$ref": "#/$defs/L"}, {"type": "null"}]}
LEVELS = {
    f"V{at}": {"properties": {each: {"$ref": f"#/$defs/V{at + 1}"} for each in "abcdefghij"}}
    for at in range(6)
}
WIDE = {"properties": {f"f{at}": {"type": "integer"} for at in range(10_000)}}


@pytest.mark.parametrize(
    ("schema", "most"),
    [
        ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "object"} | NODE}}, 20),
        ({"$ref": "#/$defs/L", "$defs": {"L": LOOP}}, 3),
        ({"$ref": "#/$defs/V0", "$defs": LEVELS}, 600),
        (WIDE, 1),
        ({"$ref": "#/__proto__"}, 1),
    ],
)
def test_no_schema_becomes_more_fields_than_a_page_can_show(call, schema, most):
    def count(field):
        return 1 + sum(map(count, [*field.get("fields", []), *field.get("options", [])]))

    assert count(call("schema-fields.js", "toField", schema)) <= most


PARTS = """
const [value, done] = arguments;
const text = JSON.stringify(value);
import(new URL("/console/static/answer-view.js", location.href)).then(({answerParts}) => {
  const parts = answerParts(new Blob([text]), "application/json", text, null, () => {});
  done(parts.map((each) => each.textContent).join("|"));
}).catch((error) => done(`failed: ${error}`));
"""
ZEROS = {"name": "empty", "datatype": "FP32", "shape": [1_000_000_000, 0], "data": []}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"outputs": [1, None, {"shape": 3}]}, '"outputs"'),
        ({"outputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["<b>"], "parameters": None}]}, "<b>"),
        ({"outputs": [ZEROS]}, "empty"),
    ],
)  # fmt: skip
def test_an_answer_that_only_looks_like_tensors_is_shown_as_it_is(call, browser, value, shown):
    text = browser.driver.execute_async_script(PARTS, value)
    assert shown in text
    assert not text.startswith("failed")


def test_fields_of_odd_names_have_no_values_that_nobody_gave(call, browser):
    script = """
    const [done] = arguments;
    const load = (name) => import(new URL(`/console/static/${name}.js`, location.href));
    Promise.all([load("schema-fields"), load("schema-form")]).then(([{toField}, {makeWidget}]) => {
      const names = ["constructor", "toString", "__proto__"];
      const text = `{"properties": {${names.map((each) => `"${each}": {"type": "string"}`)}}}`;
      const widget = makeWidget(toField(JSON.parse(text)));
      widget.write({});
      done(widget.read([]));
    }).catch((error) => done(`failed: ${error}`));
    """
    assert browser.driver.execute_async_script(script) == "{}"


def test_json_keeps_its_numbers(call):
    text = '{"long": [12345678901234567890, NaN, -Infinity], "text": "NaN 12345678901234567890", "deep": {"a": [[1, 2], [3]]}}'
    assert "12345678901234567890, NaN, -Infinity" in call("json-text.js", "indentJson", text)
    assert call("json-text.js", "parseJson", text)["long"] == [
        "12345678901234567890",
        "NaN",
        "-Infinity",
    ]
    value = eval(call("json-text.js", "toPython", text))
    assert value["long"][0] == 12345678901234567890
    assert value["text"] == "NaN 12345678901234567890"


@pytest.mark.parametrize(("tokens", "asked"), [(("MANAGEMENT", "INFERENCE"), 2), (("MANAGEMENT",), 1)])
def test_the_token_goes_to_a_model_only_where_it_is_needed(tmp_path, open_console, tokens, asked):
    (tmp_path / "app.py").write_text("def double(number: int) -> int:\n    return 2 * number\n")
    given = {f"MOORING_{name}_TOKEN": f"a-token-of-{name.lower()}" for name in tokens}
    with serving(tmp_path, f"{tmp_path / 'app.py'}:double", **given) as server:
        browser = open_console(server, "#/models/double")
        browser.expect_error("status of 401")
        browser.expect_error("net::ERR_")  # the server ends before its page
        browser.fill("dialog input", "a-token-of-management")
        browser.press(Keys.ENTER)
        browser.find("mooring-try form")
        send(browser)
        assert sum("/predictions/" in each for each in browser.requests()) == asked
        assert ("$TOKEN" in lines(browser)["curl"]) == (asked == 2)
        assert "a-token" not in browser.run("return document.body.textContent")

"""Every console block of the documents is run, and prints what its page shows."""

import re
import shutil

import pytest
from console_blocks import ROOT, PageRun, Ports, Step, matches, missing_modules, pages, read_steps, run_page

# What is not run. The reason is in the page, or in NOT_RUN. Everything else is run.
SKIPPED = {
    "README.md": [
        "make serve",
        "make test",
        "pip install .",
        'pip install ".[onnx]"',
        'pip install torch==2.13.0 && pip install ".[torchserve]"',
    ],
    "docs/RELIABILITY.md": [
        "make faults",
        'make faults ARGS="--torchserve /path/to/venv"',
        'make faults ARGS="--only descriptors"',
        'make faults ARGS="--only SIGSTOP --add"',
        "make soak",
        "make soak REQUESTS=10000000 ARGS=--write",
    ],
    "docs/start/install.md": [
        "pip install .",
        "pip install torch --index-url https://download.pytorch.org/whl/cpu",
        'pip install ".[torchserve]"',
        'pip install -c constraints.txt ".[torchserve,onnx]"',
        "make serve",
        "make test",
    ],
    "examples/text_classification/README.md": ['pip install "mooring[llm]"'],
    "src/mooring/cli/templates/function/README.md": ["pip install -r requirements.txt"],
    "src/mooring/cli/templates/handler/README.md": ["pip install -r requirements.txt"],
    "src/mooring/cli/templates/llm/README.md": [
        "pip install -r requirements.txt",
        "MODEL=HuggingFaceTB/SmolLM2-135M-Instruct mooring serve app.py:Model --port 8080",
    ],
    "src/mooring/cli/templates/onnx/README.md": ["pip install -r requirements.txt"],
}
WITH_BLOCKS = [page for page in pages() if "```console" in (ROOT / page).read_text()]


@pytest.mark.processes
@pytest.mark.timeout(300)  # a page has up to ten servers, some of which import torch
@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands of the pages need curl")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=str(page), marks=pytest.mark.xdist_group(f"tests/docs/{page}"))
        for page in WITH_BLOCKS
    ],
)
def test_a_page_shows_what_its_commands_print(page, tmp_path):
    if missing := missing_modules((ROOT / page).read_text()):
        pytest.skip(f"{page} needs {', '.join(missing)}")
    wrong = run_page(page, tmp_path)
    assert not wrong, "\n".join(wrong)


def test_what_is_not_run_is_known_and_has_a_reason():
    skipped = {}
    for page in WITH_BLOCKS:
        for step in read_steps((ROOT / page).read_text()):
            if step.kind == "skip":
                assert step.shown, f"{page}:{step.line} needs a reason"
                skipped.setdefault(str(page), []).append(step.text)
    assert skipped == SKIPPED


def test_pages_need_only_what_is_known():
    """A misspelled name would have its page skipped wherever the tests run."""
    needed = {
        name
        for page in WITH_BLOCKS
        for step in read_steps((ROOT / page).read_text())
        if step.kind == "needs"
        for name in step.text.split()
    }
    assert needed == {"captum", "onnxruntime", "openssl", "ps", "torch", "transformers", "tritonclient"}


def test_no_page_has_commands_outside_of_console_blocks():
    """A command in an indented block or one of another language would not be run."""
    command = re.compile(r"(?:    |\$ )(?:\$ |\w+=\S+ )*(?:curl|mooring|pip|python|make) ")
    found = []
    for page in pages():
        language = ""
        for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
            if line.lstrip().startswith("```"):
                language = "" if language else line.strip().removeprefix("```") or "text"
                if language in ("sh", "bash", "shell"):
                    found.append(f"{page}:{number}: {line}")
            elif not language and command.match(line):
                found.append(f"{page}:{number}: {line}")
    assert not found, "make these console blocks:\n" + "\n".join(found)


PAGE = """\
<!-- console: needs json -->
```python
# app.py
print("hello")
```

```console
$ python app.py
hello
$ echo one \\
    two
one two
```
<!-- console: skip it is slow -->
```console
$ sleep 60
```
    $ this is no block
"""


def test_a_page_is_read_in_order():
    assert list(read_steps(PAGE)) == [
        Step("needs", 1, "json"),
        Step("file", 2, "app.py", '# app.py\nprint("hello")\n'),
        Step("command", 8, "python app.py", "hello"),
        Step("command", 10, "echo one \\\n    two", "one two"),
        Step("skip", 15, "sleep 60", "it is slow"),
    ]
    assert missing_modules(PAGE) == []
    assert missing_modules("<!-- console: needs json no_such_module -->") == ["no_such_module"]


def test_hidden_files_and_commands_are_read_and_what_installs_is_not_run():
    text = """\
<!-- console: file models/config.properties
one=1
two=2
-->
<!-- console: run mkdir store && \\
touch store/model -->
```console
$ pip install .  # everything
$ make serve
$ ls
models
```
"""
    assert list(read_steps(text)) == [
        Step("file", 1, "models/config.properties", "one=1\ntwo=2\n"),
        Step("run", 5, "mkdir store && \\\ntouch store/model"),
        Step("skip", 8, "pip install .", "it installs packages"),
        Step("skip", 9, "make serve", "it installs packages, or takes minutes"),
        Step("command", 10, "ls", "models"),
    ]


def test_ports_of_a_page_are_replaced_by_free_ones_and_back():
    ports = Ports("$ mooring serve app.py --port 9000\n$ curl 127.0.0.1:9002/metrics localhost:8443")
    assert [ports[9000 + place] - ports[9000] for place in range(5)] == list(range(5))
    text = "http://127.0.0.1:8080/ping port=9001 grpc_port=7070 https://localhost:8443 x8080 18080"
    freed = ports.to_free(text)
    assert f"127.0.0.1:{ports[8080]}/" in freed
    assert f"port={ports[9001]} " in freed
    assert "x8080 18080" in freed
    assert ports.to_page(freed) == text


@pytest.mark.parametrize("comment", ["<!-- console: nonsense -->", "<!-- console: -->"])
def test_an_unknown_comment_is_an_error(tmp_path, comment):
    with PageRun(ROOT / "page.md", comment, tmp_path) as run:
        try:
            wrong = [run.do(step) for step in read_steps(comment)]
        except AssertionError:
            wrong = ["line 1"]
    assert wrong
    assert all(wrong)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("one\ntwo", "one\ntwo\n"),
        ("", ""),
        ("...", "anything\nat all\n"),
        ("...\nlast", "first\nlast\n"),
        ("first\n...\nlast", "first\nlast\n"),
        ('{"id": "..."}', '{"id": "abc"}\n'),
        ("pid 12345, 0.2 s", "pid 7, 12.25 s\n"),
        ("2026-11-30 13:12:03.265 INFO  ready", "2027-01-01 00:00:00.000 INFO  ready\n"),
        ("0.99988281726", "0.99988281999\n"),
    ],
)
def test_what_is_shown_is_what_was_printed(shown, printed):
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("one", "one\ntwo\n"),
        ("one\ntwo", "one\n"),
        ("", "something\n"),
        ("...\nlast", "first\n"),
        ("pid 12345", "process 7\n"),
        ("0.99", "0.98\n"),
        ("a.c", "abc\n"),
    ],
)
def test_what_is_shown_is_not_what_was_printed(shown, printed):
    assert not matches(shown, printed)


def test_the_beginning_of_a_log_may_be_shown():
    assert matches("one", "one\ntwo\n", whole=False)
    assert not matches("two", "one\ntwo\n", whole=False)


@pytest.mark.processes
def test_a_wrong_page_is_found_out(tmp_path):
    page = ROOT / "docs" / "wrong.md"
    text = "```python\n# app.py\nprint(8080)\n```\n```console\n$ python app.py\n8081\n$ cd /\n$ pwd\n/\n$ false\n```\n"
    with PageRun(page, text, tmp_path) as run:
        wrong = [found for step in read_steps(text) if (found := run.do(step))]
    assert [each.partition(": $ ")[2].partition("\n")[0] for each in wrong] == ["python app.py", "false"]

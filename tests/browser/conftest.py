"""One browser in each process of a run, and a tab for each test."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "e2e"))

from browser_kit import Browser, start_driver
from e2e_kit import Server


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.processes)


@pytest.fixture
def contexts():
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def driver():
    driver = start_driver()
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(driver):
    """A new tab, whose storage is empty; its test fails if the page did what nobody expected."""
    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    after = driver.current_window_handle
    driver.switch_to.window(before)
    driver.close()
    driver.switch_to.window(after)
    for log in ("browser", "performance"):
        driver.get_log(log)  # the last test's
    browser = Browser(driver)
    yield browser
    browser.check()


@pytest.fixture
def open_console(browser):
    """Open the console of a server at a view of it: ``open_console(server, "#/errors", size=NARROW)``."""

    def open_console(server, fragment="#/", **shown):
        browser.open(f"{server.url}/console{fragment}", **shown)
        browser.find("main > *")
        return browser

    return open_console


# A name, and what stands for a log line, an error and a description, which a page that made markup of text would run.
HOSTILE = "<img src=x onerror=alert(1)>"
FILES = {
    "double/config.toml": 'name = "double"\nmax_batch_size = 8\nversion_policy = { all = true }\n'
    '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 3]\n[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 3]\n',
    "double/1/model.py": 'def infer(inputs, parameters):\n    return {"y": inputs["x"] * 2}\n',
    "double/2/model.py": 'def infer(inputs, parameters):\n    return {"y": inputs["x"] + inputs["x"]}\n',
    "spare/config.toml": 'name = "spare"\n',
    "spare/1/model.py": 'def infer(inputs, parameters):\n    return {"y": inputs["x"]}\n',
    "hostile/config.toml": f"name = '{HOSTILE}'\n",
    "hostile/1/model.py": f'def infer(inputs, parameters):\n    print("{HOSTILE}")\n    return {{"y": inputs["x"]}}\n',
    "broken/config.toml": 'name = "broken"\n',
    "broken/1/model.py": "class Model:\n    def load(self, context):\n"
    f'        raise RuntimeError("no weights <b>here</b> {HOSTILE}")\n\n    def infer(self, inputs, parameters):\n        return inputs\n',
}
CHECKS = f'''
def check(text: str) -> str:
    """Say how long a text is. {HOSTILE}"""
    if text.startswith("fail"):
        raise ValueError(f"nothing can be said of {{text}}")
    return f"{{len(text)}} characters"
'''


def write_models(folder: Path) -> None:
    """A repository of four models, one of which fails, and checks.py with a function of values."""
    for name, text in FILES.items():
        file = folder / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "checks.py").write_text(CHECKS)


@pytest.fixture(scope="session")
def server(driver, tmp_path_factory):
    """A server with models of every state. Tests leave its models as they found them."""
    folder = tmp_path_factory.mktemp("console")
    write_models(folder)
    server = Server(
        folder, f"{folder / 'checks.py'}:check", "--model-repository", folder / "models", "--keep-going"
    )
    try:
        yield server.started(ping=500)
        assert server.stop() == 0, server.log
    finally:
        server.kill()

"""Take the pictures of the console: real servers, real models, light load, and Chromium without a window.

python scripts/screenshots.py [--out docs/pictures] [--seconds 130] [--all]

docs/pictures/console.json has what they were taken of; a test fails when the page has changed since then.
"""

import argparse
import hashlib
import http.client
import json
import math
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

sys.path += [str(Path(__file__).parents[1] / "tests" / each) for each in ("browser", "e2e", "")]

from browser_kit import Browser, start_driver
from e2e_kit import Server
from port_kit import free_row

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "src/mooring/console/static"
PICTURES = ROOT / "docs/pictures"
MANIFEST = "console.json"
WIDE = 1440, 640
NARROW = 360, 800
DIGITS = ROOT / "examples/digits"
# Those that documents show; the others are written with --all, to be looked at.
SHOWN = {
    "console-overview-light.png", "console-overview-dark.png", "console-overview-360-dark.png", "console-try-it-light.png",
    "console-try-it-360-dark.png", "console-failed-light.png", "console-failed-360-dark.png", "console-empty-light.png",
}  # fmt: skip
COLORS = 128  # of a palette: text and lines need no more, and a picture is a third of its size

RANKING = """
import time


def infer(inputs, parameters):
    time.sleep(0.004)
    return {"score": inputs["features"].sum(axis=1)}
"""
RANKING_CONFIG = """
name = "ranking"
max_batch_size = 16

[batching]
max_delay_ms = 3

[[inputs]]
name = "features"
datatype = "FP32"
shape = [-1, 4]

[[outputs]]
name = "score"
datatype = "FP32"
shape = [-1]
"""
TEXTS = '''
from collections.abc import Iterator

WORDS = {"bad", "awful", "broken"}


def moderate(text: str, threshold: float = 0.1) -> dict[str, bool | float]:
    """Say whether a text needs a second look."""
    words = text.lower().split()
    if not words:
        raise ValueError("there is no word in the text")
    share = sum(word in WORDS for word in words) / len(words)
    return {"flagged": share > threshold, "share": round(share, 3)}


def story(beginning: str, words: int = 12) -> Iterator[str]:
    """Go on with a story, word by word."""
    for number in range(words):
        yield f"{beginning} {number} "
'''
FORECAST = """
from pathlib import Path


class Model:
    def load(self, context):
        weights = Path("weights/forecast-2026.npz")
        if not weights.exists():
            raise FileNotFoundError(f"the weights are not there: {weights}")

    def infer(self, inputs, parameters):
        return inputs
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=PICTURES)
    arguments.add_argument("--seconds", type=float, default=130.0, help="of load before the pictures")
    arguments.add_argument("--all", action="store_true", help="also those that no document shows")
    chosen = arguments.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    before = fingerprint()
    made = sorted(take_pictures(chosen.out, chosen.seconds))
    if not chosen.all:
        for name in set(made) - SHOWN:
            (chosen.out / name).unlink()
        made = sorted(SHOWN)
    assert fingerprint() == before, "the page changed meanwhile: take them again"
    text = json.dumps(before | {"pictures": made}, indent=2) + "\n"
    (chosen.out / MANIFEST).write_text(text, encoding="utf-8")
    for name in made:
        print(f"{name}: {(chosen.out / name).stat().st_size // 1000} kB")


def fingerprint() -> dict[str, str]:
    """What the pictures depend on: the hashes of the page's files together, and of this script."""
    page = hashlib.sha256()
    for file in sorted(STATIC.iterdir()):
        page.update(f"{file.name}\n".encode() + file.read_bytes())
    return {"page": page.hexdigest(), "script": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}


def take_pictures(out: Path, seconds: float) -> Iterator[str]:
    """Write all pictures; their names."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        driver = start_driver()
        stack.callback(driver.quit)
        browser = Browser(driver)
        server = stack.enter_context(serve_models(folder))
        browser.open(f"{server.url}/console", size=WIDE)
        with loaded(server, seconds):
            for name, take in busy_pictures(browser, server):
                take()
                yield from shots(browser, out, name)
        empty = stack.enter_context(serve_nothing(folder))
        browser.open(f"{empty.url}/console", size=WIDE)
        browser.find(".nothing")
        yield from shots(browser, out, "empty")


def busy_pictures(browser: Browser, server: Server) -> Iterator[tuple[str, Callable[[], None]]]:
    """The views of a server with models, each with what brings it about."""

    def overview() -> None:
        browser.go("#/")
        browser.find(".models .reason")

    def failed() -> None:
        browser.go("#/models/forecast/1")
        browser.find(".fault .traceback")

    def errors() -> None:
        for text in ("", " "):
            ask(server, "/predictions/moderate", json.dumps({"text": text}).encode(), "application/json")
        browser.go("#/errors")
        browser.click(".errors summary", "there is no word")
        browser.find(".errors .traceback")

    def trial() -> None:
        browser.go("#/models/moderate")
        browser.find("mooring-try")
        fill_trial(browser)

    def settings() -> None:
        browser.go("#/settings")
        browser.find(".settings .changed")

    def log() -> None:
        browser.go("#/logs")
        browser.find(".log p")

    yield "overview", overview
    yield "try-it", trial
    yield "failed", failed
    yield "errors", errors
    yield "settings", settings
    yield "log", log


def fill_trial(browser: Browser) -> None:
    """Ask the model of the page, and wait for its answer, timings and lines of code."""
    browser.run("document.querySelector('mooring-try textarea, mooring-try input[type=text]')?.focus()")
    browser.click("mooring-try button", "Send")
    browser.find("mooring-try .try-result *")
    browser.find("mooring-try", "curl")


def shots(browser: Browser, out: Path, name: str) -> Iterator[str]:
    """What is shown, wide and narrow, light and dark; the names of the files."""
    for width, size in (("", WIDE), ("-360", NARROW)):
        for scheme in ("light", "dark"):
            browser.show_as(size=size, scheme=scheme)
            browser.run("scrollTo(0, 0); document.activeElement?.blur()")
            time.sleep(1.2)  # until the next state is drawn
            file = out / f"console-{name}{width}-{scheme}.png"
            browser.picture(file, whole=True)
            compress(file)
            yield file.name


def compress(file: Path) -> None:
    """Write a picture with a palette, which halves it more than once."""
    with Image.open(file) as picture:
        most = picture.crop((0, 0, picture.width, min(picture.height, 2000)))
        most.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)


@contextmanager
def serve_models(folder: Path) -> Iterator[Server]:
    """A server of five models of different kinds, and one that fails."""
    models = folder / "models"
    for name, config, code in (
        ("ranking", RANKING_CONFIG, RANKING),
        ("forecast", 'name = "forecast"', FORECAST),
    ):
        (models / name / "1").mkdir(parents=True)
        (models / name / "config.toml").write_text(config)
        (models / name / "1" / "model.py").write_text(code)
    (folder / "texts.py").write_text(TEXTS)
    targets = ["texts.py:moderate", "texts.py:story"]
    if (DIGITS / "digits.mar").exists():
        shutil.copy(DIGITS / "digits.mar", folder)
        targets.append("digits.mar")
    if find_spec("onnxruntime"):
        shutil.copytree(ROOT / "examples/repository/digits_onnx", models / "digits_onnx")
    with serve(folder, *targets, "--model-repository", "models", "--keep-going", ping=500) as server:
        yield server


@contextmanager
def serve_nothing(folder: Path) -> Iterator[Server]:
    with serve(folder, ping=200) as server:
        yield server


@contextmanager
def serve(folder: Path, *arguments: str | Path, ping: int) -> Iterator[Server]:
    first = free_row(5)
    server = Server(folder, f"--port={first}", *arguments, ports=range(first, first + 3))
    try:
        yield server.started(ping=ping)
    finally:
        server.kill()


@contextmanager
def loaded(server: Server, seconds: float) -> Iterator[None]:
    """Ask the models lightly, until this is left; it is entered once that has gone on for so many seconds."""
    stop = threading.Event()
    seven = (DIGITS / "samples/7.png").read_bytes()
    tensors = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [2, 4], "data": [0.5] * 8}]}
    asks = (
        ("/v2/models/ranking/infer", json.dumps(tensors).encode(), "application/json", 3, 0.012),
        ("/predictions/moderate", b'{"text": "not bad at all"}', "application/json", 1, 0.02),
        ("/predictions/digits", seven, "image/png", 1, 0.05),
        ("/predictions/digits_onnx", seven, "image/png", 1, 0.03),
        ("/predictions/story", b'{"beginning": "once", "words": 3}', "application/json", 1, 0.2),
    )
    threads = [
        threading.Thread(target=keep_asking, args=(server, *ask, stop), daemon=True)
        for *ask, count, pause in asks
        for ask in [[*ask, pause]] * count
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def keep_asking(
    server: Server, path: str, body: bytes, kind: str, pause: float, stop: threading.Event
) -> None:
    """Ask the same again and again, with pauses that swing around this one."""
    chance = random.Random(path)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    while not stop.is_set():
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", path, body, {"content-type": kind})
            connection.getresponse().read()
        swing = 1.3 + math.sin(time.monotonic() / 9)
        stop.wait(pause * swing * chance.uniform(0.5, 1.5))
    connection.close()


def ask(server: Server, path: str, body: bytes, kind: str) -> None:
    """One request, whatever it is answered with."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", path, body, {"content-type": kind})
    connection.getresponse().read()
    connection.close()


if __name__ == "__main__":
    main()

"""What models log with Python's logging is in our log: level, logger, model, version and request, once each."""

import json
import re
import threading

import pytest
from e2e_kit import Server, until

FUNCTIONS = """
import asyncio, logging, sys

log = logging.getLogger("my.package")
log.addHandler(logging.NullHandler())
log.info("imported")
shown = logging.getLogger("shown")
shown.addHandler(logging.StreamHandler())


def plain(x: 'ndarray'):
    log.debug("hidden")
    log.info("plain says %d\\ntwo lines", x[0])
    sys.stderr.write("50%|half a line ")
    try:
        raise ValueError("on purpose")
    except ValueError:
        log.exception("went wrong")
    shown.info("by a handler of its own")
    print("printed")
    return {"y": x}


async def overlapping(x: 'ndarray'):
    await asyncio.sleep(0.2)
    log.warning("waited")
    return {"y": x}
"""
CONFIGURED = """
import logging

logging.basicConfig(format="MINE %(levelname)s %(message)s", level=logging.INFO, force={force})
logging.getLogger("a").info("imported")
own = logging.getLogger("own")
own.addHandler(logging.StreamHandler())


def {name}(x):
    logging.info("one")
    own.warning("two")
    return {{"y": x}}
"""


def records(server: Server) -> list[dict]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def said_by(server: Server, model: str) -> list[dict]:
    return [each for each in records(server) if each.get("fields", {}).get("model") == model]


def ask(server: Server, model: str, request_id: str) -> None:
    headers = ("Content-Type: application/json", f"x-request-id: {request_id}")
    assert server.predict(model, '{"x": [1]}', *headers).code == 200


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "functions.py").write_text(FUNCTIONS)
    targets = ["functions.py:plain", "functions.py:overlapping"]
    for name, force in (("forced", True), ("unforced", False)):
        (folder / f"{name}.py").write_text(CONFIGURED.format(name=name, force=force))
        targets.append(f"{name}.py:{name}")
    server = Server(folder, *targets, "--log-format", "json")
    try:
        yield server.started()
        assert server.stop() == 0
    finally:
        server.kill()


def test_every_line_of_a_server_with_log_format_json_is_an_object(server):
    lines = server.log.splitlines()
    assert len([json.loads(line) for line in lines]) == len(lines) > 3
    (up,) = [each for each in records(server) if each["message"] == "Mooring is up."]
    assert (up["level"], up["fields"]["inference"]) == ("info", server.url)
    assert {"time", "level", "logger", "message"} <= up.keys()


def test_a_functions_records_keep_level_logger_and_request(server):
    ask(server, "plain", "r-1")
    until(lambda: "printed" in server.log)
    said = {each["message"]: each for each in said_by(server, "plain")}
    assert said["imported"]["fields"] == {"model": "plain", "version": "1", "logger": "my.package"}
    record = said["plain says 1\ntwo lines"]
    assert record["level"] == "info"
    assert record["fields"]["request_id"] == "r-1"
    failure = said["went wrong"]
    assert failure["level"] == "error"
    assert failure["traceback"].splitlines()[-1] == "ValueError: on purpose"
    assert "50%|half a line" in said
    own = [each for each in said_by(server, "plain") if each["message"] == "by a handler of its own"]
    assert [each["fields"] for each in own] == [{"model": "plain", "version": "1"}], "once, as text"
    assert said["printed"]["fields"] == {"model": "plain", "version": "1"}
    assert "hidden" not in said
    assert "\x1e" not in server.log


def test_with_log_level_debug_models_are_heard_from_debug_up(tmp_path):
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    server = Server(tmp_path, "functions.py:plain", "--log-level", "debug")
    try:
        server.started()
        ask(server, "plain", "d-1")
        until(lambda: "printed" in server.log)
        assert re.search(
            r" DEBUG model says model=plain version=1 logger=my.package request_id=d-1 text=hidden\n",
            server.log,
        )
    finally:
        server.kill()


def test_calls_that_overlap_are_told_apart(server):
    threads = [
        threading.Thread(target=ask, args=(server, "overlapping", f"o-{number}")) for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: server.log.count('"waited"') == 3)
    waited = [each for each in said_by(server, "overlapping") if each["message"] == "waited"]
    assert {each["fields"]["request_id"] for each in waited} == {"o-0", "o-1", "o-2"}


@pytest.mark.parametrize("model", ["forced", "unforced"])
def test_a_model_that_configures_logging_itself_is_left_alone_and_nothing_is_shown_twice(server, model):
    ask(server, model, "c-1")
    until(lambda: any("two" in each["message"] for each in said_by(server, model)))
    said = [each["message"] for each in said_by(server, model) if each["logger"] == "MODEL_LOG"]
    assert said.count("MINE INFO imported") == said.count("MINE INFO one") == 1
    assert "one" not in said
    # Its own handler and the root's both write it, as under any Python program.
    assert sorted(line for line in said if "two" in line) == ["MINE WARNING two", "two"]

"""Python's logging in a worker, as model code uses it: each test is a program of its own."""

import subprocess
import sys

import pytest

from mooring.ipc.log_records import MARK, decode_record

pytestmark = pytest.mark.processes

PROGRAM = """
import logging, os, sys
from mooring.worker_process import model_logging
from mooring.worker_process.model_logging import install_handler
install_handler(1)
"""


def said(code: str) -> list[tuple[str, str, str] | str]:
    """What a program writes to standard output: (level, logger, text) of its records, and other lines as they are."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + code],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True,
    )  # fmt: skip
    lines = []
    for line in done.stdout.splitlines():
        record = decode_record(line) if line.startswith(MARK) else None
        lines.append(line.decode() if record is None else (record.level_name, record.logger, record.text))
    return lines


def test_records_from_info_up_of_every_logger_are_sent():
    assert said(
        "logging.debug('a'); logging.info('b %d', 1); logging.getLogger('x.y').warning('c'); logging.getLogger('x').debug('d')"
    ) == [("INFO", "root", "b 1"), ("WARNING", "x.y", "c")]


def test_a_models_own_logger_is_called_as_its_file():
    code = """
import types
module = sys.modules["_mooring_model_m_1"] = types.ModuleType("m")
module.__file__ = "/models/m/app.py"
for name in ("_mooring_model_m_1", "_mooring_model_m_1.part", "_mooring_gone"):
    logging.getLogger(name).info("x")
"""
    assert said(code) == [("INFO", name, "x") for name in ("app", "app.part", "_mooring_gone")]


def test_a_logger_with_a_null_handler_is_sent_too():
    code = "log = logging.getLogger('lib'); log.addHandler(logging.NullHandler()); log.info('x')"
    assert said(code) == [("INFO", "lib", "x")]


def test_a_logger_may_ask_for_more_itself():
    code = "log = logging.getLogger('x'); log.setLevel(logging.DEBUG); log.debug('a')"
    assert said(code) == [("DEBUG", "x", "a")]


def test_debug_can_be_asked_for():
    assert said("model_logging.show_debug(); logging.debug('a')") == [("DEBUG", "root", "a")]


def test_a_configuration_of_the_models_own_replaces_ours_once():
    for force in (True, False):
        code = f"logging.basicConfig(format='MINE %(message)s', level=20, stream=sys.stdout, force={force})\nlogging.info('a')"
        assert said(code) == ["MINE a"]
    code = """
import logging.config
logging.config.dictConfig({"version": 1, "formatters": {"f": {"format": "MINE %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}, "root": {"level": "INFO", "handlers": ["h"]}})
logging.info("a")
"""
    assert said(code) == ["MINE a"]


def test_a_level_alone_keeps_ours():
    assert said("logging.basicConfig(level=logging.DEBUG); logging.debug('a')") == [("DEBUG", "root", "a")]
    assert said("logging.basicConfig(level='ERROR', force=True); logging.warning('a')") == []


def test_what_a_handler_of_the_models_shows_is_not_sent_again():
    code = "log = logging.getLogger('own'); log.addHandler(logging.StreamHandler({})); log.info('a')"
    assert said(code.format("sys.stdout")) == said(code.format("")) == ["a"]
    code = "log = logging.getLogger('own'); h = logging.StreamHandler(); h.setLevel(40); log.addHandler(h); log.info('a')"
    assert said(code) == [("INFO", "own", "a")], "below the level of its handler it is not shown there"
    code = "import io; log = logging.getLogger('own'); log.addHandler(logging.StreamHandler(io.StringIO())); log.info('a')"
    assert said(code) == [("INFO", "own", "a")]


def test_a_record_that_cannot_be_formatted_does_not_fail_the_model():
    lines = said("logging.info('%d', 'no number'); logging.info('after')")
    assert lines[-1] == ("INFO", "root", "after")


def test_a_record_of_an_odd_factory_and_a_handler_of_odd_attributes_do_not_fail_the_model():
    code = """
def make(*given, **named):
    record = logging.LogRecord(*given, **named)
    record.name, record.levelname = 5, None
    return record
logging.setLogRecordFactory(make)
logging.info('a')
class Odd(logging.Handler):
    stream = property(lambda self: 1 / 0)
    def emit(self, record): pass
logging.root.addHandler(Odd())
logging.info('b')
print('goes on')
"""
    first, *_, last = said(code)
    assert (first, last) == (("None", "5", "a"), "goes on")


def test_output_that_was_sent_elsewhere_by_the_model_hides_no_record():
    assert said("os.dup2(os.open(os.devnull, os.O_WRONLY), 1); logging.info('a')") == [("INFO", "root", "a")]


def test_a_fork_sends_over_its_own_output():
    code = """
read, write = os.pipe()
install_handler(write)
logging.info("a")
os.close(1)
os.write(2, os.read(read, 1000))
"""
    assert said(code) == [("INFO", "root", "a")]

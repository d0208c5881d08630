"""Loggers and their outputs: which record is written where, and how often."""

import json
import logging
from pathlib import Path

import pytest
from logging_kit import logging_restored

from mooring.config.settings import Config
from mooring.observability.log_output.setup import set_log_level, setup_logging
from mooring.observability.logs import ACCESS_LOG, MODEL_LOG, MODEL_METRICS, get_logger

FILE = """<Configuration><Appenders>
<File name="all" fileName="all.log" append="false"><PatternLayout pattern="%c %p %m%n"/></File>
<RollingFile name="models" fileName="models.log" filePattern="models.%i.log">
  <PatternLayout pattern="%m%n"/><OnStartupTriggeringPolicy/>
</RollingFile>
</Appenders><Loggers>
<Logger name="org.pytorch.serve" level="debug"><AppenderRef ref="all"/></Logger>
<Logger name="MODEL_LOG" level="all"><AppenderRef ref="models" level="error"/></Logger>
<Logger name="ACCESS_LOG" level="off"/>
<Root level="info"><AppenderRef ref="all"/></Root>
</Loggers></Configuration>"""
log = get_logger("mooring.tests")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with logging_restored():
        yield


def test_torchserves_files_have_each_line_once(capsys):
    assert (
        setup_logging(Config(log_folder=Path("logs"), metrics_folder=Path("m"), log_format="torchserve"))
        == []
    )
    log.info("model ready", model="m")
    log.debug("hidden")
    logging.getLogger(MODEL_LOG).warning("said")
    logging.getLogger(MODEL_LOG).debug("asked for by the model")
    logging.getLogger(MODEL_METRICS).info("measured")
    logging.getLogger("a.library").info("chatter")
    found = {str(file): file.read_text() for file in Path().rglob("*.log")}
    heads = {name: [line[24:] for line in text.splitlines()] for name, text in found.items()}
    everywhere = [
        "[INFO ] main mooring.tests - model ready model=m",
        "[WARN ] main MODEL_LOG - said",
        "[DEBUG] main MODEL_LOG - asked for by the model",
        "[INFO ] main MODEL_METRICS - measured",
    ]
    assert heads == {
        "logs/ts_log.log": everywhere, "logs/model_log.log": everywhere[1:3], "logs/access_log.log": [],
        "m/ts_metrics.log": [], "m/model_metrics.log": ["- measured"],
    }  # fmt: skip
    assert [line[24:] for line in capsys.readouterr().out.splitlines()] == everywhere


def test_json_is_in_the_servers_and_the_models_files(capsys):
    setup_logging(Config(log_folder=Path("logs"), log_format="json"))
    log.error("failed", model="m", seconds=0.5, detail="Traceback\nKeyError")
    (line,) = Path("logs/ts_log.log").read_text().splitlines()
    document = json.loads(line)
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "error", "logger": "mooring.tests", "message": "failed", "fields": {"model": "m", "seconds": 0.5},
        "traceback": "Traceback\nKeyError",
    }  # fmt: skip
    assert json.loads(capsys.readouterr().out)["message"] == "failed"


def test_a_configuration_of_log4j_decides_and_log_level_can_only_quiet_it():
    Path("log4j2.xml").write_text(FILE)
    Path("models.log").write_text("before\n")
    setup_logging(Config(log_config=Path("log4j2.xml")))
    log.info("model ready")
    log.debug("hidden")
    logging.getLogger(ACCESS_LOG).error("off")
    logging.getLogger(MODEL_LOG).info("said")
    logging.getLogger(MODEL_LOG).error("failed")
    assert (
        Path("all.log").read_text()
        == "mooring.tests INFO model ready\nMODEL_LOG INFO said\nMODEL_LOG ERROR failed\n"
    )
    assert Path("models.log").read_text() == "failed\n"
    assert Path("models.1.log").read_text() == "before\n"
    set_log_level("debug")
    log.debug("shown")
    assert Path("all.log").read_text().endswith("shown\n")


def test_a_further_process_goes_on_with_the_files_of_the_first():
    Path("log4j2.xml").write_text(FILE)
    config = Config(log_config=Path("log4j2.xml"))
    setup_logging(config)
    log.info("first")
    logging.getLogger(MODEL_LOG).error("first")
    setup_logging(config, first=False)
    log.info("second")
    logging.getLogger(MODEL_LOG).error("second")
    assert "INFO first" in Path("all.log").read_text()
    assert Path("models.log").read_text() == "first\nsecond\n"


def test_a_quieter_log_is_quieter_of_models_too(capsys):
    setup_logging(Config(log_level="warning"))
    for name in ("mooring.tests", MODEL_LOG):
        logging.getLogger(name).info("hidden")
        logging.getLogger(name).warning("shown")
    written = capsys.readouterr().err
    assert written.count("shown\n") == 2
    assert "hidden" not in written


def test_files_that_cannot_be_opened_are_one_warning():
    Path("logs").write_text("no folder")
    (warning,) = setup_logging(Config(log_folder=Path("logs")))
    assert warning.startswith("log files left out: logs/ts_log.log, logs/model_log.log, ")

"""Configurations of log4j as people have them for TorchServe: what is obeyed, what is named, what is refused."""

import json
import logging
from pathlib import Path

import pytest

from mooring.observability.log_output.log4j import read_log_config
from mooring.observability.log_output.log4j_tree import BrokenLogConfig
from mooring.observability.log_output.routes import ALL, OFF
from mooring.observability.logs import Event

# TorchServe's own form: a file per log, everything on standard output as well.
USUAL = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Properties>
    <Property name="head">%d{ISO8601} [%-5p] %t %c - %m%n</Property>
    <Property name="days" value="dd-MMM"/>
  </Properties>
  <Appenders>
    <RollingFile name="access_log" fileName="${env:LOG_LOCATION:-logs}/access_log.log"
        filePattern="${env:LOG_LOCATION:-logs}/access_log.%d{${days}}.log.gz">
      <PatternLayout pattern="%d{ISO8601} - %m%n"/>
      <Policies>
        <SizeBasedTriggeringPolicy size="100 MB"/>
        <TimeBasedTriggeringPolicy/>
      </Policies>
      <DefaultRolloverStrategy max="5"/>
    </RollingFile>
    <File name="model_log" fileName="${sys:where:-here}/model_log.log" append="false">
      <PatternLayout><Pattern>${head}</Pattern></PatternLayout>
    </File>
    <Console name="STDOUT" target="SYSTEM_OUT">
      <PatternLayout pattern="${head}"/>
      <ThresholdFilter level="error" onMatch="ACCEPT" onMismatch="DENY"/>
    </Console>
  </Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off" additivity="false"><AppenderRef ref="access_log"/></Logger>
    <Logger name="MODEL_LOG" level="warn"><AppenderRef ref="model_log" level="error"/></Logger>
    <Logger name="io.netty" level="error"/>
    <Logger name="TELEMETRY_METRICS" level="all"><AppenderRef ref="telemetry_metrics"/></Logger>
    <Logger name="org.pytorch.serve" level="debug"/>
    <Root level="info"><AppenderRef ref="STDOUT"/></Root>
  </Loggers>
</Configuration>
"""


@pytest.fixture
def read(tmp_path):
    """Reads a configuration from its text."""

    def read_text(text: str, name: str = "log4j2.xml", environ=None, **system: str):
        file = tmp_path / name
        file.write_text(text)
        return read_log_config(file, environ or {}, system)

    return read_text


def record(message: object = "hello", level: int = logging.WARNING) -> logging.LogRecord:
    made = logging.LogRecord("MODEL_LOG", level, "", 0, message, None, None)
    made.created = 86_400.25
    return made


def test_the_usual_form_is_obeyed_whole(read):
    routes, not_understood = read(USUAL, environ={"LOG_LOCATION": "/var/log"}, where="/there")
    assert not_understood == []
    access = routes.outputs["access_log"]
    assert access.file == Path("/var/log/access_log.log")
    assert access.rotation.pattern == "/var/log/access_log.%d{dd-MMM}.log.gz"
    assert (access.rotation.max_bytes, access.rotation.by_time, access.rotation.keep) == (100 << 20, True, 5)
    model = routes.outputs["model_log"]
    assert (model.file, model.append) == (Path("/there/model_log.log"), False)
    assert model.layout.format(record()).endswith(" [WARN ] main MODEL_LOG - hello")
    assert routes.outputs["STDOUT"].level == logging.ERROR
    assert not routes.outputs["STDOUT"].stderr
    assert routes.outputs_of("ACCESS_LOG") == {"access_log": 0}
    assert routes.outputs_of("MODEL_LOG") == {"model_log": logging.ERROR, "STDOUT": 0}
    assert routes.outputs_of("TS_METRICS") == {"STDOUT": 0}, "those of the root"
    levels = [
        routes.level_of(name) for name in ("ACCESS_LOG", "MODEL_LOG", "TS_METRICS", "org.pytorch.serve")
    ]
    assert levels == [OFF, logging.WARNING, logging.INFO, logging.DEBUG]


def test_names_count_in_any_case_and_the_strict_form_is_known(read):
    routes, not_understood = read("""
<configuration strict="true"><appenders>
  <appender type="Console" name="out" target="system_err"><layout type="PatternLayout" pattern="%m"/></appender>
  <RandomAccessFile name="file" filename="a.log"/>
  <Async name="later"><AppenderRef ref="out"/><AppenderRef ref="file"/></Async>
</appenders><loggers><AsyncRoot level="ALL"><AppenderRef ref="later"/></AsyncRoot></loggers></configuration>""")
    assert not_understood == []
    assert routes.outputs["out"].stderr
    assert routes.outputs_of("") == {"out": 0, "file": 0}
    assert routes.level_of("") == ALL
    assert routes.outputs["file"].layout.format(record()) == "hello"


def test_what_is_not_understood_is_named_with_its_line_and_the_rest_obeyed(read):
    routes, not_understood = read("""<Configuration monitorInterval="30">
<Appenders>
  <Kafka name="kafka" topic="logs"/>
  <Console name="out">
    <PatternLayout pattern="%d{ISO8601} %swallow{x} %m"/>
    <RegexFilter regex="x" onMatch="ACCEPT"/>
  </Console>
  <RollingFile name="file" fileName="${ctx:folder}a.log" filePattern="a.%d{QQQ}.%i.log.zip">
    <HtmlLayout/>
    <CronTriggeringPolicy schedule="0 0 * * *"/>
    <SizeBasedTriggeringPolicy size="many"/>
    <DefaultRolloverStrategy><Delete basePath="x"/></DefaultRolloverStrategy>
  </RollingFile>
</Appenders>
<Loggers>
  <Logger name="org.pytorch.serve.wlm" level="loud"/>
  <Root level="info"><AppenderRef ref="kafka"/><AppenderRef ref="out"/><AppenderRef ref="gone"/></Root>
</Loggers>
</Configuration>""")
    expected = [
        "monitorInterval (the file is read at the start) in line 1", "<Kafka> in line 3", "%swallow in line 5",
        "<RegexFilter> in line 6", "${ctx:folder} in line 8", "<HtmlLayout> (its lines have TorchServe's pattern) in line 9",
        "'QQQ' in the date QQQ in line 8", "the compression .zip (.gz is known) in line 8", "<CronTriggeringPolicy> in line 10",
        "the size 'many' in line 11", "<Delete> in line 12",
        "the logger org.pytorch.serve.wlm (what the server logs is org.pytorch.serve as a whole) in line 16",
        "the appender 'gone', which is not there in line 17",
    ]  # fmt: skip
    assert sorted(not_understood) == sorted(expected)
    assert routes.outputs_of("") == {"out": 0}
    assert routes.outputs["file"].file == Path("a.log")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<Configuration>\n<Appenders>\n</Configuration>", ":3: no XML: mismatched tag"),
        ("<html/>", ":1: <html> where <Configuration> is expected"),
        (
            '<!DOCTYPE x [\n<!ENTITY a "aaaa">\n<!ENTITY b "&a;&a;">]>\n<Configuration>&b;</Configuration>',
            ":2: the entity 'a' is refused",
        ),
        ("", ":1: no XML: no element found"),
    ],
)
def test_a_broken_file_is_named_with_its_line(read, text, said):
    with pytest.raises(BrokenLogConfig) as refused:
        read(text)
    assert f"log4j2.xml{said}" in str(refused.value)


def test_an_encoding_that_cannot_be_read_and_a_deep_file_are_named(read):
    with pytest.raises(BrokenLogConfig, match=r"log4j2\.xml:1: multi-byte encodings .*; write it in UTF-8"):
        read('<?xml version="1.0" encoding="GBK"?><Configuration/>')
    with pytest.raises(BrokenLogConfig, match="nested too deeply"):
        read(f"rootLogger=INFO\nappender.{'.'.join('a' * 20_000)}=1", "log4j2.properties")


def test_a_size_that_is_no_number_and_properties_that_grow_without_end_are_named(read):
    doubled = "".join(f'<Property name="p{i + 1}">${{p{i}}}${{p{i}}}</Property>' for i in range(60))
    _, not_understood = read(
        f"""<Configuration><Properties><Property name="p0">aaaa</Property>{doubled}</Properties>
<Appenders><RollingFile name="f" fileName="f" filePattern="f.%i"><SizeBasedTriggeringPolicy size="1.2.3 MB"/></RollingFile></Appenders>
<Loggers><Root level="info"><AppenderRef ref="f"/></Root></Loggers></Configuration>"""
    )
    assert not_understood == [
        "an expression that becomes longer than 65536 characters in line 1", "the size '1.2.3 MB' in line 2",
    ]  # fmt: skip


def test_without_a_root_logger_errors_go_to_standard_output(read):
    routes, (note,) = read("<Configuration>\n</Configuration>")
    assert note == "no root logger, so errors alone go to standard output in line 1"
    assert routes.level_of("org.pytorch.serve") == logging.ERROR
    assert routes.outputs_of("MODEL_LOG") == {"default console": 0}


def test_other_forms_than_xml_and_properties_are_refused(read):
    with pytest.raises(BrokenLogConfig, match="the yaml form"):
        read("Configuration:", "log4j2.yaml")
    with pytest.raises(BrokenLogConfig, match="neither appenders nor loggers"):
        read("a=b", "log4j2.properties")


def test_the_properties_of_log4j_2(read):
    routes, not_understood = read(
        """
status = error
property.folder = ${env:LOG_LOCATION:-logs}
appender.console.type = Console
appender.console.name = STDOUT
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %p %m%n
appender.rolling.type = RollingFile
appender.rolling.name = rolling
appender.rolling.fileName = ${folder}/model_log.log
appender.rolling.filePattern = ${folder}/model_log-%i.log
appender.rolling.layout.type = PatternLayout
appender.rolling.layout.pattern = %m%n
appender.rolling.policies.type = Policies
appender.rolling.policies.size.type = SizeBasedTriggeringPolicy
appender.rolling.policies.size.size = 10MB
appender.rolling.strategy.type = DefaultRolloverStrategy
appender.rolling.strategy.max = 3
appender.rolling.filter.threshold.type = ThresholdFilter
appender.rolling.filter.threshold.level = warn
logger.model.name = MODEL_LOG
logger.model.level = debug
logger.model.additivity = false
logger.model.appenderRef.rolling.ref = rolling
logger.access = OFF
logger.access.name = ACCESS_LOG
rootLogger = INFO, STDOUT
""",
        "log4j2.properties",
    )
    assert not_understood == []
    rolling = routes.outputs["rolling"]
    assert (rolling.file, rolling.level) == (Path("logs/model_log.log"), logging.WARNING)
    assert (rolling.rotation.max_bytes, rolling.rotation.keep) == (10 << 20, 3)
    assert routes.outputs_of("MODEL_LOG") == {"rolling": 0}
    assert routes.level_of("ACCESS_LOG") == OFF
    assert routes.outputs_of("") == {"STDOUT": 0}
    assert routes.outputs["STDOUT"].layout.format(record()) == "WARN hello"


def test_the_properties_of_log4j_1(read):
    routes, not_understood = read(
        """
log4j.rootLogger = INFO, console
log4j.appender.console = org.apache.log4j.ConsoleAppender
log4j.appender.console.Target = System.out
log4j.appender.console.layout = org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern = %d{ISO8601} [%-5p] %t %c - %m%n
log4j.appender.access_log = org.apache.log4j.RollingFileAppender
log4j.appender.access_log.File = ${LOG_LOCATION}/access_log.log
log4j.appender.access_log.MaxFileSize = 10MB
log4j.appender.access_log.MaxBackupIndex = 5
log4j.appender.access_log.layout = org.apache.log4j.PatternLayout
log4j.appender.access_log.layout.ConversionPattern = %m
log4j.appender.model_metrics = org.apache.log4j.DailyRollingFileAppender
log4j.appender.model_metrics.File = metrics.log
log4j.appender.model_metrics.DatePattern = '.'yyyy-MM-dd
log4j.appender.model_metrics.layout = org.pytorch.serve.util.logging.QLogLayout
log4j.logger.ACCESS_LOG = INFO, access_log
log4j.additivity.ACCESS_LOG = false
log4j.logger.MODEL_METRICS = WARN, model_metrics
""",
        "log4j.properties",
        LOG_LOCATION="/logs",
    )
    assert not_understood == []
    access = routes.outputs["access_log"]
    assert (access.file, access.rotation.max_bytes, access.rotation.keep) == (
        Path("/logs/access_log.log"), 10 << 20, 5,
    )  # fmt: skip
    assert routes.outputs_of("ACCESS_LOG") == {"access_log": 0}
    assert routes.outputs_of("MODEL_METRICS") == {"model_metrics": 0, "console": 0}
    assert routes.outputs["model_metrics"].rotation.pattern == "metrics.log%d{'.'yyyy-MM-dd}"


def layout_of(read, layout: str) -> logging.Formatter:
    routes, not_understood = read(
        f'<Configuration><Appenders><Console name="o">{layout}</Console></Appenders>'
        '<Loggers><Root level="info"><AppenderRef ref="o"/></Root></Loggers></Configuration>'
    )
    assert not_understood == []
    return routes.outputs["o"].layout


def failed() -> logging.LogRecord:
    said = Event(
        "model says", {"model": "m", "request_id": "r"}, "Traceback\nKeyError: 'x'", text="went wrong"
    )
    return record(said, logging.ERROR)


def test_the_json_layout_has_log4js_fields(read):
    layout = '<JsonLayout compact="true" eventEol="true" properties="true"><KeyValuePair key="app" value="ts"/></JsonLayout>'
    line = layout_of(read, layout).format(failed())
    document = json.loads(line)
    assert "\n" not in line
    assert document["instant"] == {"epochSecond": 86400, "nanoOfSecond": 250000000}
    assert [document[key] for key in ("level", "loggerName", "message", "app")] == [
        "ERROR", "MODEL_LOG", "went wrong", "ts",
    ]  # fmt: skip
    assert document["contextMap"] == {"model": "m", "request_id": "r"}
    assert (document["thrown"]["name"], document["thrown"]["message"]) == ("KeyError", "'x'")
    assert "thrown" not in json.loads(layout_of(read, layout).format(record()))
    layout = '<JsonLayout includeTimeMillis="true"/>'
    assert json.loads(layout_of(read, layout).format(record()))["timeMillis"] == 86_400_250


def test_json_templates_of_log4j_and_of_ones_own(read, tmp_path):
    document = json.loads(layout_of(read, "<JsonTemplateLayout/>").format(failed()))
    assert document["@timestamp"] == "1970-01-02T00:00:00.250Z"
    assert document["labels"] == {"model": "m", "request_id": "r"}
    assert document["error.stack_trace"] == "Traceback\nKeyError: 'x'"
    for name in ("LogstashJsonEventLayoutV1", "GelfLayout", "GcpLayout", "JsonLayout"):
        layout = f'<JsonTemplateLayout eventTemplateUri="classpath:{name}.json"/>'
        assert "went wrong" in json.loads(layout_of(read, layout).format(failed())).values()
    (tmp_path / "mine.json").write_text(
        '{"ts": {"$resolver": "timestamp", "epoch": {"unit": "secs"}}, "text": {"$resolver": "message", "stringified": true},'
        ' "request": {"$resolver": "mdc", "key": "request_id"}, "app": "x", "at": {"$resolver": "pattern", "pattern": "%p"}}'
    )
    layout = f'<JsonTemplateLayout eventTemplateUri="file://{tmp_path}/mine.json"/>'
    assert json.loads(layout_of(read, layout).format(failed())) == {
        "ts": 86400, "text": "went wrong", "request": "r", "app": "x", "at": "ERROR",
    }  # fmt: skip


def test_torchserves_own_layouts_of_metrics(read):
    line = "HandlerTime.Milliseconds:2.5|#ModelName:m,Level:Model|#hostname:h,requestID:r,timestamp:7"
    document = json.loads(layout_of(read, "<JSONPatternLayout/>").format(record(line)))
    assert document == {
        "MetricName": "HandlerTime", "Value": "2.5", "Unit": "Milliseconds",
        "Dimensions": [{"Name": "ModelName", "Value": "m"}, {"Name": "Level", "Value": "Model"}],
        "HostName": "h", "RequestId": "r", "Timestamp": "7",
    }  # fmt: skip
    assert layout_of(read, "<QLogLayout/>").format(record(line)) == (
        "HostName=h\nRequestId=r\nStartTime=7\nProgram=MXNetModelServer\n"
        "Metrics=HandlerTime=2.5 Milliseconds ModelName|m  Level|Model \nEOE"
    )
    assert layout_of(read, "<JSONPatternLayout/>").format(record()) == "hello"

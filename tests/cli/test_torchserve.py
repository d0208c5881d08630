"""``mooring torchserve`` takes TorchServe's command lines, and pretends nothing."""

import os
from pathlib import Path

import pytest

from mooring.cli.pid_file import hold_pid_file
from mooring.server.reservation import AddressUnavailable, Reservation


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return "store"


def test_a_torchserve_command_line_starts_the_server(mooring, server, store):
    done = mooring(
        "torchserve", "--start", "--foreground", "--ncs", "--model-store", store,
        "--models", "a.mar", "b=b.mar", "--disable-token-auth",
    )  # fmt: skip
    assert done.exit_code == 3
    assert done.stdout.startswith("Model server started.\n")
    assert done.stderr == ""
    assert server.config.models == ("a.mar", "b=b.mar")
    assert server.config.model_store == Path(store)
    assert server.config.insecure


@pytest.mark.parametrize("models", [["--models", "all"], ["--models=all"], ["--models", "all", "--ncs"]])
def test_models_may_be_written_as_argparse_takes_them(mooring, server, store, models):
    mooring("torchserve", "--start", "--foreground", "--model-store", store, *models)
    assert server.config.models == ("all",)


def test_models_without_a_word_is_a_mistake(mooring, server, store):
    assert mooring("torchserve", "--start", "--model-store", store, "--models").exit_code == 2


def test_what_has_no_effect_is_named_once_in_one_line(mooring, server, store):
    done = mooring(
        "torchserve", "--start", "--foreground", "--model-store", store, "--cpp-log-config", "x", "--ppath", "p",
    )  # fmt: skip
    assert done.exit_code == 3
    (line,) = [line for line in done.stdout.splitlines() if "WARN" in line]
    for flag in ("--cpp-log-config", "--plugins-path"):
        assert line.count(flag) == 1


def test_workflows_may_have_a_store_of_their_own(mooring, server, store):
    mooring("torchserve", "--start", "--foreground", "--model-store", store)
    assert server.config.workflow_store is None
    mooring("torchserve", "--start", "--foreground", "--model-store", store, "--workflow-store", store)
    assert server.config.workflow_store == Path(store)
    gone = mooring("torchserve", "--start", "--model-store", store, "--workflow-store", "gone")
    assert "--workflow-store directory not found" in gone.stderr


def test_the_model_api_can_be_switched_on(mooring, server, store):
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    mooring(*start)
    assert server.config.enable_model_api is None
    mooring(*start, "--enable-model-api")
    assert server.config.enable_model_api is True
    Path("config.properties").write_text("enable_model_api=false")
    mooring(*start)
    assert server.config.enable_model_api is False


def test_a_message_of_grpc_is_no_larger_than_a_body_as_there(mooring, server, store):
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    mooring(*start)
    assert server.config.grpc_max_request_size == server.config.max_request_size
    Path("config.properties").write_text("max_request_size=1000")
    mooring(*start)
    assert server.config.grpc_max_request_size == 1000
    mooring("serve")
    assert server.config.grpc_max_request_size == 0


def test_start_and_stop_exclude_each_other_and_start_may_be_left_out(mooring, server, store):
    assert mooring("torchserve", "--start", "--stop").exit_code == 2
    done = mooring("torchserve", "--foreground", "--ncs", "--model-store", store)
    assert done.exit_code == 3
    assert server.config.model_store == Path(store)
    assert not server.config.require_models


def test_there_may_be_nothing_to_stop(mooring, server):
    Path(".model_server.pid").write_text("1")  # of a server that was killed, and not of process 1
    done = mooring("torchserve", "--stop")
    assert (done.exit_code, done.stdout) == (0, "TorchServe is not currently running.\n")


def test_a_second_server_is_refused_in_torchserves_words(mooring, server, store):
    with hold_pid_file():
        done = mooring("torchserve", "--start", "--model-store", store)
    said = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert (done.exit_code, done.stdout) == (1, said)
    assert not Path(".model_server.pid").exists()


def test_a_second_server_is_refused_before_a_snapshot_is_spoken_of(mooring, server, store):
    Path("logs/config").mkdir(parents=True)
    Path("logs/config/20260101000000000-startup.cfg").write_text("model_store=store")
    with hold_pid_file():
        done = mooring("torchserve", "--start")
    assert done.exit_code == 1
    assert "Going on" not in done.stderr


def test_a_start_that_cannot_have_an_address_writes_no_pid_file(mooring, server, store, monkeypatch):
    def refuse(reservation):
        assert not Path(".model_server.pid").exists()
        raise AddressUnavailable(f"no, choose another with {reservation._flags['grpc_address']}")

    monkeypatch.setattr(Reservation, "reserve", refuse)
    done = mooring("torchserve", "--start", "--foreground", "--model-store", store)
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: no, choose another with grpc_inference_port in config.properties\n",
    )


def test_a_model_store_is_mandatory(mooring, server, store):
    done = mooring("torchserve", "--start", "--foreground")
    assert (done.exit_code, done.stderr) == (1, "Error: Missing mandatory parameter --model-store\n")
    Path("config.properties").write_text("model_store=store")
    assert mooring("torchserve", "--start", "--foreground").exit_code == 3
    Path("config.properties").write_text("model_store=nowhere")
    done = mooring("torchserve", "--start", "--foreground")
    assert (done.exit_code, done.stderr) == (1, "Error: --model-store directory not found: nowhere\n")


ONLY_MODELS = """<Configuration><Appenders>
<File name="models" fileName="${env:LOG_LOCATION:-logs}/${sys:name:-models}.log"><PatternLayout pattern="%m%n"/></File>
<Kafka name="kafka"/>
</Appenders><Loggers>
<Logger name="MODEL_LOG" level="info"><AppenderRef ref="models"/></Logger>
<Root level="warn"><AppenderRef ref="models"/></Root>
</Loggers></Configuration>"""


def test_a_log_configuration_is_obeyed_from_the_flag_from_vmargs_and_from_javas_variables(
    mooring, server, store
):
    Path("log4j2.xml").write_text(ONLY_MODELS)
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    done = mooring(*start, "--log-config", "log4j2.xml")
    assert (done.exit_code, server.config.log_config) == (3, Path("log4j2.xml"))
    assert not Path("logs/ts_log.log").exists()
    assert Path("logs/models.log").read_text() == "log4j2.xml: not applicable here: <Kafka> in line 3\n"
    file = Path("log4j2.xml").absolute()
    Path("config.properties").write_text(
        f"vmargs=-Xmx1g -Dlog4j.configurationFile=file://{file} -Dname=java\n"
    )
    done = mooring(*start)
    assert server.config.log_config == file
    assert "vmargs (there is no Java here)" in Path("logs/java.log").read_text()
    Path("config.properties").unlink()
    for name, value in (
        ("LOG4J_CONFIGURATION_FILE", str(file)),
        ("JAVA_TOOL_OPTIONS", f"-Xmx1g -Dlog4j2.configurationFile={file}"),
    ):
        mooring(*start, **{name: value})
        assert server.config.log_config == file


def test_a_log_configuration_that_is_missing_or_broken_is_said_so(mooring, server, store):
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    done = mooring(*start, "--log-config", "gone.xml")
    assert (done.exit_code, done.stderr) == (1, "Error: --log-config file not found: gone.xml\n")
    Path("log4j2.xml").write_text("<Configuration>\n<Appenders>")
    done = mooring(*start, "--log-config", "log4j2.xml")
    assert (done.exit_code, done.stderr) == (1, "Error: log4j2.xml:2: no XML: no element found\n")
    Path("config.properties").write_text("vmargs=-Dlog4j.configurationFile=gone.xml\n")
    assert "vmargs: no log configuration 'gone.xml'" in mooring(*start).stdout


def test_the_places_that_torchserves_variables_name_are_used(mooring, server, store):
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    mooring(*start)
    config = server.config
    assert (config.snapshot_folder, config.metrics_folder) == (Path("logs/config"), Path("logs"))
    assert config.log_folder == Path("logs")
    mooring(*start, LOG_LOCATION="l", METRICS_LOCATION="m", TEMP=store)
    config = server.config
    assert (config.snapshot_folder, config.metrics_folder) == (Path("l/config"), Path("m"))
    assert config.log_folder == Path("l")
    assert config.temporary_folder == Path(store)
    done = mooring(*start, TEMP="nowhere")
    assert (done.exit_code, done.stderr) == (1, "Error: TEMP: no folder 'nowhere'\n")


def snapshot(folder, models="", stamp="20260101000000000"):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stamp}-snapshot.cfg"
    file.write_text(f'model_store=store\nmodel_snapshot={{"models": {{{models}}}}}\n')
    return file


def test_without_a_file_it_goes_on_from_the_newest_snapshot(mooring, server, store):
    Path("config.properties").write_text("model_store=store\njob_queue_size=7")
    old = snapshot(Path("logs/config"), stamp="20270101000000000")
    os.utime(old, (0, 0))
    new = snapshot(Path("logs/config"), '"m": {"1.0": {"marName": "m.mar", "minWorkers": 3}}')
    (Path("logs/config") / "notes.txt").write_text("x")
    done = mooring("torchserve", "--start", "--foreground", "--models", "all")
    assert server.config.model_snapshot.models["m"]["1.0"].min_workers == 3
    assert server.config.job_queue_size == 100
    assert str(new) in done.stderr
    assert "--models and load_models are ignored" in done.stdout
    mooring("torchserve", "--start", "--foreground", "--ts-config", "config.properties")
    assert (server.config.model_snapshot, server.config.job_queue_size) == (None, 7)
    mooring("torchserve", "--start", "--foreground", "--ncs")
    assert (server.config.model_snapshot, server.config.job_queue_size) == (None, 7)
    assert server.config.snapshot_folder is None


def test_a_store_that_is_not_there_is_named_as_torchserve_names_it(mooring, server):
    done = mooring("torchserve", "--start", "--model-store", "nowhere")
    assert (done.exit_code, done.stderr) == (1, "Error: --model-store directory not found: nowhere\n")


def test_the_file_is_the_variables_then_the_flags_then_the_folders(mooring, server, store):
    for size, name in enumerate(["a.properties", "b.properties", "config.properties"], start=1):
        Path(name).write_text(f"job_queue_size={size}")
    start = ("torchserve", "--start", "--foreground", "--model-store", store)
    mooring(*start)
    assert server.config.job_queue_size == 3
    mooring(*start, "--ts-config", "b.properties")
    assert server.config.job_queue_size == 2
    mooring(*start, "--ts-config", "b.properties", TS_CONFIG_FILE="a.properties")
    assert server.config.job_queue_size == 1


def test_a_file_that_is_not_there_is_named(mooring, server):
    done = mooring("torchserve", "--start", "--ts-config", "none.properties")
    assert (done.exit_code, done.stderr) == (1, "Error: --ts-config file not found: none.properties\n")


def test_the_version_is_one_that_scripts_know(mooring):
    assert mooring("torchserve", "--version").output.startswith("TorchServe Version is 0.12.0 ")


def test_a_management_address_that_others_reach_has_tokens_unless_they_are_turned_off(mooring, server, store):
    start = ["torchserve", "--start", "--foreground", "--model-store", store]
    assert "tokens" not in mooring(*start).stdout, "there is no file of them"
    Path("key_file.json").touch()
    assert "needed at no address" in mooring(*start).stdout
    assert (server.config.generates_tokens, server.config.demanding_addresses) == (True, [])
    Path("config.properties").write_text("management_address=http://0.0.0.0:8081\n")
    assert "needed at http://0.0.0.0:8081\n" in mooring(*start).stdout
    assert server.config.demanding_addresses == [server.config.management_address]
    Path("config.properties").write_text("disable_token_authorization=false\n")
    assert "needed at" not in mooring(*start).stdout
    assert len(server.config.demanding_addresses) == 4
    assert server.config.unauthorized_status == 400
    assert (server.config.failed_prediction_status, server.config.shows_errors) == (503, False)
    Path("config.properties").write_text("management_address=http://0.0.0.0:8081\n")
    assert "tokens" not in mooring(*start, "--dt").stdout
    assert not server.config.generates_tokens
    assert server.config.insecure


@pytest.fixture
def pod(tmp_path, monkeypatch):
    """The folder that a pod of KServe's has, at another place."""
    folder = tmp_path / "pod"
    (folder / "model-store").mkdir(parents=True)
    (folder / "config").mkdir()
    monkeypatch.setattr("mooring.cli.kserve_pod.MODELS", str(folder))
    monkeypatch.setattr("mooring.cli.torchserve.MODELS", str(folder))
    return folder


def start_in_pod(mooring, pod, text, *flags, **environ):
    file = pod / "config/config.properties"
    file.write_text(text)
    return mooring(
        "torchserve",
        "--start",
        f"--model-store={pod / 'model-store'}",
        f"--ts-config={file}",
        *flags,
        **environ,
    )


def test_a_pod_of_kserves_answers_at_kserves_ports_beside_the_files_addresses(mooring, server, pod):
    given = "inference_address=http://0.0.0.0:8085\nmanagement_address=http://0.0.0.0:8085\nenable_envvars_config=true\n"
    done = start_in_pod(mooring, pod, given, TS_SERVICE_ENVELOPE="kservev2", MODEL_LOAD_DELAY="3")
    assert done.exit_code == 3, done.output
    config = server.config
    assert str(config.inference_address) == str(config.management_address) == "http://0.0.0.0:8085"
    assert str(config.second_inference_address) == "http://0.0.0.0:8080"
    assert str(config.second_grpc_address) == "http://0.0.0.0:8081"
    assert config.service_envelope == "kservev2"
    assert config.snapshot_folder is None
    assert config.token_authorization == "management"
    assert "MODEL_LOAD_DELAY" in done.stdout


def test_a_pod_whose_file_names_no_address_does_not_take_kserves_ports_twice(mooring, server, pod):
    start_in_pod(mooring, pod, "", "--disable-token-auth", TS_SERVICE_ENVELOPE="{{.Labels.serviceEnvelope}}")
    config = server.config
    assert (config.inference_address.port, config.management_address.port) == (8085, 8085)
    assert config.service_envelope == ""
    assert config.token_authorization == "off"
    assert config.insecure


def test_a_pods_file_may_be_named_by_kserves_variable(mooring, server, pod):
    file = pod / "config/config.properties"
    file.write_text("job_queue_size=10\n")
    mooring("torchserve", "--start", f"--model-store={pod / 'model-store'}", CONFIG_PATH=str(file))
    assert server.config.job_queue_size == 10


def test_a_start_elsewhere_has_no_second_address(mooring, server, store):
    mooring(
        "torchserve", "--foreground", "--model-store", store, TS_SERVICE_ENVELOPE="kserve", CONFIG_PATH="gone"
    )
    assert server.config.second_inference_address is None
    assert server.config.token_authorization == "elsewhere"

"""Where each setting was set: the source that won, with the line of its file."""

import pytest

from mooring.config.setting_groups import GROUPS, text_of
from mooring.config.settings import DEFAULTS, SETTINGS, Address, Secret
from mooring.config.sources.loading import load_config
from mooring.config.sources.origins import Origins

TOML = '''# ours
log_level = "debug"
vmargs = """
port = 9
log_format = "json"
"""
  "port" = 7000

[model_settings.m]
"1.0" = {}
'''
PROPERTIES = """# TorchServe's
job_queue_size=7
default_response_timeout=\\
    30
grpc_inference_port=7777
disable_token_authorization=true
"""


def load(tmp_path=None, name="mooring.toml", text="", flags=None, environ=None, defaults=None, command=""):
    file = None
    if text:
        file = tmp_path / name
        file.write_text(text)
    origins = Origins(command)
    config = load_config(flags or {}, environ or {}, file, defaults=defaults or {}, origins=origins)
    return config, origins, file


def test_what_nobody_set_is_at_its_default():
    _, origins, _ = load()
    assert {origins.of(name) for name in SETTINGS} == {"default"}


def test_a_setting_in_our_file_has_its_line(tmp_path):
    config, origins, file = load(tmp_path, text=TOML)
    assert config.port == 7000
    assert origins.of("log_level") == f"{file}: line 2"
    assert origins.of("vmargs") == f"{file}: line 3"
    assert origins.of("port") == f"{file}: line 7"  # what looks like it in a text is none
    assert origins.of("model_settings") == f"{file}: line 9"
    assert origins.of("log_format") == "default"


def test_a_key_of_torchserves_file_has_its_line(tmp_path):
    config, origins, file = load(tmp_path, "config.properties", PROPERTIES)
    assert config.job_queue_size == 7
    assert origins.of("job_queue_size") == f"{file}: line 2"
    assert origins.of("default_response_timeout") == f"{file}: line 3"
    assert origins.of("grpc_address") == f"{file}: line 5"
    assert origins.of("insecure") == f"{file}: line 6"
    assert origins.of("token_authorization") == f"{file}: line 6"


def test_the_later_source_wins(tmp_path):
    environ = {"MOORING_JOB_QUEUE_SIZE": "8", "MOORING_LOG_LEVEL": "error"}
    _, origins, file = load(
        tmp_path, text='job_queue_size = 7\nlog_level = "debug"\naccess_log = true\n', environ=environ,
        flags={"log_level": "warning", "default_workers_per_model": 2, "targets": ["a.onnx"]},
        defaults={"access_log": True, "metrics_mode": "both"},
    )  # fmt: skip
    assert origins.of("job_queue_size") == "MOORING_JOB_QUEUE_SIZE in the environment"
    assert origins.of("log_level") == "--log-level"
    assert origins.of("default_workers_per_model") == "--workers"
    assert origins.of("targets") == "the command line"
    assert origins.of("access_log") == f"{file}: line 3"
    assert origins.of("metrics_mode") == "default of this command"


def test_torchserves_variables_are_named(tmp_path):
    environ = {"TS_JOB_QUEUE_SIZE": "9", "TS_INFERENCE_ADDRESS": "http://127.0.0.1:9999"}
    config, origins, _ = load(tmp_path, "config.properties", "enable_envvars_config=true\n", environ=environ)
    assert config.job_queue_size == 9
    assert origins.of("job_queue_size") == "TS_JOB_QUEUE_SIZE in the environment"
    assert origins.of("inference_address") == "TS_INFERENCE_ADDRESS in the environment"


def test_addresses_follow_from_host_and_port():
    config, origins, _ = load(flags={"host": "0.0.0.0"}, environ={"MOORING_PORT": "9000"})
    assert config.inference_address == Address("0.0.0.0", 9000)
    for name in ("inference_address", "metrics_address", "grpc_address"):
        assert origins.of(name) == "host: --host, port: MOORING_PORT in the environment"


def test_a_later_port_counts_in_an_earlier_address(tmp_path):
    text = 'inference_address = "http://127.0.0.1:8000"\n'
    config, origins, _ = load(tmp_path, text=text, flags={"port": 9000})
    assert config.inference_address.port == 9000
    assert origins.of("inference_address") == "port: --port"


def test_commands_with_flags_of_their_own_are_named():
    _, origins, _ = load(
        flags={"log_level": "error"}, defaults={"access_log": True}, command="mooring tritonserver"
    )
    assert origins.of("log_level") == "flags of mooring tritonserver"
    assert origins.of("access_log") == "default of mooring tritonserver"


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_text(name):
    assert isinstance(text_of(name, getattr(DEFAULTS, name)), str)


def test_a_secret_is_not_shown():
    assert text_of("management_token", Secret("a-secret-token")) == "set, hidden"
    assert text_of("management_token", Secret()) == ""
    assert text_of("keystore_pass", DEFAULTS.keystore_pass) == ""
    assert {name for names in GROUPS.values() for name in names} == set(SETTINGS)

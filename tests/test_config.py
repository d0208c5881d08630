"""One type from file, environment and flags; and errors that say where, what and what else."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.config.properties import format_properties
from mooring.config.setting_groups import GROUPS
from mooring.config.settings import (
    SETTINGS,
    Address,
    Config,
    ConfigError,
    ModelSettings,
    Secret,
    is_secret,
)
from mooring.config.sources.loading import load_config
from mooring.config.sources.torchserve import TORCHSERVE_DEFAULTS, to_properties
from mooring.config.torchserve_keys import SAME, WITHOUT_EFFECT, is_effective, known_keys, no_effect_reason


def written(folder, text, name="mooring.toml"):
    path = folder / name
    path.write_text(text)
    return path


def refusal(*args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        load_config(*args, **kwargs)
    return str(caught.value)


def test_with_nothing_said_the_defaults_count():
    config = load_config({}, {})
    assert config == Config()
    assert [
        str(a) for a in (config.inference_address, config.management_address, config.metrics_address)
    ] == [
        "http://127.0.0.1:8080",
        "http://127.0.0.1:8081",
        "http://127.0.0.1:8082",
    ]


def test_flags_beat_the_environment_and_that_beats_the_file(tmp_path):
    file = written(tmp_path, "job_queue_size = 1\nmax_request_size = 1\nmax_response_size = 1\n")
    environ = {"MOORING_JOB_QUEUE_SIZE": "2", "MOORING_MAX_REQUEST_SIZE": "2"}
    config = load_config({"job_queue_size": "3"}, environ, file)
    assert (config.job_queue_size, config.max_request_size, config.max_response_size) == (3, 2, 1)


def test_the_environment_may_name_the_file(tmp_path):
    file = written(tmp_path, 'log_level = "debug"')
    assert load_config({}, {"MOORING_CONFIG": str(file)}).log_level == "debug"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, True),
        ({"inference_address": "http://0.0.0.0:8080"}, False),
        ({"grpc_address": "http://0.0.0.0:7070"}, False),
        ({"grpc_address": "http://0.0.0.0:7070", "show_errors": True}, True),
    ],
)
def test_errors_of_models_are_shown_where_no_other_machine_can_ask(settings, shown):
    assert load_config(settings, {}).shows_errors is shown


@pytest.mark.parametrize(
    "name", [name for name in SETTINGS if name not in ("grpc_address", "grpc_management_address")]
)
def test_every_setting_reads_the_same_from_file_environment_and_flag(tmp_path, name):
    text, toml = {
        "targets": ("a.mar,b.py:fn", ["a.mar", "b.py:fn"]),
        "models": ("all", ["all"]),
        "model_settings": ('{"m": {"1.0": {"batchSize": 4}}}', None),
        "log_level": ("error", "error"),
        "port": ("0", 0),
        "device": ("cpu", "cpu"),
        "host": ("0.0.0.0", "0.0.0.0"),
        "service_envelope": ("kserve", "kserve"),
        "dialect": ("amd", "amd"),
        "token_authorization": ("on", "on"),
        "unauthorized_status": ("400", 400),
        "failed_prediction_status": ("503", 503),
        "metrics_mode": ("log", "log"),
        "trusted_hosts": ("models.example,[::1]", ["models.example", "::1"]),
        "cors_allowed_origin": ("https://a.example,*", ["https://a.example", "*"]),
        "cors_allowed_methods": ("GET, PUT", ["GET", "PUT"]),
        "cors_allowed_headers": ("X-Own", ["X-Own"]),
        "allowed_urls": ("https://models[.]example/.*", ["https://models[.]example/.*"]),
        "enable_model_api": ("false", False),
        "show_errors": ("true", True),
        "forward_headers": ("x-own.*", "x-own.*"),
        "grpc_typed_outputs": ("true", True),
        "number_of_gpu": ("2", 2),
        "frontends": ("2", 2),
        "deal_connections": ("evenly", "evenly"),
        "json_nan": ("null", "null"),
        "ping_format": ("status", "status"),
        "log_format": ("json", "json"),
        "codec_processes": ("2", 2),
        "max_worker_processes": ("64", 64),
        "scale_to_zero_processes": ("64", 64),
        "scale_to_zero_memory": ("1000000000", 1_000_000_000),
        "cluster_name": ("other", "other"),
        "model_snapshot": ('{"models": {"m": {"1.0": {"marName": "m.mar"}}}}', None),
        **{f"sequence_{each}_header": ("X-Sequence", "X-Sequence") for each in ("id", "start", "end")},
    }.get(name, (None, None))
    default = getattr(Config(), name)
    if text is None and isinstance(default, bool):
        text, toml = str(not default).lower(), not default
    elif text is None and isinstance(default, int | float):
        text, toml = "70000", 70000
    elif text is None:
        address = isinstance(default, Address) or name in ("second_inference_address", "second_grpc_address")
        text = toml = "http://127.0.0.1:9000" if address else "/somewhere"
    line = f"{name} = {json.dumps(toml)}"
    if toml is None:
        of_snapshot = '[model_snapshot.models.m."1.0"]\nmarName = "m.mar"'
        line = of_snapshot if name == "model_snapshot" else '[model_settings.m."1.0"]\nbatchSize = 4'
    expected = load_config({name: text}, {})
    assert getattr(expected, name) != default
    assert load_config({}, {f"MOORING_{name.upper()}": text}) == expected
    assert load_config({}, {}, written(tmp_path, line)) == expected


def test_an_allowed_url_that_is_no_regular_expression_is_refused():
    assert "'(' is not a regular expression" in refusal({"allowed_urls": "https://a/.*,("}, {})


def test_every_setting_is_in_one_group_of_the_help_and_the_guide():
    grouped = [name for names in GROUPS.values() for name in names]
    assert [name for name in SETTINGS if name not in grouped] == [], "add them to config/setting_groups.py"
    assert sorted(grouped) == sorted(SETTINGS)


def test_every_setting_says_what_it_is():
    assert set(SETTINGS) == set(Config.__struct_fields__)
    assert all(SETTINGS.values())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://0.0.0.0:1", Address("0.0.0.0", 1)),
        ("http://host", Address("host", 80)),
        ("http://host:0/", Address("host", 0)),
        ("127.0.0.1:7070", Address("127.0.0.1", 7070)),
        ("http://[::1]:8080", Address("::1", 8080)),
        ("https://h:8443", Address("h", 8443, secure=True)),
        ("unix:/tmp/s", Address(path="/tmp/s")),
        ("unix:///tmp/s", Address(path="/tmp/s")),
    ],
)
def test_an_address_is_read_as_users_write_it(text, address):
    assert Address.parse(text, 80) == address
    assert Address.parse(str(address), 80) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "https://",
        "ftp://h:1",
        "http://:1",
        "http://h:x",
        "http://h:1/p",
        "http://u@h:1",
        "unix:s",
    ],
)
def test_what_is_no_address_is_refused(text):
    assert refusal({"inference_address": text}, {}).startswith("--inference-address = ")


@given(st.text())
def test_an_address_parses_or_is_refused_and_nothing_else_happens(text):
    with contextlib.suppress(ValueError):
        Address.parse(text, 80)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("job_queue_size", "many", "at least 1"),
        ("job_queue_size", "0", "at least 1"),
        ("log_level", "loud", "debug, info, warning or error"),
        ("insecure", "maybe", "must be true or false ("),
        ("show_errors", "maybe", "must be true or false ("),
        ("default_response_timeout", "-1", "greater than 0"),
        ("default_response_timeout", "nan", "greater than 0"),
        ("service_envelope", "soap", "kservev2"),
        ("model_settings", "{", "JSON"),
        ("model_settings", '{"m": {"1.0": {"batchSize": "x"}}}', "batchSize"),
    ],
)
def test_a_bad_value_is_named_with_its_place_and_what_is_allowed(name, value, said):
    flag, variable = f"--{name.replace('_', '-')} = ", f"MOORING_{name.upper()} = "
    by_flag, by_variable = refusal({name: value}, {}), refusal({}, {f"MOORING_{name.upper()}": value})
    assert by_flag.startswith(flag + repr(value))
    assert by_variable.startswith(variable + repr(value))
    assert said in by_flag
    assert "\n" not in by_flag


def test_a_file_is_strict_about_types(tmp_path):
    file = written(tmp_path, 'job_queue_size = "7"')
    assert refusal({}, {}, file).startswith(
        f"{file}: job_queue_size = '7': must be a whole number, not a string ("
    )
    assert "must be a string, not a whole number" in refusal(
        {}, {}, written(tmp_path, "inference_address = 8080")
    )
    wrong_item = refusal({}, {}, written(tmp_path, 'models = ["a.mar", 3]'))
    assert "item [1] must be a string, not a whole number" in wrong_item


def test_an_unknown_key_is_an_error_that_guesses_what_was_meant(tmp_path):
    file = written(tmp_path, "job_queue_sise = 7")
    assert (
        refusal({}, {}, file) == f"{file}: unknown setting 'job_queue_sise'; did you mean 'job_queue_size'?"
    )
    assert refusal({}, {}, written(tmp_path, "zzz = 7")).endswith("unknown setting 'zzz'")


def test_a_file_that_is_not_there_or_no_toml_is_an_error_that_names_it(tmp_path):
    assert refusal({}, {}, tmp_path / "none.toml") == f"{tmp_path}/none.toml: No such file or directory"
    assert refusal({}, {}, written(tmp_path, "a = = b")).startswith(f"{tmp_path}/mooring.toml: ")


def test_a_misspelled_variable_is_named_and_kubernetes_own_are_not():
    lines = []
    environ = {
        "MOORING_JOB_QUEUE_SISE": "7",
        "MOORING_SERVICE_HOST": "10.0.0.1",
        "MOORING_PORT": "tcp://10.0.0.1:80",
    }
    load_config({}, environ, warn=lines.append)
    assert lines == ["unknown variable MOORING_JOB_QUEUE_SISE; did you mean 'MOORING_JOB_QUEUE_SIZE'?"]


@pytest.mark.parametrize("name", ["management_address", "grpc_management_address"])
@pytest.mark.parametrize("address", ["http://0.0.0.0:8081", "http://[::]:8081", "http://example.com:1"])
def test_management_beyond_loopback_needs_a_word_from_the_user(name, address):
    flags = {name: address}
    said = refusal(flags, {})
    assert said.startswith(f"{name} {address} can be reached")
    assert "MOORING_MANAGEMENT_TOKEN" in said
    assert load_config({**flags, "insecure": True}, {}).insecure
    assert load_config(flags, {"MOORING_MANAGEMENT_TOKEN": "long enough"}).guards_management
    assert load_config({**flags, "management_token_file": "t"}, {}).guards_management
    assert load_config({**flags, "token_authorization": "elsewhere"}, {}).generates_tokens


@pytest.mark.parametrize(
    "address", ["http://localhost:1", "http://127.1.2.3:1", "http://[::1]:1", "unix:/tmp/s"]
)
def test_management_on_this_machine_needs_no_word(address):
    assert load_config({"management_address": address}, {})


@pytest.mark.parametrize(
    ("text", "insecure", "mode"), [("true", True, "off"), ("false", False, "on"), (None, False, "elsewhere")]
)
def test_torchserves_own_switch_says_both_that_there_are_no_tokens_and_that_it_is_meant(
    tmp_path, text, insecure, mode
):
    line = "" if text is None else f"disable_token_authorization={text}"
    file = written(tmp_path, line, "config.properties")
    config = load_config({}, {}, file, defaults=TORCHSERVE_DEFAULTS)
    assert (config.insecure, config.token_authorization) == (insecure, mode)


@pytest.mark.parametrize("mode", ["on", "elsewhere"])
def test_tokens_that_were_on_are_on_after_a_start_from_what_was_written_down(tmp_path, mode):
    config = Config(
        token_authorization=mode, insecure=True, management_address=Address("0.0.0.0", 8081),
        management_token=Secret("a-management-secret"),
    )  # fmt: skip
    text = format_properties(to_properties(config))
    assert "a-management-secret" not in text
    again = load_config({}, {}, written(tmp_path, text, "again.properties"), defaults=TORCHSERVE_DEFAULTS)
    assert again.generates_tokens


def test_a_secret_is_no_flag_and_is_shown_nowhere(tmp_path):
    config = load_config({}, {"MOORING_MANAGEMENT_TOKEN": "the secret"})
    assert config.management_token.text == "the secret"
    assert "the secret" not in f"{config} {config!r} {config.management_token}"
    file = written(tmp_path, 'inference_token = ["the secret"]')
    assert "the secret" not in refusal({}, {}, file)
    assert [name for name in SETTINGS if is_secret(name)] == [
        "keystore_pass",
        "inference_token",
        "management_token",
    ]


def test_what_is_written_down_names_the_file_of_a_secret_and_not_the_secret(tmp_path):
    file = written(tmp_path, "keystore_pass=the secret\nkeystore=a.p12", "config.properties")
    said = to_properties(load_config({}, {}, file))
    assert said["tsConfigFile"] == str(file)
    assert not any("secret" in text for text in said.values())
    snapshot = written(tmp_path, format_properties(said | {"model_snapshot": "{}"}), "20261121-snapshot.cfg")
    again = load_config({}, {}, snapshot)
    assert again.keystore_pass.text == "the secret"
    assert to_properties(again)["tsConfigFile"] == str(file)
    assert load_config({}, {"MOORING_KEYSTORE_PASS": "another"}, snapshot).keystore_pass.text == "another"
    file.unlink()
    heard = []
    assert load_config({}, {}, snapshot, warn=heard.append).keystore_pass == Config().keystore_pass
    assert heard == [
        f"the secrets that the snapshot leaves in its file are not there: {file}: No such file or directory"
    ]


def test_what_models_says_is_written_down_for_torchserves_own_reader_too(tmp_path):
    said = {
        "m": {"1.0": {"defaultVersion": False, "marName": "m.mar", "batchSize": 4, "responseTimeout": 30}}
    }
    config = load_config({}, {}, written(tmp_path, f"models={json.dumps(said)}", "config.properties"))
    # It reads whole numbers only, and no null.
    assert to_properties(config)["models"] == json.dumps(said, separators=(",", ":"))


def test_fixed_tokens_of_a_file_are_asked_for_after_a_start_from_a_snapshot_too(tmp_path):
    file = written(tmp_path, 'management_token = "a-management-secret"', "mooring.toml")
    said = to_properties(load_config({}, {}, file))
    snapshot = written(tmp_path, format_properties(said | {"model_snapshot": "{}"}), "20261121-snapshot.cfg")
    assert load_config({}, {}, snapshot).management_token == Secret("a-management-secret")


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["true", "-1", "1e999", "0", "http://", "http://[", "unix:/x", "*", "(", "{}", "[]", "null", "$$HOME$$", "a,b", "\\u12", "1" * 5000]
)  # fmt: skip
LINES = st.lists(
    st.tuples(st.sampled_from([*known_keys(), "model_snapshot", "tsConfigFile", "unknown"]), TEXTS),
    max_size=6,
)


@given(LINES)
def test_any_properties_are_settings_or_a_refusal(tmp_path_factory, lines):
    file = tmp_path_factory.getbasetemp() / "any.properties"
    file.write_bytes("\n".join(f"{key}={value}" for key, value in lines).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ConfigError):
        config = load_config({}, {}, file)
        file.write_text(format_properties(to_properties(config)))
        load_config({}, {}, file)


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), VALUES, max_size=4))
def test_any_value_of_any_type_is_a_setting_or_a_refusal_that_names_it(tmp_path_factory, values):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    lines = [
        f"{name} = {json.dumps(value)}" for name, value in values.items()
    ]  # TOML's but for what JSON alone has
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        load_config({}, {}, file)
    except ConfigError as error:
        assert "any.toml" in str(error) or any(name in str(error) for name in values)  # noqa: PT017


def test_torchserve_properties_are_read_by_their_meaning(tmp_path):
    file = written(
        tmp_path,
        """
        inference_address=http://0.0.0.0:9080
        management_address=http://0.0.0.0
        disable_token_authorization=True
        grpc_inference_port=7777
        grpc_management_address=::1
        model_store=$$STORE$$/models
        load_models=a.mar, b=b.mar
        default_workers_per_model=3
        decode_input_request=false
        models={\\
          "b": {"1.0": {"defaultVersion": true, "marName": "b.mar", "minWorkers": 2, "maxWorkers": 4,\\
                        "batchSize": 8, "maxBatchDelay": 50, "responseTimeout": 20, "parallelLevel": 1}}}
        """,
        "config.properties",
    )
    config = load_config({}, {"STORE": "/data"}, file)
    assert config.inference_address == Address("0.0.0.0", 9080)
    assert config.management_address == Address("0.0.0.0", 8081)
    assert config.insecure
    assert config.grpc_address == Address("127.0.0.1", 7777)
    assert config.grpc_management_address == Address("::1", 7071)
    assert config.model_store == Path("/data/models")
    assert config.models == ("a.mar", "b=b.mar")
    assert config.default_workers_per_model == 3
    assert not config.decode_input_request
    assert config.model_settings["b"]["1.0"] == ModelSettings(
        default_version=True,
        mar_name="b.mar",
        min_workers=2,
        max_workers=4,
        batch_size=8,
        max_batch_delay=50,
        response_timeout=20,
    )


def test_torchserves_keys_without_effect_are_named_together_with_the_reason_and_unknown_ones_apart(tmp_path):
    text = "number_of_netty_threads=4\nasync_logging=false\nvmargs=-Xmx1g\nfoo=1\njob_queue_sise=3"
    file = written(tmp_path, text, "config.properties")
    lines = []
    assert load_config({}, {}, file, warn=lines.append) == Config()
    assert lines == [
        (
            f"{file}: not applicable here: number_of_netty_threads (one event loop serves the connections),"
            " vmargs (there is no Java here)"
        ),
        f"{file}: no keys of TorchServe's: foo, job_queue_sise; did you mean 'job_queue_size'?",
    ]


def test_every_key_of_torchserves_either_sets_something_or_says_why_not():
    keys = known_keys()
    assert len(keys) == 72
    assert all(is_effective(key) or no_effect_reason(key, "some value") for key in keys)
    assert not any(no_effect_reason(key, "some value") for key in keys if is_effective(key))
    assert SAME.keys().isdisjoint(WITHOUT_EFFECT)


def test_torchserves_variables_beat_file_and_flags_where_the_file_says_so(tmp_path):
    environ = {
        "TS_JOB_QUEUE_SIZE": "1",
        "TS_MODEL_STORE": "/env",
        "TS_GRPC_INFERENCE_PORT": "1",
        "TS_OTHER": "x",
    }
    environ |= {"TS_OPEN_INFERENCE_PROTOCOL": "oip"}
    text = "job_queue_size=2\nservice_envelope=json\ngrpc_inference_address=127.0.0.9\n"
    file = written(tmp_path, text, "config.properties")
    assert load_config({}, environ, file).job_queue_size == 2
    file = written(tmp_path, text + "enable_envvars_config=true", "config.properties")
    config = load_config({"model_store": "/flag", "job_queue_size": "3"}, environ, file)
    assert (config.job_queue_size, config.model_store, config.service_envelope) == (1, Path("/env"), "json")
    assert config.grpc_address == Address("127.0.0.9", 1)
    assert refusal({}, {"TS_JOB_QUEUE_SIZE": "x"}, file).startswith("TS_JOB_QUEUE_SIZE = 'x': ")


def test_allowed_urls_come_from_the_environment_only_where_the_file_says_so(tmp_path):
    environ = {"TS_ALLOWED_URLS": "https://a/.*,https://b/.*"}
    for said, urls in (("false", ("https://c/.*",)), ("true", ("https://a/.*", "https://b/.*"))):
        text = f"allowed_urls=https://c/.*\nuse_env_allowed_urls={said}"
        file = written(tmp_path, text, "config.properties")
        assert load_config({}, environ, file).allowed_urls == urls


def test_settings_become_torchserves_file_and_settings_again(tmp_path):
    said = {
        "inference_address": "http://127.0.0.1:1", "grpc_address": "127.0.0.1:2", "model_store": str(tmp_path),
        "models": "a.mar,b=b.mar", "model_settings": '{"m": {"1.0": {"batchSize": 4}}}', "insecure": "true",
        "number_of_gpu": "0", "default_response_timeout": "0.5", "grpc_max_connection_age": "1.5",
        "blacklist_env_vars": "A|B=.*", "allowed_urls": "https://a/.*", "enable_model_api": "false",
    }  # fmt: skip
    config = load_config(said, {})
    file = written(tmp_path, format_properties(to_properties(config)), "again.cfg")
    assert load_config({}, {}, file) == config


def test_a_properties_file_in_latin_1_is_read(tmp_path):
    file = tmp_path / "config.properties"
    file.write_bytes("# für alle\njob_queue_size=7\nmodel_store=/für".encode("latin-1"))
    config = load_config({}, {}, file)
    assert config.job_queue_size == 7
    assert os.fsencode(config.model_store) == b"/f\xfcr"


def test_a_bad_property_is_named_by_torchserves_key(tmp_path):
    file = written(tmp_path, "load_models=all\njob_queue_size=x", "config.properties")
    assert refusal({}, {}, file).startswith(f"{file}: job_queue_size = 'x': ")

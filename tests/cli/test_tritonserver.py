"""``mooring tritonserver`` takes Triton's command lines: every flag is obeyed, named as without effect, or refused."""

from pathlib import Path

import pytest

from mooring.cli.triton_flags import TRITON_FLAGS, Effect, Kind
from mooring.config.settings import Config

GUIDE = Path(__file__).parents[2] / "docs/guide-triton.md"
VALUES = {Kind.BOOL: "=true", Kind.INTEGER: "=3", Kind.NUMBER: "=2.5", Kind.TEXT: "=x", Kind.SWITCH: ""}


@pytest.fixture
def start(mooring, server):
    """Starts with a repository, and returns the settings."""
    Path("models").mkdir()

    def run(*flags):
        done = mooring("tritonserver", "--model-repository=models", *flags)
        assert done.exit_code == 3, done.output
        return server.config

    return run


def test_without_further_flags_all_is_as_in_triton(start):
    config = start()
    assert str(config.inference_address) == "http://0.0.0.0:8000"
    assert str(config.grpc_address) == "http://0.0.0.0:8001"
    assert str(config.metrics_address) == "http://0.0.0.0:8002"
    assert config.model_repository == (Path("models"),)
    assert config.repository_load_existing
    assert config.exit_on_error
    assert config.strict_readiness
    assert config.dialect == "triton"
    assert config.log_level == "info"
    assert config.drain_timeout == 30
    assert config.job_queue_size == 100_000
    off = (
        config.enable_repository_api, config.enable_management_api, config.repository_monitoring, config.insecure,
        config.response_cache_size, config.grpc_typed_outputs,
    )  # fmt: skip
    assert not any(off)


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (["--model-store", "more"], {"model_repository": (Path("models"), Path("more"))}),
        (["--http-port=1", "--http-address=h"], {"inference_address": "http://h:1", "metrics_address": "http://h:8002"}),
        (["--grpc-port", "2", "--grpc-address", "h"], {"grpc_address": "http://h:2"}),
        (["--metrics-port=3", "--metrics-address=h"], {"metrics_address": "http://h:3"}),
        (["--allow-metrics=False"], {"enable_metrics_api": False}),
        (["--allow-cpu-metrics=0"], {"disable_system_metrics": True}),
        (["--model-control-mode=poll"], {"repository_monitoring": True, "repository_polling": True}),
        (
            ["--model-control-mode", "EXPLICIT"],
            {"repository_load_existing": False, "enable_repository_api": True, "startup_models": ()},
        ),
        (
            ["--model-control-mode=explicit", "--load-model=a", "--load-model=b"],
            {"repository_load_existing": True, "startup_models": ("a", "b")},
        ),
        (["--model-control-mode=explicit", "--load-model=*"], {"repository_load_existing": True, "startup_models": ()}),
        (["--load-model=a"], {"startup_models": (), "repository_load_existing": True}),
        (["--exit-on-error=false", "--strict-readiness", "0"], {"exit_on_error": False, "strict_readiness": False}),
        (["--exit-timeout-secs=5"], {"drain_timeout": 5}),
        (["--id=mine"], {"server_name": "mine"}),
        (["--http-header-forward-pattern=x-.*"], {"forward_headers": "x-.*"}),
        (
            ["--http-header-forward-pattern=a", "--grpc-header-forward-pattern=(?-i)b"],
            {"forward_headers": "(?:a)|(?-i:b)"},
        ),
        (["--log-file=triton.log"], {"log_file": Path("triton.log")}),
        (["--log-verbose=1"], {"log_level": "debug"}),
        (["--log-verbose=0"], {"log_level": "info"}),
        (["--log-info=false"], {"log_level": "warning"}),
        (["--log-info=false", "--log-warning=0"], {"log_level": "error"}),
        (["--http-max-input-size=9"], {"max_request_size": 9, "max_tensor_request_size": 9}),
        (["--cache-config=local,size=77"], {"response_cache_size": 77}),
        (["--response-cache-byte-size=78"], {"response_cache_size": 78}),
        (
            ["--grpc-max-connection-age=1500", "--grpc-max-connection-age-grace=500"],
            {"grpc_max_connection_age": 1.5, "grpc_max_connection_age_grace": 0.5},
        ),
        (
            ["--grpc-use-ssl=true", "--grpc-server-cert=c", "--grpc-server-key=k", "--grpc-root-cert=r"],
            {"grpc_address": "https://0.0.0.0:8001", "certificate_file": Path("c"), "private_key_file": Path("k"),
             "client_ca_file": None},
        ),
        (
            ["--grpc-use-ssl-mutual=true", "--grpc-server-cert=c", "--grpc-server-key=k", "--grpc-root-cert=r"],
            {"grpc_address": "https://0.0.0.0:8001", "client_ca_file": Path("r")},
        ),
        (["--grpc-server-cert=c"], {"certificate_file": None, "grpc_address": "http://0.0.0.0:8001"}),
        (["--model-control=explicit"], {"enable_repository_api": True}),
        (["--insecure"], {"insecure": True}),
    ],
)  # fmt: skip
def test_a_flag_becomes_settings(start, flags, settings):
    config = start(*flags)
    for name, expected in settings.items():
        found = getattr(config, name)
        assert (str(found) if name.endswith("_address") else found) == expected, name


def test_the_lines_that_scripts_wait_for_are_tritons(mooring, server):
    Path("models").mkdir()
    lines = mooring("tritonserver", "--model-repository=models").stdout.splitlines()
    started = [
        "Started GRPCInferenceService at 0.0.0.0:8001",
        "Started HTTPService at 0.0.0.0:8000",
        "Started Metrics Service at 0.0.0.0:8002",
    ]
    assert lines[:3] == started
    flags = ("--allow-http=false", "--allow-metrics=false")
    lines = mooring("tritonserver", "--model-repository=models", *flags).stdout.splitlines()
    assert [line for line in lines if line.startswith("Started")] == started[:1]


@pytest.mark.parametrize(("flag", "setting"), [("http", "inference_address"), ("grpc", "grpc_address")])
def test_a_protocol_that_is_not_allowed_is_served_where_nobody_comes(start, flag, setting):
    address = getattr(start(f"--allow-{flag}=false"), setting)
    assert address.path
    assert not Path(address.path).parent.exists()  # it is gone with the server


@pytest.mark.parametrize(
    "flag", [each for each in TRITON_FLAGS if each.effect is Effect.NONE], ids=lambda each: each.name
)
def test_a_flag_without_effect_is_named_with_the_reason(mooring, server, flag):
    Path("models").mkdir()
    done = mooring("tritonserver", "--model-repository=models", f"--{flag.name}{VALUES[flag.kind]}")
    assert done.exit_code == 3
    assert f"--{flag.name} is without effect: {flag.note}" in done.stderr
    assert isinstance(server.config, Config)


@pytest.mark.parametrize(
    "flag", [each for each in TRITON_FLAGS if each.effect is Effect.REFUSED], ids=lambda each: each.name
)
def test_a_flag_that_would_change_what_clients_get_ends_the_start(mooring, server, flag):
    done = mooring("tritonserver", "--model-repository=models", f"--{flag.name}{VALUES[flag.kind]}")
    assert done.exit_code == 1
    assert done.stderr == f"Error: --{flag.name} is refused: {flag.note}\n"
    if flag.kind is Kind.BOOL:
        assert mooring("tritonserver", "--model-repository=models", f"--{flag.name}=false").exit_code == 3


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "--model-repository must be specified"),
        (["--model-repository=s3://bucket/models"], "repositories are folders here"),
        (["--model-repository=m", "--strict-readines=perhaps"], "expected true or false, got 'perhaps'"),
        (["--model-repository=m", "--http-prt=1"], "No such option"),
        (["--model-repository=m", "--http-port=high"], "'high' is not a valid"),
        (["--model-repository=m", "--model-control-mode=some"], "expected none, poll or explicit, got 'some'"),
        (["--model-repository=m", "--log-verbose=much"], "expected a whole number from 0, got 'much'"),
        (["--model-repository=m", "--cache-config=redis,host=h"], "expected local,size=BYTES, got 'redis,host=h'"),
        (["--model-repository=m", "--grpc-use-ssl-mutual=1"], "needs --grpc-root-cert"),
        (["--model-repository=m", "--grpc-use-ssl=1"], "needs --grpc-server-cert and --grpc-server-key"),
        (["--model-repository=m", "--http-port=65536"], "--http-port: expected a whole number from 0 to 65535, got 65536"),
        (["--model-repository=m", "--metrics-port=-1"], "--metrics-port: expected a whole number from 0 to 65535, got -1"),
        (["--model-repository=m", "--http-max-input-size=0"], "--http-max-input-size: expected a whole number from 1, got 0"),
        (["--model-repository=m", "--exit-timeout-secs=-1"], "--exit-timeout-secs: expected a whole number from 0, got -1"),
        (["--model-repository=m", "--cache-config=local,size=9", "--response-cache-byte-size=9"], "give one of them"),
        (
            ["--model-repository=m", "--model-control-mode=explicit", "--load-model=*", "--load-model=a"],
            "--load-model=* loads every model",
        ),
    ],
)  # fmt: skip
def test_a_mistake_ends_with_status_1_and_one_line(mooring, flags, text):
    done = mooring("tritonserver", *flags)
    assert done.exit_code == 1
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_guide_has_every_flag_and_what_it_does_here():
    section = GUIDE.read_text().partition("## Starting like Triton")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `--")]
    assert rows == [f"| `--{flag.name}` | {flag.text} |" for flag in TRITON_FLAGS]

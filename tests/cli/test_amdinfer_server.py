"""``mooring amdinfer-server`` takes amdinfer-server's command lines and stays on this machine unless told otherwise."""

from pathlib import Path

import pytest


def lines(done):
    return done.stdout.splitlines()


def test_without_flags_the_ports_are_amds_and_the_address_is_loopback(mooring, server):
    done = mooring("amdinfer-server")
    assert done.exit_code == 3
    assert lines(done)[:2] == [
        "gRPC server starting at port 50051",
        "HTTP server starting at port 8998",
    ]
    config = server.config
    for address in (config.inference_address, config.management_address, config.metrics_address):
        assert str(address) == "http://127.0.0.1:8998"
    assert str(config.grpc_address) == "http://127.0.0.1:50051"
    assert config.grpc_management_address == config.grpc_address
    assert config.dialect == "amd"
    assert config.max_request_size == 400 * 2**20
    assert not config.insecure


def test_flags_choose_ports_and_repository(mooring, server):
    Path("models").mkdir()
    done = mooring(
        "amdinfer-server", "--model-repository=models", "--http-port=8080", "--grpc-port", "9000",
        "--use-polling-watcher",
    )  # fmt: skip
    assert lines(done)[1] == "HTTP server starting at port 8080"
    assert "repository" not in done.stderr
    config = server.config
    assert (config.inference_address.port, config.grpc_address.port) == (8080, 9000)
    assert config.model_repository == (Path("models"),)
    assert config.repository_polling
    assert not config.repository_load_existing
    assert not config.repository_monitoring


@pytest.mark.parametrize(
    ("flag", "existing", "monitoring"),
    [("--repository-load-existing", True, False), ("--repository-monitoring", True, True)],
)
def test_monitoring_loads_what_is_there_too(mooring, server, flag, existing, monitoring):
    Path("models").mkdir()
    mooring("amdinfer-server", "--model-repository", "models", flag)
    assert server.config.repository_load_existing is existing
    assert server.config.repository_monitoring is monitoring


def test_a_repository_that_is_not_there_is_fine(mooring, server):
    done = mooring("amdinfer-server", "--model-repository", "nowhere", "--repository-monitoring")
    assert done.exit_code == 3
    assert "no model repository at nowhere" in done.stderr
    assert server.config.model_repository == ()
    assert not server.config.repository_monitoring


def test_stray_words_are_ignored(mooring, server):
    assert mooring("amdinfer-server", "--http-port", "8080", "and", "so", "on").exit_code == 3


@pytest.mark.parametrize(
    "flags", [["--no-such-flag"], ["--http-port", "99999"], ["--grpc-port"], ["--http-port=x"]]
)
def test_flags_that_make_no_sense_are_refused_in_amds_words(mooring, server, flags):
    done = mooring("amdinfer-server", *flags)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error parsing options: ")
    assert server.config is None


def test_elsewhere_it_serves_inference_and_says_how_to_let_others_load(mooring, server):
    done = mooring("amdinfer-server", "--address", "0.0.0.0")
    assert done.exit_code == 3
    assert "--insecure" in done.stderr
    assert str(server.config.inference_address) == "http://0.0.0.0:8998"
    assert server.config.management_address.loopback


@pytest.mark.parametrize(
    "said", [{"MOORING_MANAGEMENT_TOKEN": "long-enough"}, {"MOORING_TOKEN_AUTHORIZATION": "on"}]
)
def test_with_a_token_elsewhere_nothing_is_left_to_say(mooring, server, said):
    done = mooring("amdinfer-server", "--address", "0.0.0.0", **said)
    assert "--insecure" not in done.stderr
    assert server.config.guards_management


def test_insecure_lets_everybody_manage(mooring, server):
    mooring("amdinfer-server", "--address", "0.0.0.0", "--insecure")
    assert str(server.config.management_address) == "http://0.0.0.0:8998"
    assert server.config.insecure


def test_the_environment_still_sets_what_is_no_flag(mooring, server):
    mooring("amdinfer-server", MOORING_MAX_REQUEST_SIZE="1000", MOORING_DIALECT="v2")
    assert server.config.max_request_size == 1000
    assert server.config.dialect == "v2"


def test_help_names_the_flags(mooring):
    text = mooring("amdinfer-server", "--help").output
    for flag in (
        "--model-repository", "--repository-load-existing", "--repository-monitoring", "--use-polling-watcher",
        "--http-port", "--grpc-port",
    ):  # fmt: skip
        assert flag in text

"""``mooring torchserve`` takes TorchServe's command lines, and pretends nothing."""

from pathlib import Path

import pytest


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
        "torchserve", "--start", "--foreground", "--model-store", store, "--log-config", "x", "--ppath", "p",
    )  # fmt: skip
    assert done.exit_code == 3
    (line,) = done.stderr.splitlines()
    assert "WARN" in line
    for flag in ("--log-config", "--plugins-path"):
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


def test_without_foreground_it_says_that_it_stays_there(mooring, server, store):
    done = mooring("torchserve", "--start", "--model-store", store)
    assert done.exit_code == 3
    assert done.stderr.count("\n") == 1
    assert "foreground" in done.stderr


def test_stop_does_not_pretend(mooring, server):
    done = mooring("torchserve", "--stop")
    assert done.exit_code == 1
    assert "--stop is not supported yet" in done.stderr


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

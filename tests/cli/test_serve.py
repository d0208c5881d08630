"""``mooring serve``: what the user typed reaches the server as one Config, and mistakes end in one line."""

import json
from pathlib import Path

from mooring.config.settings import SETTINGS, Address, is_secret
from mooring.core.errors import ModelLoadFailed
from mooring.core.example_requests import ExampleRequest
from mooring.core.service import ModelState


def test_targets_flags_and_variables_reach_the_server(mooring, server):
    done = mooring(
        "serve", "a.mar", "b.py:fn", "--model-store", "store", "--models", "all,c=d.mar", "--exact-batch-delay",
        "--inference-address", "http://127.0.0.1:0", MOORING_JOB_QUEUE_SIZE="7",
    )  # fmt: skip
    assert done.exit_code == 3
    assert server.config.targets == ("a.mar", "b.py:fn")
    assert server.config.model_store == Path("store")
    assert server.config.models == ("all", "c=d.mar")
    assert server.config.inference_address == Address("127.0.0.1", 0)
    assert server.config.exact_batch_delay
    assert server.config.job_queue_size == 7


def test_a_switch_can_be_turned_off_against_the_file(mooring, server, tmp_path):
    (tmp_path / "m.toml").write_text("decode_input_request = true\nlimit_max_image_pixels = false")
    mooring("serve", "--config", "m.toml", "--no-decode-input-request")
    assert not server.config.decode_input_request
    assert not server.config.limit_max_image_pixels


def test_one_port_and_one_host_move_the_server(mooring, server):
    mooring("serve", "--port", "0", "--host", "0.0.0.0", "--workers", "3", "--device", "cpu")
    config = server.config
    assert config.inference_address == config.grpc_address == Address("0.0.0.0", 0)
    assert config.management_address == config.metrics_address == Address("127.0.0.1", 0)
    assert (config.default_workers_per_model, config.device) == (3, "cpu")


def test_a_gpu_that_is_not_there_is_one_line_and_status_1(mooring, server, monkeypatch):
    monkeypatch.setattr("mooring.hardware.find_devices", lambda: {"CPU": 8})
    done = mooring("serve", "--device", "gpu")
    expected = "Error: device = 'gpu': there is no GPU on this machine; give cpu, or leave it out\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", expected)


def test_every_setting_is_an_option_of_help(mooring):
    shown = mooring("serve", "--help").output
    named = [name for name in SETTINGS if name != "targets" and not is_secret(name)]
    assert all(f"--{name.replace('_', '-')}" in shown for name in named)


def test_a_bad_setting_is_one_line_and_status_1(mooring, server):
    done = mooring("serve", "--job-queue-size", "many")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: --job-queue-size = 'many': ")
    assert done.stderr.count("\n") == 1
    assert server.config is None


def test_a_model_that_does_not_load_is_one_line_and_status_1(mooring, server):
    server.fails = ModelLoadFailed("no such file: a.mar")
    done = mooring("serve", "a.mar")
    assert (done.exit_code, done.stderr) == (1, "Error: no such file: a.mar\n")


def test_a_port_that_is_taken_is_one_line_and_status_1(mooring, server):
    server.fails = OSError(98, "address already in use")
    done = mooring("serve", "a.mar")
    assert (done.exit_code, done.stderr) == (1, "Error: [Errno 98] address already in use\n")


def test_an_open_management_address_is_refused_until_the_user_insists(mooring, server):
    done = mooring("serve", "--management-address", "http://0.0.0.0:8081")
    assert done.exit_code == 1
    assert "--insecure" in done.stderr
    assert mooring("serve", "--management-address", "http://0.0.0.0:8081", "--insecure").exit_code == 3


def test_the_addresses_come_first_and_models_and_lines_to_try_at_the_end(mooring, server):
    server.models = [
        ModelState("bad", "1.0", "FAILED", ready=False, is_default=True, reason="no weights"),
        ModelState("digits", "1.0", "READY", ready=True, is_default=True),
    ]
    server.example = ExampleRequest("/predictions/digits", "/v2/models/digits", '{"x": ["it\'s"]}')
    assert mooring("serve", "--inference-address", "http://0.0.0.0:80").stdout.splitlines() == [
        "Mooring is starting.",
        "  inference   http://0.0.0.0:80",
        "  gRPC        127.0.0.1:7070",
        "  management  http://127.0.0.1:8081, gRPC 127.0.0.1:7071",
        "  metrics     http://127.0.0.1:8082",
        "  console     http://127.0.0.1:80/console",
        "Mooring is up.",
        "Try:",
        "  curl http://127.0.0.1:80/ping",
        """  curl http://127.0.0.1:80/predictions/digits -H "content-type: application/json" -d '{"x": ["it'"'"'s"]}'""",
    ]


def test_a_file_to_send_is_explained(mooring, server):
    server.example = ExampleRequest(
        "/predictions/m", "/v2/models/m", file="FILE", note="FILE is what it reads"
    )
    (line,) = [line for line in mooring("serve").stdout.splitlines() if "predictions" in line]
    assert line == "  curl http://127.0.0.1:8080/predictions/m -T FILE  # FILE is what it reads"


def test_a_start_in_json_is_events(mooring, server):
    done = mooring("serve", "--log-format", "json")
    assert done.stdout == ""
    first, last = map(json.loads, done.stderr.splitlines())
    assert [first["message"], last["message"]] == ["Mooring is starting.", "Mooring is up."]
    assert first["fields"] == last["fields"]
    assert first["fields"]["metrics"] == "http://127.0.0.1:8082"


def test_the_greeting_in_a_dialect_of_v2_tries_v2(mooring, server):
    server.models = [
        ModelState("f__step", "1.0", "READY", ready=True, is_default=True, listed=False),
        ModelState("m", "1.0", "READY", ready=True, is_default=True),
    ]
    server.example = ExampleRequest("/predictions/m", "/v2/models/m", "{}")
    lines = mooring("serve", "--dialect", "triton").stdout.splitlines()
    assert lines[-2:] == [
        "  curl http://127.0.0.1:8080/v2/health/ready",
        "  curl http://127.0.0.1:8080/v2/models/m",
    ]
    assert not any("f__step" in line for line in lines)


def test_the_greeting_reaches_a_unix_socket_too(mooring, server):
    server.example = ExampleRequest("/predictions/m", "/v2/models/m")
    done = mooring("serve", "--inference-address", "unix:/tmp/s")
    assert "  curl --unix-socket /tmp/s http://localhost/ping" in done.stdout.splitlines()


def test_the_greeting_says_when_there_is_nothing_to_serve(mooring, server):
    assert (
        "  no models: name some, as in `mooring serve app.py`; `mooring serve --help` says what else can be served"
        in mooring("serve").stdout
    )


def test_the_greeting_of_an_empty_server_says_how_its_store_or_repository_gives_it_models(
    mooring, server, tmp_path
):
    (tmp_path / "models").mkdir()
    register = 'no models: register some, as in `curl -X POST "http://127.0.0.1:8081/models?url=ARCHIVE&initial_workers=1"`'
    assert register in mooring("serve", "--model-store", "models").stdout
    load = "no models: load some, as in `curl -X POST http://127.0.0.1:8080/v2/repository/models/NAME/load`"
    assert load in mooring("serve", "--model-repository", "models").stdout


def test_an_unknown_command_is_named(mooring):
    done = mooring("sreve")
    assert done.exit_code == 2
    assert "sreve" in done.stderr


def test_the_version_is_the_packages(mooring):
    import mooring as package

    assert mooring("--version").output == f"mooring {package.__version__}\n"

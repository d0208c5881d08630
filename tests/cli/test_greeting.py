"""The greeting of the commands that print it in one piece, as drop-in starts do."""

import pytest

from mooring.cli.greeting import Shown, format_greeting
from mooring.config.settings import Address, Config
from mooring.core.example_requests import ExampleRequest
from mooring.core.service import ModelState

EXAMPLE = ExampleRequest("/predictions/m", "/v2/models/m", '{"x": 1}')
READY = ModelState("m", "1.0", "READY", ready=True, is_default=True)
BAD = ModelState("bad", "1.0", "FAILED", ready=False, is_default=True, reason="no weights")


def greeting(models=(READY,), *, shown=None, **settings):
    return format_greeting(Config(**settings), models, EXAMPLE, up="It is up.", shown=shown or Shown())


def test_it_names_addresses_models_and_lines_to_try():
    assert greeting([BAD, READY]) == [
        "It is up.",
        "  inference   http://127.0.0.1:8080",
        "  gRPC        127.0.0.1:7070",
        "  management  http://127.0.0.1:8081, gRPC 127.0.0.1:7071",
        "  metrics     http://127.0.0.1:8082",
        "  console     http://127.0.0.1:8080/console",
        "  model       bad 1.0 failed: no weights",
        "  model       m 1.0 ready",
        "Try:",
        "  curl http://127.0.0.1:8080/ping",
        """  curl http://127.0.0.1:8080/predictions/m -H "content-type: application/json" -d '{"x": 1}'""",
    ]


def test_second_addresses_stand_beside_the_first_unless_they_are_the_same():
    second = {
        "second_inference_address": Address("0.0.0.0", 80),
        "second_grpc_address": Address("0.0.0.0", 81),
    }
    assert greeting(**second)[1:3] == [
        "  inference   http://127.0.0.1:8080 and http://0.0.0.0:80",
        "  gRPC        127.0.0.1:7070 and 0.0.0.0:81",
    ]
    assert greeting(second_grpc_address=Address("127.0.0.1", 7070))[2] == "  gRPC        127.0.0.1:7070"


def test_tokens_for_managing_alone_are_in_no_command_to_try(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key_file.json").touch()
    lines = greeting(token_authorization="management", inference_address=Address("0.0.0.0", 8080))
    (needed,) = [line for line in lines if "needed" in line]
    assert needed.strip() == "needed to manage models at http://0.0.0.0:8080"
    assert not any("$TOKEN" in line for line in lines)


def test_what_was_shown_before_is_left_out():
    assert greeting([BAD, READY], shown=Shown(addresses=True, reasons=True))[:4] == [
        "It is up.",
        "  model       bad 1.0 failed",
        "  model       m 1.0 ready",
        "Try:",
    ]
    assert greeting([BAD, READY], shown=Shown(addresses=True, models=True))[:2] == ["It is up.", "Try:"]


def test_a_large_store_stays_short():
    lines = greeting([ModelState(f"m{n}", "1.0", "READY", ready=True, is_default=True) for n in range(100)])
    assert len(lines) < 20
    assert "  and 92 more models" in lines


def test_it_says_what_was_left_out():
    missing = ModelState("m", "", "UNAVAILABLE", ready=False, is_default=False, reason="it is empty")
    assert "  model       m unavailable: it is empty" in greeting([missing])


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"inference_address": Address("::", 80)}, "curl http://127.0.0.1:80/predictions/m "),
        (
            {"inference_address": Address(path="/a b/s")},
            "curl --unix-socket '/a b/s' http://localhost/predictions/m ",
        ),
        (
            {"inference_address": Address("h", 1, secure=True), "client_ca_file": "ca.pem"},
            "curl --cert CERTIFICATE --key KEY https://h:1/predictions/m ",
        ),
    ],
)
def test_the_command_reaches_the_address(settings, command):
    assert greeting(**settings)[-1].startswith(f"  {command}")


def test_the_command_brings_a_token_where_one_is_needed():
    assert greeting(inference_token_file="t")[-1].endswith('\'{"x": 1}\' -H "Authorization: Bearer $TOKEN"')

"""Keyword arguments of mooring.serve as flags, variables and ports: pure rules."""

import os
import sys
from pathlib import Path

import pytest

from mooring.config.settings import Address, ConfigError
from mooring.python_api.environment import child_environment
from mooring.python_api.ports import choose_port, names_a_place
from mooring.python_api.server import in_python_terms
from mooring.python_api.settings import check_names, to_flags, to_variables


def test_settings_become_flags_of_the_same_names():
    given = {
        "job_queue_size": 5,
        "access_log": True,
        "enable_metrics_api": False,
        "models": ["a", "b"],
        "model_store": Path("store"),
        "inference_address": Address("127.0.0.1", 9000),
        "model_settings": {"m": {"1.0": {"minWorkers": 2}}},
        "log_level": None,
    }
    assert to_flags(given) == [
        "--job-queue-size=5",
        "--access-log",
        "--no-enable-metrics-api",
        "--models=a",
        "--models=b",
        "--model-store=store",
        "--inference-address=http://127.0.0.1:9000",
        '--model-settings={"m": {"1.0": {"minWorkers": 2}}}',
    ]


def test_secrets_are_variables_and_no_flags():
    given = {"inference_token": "x" * 32, "port": 1}
    assert to_flags(given) == ["--port=1"]
    assert to_variables(given) == {"MOORING_INFERENCE_TOKEN": "x" * 32}


def test_a_value_that_cannot_be_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"^job_queue_size = 'many'"):
        to_flags({"job_queue_size": "many"})


def test_an_unknown_name_is_a_type_error_with_the_nearest_one():
    check_names({"job_queue_size": 1}, ["port"])
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'prot'; did you mean 'port'\?"):
        check_names({"prot": 1}, ["port"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'targets'"):
        check_names({"targets": "x"}, ["port"])


def test_the_default_ports_are_taken_where_all_are_free():
    assert choose_port(lambda _host, _port: True) is None
    assert choose_port(lambda _host, port: port != 7070) == 8080
    assert choose_port(lambda _host, port: port > 8082) == 8083
    assert choose_port(lambda _host, _port: True, 8090) == 8090
    assert choose_port(lambda _host, _port: False) == 0


def test_whoever_says_where_the_server_listens_is_left_alone():
    assert names_a_place({"inference_address": "127.0.0.1:1"}, {})
    assert names_a_place({}, {"MOORING_PORT": "9000"})
    assert not names_a_place({"metrics_address": "127.0.0.1:1"}, {"PORT": "1"})


def test_workers_import_what_the_caller_does(tmp_path):
    path = ["", str(tmp_path), f"{sys.prefix}/lib/python3/site-packages"]
    found = child_environment({"HOME": "/root", "PYTHONPATH": "/own"}, path)
    assert found == {"HOME": "/root", "PYTHONPATH": os.pathsep.join(["/own", str(Path.cwd()), str(tmp_path)])}
    assert child_environment({"A": "b"}, []) == {"A": "b"}


def test_a_project_below_the_interpreters_prefix_is_not_taken_for_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    project = str(tmp_path / "src" / "app")
    assert child_environment({}, [str(tmp_path / "bin"), project]) == {"PYTHONPATH": project}


def test_errors_of_the_command_are_told_in_terms_of_python():
    told = in_python_terms(
        "/tmp/mooring-x/f/_mooring_served_object.py, line 5: KeyError: 1; --keep-going or --no-such"
    )
    assert told == "KeyError: 1; keep_going= or --no-such"

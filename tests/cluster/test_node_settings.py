"""The settings of a command reach every node server as they are, but for what is the command's own."""

from pathlib import Path

import pytest

from mooring.cluster.node_settings import encode_node_settings, open_to_others
from mooring.config.settings import Address, ConfigError, Secret
from mooring.config.sources.loading import load_config
from mooring.config.sources.origins import Origins


def read_again(text, tmp_path):
    file = tmp_path / "server.toml"
    file.write_text(text)
    return load_config({}, {}, file)


def test_a_node_server_reads_what_the_command_was_given(tmp_path):
    given = {
        "inference_address": "http://10.0.0.1:9000",
        "cors_allowed_origin": ["https://a.example", "https://b.example"],
        "drain_timeout": "2.5",
        "job_queue_size": "7",
        "console": "false",
        "show_errors": "true",
        "management_token_file": "/etc/token",
        "model_settings": '{"m": {"1.0": {"batchSize": 4}}}',
    }
    config = load_config(given, {})
    assert read_again(encode_node_settings(config), tmp_path) == config


def test_paths_are_those_of_the_command_wherever_a_server_runs():
    config = load_config({"certificate_file": "cert.pem", "private_key_file": "key.pem"}, {})
    assert f'certificate_file = "{Path.cwd()}/cert.pem"' in encode_node_settings(config)


def test_what_names_models_and_the_cluster_stays_with_the_command():
    config = load_config({"targets": ["a.mar"], "cluster": "auto", "cluster_nodes": ["zone=a"]}, {})
    assert encode_node_settings(config) == ""


def test_nodes_load_from_the_operators_folders_when_clients_ask_and_not_at_their_start(tmp_path):
    folders = {"model_store": "store", "model_repository": ["one", "two"]}
    config = read_again(encode_node_settings(load_config(folders, {})), tmp_path)
    assert config.model_store == Path.cwd() / "store"
    assert config.model_repository == (Path.cwd() / "one", Path.cwd() / "two")
    assert not config.repository_load_existing


@pytest.mark.parametrize(
    ("secret", "hint"),
    [
        ("management_token", "a file that every node has, as management_token_file"),
        ("keystore_pass", "use PEM files"),
    ],
)
def test_a_secret_is_not_sent(secret, hint):
    config = load_config({}, {f"MOORING_{secret.upper()}": "hidden"})
    assert getattr(config, secret) == Secret("hidden")
    with pytest.raises(ConfigError, match=hint) as raised:
        encode_node_settings(config)
    assert "hidden" not in str(raised.value)


def test_what_is_for_one_machine_is_refused():
    with pytest.raises(ConfigError, match="reload is for one machine"):
        encode_node_settings(load_config({"reload": True}, {}))


@pytest.mark.parametrize(
    ("flags", "host"),
    [
        ({}, "0.0.0.0"),
        ({"port": 9000}, "0.0.0.0"),
        ({"host": "10.0.0.1"}, "10.0.0.1"),
        ({"inference_address": "http://127.0.0.1:1"}, "127.0.0.1"),
    ],
)
def test_inference_is_open_to_other_machines_unless_a_host_is_named(flags, host):
    origins = Origins()
    config = open_to_others(load_config(flags, {}, origins=origins), origins)
    assert config.inference_address.host == host
    assert config.management_address.host == "127.0.0.1"
    assert isinstance(config.inference_address, Address)

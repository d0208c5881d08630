"""The list of the settings in force."""

from mooring.config.settings import SETTINGS, Config, Secret
from mooring.console.settings_in_force import list_settings


def test_every_setting_is_listed_once_with_its_value_its_default_and_its_source():
    config = Config(log_level="debug", management_token=Secret("a-secret-token"))
    rows = list_settings(config, lambda name: "here" if name == "log_level" else "default")
    assert sorted(row["name"] for row in rows) == sorted(SETTINGS)
    found = {row["name"]: row for row in rows}
    assert found["log_level"] == {
        "group": "Log and metrics", "name": "log_level", "value": "debug", "default": "info", "source": "here",
        "text": SETTINGS["log_level"],
    }  # fmt: skip
    assert "a-secret-token" not in str(rows)


def test_urls_lose_their_passwords_and_signatures():
    config = Config(targets=("m=https://me:hidden-word@a.example/m.onnx?sig=hidden-too", "local.onnx"))
    (row,) = [row for row in list_settings(config, str) if row["name"] == "targets"]
    assert row["value"] == "m=https://a.example/m.onnx,local.onnx"

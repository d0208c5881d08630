"""The settings in force, each with its default and with where it was set. Secrets are not among the values."""

import re
from collections.abc import Callable
from typing import Any

from mooring.config.setting_groups import GROUPS, text_of
from mooring.config.settings import DEFAULTS, SETTINGS, Config
from mooring.repository.fetch import url_for_log

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^,\s]+")
_WITH_URLS = frozenset({"targets", "models", "startup_models"})  # which may have a password or a signature


def list_settings(config: Config, origin_of: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return every setting, in the groups and the order of the guide. ``origin_of`` returns where one was set."""
    return [
        {
            "group": group,
            "name": name,
            "value": _text_of(name, getattr(config, name)),
            "default": text_of(name, getattr(DEFAULTS, name)),
            "source": origin_of(name),
            "text": SETTINGS[name],
        }
        for group, names in GROUPS.items()
        for name in names
    ]


def _text_of(name: str, value: Any) -> str:
    text = text_of(name, value)
    return _URL.sub(lambda match: url_for_log(match[0]), text) if name in _WITH_URLS else text

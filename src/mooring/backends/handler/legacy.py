"""Small things of ``ts.utils.util`` that users' handlers import."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def get_yaml_config(yaml_file_path: str) -> dict[str, Any]:
    """A YAML file as a dict, read without running anything; empty where there is no such file."""
    path = Path(yaml_file_path)
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def deprecated(version: str, replacement: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function as going away in ``version``; calling it warns."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def warn_and_call(*args: Any, **kwargs: Any) -> Any:
            instead = f"; use {replacement}" if replacement else ""
            text = f"{function.__name__} is deprecated and goes away in {version}{instead}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return warn_and_call

    return decorate

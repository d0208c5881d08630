"""Parsing a setting's value into its own type, from a text or from the types of a file."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mooring.config.settings import (
    DEFAULTS,
    KINDS,
    SETTINGS,
    TYPES,
    Address,
    ConfigError,
    Folder,
    Folders,
    Names,
    Secret,
    Snapshot,
    Versions,
)
from mooring.core.options import compile_header_pattern
from mooring.core.validation import explain_validation


def parse_setting(name: str, value: Any, where: str, *, strict: bool = False) -> Any:
    """Parse a setting's value into its own type. Unless ``strict``, a text may stand for a number or a switch.

    Raises ``ConfigError``, which names ``where`` the value stands.
    """
    kind = KINDS[name]
    try:
        if not strict and isinstance(value, str):
            value = value.strip()
        if kind is Address:
            return Address.parse(msgspec.convert(value, str), getattr(DEFAULTS, name).port)
        if kind == Address | None:
            text = msgspec.convert(value, str)
            return Address.parse(text, 0) if text else None
        if kind == Folder:
            return Path(value) if msgspec.convert(value, str) else None
        if kind == Folders:
            texts = value.split(",") if isinstance(value, str) else msgspec.convert(value, list[str])
            return tuple(Path(each.strip()) for each in texts if each.strip())
        if kind is Secret:
            return Secret(msgspec.convert(value, str))
        if kind == Names:
            names = _split_names([value] if isinstance(value, str) else msgspec.convert(value, list[str]))
            return tuple(_CHECKED[name](names) if name in _CHECKED else names)
        if name in _CHECKED_TEXTS:
            return _CHECKED_TEXTS[name](msgspec.convert(value, str))
        if kind in (Versions, Snapshot | None) and isinstance(value, str):
            value = json.loads(value)
        if name == "blacklist_env_vars":
            (value,) = _check_patterns([msgspec.convert(value, str)])
        if name == "forward_headers":
            (value,) = _check_patterns([msgspec.convert(value, str)], compile_header_pattern)
        return msgspec.convert(value, TYPES[name], strict=strict)
    except ValueError as error:
        shown = (
            "***" if kind is Secret else value if isinstance(value, str) else json.dumps(value, default=str)
        )
        # That a text came says nothing where all is text: in an environment variable, or as a flag.
        reason = _explain(error, name, came=strict or not isinstance(value, str))
        raise ConfigError(f"{where} = {shown!r}: {reason} ({SETTINGS[name]})") from None


def _explain(error: ValueError, name: str, *, came: bool) -> str:
    """Return what is wrong with the value of a setting, as the end of a text that shows the value."""
    if isinstance(error, msgspec.ValidationError):
        return explain_validation(error, TYPES[name], came=came, null=False).removeprefix("the value ")
    return f"must be JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)


def _split_names(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (part.strip() for part in text.split(",") if part.strip())


def _check_patterns(
    texts: Iterable[str], compile_pattern: Callable[[str], object] = re.compile
) -> Iterator[str]:
    for text in texts:
        try:
            compile_pattern(text)
        except re.error as error:
            raise ValueError(f"'{text}' is not a regular expression: {error}") from None
        yield text


def _check_origins(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        parts = urlsplit(text)
        if text != "*" and (text != f"{parts.scheme}://{parts.netloc}" or not parts.hostname):
            raise ValueError(
                f"'{text}' is not an origin, which is a scheme and a host, such as https://example.com"
            )
        yield text.lower()


def _check_hosts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        place = f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text
        try:
            host = urlsplit(f"//{place}").hostname or ""
        except ValueError:
            host = ""
        if not host or place.lower() not in (host, f"[{host}]"):
            raise ValueError(
                f"'{text}' is not the name or the address of a host alone, such as mooring.example.com"
            )
        yield host


def _check_tokens(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
            raise ValueError(f"'{text}' is not the name of a method or a header")
        yield text


_CHECKED: Mapping[str, Callable[[Iterable[str]], Iterator[str]]] = {
    "allowed_urls": _check_patterns,
    "trusted_hosts": _check_hosts,
    "cors_allowed_origin": _check_origins,
    "cors_allowed_methods": _check_tokens,
    "cors_allowed_headers": _check_tokens,
}


def _check_host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]").lower()
    shown = f"[{host}]" if ":" in host else host
    try:
        alone = not host or Address.parse(shown, 0) == Address(host, 0)
    except ValueError:
        alone = False
    if not alone:
        raise ValueError("give a host alone, such as 0.0.0.0, and the port as --port")
    return host


def _check_device(text: str) -> str:
    words = [word.strip() for word in text.lower().split(",")]
    if words not in ([""], ["cpu"], ["gpu"]) and not all(
        word.isdecimal() and word.isascii() for word in words
    ):
        raise ValueError("give cpu, gpu, or numbers of GPUs")
    return ",".join(dict.fromkeys(words))


_CHECKED_TEXTS: Mapping[str, Callable[[str], str]] = {"host": _check_host, "device": _check_device}


def suggest_name(name: str, known: Mapping[str, object], shown: Callable[[str], str] = str) -> str:
    """Complete an error with the known name that may have been meant, as it is shown; empty where none is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean '{shown(close[0])}'?" if close else ""

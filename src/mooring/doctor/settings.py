"""Examines TorchServe's config.properties, key by key, with the server's own reader."""

import difflib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from mooring.config.properties import format_properties, parse_properties
from mooring.config.settings import ConfigError
from mooring.config.sources.loading import load_config
from mooring.config.sources.torchserve import TORCHSERVE_DEFAULTS
from mooring.config.torchserve_keys import (
    WRITTEN,
    is_effective,
    known_keys,
    log_config_file,
    no_effect_reason,
)
from mooring.doctor.findings import Finding, at, change, differs, line_of, runs
from mooring.doctor.log_configs import is_log_config, log_config_findings

# Keys without effect here whose absence clients notice -> what to do.
_MISSED = {
    "plugins_path": "remove the line; do what the plugin did in a handler or in the proxy in front",
}
_TOKENS = {
    "disable_token_authorization": "where it is true nobody needs a token, as in TorchServe",
    "token_expiration_min": "how long a token lasts, as in TorchServe",
}
_MODEL_API = "says whether models may be registered; without it that is so where only this machine asks"
_PLUGINS = "plugins are Java code, which is not run here"


class Settings:
    """The keys of a config.properties. Raises ``OSError`` if it cannot be read."""

    def __init__(self, file: Path, shown: str) -> None:
        self.file = file
        self.shown = shown
        self._text = file.read_bytes()[: 1 << 20].decode("utf-8", "replace")
        self.values = parse_properties(self._text)

    @property
    def of_torchserve(self) -> bool:
        """Return whether the file is for TorchServe, not for another Java program."""
        return bool(known_keys() & self.values.keys())

    @property
    def installing(self) -> bool:
        """Return whether models' requirements are installed."""
        return self.values.get("install_py_dep_per_model", "").strip().lower() == "true"

    def stores(self) -> list[Path]:
        """Return the folders of archives and workflows that it names, if they exist."""
        places = [self.values.get(key, "") for key in ("model_store", "workflow_store")]
        return [self.file.parent / place for place in places if place and (self.file.parent / place).is_dir()]

    def where(self, key: str) -> str:
        """Return the place of a key: the file and the line."""
        return at(self.shown, line_of(self._text, key, "=: \t"))

    def findings(self) -> Iterator[Finding]:
        """Return the findings about all keys."""
        honored = 0
        wrong = False
        for key, value in self.values.items():
            if key in WRITTEN:
                continue
            if key not in known_keys():
                yield self._unknown_finding(key)
                continue
            effective, fault = has_effect(key, value)
            if fault:
                wrong = True
                yield change(self.where(key), fault, f"give {key} a value that is allowed")
            elif key in _TOKENS:
                yield runs(self.where(key), f"token setting {key} = {value}: {_TOKENS[key]}")
            elif key == "enable_model_api":
                yield differs(self.where(key), f"{key} = {value}: {_MODEL_API}")
            elif effective:
                honored += 1
            else:
                yield self._no_effect_finding(key)
        yield from self._log_config_findings()
        whole = "" if wrong else _find_fault(self.file)
        if whole:
            yield change(
                self.where("management_address"), whole, "keep the management address to this machine"
            )
        if not whole and not wrong and "disable_token_authorization" not in self.values:
            yield self._default_token_finding()
        if honored:
            yield runs(self.shown, f"{honored} of its keys mean the same here")

    def _log_config_findings(self) -> Iterator[Finding]:
        """The file that ``vmargs`` name, unless the walk through the folder finds it by its name."""
        vmargs = self.values.get("vmargs", "")
        named = log_config_file(vmargs)
        file = self.file.parent / named
        if named and not file.is_file():
            what = f"no log configuration '{named}', so the default one is used"
            yield differs(self.where("vmargs"), what, "give the path of the file")
        elif named and not (
            is_log_config(file) and file.resolve().is_relative_to(self.file.parent.resolve())
        ):
            yield from log_config_findings(file, named, vmargs)

    def _default_token_finding(self) -> Finding:
        if demanding := load_config({}, {}, self.file, defaults=TORCHSERVE_DEFAULTS).demanding_addresses:
            where = " and ".join(map(str, demanding))
            keys = (
                "management_address",
                "inference_address",
                "grpc_management_address",
                "grpc_inference_address",
            )
            place = self.where(next((key for key in keys if key in self.values), keys[0]))
            return runs(place, f"tokens are needed at {where}, which other machines reach, as in TorchServe")
        what = (
            "a call needs no token, since only this machine reaches the addresses, and a wrong one is refused; "
            "in TorchServe every call needs one"
        )
        return differs(self.shown, what, "set disable_token_authorization=false to demand them")

    def _no_effect_finding(self, key: str) -> Finding:
        if key in _MISSED:
            return change(self.where(key), _PLUGINS, _MISSED[key])
        why = no_effect_reason(key, self.values[key])
        return differs(self.where(key), f"{key} has no effect here: {why}", "the line may stay")

    def _unknown_finding(self, key: str) -> Finding:
        close = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.75)
        hint = f"did you mean {close[0]}?" if close else "remove it"
        return differs(self.where(key), f"{key} is not a key of TorchServe's, and is ignored by both", hint)


def has_effect(key: str, value: str) -> tuple[bool, str]:
    """Whether the server acts on a key, or does anyway what it asks for, and what is wrong with its value."""
    # The management address alone is refused beyond loopback for want of this other key.
    content = {"disable_token_authorization": "true", key: value}
    with tempfile.TemporaryDirectory(prefix="mooring-doctor-") as folder:
        file = Path(folder, "config.properties")
        file.write_text(format_properties(content))
        fault = _find_fault(file)
    return is_effective(key) or not no_effect_reason(key, value), fault.replace(f"{file}: ", "")


def _find_fault(file: Path) -> str:
    environ: Mapping[str, str] = {}
    try:
        load_config({}, environ, file, defaults=TORCHSERVE_DEFAULTS)
    except ConfigError as error:
        return str(error)
    return ""

"""Examines configurations of log4j with the server's own reader."""

import os
from collections.abc import Iterator
from pathlib import Path

from mooring.config.torchserve_keys import system_properties
from mooring.doctor.findings import Finding, change, differs, runs
from mooring.observability.log_output.log4j import read_log_config
from mooring.observability.log_output.log4j_tree import BrokenLogConfig


def is_log_config(file: Path) -> bool:
    """Return whether a file is one by its name, such as log4j2.xml."""
    return file.name.startswith("log4j") and file.suffix in {".xml", ".properties", ".json", ".yaml", ".yml"}


def log_config_findings(file: Path, shown: str, vmargs: str = "") -> Iterator[Finding]:
    """Return what of a configuration is obeyed, and what is not understood."""
    try:
        _, not_understood = read_log_config(file, os.environ, system_properties(vmargs))
    except BrokenLogConfig as error:
        text = str(error).removeprefix(str(file)).lstrip(": ")
        yield change(
            shown, f"a log configuration that cannot be read: {text}", "mend it, or start without it"
        )
        return
    yield runs(shown, "a log configuration, which is obeyed when --log-config or vmargs name it")
    if not_understood:
        what = f"a log configuration, of which this is not understood: {', '.join(not_understood)}"
        yield differs(shown, what, "the rest is obeyed; the lines may stay")

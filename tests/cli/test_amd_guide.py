"""docs/guide-amd.md names the flags that the command has, and no others."""

import re
from pathlib import Path

from mooring.cli.amdinfer_server import amdinfer_server

GUIDE = Path(__file__).parents[2] / "docs" / "guide-amd.md"


def test_the_guide_has_every_flag():
    flags = GUIDE.read_text().split("## Flags")[1].split("## Habits")[0]
    named = {
        flag
        for row in flags.splitlines()
        for flag in re.findall(r"`(--[a-z-]+)`", row.split("|")[1] if "|" in row else "")
    }
    known = {option for parameter in amdinfer_server.params for option in parameter.opts} | {"--help"}
    assert named == known

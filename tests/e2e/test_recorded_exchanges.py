"""What the server says on the wire, byte for byte: exchanges of every protocol, as they were recorded.

A difference is a change that clients see. Where it is meant, ``make record-exchanges`` records the answers anew, and
the difference is read before it is committed. ``tests/exchanges/masks.py`` has the table of what may differ.
"""

import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_kit import Server
from exchanges.groups import GROUPS, RECORDED
from exchanges.player import play
from exchanges.servers import started

# The same answers must come from frontend processes, which take all connections of this program.
FRONTENDS = (sys.executable, Path(__file__).parent / "only_frontends.py")
SPREAD = ("--frontends=2", "--deal-connections=evenly")
SERVERS = [
    *((name, (), Server.PROGRAM) for name in GROUPS),
    *((name, SPREAD, FRONTENDS) for name in ("every", "guarded", "amd")),
]


@pytest.mark.parametrize(
    ("server", "flags", "program"), SERVERS, ids=["-".join((name, *flags)) for name, flags, _ in SERVERS]
)
def test_the_server_answers_as_it_was_recorded(server, flags, program):
    with started(server, *flags, program=program) as ports:
        played = {name: play(exchanges, ports) for name, exchanges in GROUPS[server].items()}
    found = [line for name, text in played.items() for line in differences(name, text)]
    if found:
        pytest.fail("\n".join(["the server answers otherwise than it was recorded:", *found]), pytrace=False)


def differences(name: str, text: str) -> Iterator[str]:
    """Each exchange that is not as it was recorded, as a difference that reads well."""
    recorded, played = exchanges_of((RECORDED / f"{name}.txt").read_text()), exchanges_of(text)
    for title in recorded | played:
        before, now = recorded.get(title, []), played.get(title, [])
        if before != now:
            yield f"--- {name}.txt: {title}"
            yield from list(difflib.unified_diff(before, now, "recorded", "played", lineterm="", n=4))[2:]


def exchanges_of(text: str) -> dict[str, list[str]]:
    """The lines of each exchange by its title."""
    parts = re.split(r"^=== (.*)\n", text, flags=re.MULTILINE)[1:]
    return {title: body.splitlines() for title, body in zip(parts[::2], parts[1::2], strict=True)}


def test_no_two_exchanges_have_one_name():
    for groups in GROUPS.values():
        for exchanges in groups.values():
            names = [exchange.name for exchange in exchanges]
            assert sorted(set(names)) == sorted(names)

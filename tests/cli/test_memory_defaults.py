"""Where the settings say nothing, requests take a part of the memory that there is."""

import pytest

from mooring.cli import launch
from mooring.cli.memory_defaults import fit_to_memory
from mooring.config.settings import DEFAULTS, Config
from mooring.config.sources.origins import Origins

MB = 1 << 20


def fit(memory, config=DEFAULTS, *chosen):
    origins, warnings = Origins(), []
    for name in chosen:
        origins.note(name, "the test")
    return fit_to_memory(config, memory, origins, warnings), origins, warnings


def test_where_there_is_much_memory_nothing_changes():
    for memory in (4 << 30, 8 << 30):
        fitted, _, warnings = fit(memory)
        assert (fitted, warnings) == (DEFAULTS, [])


@pytest.mark.parametrize(
    ("memory", "frontends", "arena", "bodies"),
    [(512 * MB, 1, 64 * MB, 128 * MB), (1000 * MB, 1, 64 * MB, 250 * MB), (1024 * MB, 4, 32 * MB, 64 * MB), (1, 1, 65_536, 65_536)],
)  # fmt: skip
def test_processes_divide_an_eighth_and_a_quarter_of_it(memory, frontends, arena, bodies):
    fitted, origins, _ = fit(memory, Config(frontends=frontends))
    assert (fitted.arena_size, fitted.max_body_memory) == (arena, bodies)
    assert (
        origins.of("arena_size") == origins.of("max_body_memory") == f"default for {memory} bytes of memory"
    )


def test_what_the_user_has_set_stays_and_is_a_warning_where_it_does_not_fit():
    fitted, origins, warnings = fit(512 * MB, Config(max_body_memory=700 * MB), "max_body_memory")
    assert (fitted.arena_size, fitted.max_body_memory) == (64 * MB, 700 * MB)
    assert origins.of("max_body_memory") == "the test"
    (warning,) = warnings
    assert f"requests may take {764 * MB} bytes of memory, and this server may use {512 * MB}" in warning
    assert fit(2048 * MB, Config(max_body_memory=700 * MB), "max_body_memory")[2] == []


def test_a_start_asks_for_the_memory_that_there_is(mooring, server, monkeypatch):
    monkeypatch.setattr(launch, "usable_memory", lambda: 512 * MB)
    mooring("serve", "--max-body-memory", "1000")
    assert (server.config.arena_size, server.config.max_body_memory) == (64 * MB, 1000)


def test_a_command_that_sends_its_settings_elsewhere_sends_none_of_its_own_memory(monkeypatch):
    """As for the nodes of a cluster, each of which has memory of its own."""
    monkeypatch.setattr(launch, "usable_memory", lambda: 512 * MB)
    config = launch.read_config({}, None, [], Origins())
    assert (config.arena_size, config.max_body_memory) == (DEFAULTS.arena_size, DEFAULTS.max_body_memory)

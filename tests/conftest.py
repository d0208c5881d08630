"""What every test may rely on: no setting of the machine leaks in, and examples of hypothesis may take their time."""

import gc
import os
import signal
import subprocess
import tempfile
import time

import pytest
from hypothesis import is_hypothesis_test, settings
from parallel import FileScheduling, Progress

# Two cores shared with others: how long an example takes says nothing about the code.
settings.register_profile("mooring", deadline=None, max_examples=50)
settings.register_profile("long", deadline=None, max_examples=100)
settings.register_profile("unit", deadline=None, max_examples=20)
settings.load_profile("mooring")

for _name in [name for name in os.environ if name.startswith(("MOORING_", "TS_"))]:
    del os.environ[_name]
# Otherwise each of the thousands of processes that tests start compiles every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What servers keep from start to start is no business of the machine's either.
_CACHE = tempfile.TemporaryDirectory(prefix="mooring-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name
# Under nohup a hangup is ignored, and what is started here inherits that; a handler is not inherited.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def pytest_addoption(parser):
    parser.addoption(
        "--long",
        action="store_true",
        help="run in full what is repeated so often that it takes minutes",
    )
    parser.addoption(
        "--containers",
        action="store_true",
        help="build the image of the server and run it, which takes minutes and needs root, buildah and debootstrap",
    )
    parser.addoption(
        "--fuzz",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="run each test of hypothesis again and again, so long in all",
    )
    parser.addoption(
        "--unit",
        action="store_true",
        help="leave out what is marked as slow by nature, let nothing start a process, try few examples of hypothesis",
    )


@pytest.fixture(scope="session")
def long_run(pytestconfig):
    """Whether ``--long`` was given: each test that is repeated hundreds of times is then repeated as often as it can be."""
    return pytestconfig.getoption("--long")


@pytest.hookimpl(trylast=True)  # after xdist has registered its session
def pytest_configure(config):
    if config.getoption("--unit"):
        settings.load_profile("unit")
    elif config.getoption("--long") or config.getoption("--fuzz"):
        settings.load_profile("long")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if config.pluginmanager.hasplugin("dsession") and terminal and config.option.verbose == 0:
        config.pluginmanager.register(Progress(terminal), "mooring-progress")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without looking for garbage: the 14,000 tests all stay, and looking takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_xdist_make_scheduler(config, log):
    return FileScheduling(config, log)


def pytest_xdist_auto_num_workers():
    """``-n auto``: two processes more than there are cores, as many tests wait for a server or for Ray; each needs a gigabyte."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores + 2, 8)


@pytest.fixture(autouse=True)
def _no_processes(pytestconfig, monkeypatch):
    """With --unit, a test that starts a process fails and says what to do."""
    if pytestconfig.getoption("--unit"):

        def refuse(*_args, **_more):
            raise AssertionError("this test starts a process: mark it with pytest.mark.processes")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        monkeypatch.setattr(os, "fork", refuse)


def pytest_collection_modifyitems(config, items):
    """With --unit, only the tests that start no process and do not wait on connections.

    With --fuzz, the tests of hypothesis alone; each gets its share of the time, and at least one run.
    """
    if config.getoption("--unit"):
        chosen = [
            each
            for each in items
            if not any(each.get_closest_marker(name) for name in ("processes", "sockets"))
        ]
        config.hook.pytest_deselected(items=[each for each in items if each not in set(chosen)])
        items[:] = chosen
    seconds = config.getoption("--fuzz")
    if not seconds:
        return
    chosen = [each for each in items if is_hypothesis_test(getattr(each, "obj", None))]
    config.hook.pytest_deselected(items=[each for each in items if each not in chosen])
    items[:] = chosen
    for each in chosen:
        each.share = seconds / len(chosen)
        each.add_marker(pytest.mark.timeout(60 + 20 * each.share))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """The test, and the same with other examples until its share is used up."""
    end = time.monotonic() + getattr(pyfuncitem, "share", 0.0)
    result = yield
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < end:
        pyfuncitem.obj(**arguments)
    return result

"""A parallel run of the suite (``pytest -n``): how its tests are spread over processes, and what a person sees of it."""

import time

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Tests of this xdist_group run in one process: they ask a server that would else be started once in every process.
SHARED_SERVER = "shared server"
# What takes long is handed out first, and in this order; the rest follows as it is collected.
FIRST = (
    "ray",  # groups of files which use what there should be only one of at a time
    "kserve",
    SHARED_SERVER,
    "tests/browser/",
    "tests/faults/",
    "tests/cluster/",
    "tests/workers/test_frozen.py",
    "tests/workers/test_faults.py",
    "tests/docs/",
    "tests/deploy/",
    "tests/e2e/",
    "tests/repository/test_requirements.py",
    "tests/workers/",
    "tests/web/test_fuzz.py",
    "tests/protocols/test_v2_models.py",
    "tests/conformance/",
    "tests/soak/",
    "tests/benchmarks/",
    "tests/examples/",
)


class FileScheduling(LoadScopeScheduling):
    """All tests of a file run in one process and in their order, so that the servers of a file start once.

    So do the tests of an xdist_group. What takes long is handed out first.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)


def scope_of(nodeid: str) -> str:
    """The group of a test, which xdist has put behind its name and an "@", or else its file."""
    _, at, group = nodeid.rpartition("@")
    return group if at and "]" not in group else nodeid.partition("::")[0]


def rank(scope: str) -> int:
    """The place of a file or group in the order in which they are handed out."""
    return next((place for place, start in enumerate(FIRST) if scope.startswith(start)), len(FIRST))


def weigh(nodeid: str) -> int:
    """How much of the time of a run a test may take, in the time of a test that starts no server."""
    return 10 if rank(scope_of(nodeid)) < len(FIRST) else 1


class Progress:
    """One line every few percent of the tests, and one for each failure as it happens, instead of a dot for each test."""

    PERCENT = 5
    SECONDS = 1.0, 20.0  # the least and the most between two lines

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._total = self._done = self._failed = 0
        self._total_weight = self._done_weight = 0
        self._running: set[str] = set()
        self._started = self._written = time.monotonic()
        self._next = self.PERCENT

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._total, self._total_weight = len(ids), sum(map(weigh, ids))

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Count a result as usual, but write no letter for it."""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        if report.skipped:
            return "skipped", "", "SKIPPED"
        return ("passed", "", "PASSED") if report.when == "call" else ("", "", "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running.add(nodeid)
        self._write_progress(time.monotonic())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message.partition("\n")[0] if crash else ""
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when}): {reason}", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.discard(nodeid)
        self._done += 1
        self._done_weight += weigh(nodeid)

    def _write_progress(self, now: float) -> None:
        """Write a line if one is due."""
        percent = 100 * self._done_weight // max(self._total_weight, 1)
        least, most = self.SECONDS
        since = now - self._written
        if (percent >= self._next and since > least) or since > most:
            self._written = now
            self._next = percent - percent % self.PERCENT + self.PERCENT
            self._terminal.write_line(self._line(percent, now))

    def _line(self, percent: int, now: float) -> str:
        minutes, seconds = divmod(int(now - self._started), 60)
        failed = f", {self._failed} failed" if self._failed else ""
        files = ", ".join(sorted({nodeid.partition("::")[0] for nodeid in self._running}))
        return f"{percent:3} %  {minutes}:{seconds:02}  {self._done} of {self._total} tests{failed}  {files}"

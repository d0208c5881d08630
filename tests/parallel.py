"""A parallel run of the suite (``pytest -n``): how its tests are spread over processes, and what a person sees of it."""

import time

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Tests of this xdist_group are run when no other test is: they hold something to a limit that other work would break.
ALONE = "alone"
# Tests of this group run in one process: they ask a server that would else be started once in every process.
SHARED_SERVER = "shared server"
# What takes long is handed out first, and in this order; the rest follows as it is collected.
FIRST = (
    "tests/e2e/test_kserve_clients.py",  # installs a client with pip
    SHARED_SERVER,
    "tests/faults/",
    "tests/workers/test_frozen.py",
    "tests/workers/test_faults.py",
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

    So do the tests of an xdist_group. Files that take long are handed out first. The group ``alone`` is handed out
    last, to one process, once every other process has ended its tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        """The group, which xdist has put behind the name of the test and an "@", or else the file."""
        _, at, group = nodeid.rpartition("@")
        return group if at and "]" not in group else nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        scope = min(self.workqueue, key=rank)
        if scope == ALONE and len(self.nodes) > 1:
            if any(other is not node and not other.shutting_down for other in self.nodes):
                node.shutdown()  # after the tests that it has; the last of the processes stays for this unit
            return
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        if list(self.workqueue) == [ALONE]:
            for other in self.nodes:
                self._reschedule(other)
        return crashed


def rank(scope: str) -> int:
    """The place of a file or group in the order in which they are handed out."""
    if scope == ALONE:
        return len(FIRST) + 1
    return next((place for place, start in enumerate(FIRST) if scope.startswith(start)), len(FIRST))


class Progress:
    """One line every few percent of the tests, and one for each failure as it happens, instead of a dot for each test."""

    PERCENT = 5
    SECONDS = 1.0, 20.0  # the least and the most between two lines

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._total = self._done = self._failed = 0
        self._running: set[str] = set()
        self._started = self._written = time.monotonic()
        self._next = self.PERCENT

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._total = len(ids)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Count a result as usual, but write no letter for it."""
        if report.failed:
            return ("failed", "", "FAILED") if report.when == "call" else ("error", "", "ERROR")
        if report.skipped:
            return "skipped", "", "SKIPPED"
        return ("passed", "", "PASSED") if report.when == "call" else ("", "", "")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running.add(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed += 1
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message.partition("\n")[0] if crash else ""
            self._terminal.write_line(f"FAILED {report.nodeid} ({report.when}): {reason}", red=True)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.discard(nodeid)
        self._done += 1
        now = time.monotonic()
        percent = 100 * self._done // max(self._total, 1)
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

"""The Python process that started this server with ``mooring.serve``: it is told how the start ends, and the server ends with it.

It may be killed at any moment, and the thread in which it called ``serve`` may end long before it: the kernel's signal at
the death of a parent (``signals.end_with_parent``) comes with that thread. So a thread of ours looks who our parent is.
"""

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click
import msgspec

from mooring.child_server import CALLER, CallerNotice, ModelReport, StartReport, write_report

if TYPE_CHECKING:
    from mooring.config.settings import Config
    from mooring.core.service import ModelState

# Seconds between two looks at the parent, and from its end until requests that still run are given up, and then all.
_LOOK, _FINISH, _KILL = 0.5, 5.0, 5.0


class Caller:
    """Who started this server. ``close`` it when the server has ended."""

    def __init__(self, notice: CallerNotice) -> None:
        self._notice = notice
        self._reported = False
        for descriptor in (notice.report, notice.lock):
            if descriptor >= 0:
                os.set_inheritable(descriptor, False)  # not for workers
        threading.Thread(target=self._watch, name="caller", daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self._notice.pid:
            time.sleep(_LOOK)
        for number, seconds in ((signal.SIGTERM, _FINISH), (signal.SIGTERM, _KILL)):
            os.kill(os.getpid(), number)
            time.sleep(seconds)
        self.close()
        os.kill(os.getpid(), signal.SIGKILL)

    def report_start(self, config: "Config", models: "Sequence[ModelState]") -> None:
        """Tell the caller that the server runs, at which addresses, and what became of its models."""
        metrics = str(config.metrics_address) if config.enable_metrics_api else ""
        management = str(config.management_address) if config.enable_management_api else ""
        self._report(
            StartReport(
                inference=str(config.inference_address),
                grpc=str(config.grpc_address),
                management=management,
                metrics=metrics,
                models=[ModelReport(each.name, each.version, each.ready, each.reason) for each in models],
            )
        )

    def tell_errors(self, command: Callable[[], object]) -> None:
        """Run the command. A mistake that it reports goes to the caller, too, and ends this process with its status."""
        try:
            command()
        except click.ClickException as error:
            # The cause says of which kind it is.
            self._report(
                StartReport(error=error.format_message(), kind=type(error.__cause__ or error).__name__)
            )
            error.show()
            sys.exit(error.exit_code)

    def _report(self, report: StartReport) -> None:
        if not self._reported:
            self._reported = True
            write_report(self._notice.report, report)

    def close(self) -> None:
        """Remove the folder that the caller made for this server."""
        if self._notice.folder:
            shutil.rmtree(self._notice.folder, ignore_errors=True)


def find_caller(environment: MutableMapping[str, str]) -> Caller | None:
    """Return who started this process, if a Python process did, and take it out of the variables."""
    text = environment.pop(CALLER, "")
    if not text:
        return None
    with suppress(msgspec.MsgspecError):
        notice = msgspec.json.decode(text, type=CallerNotice)
        # Otherwise a program has inherited the variable from somebody else.
        if notice.pid == os.getppid() or _has_no_reader(notice.report):
            return Caller(notice)
    return None


def _has_no_reader(descriptor: int) -> bool:
    """Whether this is the end of a pipe that nobody reads: the caller was killed while this interpreter started."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))

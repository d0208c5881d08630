"""Process 1 of a container: hands signals on to the server, and reaps what other processes leave to it."""

import os
import signal
from typing import NoReturn

_HANDED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def leave_process_one() -> None:
    """Return in a child process if this is process 1 of its PID namespace; process 1 ends with that child.

    The kernel gives process 1 the orphans of all others, such as programs that a model's code has started. The server
    waits for no process but its own, and they would stay as zombies.
    """
    if os.getpid() != 1:
        return
    awaited = {signal.SIGCHLD, *_HANDED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # none is lost from here on
    child = os.fork()
    if child:
        _wait_for(child, awaited)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for(server: int, awaited: set[signal.Signals]) -> NoReturn:
    while True:
        number = signal.sigwait(awaited)
        if number is not signal.SIGCHLD:
            os.kill(server, number)
            continue
        while ended := _reap():
            pid, status = ended
            if pid == server:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)


def _reap() -> tuple[int, int] | None:
    """Reap one child that has ended. Return its process ID and status; None if there is none."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None

"""The signals that end processes of a server: its first process acts on them, all its other processes leave that to it.

Terminals, ``timeout``, systemd and supervisors signal every process of a group or cgroup at once. A worker that ended
by itself then would take the requests with it that the server is about to wait for (decision 40).
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def asking_to_stop() -> Iterator[signal.Signals]:
    """The signals to act on. A hangup that was ignored from the start, as under ``nohup``, stays ignored."""
    for number in STOP:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            yield number


def leave_to_first_process() -> None:
    """Do nothing when a stop signal comes: this process ends when the first one tells it to, or dies.

    A handler and not ``SIG_IGN``, which programs that a model's code starts would inherit. System calls in C code go on
    where the signal came. What was ignored stays ignored.
    """
    for number in STOP:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


def spare_forks() -> None:
    """Have processes that this one forks end by stop signals as usual: ``multiprocessing`` ends its own with SIGTERM."""
    masks = threading.local()

    def hold_back() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)

    def let_through() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def act_as_usual() -> None:
        for number in STOP:
            if signal.getsignal(number) is _do_nothing:
                usual = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
                signal.signal(number, usual)
        let_through()  # a signal that the new process was sent meanwhile comes now

    os.register_at_fork(before=hold_back, after_in_parent=let_through, after_in_child=act_as_usual)


@contextmanager
def held_back() -> Iterator[None]:
    """Block stop signals in this process, and in programs that are started meanwhile until they unblock them.

    Such a program has no moment in which a signal ends it; what came in this process is delivered afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_on_signal() -> None:
    """Until there is an event loop: a stop signal ends this process with status 0, cleaning up as it leaves."""
    for number in asking_to_stop():
        signal.signal(number, _leave)


def stop_was_asked() -> bool:
    """Return whether a stop signal has come since ``exit_on_signal``.

    Python ignores an exception in a finalizer or in a callback of a weak reference. A signal that comes in such a moment does
    not end the process: code that goes on asks here.
    """
    return _asked.is_set()


_asked = threading.Event()


def _leave(_number: int, _frame: FrameType | None) -> None:
    _asked.set()
    for number in STOP:  # a second one must not stop the cleaning
        signal.signal(number, _do_nothing)
    sys.unraisablehook = _report_unless_leaving
    raise SystemExit(0)


def _report_unless_leaving(ignored: "sys.UnraisableHookArgs") -> None:
    """Print an exception that Python ignores, unless it is that of a stop signal, which ``stop_was_asked`` remembers."""
    if not isinstance(ignored.exc_value, SystemExit):
        sys.__unraisablehook__(ignored)


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def end_with_parent(parent: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel to end this process with its parent, so that a killed server leaves no orphans (Linux)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, how)
    if os.getppid() != parent:
        os._exit(1)

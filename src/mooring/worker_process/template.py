"""The template process, from which workers are forked: it imports a backend's libraries once and then only forks.

A fork shares the pages of the imported libraries, so one more worker costs tens of megabytes and milliseconds. The
template never runs model code, starts no thread and no event loop, and never imports grpc: only such a process can
be forked safely. Where a worker must be *spawned*, its template imports nothing, and the child imports everything.

A template may also fork a *template of a model*, which loads the model (preloaded.py) and is forked in turn: its
workers share the model's pages as well.

The server gives orders over the control socket (``ipc/template_protocol.py``).
"""

import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from mooring.descriptors import set_soft_limit
from mooring.ipc.messages import CompleteConfig, Load, Trial
from mooring.ipc.template_protocol import (
    ENDED,
    FORK_FAILED,
    FORKED,
    LENGTH,
    MAX_DESCRIPTORS,
    MODEL,
    ORDER,
    PING,
    PONG,
    READY,
    RECORD,
    REFUSED,
    TRIAL,
)
from mooring.process_titles import set_process_title
from mooring.signals import end_with_parent, leave_to_first_process, spare_forks
from mooring.worker_process import worker
from mooring.worker_process.model_logging import install_handler
from mooring.worker_process.preloaded import Preloaded, preload_model, receive_order


def serve_template(control: socket.socket, parent: int) -> None:
    """Import the modules that the server names, report ready, and fork on demand until the control socket is closed."""
    end_with_parent(parent)
    leave_to_first_process()
    set_process_title("template")
    install_handler(1)  # libraries log while they are imported
    gc.disable()  # what an import makes stays; looking for what does not took a fifth of torch's (0.15 of 0.72 s)
    for module in _receive_modules(control):
        # A library that is missing is the model's to report, from its worker, with the model's name.
        with suppress(ImportError):
            importlib.import_module(module)
    gc.freeze()  # without looking first: of torch it would find a megabyte
    gc.enable()
    _fork_on_demand(control, None, parent)


def _receive_modules(control: socket.socket) -> list[str]:
    """Return the names of the modules to import. Ends the process where the server closes the socket instead."""
    head = control.recv(LENGTH.size, socket.MSG_WAITALL)
    if not head:
        sys.exit()
    (length,) = LENGTH.unpack(head)
    # Not a byte more: descriptors come with the next message, and a longer read would lose them.
    return control.recv(length, socket.MSG_WAITALL).decode().split() if length else []


def _serve_model(control: socket.socket, parent: int) -> None:
    """Load the model that the server names and fork on demand; where it cannot be forked, report why and return."""
    order = receive_order(control)
    assert isinstance(order, Load)
    set_process_title("template", order.spec.name, order.spec.version)
    model = preload_model(order)
    if isinstance(model, str):
        reason = model.encode()
        _send_record(control, RECORD.pack(REFUSED, os.getpid(), len(reason)) + reason)
    else:
        _fork_on_demand(control, model, parent)


def _fork_on_demand(control: socket.socket, model: Preloaded | None, parent: int) -> None:
    """Fork on demand until the server has closed the control socket and, of a model, every worker has ended.

    Returns also when the parent has died. The kernel sends SIGTERM then; SIGTERM from any other sender is ignored.
    """
    gc.collect()
    gc.freeze()  # the children's collector must not touch, and so copy, the pages they share
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    end_with_parent(parent, signal.SIGTERM)  # not SIGKILL any more: the children have to be ended first
    _send_record(control, RECORD.pack(READY, os.getpid(), 0))
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    serving = True
    children = _Children()
    try:
        while serving or (model is not None and _reap_children(control, children)):
            for fd, _ in poll.poll():
                if fd == wake:
                    with suppress(BlockingIOError):
                        if signal.SIGTERM in os.read(wake, 512) and os.getppid() != parent:
                            return
                    _reap_children(control, children)
                elif not _fork_child(control, (wake, wake_write), model, children):
                    poll.unregister(control)
                    serving = False
    finally:
        children.kill_all()


class _Children:
    """The children of this process. Each leads a process group, in which processes that the model's code forks are, too:
    they would outlive the worker otherwise, with the memory and the channels that they share with it.
    """

    def __init__(self) -> None:
        self._workers: set[int] = set()

    def add(self, pid: int) -> None:
        self._workers.add(pid)

    def kill_group(self, pid: int) -> None:
        """Kill the group of an ended child. Call it before ``waitpid``: until then its pid is not given to another."""
        self._workers.discard(pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill all children's groups. Templates of models notice that their parent has ended and do the same."""
        for pid in list(self._workers):
            self.kill_group(pid)


def _reap_children(control: socket.socket, children: _Children) -> bool:
    """Report the children that have ended; True where others still run."""
    with suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return True
            children.kill_group(ended.si_pid)
            pid, status = os.waitpid(ended.si_pid, 0)
            _send_record(control, RECORD.pack(ENDED, pid, os.waitstatus_to_exitcode(status)))
    return False


def _send_record(control: socket.socket, record: bytes) -> None:
    """Send a record to the server, which may have ended already."""
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(record)


def _fork_child(
    control: socket.socket, private: Sequence[int], model: Preloaded | None, children: _Children
) -> bool:
    try:
        order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, MAX_DESCRIPTORS)
    except ConnectionResetError:  # the server has closed its end before it read all that it was told
        return False
    if not order:
        return False
    (channels,) = ORDER.unpack(order)
    if channels == PING:
        _send_record(control, RECORD.pack(PONG, os.getpid(), 0))
        return True
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:  # no more processes, or no memory: the workers that are there are not to blame
        for fd in descriptors:
            os.close(fd)
        _send_record(control, RECORD.pack(FORK_FAILED, 0, error.errno or 0))
        return True
    if pid == 0:
        control.close()
        for fd in private:
            os.close(fd)
        try:
            _run_child(channels, descriptors, parent, model)
        finally:  # nothing of the template's is ever done in a child
            os._exit(1)
    if channels != MODEL:
        children.add(pid)
    for fd in descriptors:
        os.close(fd)
    _send_record(control, RECORD.pack(FORKED, pid, 0))
    return True


def _run_child(channels: int, descriptors: Sequence[int], parent: int, model: Preloaded | None) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent(parent)
    os.setpgid(0, 0)  # what it forks ends with it
    set_process_title("worker")
    output, *rest = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    install_handler(output)
    os.close(output)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    status = 0
    try:
        if channels == MODEL:
            _serve_model(socket.socket(fileno=rest[0]), parent)
        elif channels == TRIAL:
            _run_once(socket.socket(fileno=rest[0]), model)
        else:
            spare_forks()
            progress, *rest = rest
            worker.run_worker(rest[:channels], rest[channels:], progress, model)
    except SystemExit as exit_:  # the model's code asked for it
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        if isinstance(exit_.code, str):
            sys.stderr.write(f"{exit_.code}\n")
    except BaseException:
        status = 1
        sys.excepthook(*sys.exc_info())
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _run_once(control: socket.socket, model: Preloaded | None) -> None:
    """Find out one thing about the model that the server names, and report it."""
    order = receive_order(control)
    assert isinstance(order, CompleteConfig | Trial)
    spec = order.load.spec
    set_process_title("trial" if isinstance(order, Trial) else "completion", spec.name, spec.version)
    # Imported here: these are for one process of a model's life.
    if isinstance(order, CompleteConfig):
        from mooring.worker_process import completion  # noqa: PLC0415

        completion.run_completion(control, order)
    else:
        from mooring.worker_process import trial  # noqa: PLC0415

        trial.run_trial(control, model, order)


if __name__ == "__main__":
    _control, _parent, _soft_limit = map(int, sys.argv[1:])
    faulthandler.enable()  # also of what is forked: a crash in a library tells which line of Python called it
    sys.argv[:] = ["worker"]  # these arguments are not for the parsers that models' code brings
    set_soft_limit(_soft_limit)
    serve_template(socket.socket(fileno=_control), _parent)

"""A process of a parallel group: it loads the model and gets every call from the group's worker (group.py).

It is started afresh and not forked: torch, and what a model's code does with it, begins in a process of one thread. Stop
signals have their usual effect in it, which code for torchrun expects.
"""

import os
import signal
import socket
import sys

from mooring.ipc.arena import MappedArena, anonymous_file
from mooring.ipc.progress import Progress
from mooring.process_titles import set_process_title
from mooring.signals import STOP, end_with_parent
from mooring.worker_process.channel import Channel
from mooring.worker_process.model_logging import install_handler
from mooring.worker_process.worker import Worker

_NO_ARENA = 4096  # bytes: nothing ever lies in it, since payloads come with their message


def serve_rank(sock: socket.socket) -> None:
    """Serve until the group's worker closes the socket, or the model could not be loaded."""
    role = ("rank", os.environ["RANK"], "of")
    set_process_title(*role[:2])
    channel = Channel(sock, MappedArena(anonymous_file(_NO_ARENA)))
    Worker([channel], Progress(anonymous_file(Progress.size(1)), 1), None, role=role).serve_forever()


def _run() -> int:
    end_with_parent(int(sys.argv[2]))
    for number in STOP:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    sock = socket.socket(fileno=int(sys.argv[1]))
    sys.argv[:] = ["worker"]
    install_handler(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        serve_rank(sock)
    except SystemExit as exit_:  # the model's code asked for it
        if isinstance(exit_.code, str):
            sys.stderr.write(f"{exit_.code}\n")
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    status = _run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that torch left do not keep it

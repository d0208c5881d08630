"""One process that imports libraries, as who starts it sees it. Needs next to nothing itself, so that it can be begun first."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mooring.descriptors import inherited_limit
from mooring.ipc.template_protocol import LENGTH
from mooring.signals import held_back

ENVIRONMENT = {
    # numpy starts its threads at import, and a pool in every worker would fight over the cores.
    "OPENBLAS_NUM_THREADS": "1",
    # From 1.29 on ONNX Runtime's releases for Linux tell Microsoft of every session, the model's name and hash among it, and
    # have a thread for that from the import on. A server tells nobody what it serves, and a template must have one thread.
    "ORT_DISABLE_TELEMETRY": "1",
    # glibc maps and unmaps every large copy anew, and the kernel clears its pages each time. Kept instead, an echo of
    # 602 KB takes 139 us of CPU, not 396, for 2 MB more memory a worker (make bench, identity).
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "67108864",
}


class LibraryProcess:
    """A process of template.py, which waits to be told what to import. ``environment`` is what it and its workers see.

    Another ``interpreter`` is that of a model's own environment.

    ``control`` is the server's end of its control socket. What libraries print while they are imported is in a pipe, for
    whoever takes it. Raises ``OSError`` where there is no room for it.
    """

    def __init__(self, environment: Mapping[str, str], interpreter: str = sys.executable) -> None:
        self.environment = dict(environment)
        self.control, theirs = socket.socketpair()
        self._output, write = os.pipe()
        words = [str(number) for number in (theirs.fileno(), os.getpid(), inherited_limit())]
        command = [interpreter, "-m", "mooring.worker_process.template", *words]
        with theirs, os.fdopen(write, "wb") as output, held_back():
            self._process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**ENVIRONMENT, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, modules: Sequence[str]) -> None:
        """Have these imported; to be called once, and then it can be asked for workers."""
        text = "\n".join(modules).encode()
        with suppress(BrokenPipeError):  # it has died, and who asks it for workers hears that
            self.control.sendall(LENGTH.pack(len(text)) + text)

    def take_output(self) -> int:
        """Return the descriptor of what it prints, which is the caller's to close."""
        output, self._output = self._output, -1
        return output

    def end(self) -> None:
        """End it now, with all that it has forked."""
        self.control.close()
        if self._output >= 0:
            os.close(self.take_output())
        self._process.kill()
        self._process.wait()

"""How a template ends when the server does."""

import os
import socket
import subprocess
import sys

import pytest

from mooring.descriptors import inherited_limit
from mooring.ipc.template_protocol import LENGTH
from mooring.workers.library_process import ENVIRONMENT

pytestmark = pytest.mark.processes


def test_a_template_whose_server_ends_before_it_has_read_everything_ends_without_a_word():
    server, theirs = socket.socketpair()
    words = [str(number) for number in (theirs.fileno(), os.getpid(), inherited_limit())]
    command = [sys.executable, "-m", "mooring.worker_process.template", *words]
    with theirs:
        template = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT}
        )
    server.sendall(LENGTH.pack(0))
    server.recv(1, socket.MSG_PEEK)  # it has said that it is ready, which is never read
    server.close()
    _, said = template.communicate(timeout=30)
    assert (template.returncode, said) == (0, b"")

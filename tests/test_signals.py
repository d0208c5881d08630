"""Signals that ask a server to stop while it starts."""

import subprocess
import sys

IN_A_FINALIZER = """
import os, signal
from mooring.signals import exit_on_signal, stop_was_asked

class Ending:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

exit_on_signal()
assert not stop_was_asked()
Ending()
print("went on", stop_was_asked())
"""


def test_a_signal_that_comes_where_python_ignores_exceptions_is_remembered():
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FINALIZER], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on True\n", "")

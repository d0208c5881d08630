"""Mooring with a stopwatch on its event loop, as a program: what is the most CPU time between two turns of the loop?

The file named by ``LOOP_GAP_FILE`` holds the answer as a double, in seconds. Whoever writes 0 to it begins anew.
"""

import mmap
import os
import struct
import sys
import time
from pathlib import Path

import uvloop

from mooring.cli import main

# How often the loop is looked at, in seconds. What it does in between counts as one turn.
_EVERY = 0.001
_GAP = struct.Struct("d")


def watched(make_loop):
    """As ``make_loop``, and the loop notes its own gaps."""

    def make():
        loop = make_loop()
        with Path(os.environ["LOOP_GAP_FILE"]).open("r+b") as file:
            longest = mmap.mmap(file.fileno(), _GAP.size)
        # CPU time of the loop's thread: on a machine that is busy with other things a turn takes longer, not more of it.
        last = time.thread_time()

        def look():
            nonlocal last
            now = time.thread_time()
            if now - last > _GAP.unpack_from(longest)[0]:
                _GAP.pack_into(longest, 0, now - last)
            last = now
            loop.call_later(_EVERY, look)

        def begin():
            nonlocal last
            last = time.thread_time()
            look()

        loop.call_soon(begin)
        return loop

    return make


if __name__ == "__main__":
    uvloop.new_event_loop = watched(uvloop.new_event_loop)
    sys.exit(main())

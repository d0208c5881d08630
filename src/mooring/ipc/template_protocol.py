"""What the server and a template process say to each other on the template's control socket.

1. The server sends a ``LENGTH`` and that many bytes: the names of the modules to import, one a line.
2. From then on the server sends an ``ORDER`` each time. A positive one is the number of channels of a worker to fork;
   ``MODEL`` asks for a template that loads a model, ``TRIAL`` for a process that finds out one thing of a model: whether
   requests may be joined, or how its code completes its configuration.
   The descriptors of the new process travel with the order. ``PING`` carries none.
3. The template answers with ``RECORD``s of (event, pid, status). ``FORKED`` names a new process, ``FORK_FAILED`` has the
   ``errno`` as its status, ``ENDED`` the exit status. ``PONG`` answers a ping.
4. A template of a model begins with ``READY``, or with ``REFUSED``: the status is then the length of the reason that
   follows.
"""

import struct

LENGTH = struct.Struct("<q")
ORDER = struct.Struct("<q")
RECORD = struct.Struct("<qqq")
READY, FORKED, ENDED, REFUSED, FORK_FAILED, PONG = 0, 1, 2, 3, 4, 5
MODEL, TRIAL, PING = -1, -2, -3
LOADING_FAILED = "loading failed"  # begins the reason of a model that a template could not load
MAX_DESCRIPTORS = 64  # that travel with one order

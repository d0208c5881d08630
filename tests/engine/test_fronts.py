"""Further fronts as the first process keeps them."""

import os
import socket

from mooring.engine import link
from mooring.engine.fronts import Fronts
from mooring.observability.metrics import Metrics
from mooring.workers.arena import Arena


async def test_what_a_front_is_told_before_it_runs_waits_for_it():
    fronts = Fronts(1, Arena(65_536), Metrics("prometheus", system=False))
    front = fronts.processes[0]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        front.join(7, "9000", ours, front.arena, 2)
        heard = []
        # In place of its process, which would inherit these two.
        link.Link(front._their_link, link.ToFront, heard.append, lambda: None)._hear()
        _, descriptors, _, _ = socket.recv_fds(front._their_descriptors, 1, 2)
        with socket.socket(fileno=descriptors[0]) as channel:
            channel.sendall(b"answer")
            assert theirs.recv(10) == b"answer"
        os.close(descriptors[1])
    assert heard == [link.Join(7, "9000", 2)]
    await fronts.close()

"""One end of a connection between processes: order, an end that goes, and what cannot be understood."""

import asyncio
import socket

import pytest

from mooring.cluster.messages import AskController, Refuse, ToActor
from mooring.ipc.message_link import MessageLink


@pytest.fixture
async def ends():
    """Both ends of a connection; each has what came to it, and how often it has lost the other."""
    ours, theirs = (End(sock) for sock in socket.socketpair())
    yield ours, theirs
    ours.link.close()
    theirs.link.close()


class End:
    def __init__(self, sock):
        self.sock = sock
        self.came = []
        self.losses = 0
        self.link = MessageLink(sock, ToActor, self.came.append, self.lose)

    def lose(self):
        self.losses += 1

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.002)


async def test_messages_come_whole_and_in_order_however_much_the_socket_takes_at_once(ends):
    ours, theirs = ends
    reasons = [str(number) * 50_000 for number in range(10)]
    for reason in reasons:
        ours.link.send(Refuse(reason))
    await theirs.until(lambda: len(theirs.came) == 10)
    assert [message.reason for message in theirs.came] == reasons


async def test_an_end_that_goes_is_heard_of_once_and_nothing_more_is_sent(ends):
    ours, theirs = ends
    theirs.link.close()
    await ours.until(lambda: ours.losses)
    ours.link.send(AskController(1))
    assert (ours.losses, ours.link.is_open, theirs.losses) == (1, False, 0)


async def test_what_is_no_message_ends_the_connection(ends):
    ours, theirs = ends
    ours.sock.send(b"\x02\x00\x00\x00xx")
    await theirs.until(lambda: theirs.losses)
    await ours.until(lambda: ours.losses)
    assert (theirs.came, theirs.losses, theirs.link.is_open) == ([], 1, False)


async def test_a_receiver_that_closes_the_connection_has_not_lost_it(ends):
    ours, theirs = ends

    def close(_message):
        theirs.link.close()
        raise RuntimeError("no more of this")

    theirs.link._receive = close
    ours.link.send(AskController(1))
    await ours.until(lambda: ours.losses)
    assert theirs.losses == 0

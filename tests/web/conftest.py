"""A loop on its own thread, uvloop and asyncio's in turn, and listeners on it."""

import asyncio
import threading

import pytest
import uvloop
from web_client import Served, hello

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.SelectorEventLoop}


@pytest.fixture(params=sorted(LOOPS))
def loop(request):
    """A loop that runs on a thread of its own."""
    loop = LOOPS[request.param]()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    # What was accepted in the moment of closing is made and closed by the loop's next turns.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def serve(loop):
    """Makes listeners. At the end none of them may hold a buffer or a connection."""
    made = []

    def make(app=hello, **options):
        made.append(Served(loop, app, **options))
        return made[-1]

    yield make
    for served in made:
        served.run(served.server.close())
        for client in served.clients:
            client.close()
        assert served.connections == 0
        served.seen.clear()
        assert served.allocator.live == {}

"""What befalls the server itself: kill -9, clocks that jump, no descriptors, crowds, clients that vanish."""

import glob
import os
import random
import resource
import selectors
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from accounting import once
from stage import Stage, case
from subjects import NotHere, Subject, archive, gone, until

MB = 1 << 20


@case("the server killed with -9 and started again from its snapshot", short=True)
def snapshot(stage: Stage) -> None:
    # TorchServe's rule: what is asked for with --ts-config goes before a snapshot, so it is left out the second time.
    first = ("--model-store", "store", "--ts-config", "config.properties")
    server = stage.own("--start", "--foreground", *first, command="torchserve", wait=True)
    inference, management, metrics, grpc, grpc_management = server.ports
    (server.folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{inference}\nmanagement_address=http://127.0.0.1:{management}\n"
        f"metrics_address=http://127.0.0.1:{metrics}\ngrpc_inference_port={grpc}\n"
        f"grpc_management_port={grpc_management}\ndisable_token_authorization=true\nenable_model_api=true\n"
    )
    server.start()
    server.await_start()
    server.forget(first)
    server.registered("first", workers=2)
    server.registered("second")
    with (
        stage.load("first", server=server, mortal=True) as load,
        stage.load("second", server=server, mortal=True),
    ):
        for _ in range(1 if stage.span < 1 else 3):
            family = server.family()
            stage.strike()
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            gone(family)
            server.start()
            server.await_start()
            until(lambda: server.holds(first=2, second=1))
            load.until_right(50)
    assert set(stage.account.statuses) <= {200, 503}, stage.account.statuses
    stage.notes.append("both models and their three workers came back; no orphan")


@case("SIGTERM, SIGINT and SIGHUP to every process of the server at once, and started again", short=True)
def signals(stage: Stage) -> None:
    server = stage.own("--models", "spared.mar", wait=True)
    archive(server.store, "spared", {"minWorkers": 2, "maxWorkers": 2, "retryRequests": False})
    server.start()
    server.await_start()
    with stage.load("spared", server=server, mortal=True) as load:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            family = server.family()
            stage.strike()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            assert (status := server.process.wait(30)) == 0, status
            gone(family)
            server.start()
            server.await_start()
            load.until_right(50)
    assert not stage.account.honest, stage.account.statuses
    assert "died" not in server.log
    assert (status := server.stop()) == 0, status
    stage.notes.append("retryRequests: false; what is broken off had not been accepted")


@case("one of two frontends stopped (SIGSTOP)", short=True)
def stopped_front(stage: Stage) -> None:
    server = stage.own("--frontends=2", "--deal-connections=evenly", "--heartbeat-timeout=2")
    server.await_start()
    model = server.registered("fronted", workers=2)
    until(lambda: "frontend listening" in server.log)

    def frontends() -> set[int]:
        found = set()
        for process in server.family():
            with suppress(psutil.Error):  # it may be a zombie, or gone
                if any(
                    word.startswith(("mooring: frontend", "mooring.frontends.process"))
                    for word in process.cmdline()
                ):
                    found.add(process.pid)
        return found

    with stage.load(model, server=server, mortal=True) as load:
        (before,) = frontends()
        stage.strike()
        os.kill(before, signal.SIGSTOP)
        until(lambda: (now := frontends()) and before not in now)
        load.until_right(50)
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status
    stage.notes.append("heartbeat_timeout = 2; the connections that it had been dealt end with it")


def faketime() -> str:
    """The library that lies about the time. Raises ``NotHere``."""
    named = os.environ.get("FAKETIME_LIBRARY", "")
    places = [named, *glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")]  # noqa: PTH207 - of a whole tree
    for place in places:
        if place and Path(place).exists():
            return place
    raise NotHere("libfaketime is not installed")


@case("the clock jumps by a day, forward and back", short=True)
def clock(stage: Stage) -> None:
    offset = stage.folder / "offset"
    stage.folder.mkdir(parents=True, exist_ok=True)
    offset.write_text("+0")
    told = {
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    server = stage.own(environ={"LD_PRELOAD": faketime(), **told})
    server.await_start()
    model = server.registered("timed", workers=2, responseTimeout=5, clientTimeoutInMills=4000)
    workers = server.workers(model)
    with stage.load(model, server=server) as load:
        stage.wait(0.5)
        for jump in ("+1d", "+0", "-1d", "+3650d", "+0"):
            stage.strike()
            offset.write_text(jump)
            load.until_right(50)
            stage.wait(0.25)
    assert server.workers(model) == workers, "a worker was replaced"
    assert not stage.account.honest
    assert (status := server.stop()) == 0, status


def descriptors(count: int) -> None:
    """Let this process have so many open files. Raises ``NotHere``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard < count:
            raise NotHere(f"{count} open files are needed and {hard} allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextmanager
def crowd(server: Subject, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections at once, which have said this much; those that are refused are not among them."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(count):
            one = socket.socket()
            one.settimeout(10)
            one.connect(("127.0.0.1", server.port))
            sockets.append(one)
            if said:
                with suppress(OSError):
                    one.send(said)
        yield sockets
    finally:
        for one in sockets:
            one.close()


@case("no file descriptors left", short=True)
def no_descriptors(stage: Stage) -> None:
    limit = 120
    server = stage.own(before=["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh"])
    server.await_start()
    model = server.registered("frugal", workers=2)
    process = psutil.Process(server.process.pid)
    descriptors(limit + 400)
    with stage.load(model, server=server) as load:
        stage.strike()
        with crowd(server, limit + 200):
            os.kill(server_worker(load, server, model), signal.SIGKILL)
            load.until_right(50)
            busy, began = sum(process.cpu_times()[:2]), time.monotonic()
            stage.wait(1.0)
            share = (sum(process.cpu_times()[:2]) - busy) / (time.monotonic() - began)
            load.until_right(50)
        until(server.pings)
        until(lambda: len(server.workers(model)) == 2)
        load.until_right(50)
    assert not stage.account.honest, stage.account.statuses
    assert share < 0.6, f"the server used {share:.0%} of a core"
    assert once(server.port, model, stage.account) == "right"
    assert (status := server.stop()) == 0, status
    stage.notes.append(
        f"{limit} allowed, {limit + 200} connections; those that were there are served, with {share:.0%} of a core"
    )


def server_worker(load, server: Subject, model: str) -> int:
    """One of the workers, found without a connection to the server, which has none to give."""
    found = [
        child.pid
        for child in psutil.Process(server.process.pid).children(recursive=True)
        if not child.children()
    ]
    assert len(found) >= 2, (found, load.account, server, model)
    return max(found)


@case("10,000 idle connections", short=False)
def idle(stage: Stage) -> None:
    many = idle_count(stage, 10_000)
    server = stage.own()
    server.await_start()
    model = server.registered("calm", workers=2)
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with stage.load(model, server=server) as load:
        stage.wait(0.5)
        stage.strike()
        with crowd(server, many) as sockets:
            assert len(sockets) == many
            load.until_right(200)
            stage.wait(1.0)
            grown = process.memory_info().rss - before
            alive = sum(still_there(one) for one in sockets)
            assert alive == many, f"{many - alive} of {many} idle connections were ended"
        load.until_right(50)
    assert not stage.account.honest
    until(lambda: process.num_fds() < 100)
    assert (status := server.stop()) == 0, status
    stage.notes.append(f"{many:,} held, {grown / many / 1024:.1f} KiB of memory each")


def idle_count(stage: Stage, wanted: int) -> int:
    """As many as this machine allows, up to so many; the case's notes say when they are fewer."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(wanted, hard - 500)
    if count < 100:
        raise NotHere(f"only {hard} open files are allowed")
    if count < wanted:
        stage.notes.append(f"{count} and not {wanted}: {hard} open files are allowed")
    descriptors(count + 500)
    return count


def still_there(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@case("1,000 slow clients, a byte at a time", short=False)
def slow(stage: Stage) -> None:
    many = idle_count(stage, 1000)
    server = stage.own()
    server.await_start()
    model = server.registered("patient", workers=2)
    request = (
        f"POST /predictions/{model} HTTP/1.1\r\nHost: slow\r\nContent-Type: application/json\r\n".encode()
    )
    body = b'{"n": 1, "pad": "' + b"p" * 60 + b'"}'
    request += b"Content-Length: %d\r\n\r\n" % len(body) + body
    answers = 0
    with stage.load(model, server=server) as load, crowd(server, many) as sockets:
        stage.strike()
        for byte in request:  # each of them one byte in turn
            for one in sockets:
                one.send(bytes([byte]))
            time.sleep(0.02)
        load.until_right(20)
        selector = selectors.DefaultSelector()
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        end = time.monotonic() + 30
        while answers < many and time.monotonic() < end:
            for key, _ in selector.select(1):
                answer = key.fileobj.recv(4096)
                assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")), answer[:100]
                answers += 1
                selector.unregister(key.fileobj)
    assert answers == many, f"{many - answers} slow clients got no answer"
    assert set(stage.account.statuses) <= {200, 503}
    assert (status := server.stop()) == 0, status
    stage.notes.append(f"all {many:,} slow ones were answered, too; the queue holds 100")


@case("clients vanish in the middle of requests and answers", short=True)
def vanish(stage: Stage) -> None:
    server = stage.own("--arena-size", str(8 * MB), "--max-response-size", str(50 * MB))
    server.await_start()
    model = server.registered("abandoned", workers=2)
    process = psutil.Process(server.process.pid)
    asked = f"POST /predictions/{model} HTTP/1.1\r\nHost: gone\r\nContent-Type: application/json\r\n".encode()
    calm = process.num_fds()
    with stage.load(model, server=server) as load:
        stage.strike()
        for number in range(60 if stage.span < 1 else 600):
            large = (
                b'{"n": 0, "large": 3000000}'
                if number % 3 == 0
                else b'{"n": 0, "pad": "%s"}' % (b"x" * 200_000)
            )
            whole = asked + b"Content-Length: %d\r\n\r\n" % len(large) + large
            one = socket.create_connection(("127.0.0.1", server.port))
            with suppress(OSError):
                if number % 3 == 0:  # in the middle of the answer, or just before it
                    one.sendall(whole)
                    one.recv(100) if number % 2 else None
                else:
                    one.sendall(whole[: random.randrange(1, len(whole))])
            if number % 2:  # with a reset, as a process that is killed
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
        load.until_right(50)
    assert not stage.account.honest
    until(lambda: process.num_fds() <= calm + 2)
    assert once(server.port, model, stage.account, pad="y" * 1_000_000, large=3_000_000) == "right"
    assert (status := server.stop()) == 0, status
    stage.notes.append(
        "60 to 600 of them; no descriptor is left open"
        if stage.span < 1
        else "600 of them; no descriptor is left open"
    )


ROOM = 24 * MB


def announced(server: Subject, size: int, sent: bytes) -> socket.socket:
    """A connection that has announced a body to the model `patient`, and sent a part of it."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    client.sendall(
        b"POST /v2/models/patient/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + sent
    )
    return client


@case("uploads announce all memory for bodies, and trickle", short=True)
def trickling(stage: Stage) -> None:
    server = stage.own("--arena-size", "1048576", "--max-body-memory", str(ROOM))
    server.await_start()
    model = server.registered("patient", workers=2)
    pad = {"pad": "p" * 300_000}
    with stage.load(model, server=server, asked=pad) as load, ExitStack() as idle:
        load.until_right(20)
        stage.strike()
        for _ in range(20):
            idle.enter_context(announced(server, ROOM - MB, b"{"))
        load.until_right(50)
        stage.wait()
    assert not stage.account.honest, stage.account.statuses
    stage.notes.append("20 uploads; all others have bodies of 300 kB, and none is refused")


@case("bodies fill the memory for bodies", short=True)
def filling(stage: Stage) -> None:
    server = stage.own("--arena-size", "1048576", "--max-body-memory", str(ROOM))
    server.await_start()
    model = server.registered("patient", workers=2)
    process = psutil.Process(server.process.pid)
    with stage.load(model, server=server, asked={"pad": "p" * 600_000}) as load:
        load.until_right(20)
        before = process.memory_info().rss
        with ExitStack() as held:
            for _ in range(6):
                with suppress(OSError):  # refused while it sends
                    held.enter_context(announced(server, ROOM // 2, bytes(ROOM // 2 - MB)))
            stage.wait()
            grown = process.memory_info().rss - before
        stage.strike()
        load.until_right(50)
    assert set(stage.account.statuses) <= {200, 503}, stage.account.statuses
    assert grown < ROOM + 16 * MB, grown
    stage.notes.append(f"six uploads of 12 MiB where there are 24; the server grew by {grown / MB:.0f} MiB")


@case("a body of 200 MB beside the arena", short=False)
def inline(stage: Stage) -> None:
    server = stage.own("--arena-size", "1048576", "--max-request-size", str(300 * MB))
    server.await_start()
    model = server.registered("patient", workers=2)
    process = psutil.Process(server.process.pid)
    with stage.load(model, server=server) as load:
        load.until_right(20)
        stage.strike()
        with ExitStack() as large:
            client = large.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=120))
            client.sendall(
                b"POST /predictions/%s HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b'content-length: %d\r\n\r\n{"n": 5, "pad": "' % (model.encode(), 200 * MB + 19)
            )
            before = sum(process.cpu_times()[:2])
            for _ in range(200):
                client.sendall(b"p" * MB)
            client.sendall(b'"}')
            status = client.recv(20)
            seconds = sum(process.cpu_times()[:2]) - before
        load.until_right(50)
    assert status.startswith(b"HTTP/1.1 200"), status
    assert not stage.account.honest
    stage.notes.append(
        f"answered, with {seconds:.1f} s of the server's CPU and that of the other clients in it"
    )

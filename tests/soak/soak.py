"""The soak: requests of every kind, by the million, at one server; then whether it is as it was.

Run by ``make soak``. Twenty times everything rests for a moment, and what the server and its workers hold is looked at:
memory as PSS, which counts what is shared once, descriptors, threads and processes. It fails for a wrong or a missing
answer, for memory that grows by 2 % or more in the second half, and for descriptors that become more.
"""

import argparse
import asyncio
import os
import platform
import random
import statistics
import sys
import tempfile
import textwrap
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import uvloop

sys.path += [
    str(Path(__file__).parents[0]),
    str(Path(__file__).parents[1]),
    str(Path(__file__).parents[1] / "e2e"),
]

import traffic
from e2e_kit import Server, free_ports, pack
from v2_kit import write_models
from wire import Lines

DOCUMENT = Path(__file__).parents[2] / "docs/RELIABILITY.md"
RESTS = 20
GROWTH = 0.02


class Held(NamedTuple):
    """What the server's processes hold while nothing runs. ``pss`` is in bytes."""

    asked: int
    seconds: float
    pss: int
    server: int  # of the pss, the server process's own
    descriptors: int
    threads: int
    processes: int


class Soaked(Server):
    """A server with every model that is asked."""

    def __init__(self, folder: Path) -> None:
        (self.rpc,) = free_ports(1)
        repository, store = write_models(folder / "repository"), folder / "store"
        for name, source in (
            ("mirror", traffic.MIRROR),
            ("guest", traffic.MIRROR),
            ("numbers", traffic.NUMBERS),
            ("counter", traffic.COUNTER),
        ):
            (repository / name / "1").mkdir(parents=True, exist_ok=True)
            (repository / name / "1/model.py").write_text(source)
        store.mkdir()
        (folder / "handler.py").write_text(traffic.HANDLER)
        pack(store, "rows", str(folder / "handler.py"))
        super().__init__(
            folder, "--model-store", store, "--models", "rows=rows.mar", "--model-repository", repository,
            f"--grpc-address=127.0.0.1:{self.rpc}", "--job-queue-size=1000",
        )  # fmt: skip

    def held(self, asked: int, seconds: float) -> Held:
        while True:
            try:
                return self._held_by(self.family(), asked, seconds)
            except psutil.NoSuchProcess as gone:  # one that ended meanwhile, such as a trial of a model file
                if gone.pid == self.process.pid:
                    raise

    def _held_by(self, family: list[psutil.Process], asked: int, seconds: float) -> Held:
        memory = [each.memory_full_info().pss for each in family]
        return Held(
            asked,
            seconds,
            sum(memory),
            memory[0],
            sum(each.num_fds() for each in family),
            sum(each.num_threads() for each in family),
            len(family),
        )


class Soak:
    """The clients and their count. Everybody waits at the gate between two questions."""

    def __init__(self, server: Soaked, most: int, seed: int, *, rest: float = 1.0) -> None:
        self.server = server
        self.rest = rest  # seconds
        self.most = most
        self.asked: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._random = random.Random(seed)
        self._open = asyncio.Event()
        self._open.set()
        self._busy = 0
        self._idle = asyncio.Event()

    @property
    def total(self) -> int:
        return sum(self.asked.values())

    async def _turn(self) -> bool:
        """Wait while everything rests; whether to go on."""
        self._busy -= 1
        if not self._busy:
            self._idle.set()
        await self._open.wait()
        self._busy += 1
        self._idle.clear()
        return self.total < self.most and not self.wrong

    def _count(self, kind: str, right: bool, got: object = "") -> None:
        self.asked[kind] += 1
        if not right:
            self.wrong.append(f"{kind}: {got!r:.500}")

    async def _connected(self) -> Lines:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Lines, "127.0.0.1", self.server.port))[1]

    async def http(self, depth: int) -> None:
        """Connections that ask ``depth`` requests at a time and are made anew now and then."""
        functions, weights = zip(*traffic.KINDS, strict=True)
        lines = await self._connected()
        while await self._turn():
            kinds = self._random.choices(functions, weights, k=depth)
            made = [kind(self._random) for kind in kinds]
            for kind, (_, right), got in zip(
                kinds, made, await lines.ask([asked for asked, _ in made]), strict=True
            ):
                self._count(kind.__name__, right(got), got)
            if self._random.random() < 0.01:
                lines.transport.close()
                lines = await self._connected()
        lines.transport.close()

    async def rpcs(self) -> None:
        """One channel, a call at a time."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.server.rpc}") as channel:
            calls, weights = zip(*traffic.Rpcs(channel).kinds, strict=True)
            while await self._turn():
                (call,) = self._random.choices(calls, weights)
                self._count(f"grpc {call.__name__}", await call(self._random))

    async def vanishing(self) -> None:
        """Clients that leave, and such as nobody can understand."""
        while await self._turn():
            lines = await self._connected()
            if self._random.random() < 0.5:
                lines.transport.write(self._random.choice(traffic.VANISHING))
                await asyncio.sleep(self._random.choice([0, 0.005]))
                (lines.transport.abort if self._random.random() < 0.5 else lines.transport.close)()
                self._count("vanished", True)
            else:
                (got,) = await lines.ask([self._random.choice(traffic.BROKEN)])
                self._count("broken", got.status == 400, got)
                lines.transport.close()
            await asyncio.sleep(0.01)

    async def loading(self) -> None:
        """A model that comes and goes, over both APIs, and is asked while it is there."""
        loop = asyncio.get_running_loop()
        managing = (await loop.create_connection(Lines, "127.0.0.1", self.server.ports[1]))[1]
        asking = await self._connected()
        while await self._turn():
            name = f"guest{self._random.randrange(3)}"
            where = f"/models?url=rows.mar&model_name={name}&initial_workers=1&synchronous=true"
            await self._one(managing, "register", traffic.post(where, b""), 200)
            for _ in range(20):
                await self._one(asking, "guest", traffic.post(f"/predictions/{name}", b"here"), 200)
            gone = f"DELETE /models/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            await self._one(managing, "unregister", gone, 200)
            await self._one(asking, "unload", traffic.post("/v2/repository/models/guest/unload", b"{}"), 200)
            await self._one(asking, "load", traffic.post("/v2/repository/models/guest/load", b"{}"), 200)
            await asyncio.sleep(0.2)
        for lines in (managing, asking):
            lines.transport.close()

    async def _one(self, lines: Lines, kind: str, asked: bytes, status: int) -> None:
        (got,) = await lines.ask([asked])
        self._count(kind, got.status == status, got)

    async def _guarded(self, client) -> None:
        """One client to its end; a connection that breaks where it should not is a wrong answer."""
        self._busy += 1
        try:
            await client
        except (OSError, grpc.RpcError, TimeoutError) as error:
            self.wrong.append(f"{getattr(client, '__name__', client)}: {error!r}")
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def run(self) -> list[Held]:
        """Ask until it is enough; what was held at each rest, and at the end."""
        clients = [self.http(depth) for depth in (1, 1, 8, 16, 32, 32, 32, 32)]
        clients += [*(self.rpcs() for _ in range(4)), self.vanishing(), self.loading()]
        tasks = [asyncio.ensure_future(self._guarded(each)) for each in clients]
        began, seen = time.monotonic(), []
        for number in range(1, RESTS + 1):
            while self.total < self.most * number // RESTS and not self.wrong:
                await asyncio.sleep(0.05)
            self._open.clear()
            await self._idle.wait()
            # What is being ended ends: connections, workers of a model that was unloaded.
            await asyncio.sleep(self.rest)
            seen.append(self.server.held(self.total, time.monotonic() - began))
            print(said(seen[-1]), flush=True)
            self._open.set()
            if self.wrong:
                break
        await asyncio.gather(*tasks)
        return seen


def said(held: Held) -> str:
    megabytes, own = held.pss / 1e6, held.server / 1e6
    return (
        f"{held.asked:>9} requests {held.seconds:7.1f} s  PSS {megabytes:7.1f} MB (server {own:6.1f})"
        f"  descriptors {held.descriptors}  threads {held.threads}  processes {held.processes}"
    )


def growth(seen: list[Held]) -> float:
    """By how much memory grew in the second half: of three rests at each end of it the median."""
    half = seen[len(seen) // 2 :]
    before, after = (statistics.median(each.pss for each in part) for part in (half[:3], half[-3:]))
    return after / before - 1


def verdict(soak: Soak, seen: list[Held]) -> list[str]:
    """What is wrong; nothing where all is well."""
    found = list(soak.wrong)
    if len(seen) == RESTS:
        half = seen[RESTS // 2 :]
        if growth(seen) >= GROWTH:
            found.append(f"memory grew by {growth(seen):.1%} in the second half")
        if min(each.descriptors for each in half[-3:]) > max(each.descriptors for each in half[:3]):
            found.append(f"descriptors became more: {[each.descriptors for each in half]}")
    return found


def table(soak: Soak, seen: list[Held]) -> str:
    """The run as the document has it."""
    half, last = seen[len(seen) // 2 - 1], seen[-1]
    kinds = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in soak.asked.most_common())
    rows = [
        f"| {each.asked:,} | {each.seconds:.0f} s | {each.pss / 1e6:.1f} MB | {each.server / 1e6:.1f} MB"
        f" | {each.descriptors} | {each.threads} | {each.processes} |"
        for each in (seen[0], seen[len(seen) // 4 - 1], half, seen[3 * len(seen) // 4 - 1], last)
    ]
    head = (
        "| requests | after | PSS | of it the server | descriptors | threads | processes |\n"
        + "| --- " * 7
        + "|"
    )
    cores, load = os.cpu_count(), os.getloadavg()[0]
    where = f"{cores} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; load average {load:.1f}"
    return "\n".join(
        [f"{soak.total:,} requests in {last.seconds:.0f} s on {where}.", "", head, *rows, "",
         f"Memory in the second half: {growth(seen):+.2%}. Wrong or missing answers: {len(soak.wrong)}.", "",
         f"Asked were {kinds}."]
    )  # fmt: skip


def write(text: str) -> None:
    """Put it where the document has its place for it."""
    before, begin, rest = DOCUMENT.read_text().partition("<!-- soak -->\n")
    _, end, after = rest.partition("<!-- end of soak -->")
    wrapped = "\n".join(
        line if line.startswith("|") else textwrap.fill(line, 118) for line in text.split("\n")
    )
    DOCUMENT.write_text(f"{before}{begin}{wrapped}\n{end}{after}")


def soak(most: int, seed: int, folder: Path, *, into_document: bool = False) -> list[str]:
    """Start a server, ask it, end it; what was wrong."""
    server = Soaked(folder)
    try:
        server.started()
        running: list[Soak] = []

        async def run() -> list[Held]:
            running.append(Soak(server, most, seed))
            return await running[0].run()

        seen = uvloop.run(run())
        found = verdict(running[0], seen)
        for kind, count in running[0].asked.most_common():
            print(f"{count:>9} {kind}")
        print(
            f"{running[0].total} requests, {growth(seen):+.2%} memory in the second half, {len(found)} faults"
        )
        if into_document and not found:
            write(table(running[0], seen))
        if server.stop() != 0:
            found.append("the server did not leave with 0")
        return [*found, *server.faults()]
    finally:
        with suppress(psutil.NoSuchProcess):
            server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the figures into docs/RELIABILITY.md")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(chosen.requests, chosen.seed, Path(folder), into_document=chosen.write)
    print("\n".join(found[:20]) or "nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

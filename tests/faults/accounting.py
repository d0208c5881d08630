"""A client that accounts for each request: what was asked, whether it was answered, once, and rightly.

    sent = right + honest + broken off + lost + hung + doubled + wrong

*Honest* is an error with a status and a reason. *Broken off* is a connection that ended because a server was killed, or
by the client's own will; *lost* is one that ended without an answer though the server lived. The last four must be 0.
"""

import itertools
import json
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

PATIENCE = 30.0
"""Seconds after which a request without an answer counts as hung."""

NOTHING: Mapping[str, object] = MappingProxyType({})
"""No more than the number of the request."""

_numbers = itertools.count(1)
_MALADIES = ("lost", "hung", "doubled", "wrong")


class NoAnswer(Exception):
    """The connection ended, or nothing came, before an answer was there; ``malady`` says which."""

    def __init__(self, malady: str) -> None:
        super().__init__(malady)
        self.malady = malady


@dataclass
class Account:
    """What became of the requests of any number of clients. ``refused`` connections asked for nothing yet."""

    verdicts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    right_at: list[float] = field(default_factory=list)
    slowest: float = 0.0
    remarks: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, verdict: str, *, status: int = 0, seconds: float = 0.0, remark: str = "") -> None:
        """One request is over."""
        with self._lock:
            self.verdicts[verdict] += 1
            if status:
                self.statuses[status] += 1
            if verdict == "right":
                self.right_at.append(time.monotonic())
            self.slowest = max(self.slowest, seconds)
            if remark and len(self.remarks) < 20:
                self.remarks.append(remark)

    @property
    def sent(self) -> int:
        return self.verdicts.total()

    @property
    def right(self) -> int:
        return self.verdicts["right"]

    @property
    def honest(self) -> int:
        return self.verdicts["honest"]

    @property
    def broken(self) -> int:
        return self.verdicts["broken off"]

    @property
    def maladies(self) -> dict[str, int]:
        """What must never happen, and how often it did."""
        return {each: self.verdicts[each] for each in _MALADIES}

    def longest_pause(self, since: float) -> float:
        """The longest time without a right answer, from this moment of the monotonic clock on, in seconds."""
        moments = sorted(moment for moment in self.right_at if moment > since)
        return max((after - before for before, after in itertools.pairwise([since, *moments])), default=0.0)

    def add(self, other: "Account") -> Self:
        """Count what another has counted, too."""
        self.verdicts += other.verdicts
        self.statuses += other.statuses
        self.right_at += other.right_at
        self.slowest = max(self.slowest, other.slowest)
        self.remarks += other.remarks
        return self


class Connection:
    """One connection, kept for as long as both sides like; it sends a request and reads an answer, no more than HTTP/1.1
    needs here.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, patience: float = PATIENCE) -> None:
        self.socket = socket.create_connection((host, port), timeout=patience)
        self.socket.settimeout(PATIENCE)
        self._file = self.socket.makefile("rb")
        self.closing = False

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def cut(self) -> None:
        """End it at once, also for whoever waits for an answer."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def ask(
        self, target: str, body: bytes, *, method: str = "POST", kind: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body. Raises ``NoAnswer``."""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        try:
            self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        except TimeoutError:
            raise NoAnswer("hung") from None
        except OSError:
            pass  # it may have answered before it ended the connection
        try:
            return self._answer()
        except TimeoutError:
            raise NoAnswer("hung") from None
        except (OSError, ValueError):
            raise NoAnswer("lost") from None

    def _answer(self) -> tuple[int, bytes]:
        line = self._file.readline()
        if not line:
            raise NoAnswer("lost")
        status = int(line.split()[1])
        length = 0
        while (line := self._file.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "content-length":
                length = int(value)
            elif name.lower() == "connection":
                self.closing = value.strip().lower() == "close"
        body = self._file.read(length)
        if len(body) < length:
            raise NoAnswer("lost")
        return status, body

    def stray(self) -> bytes:
        """What came that nobody asked for."""
        self.socket.setblocking(False)
        try:
            return self._file.peek(1) or b""
        except (OSError, ValueError):
            return b""


def judge(account: Account, connection: Connection, target: str, asked: Mapping[str, object]) -> str:
    """Ask the model of faults for one thing, and enter what became of it. Returns the verdict."""
    number = next(_numbers)
    body = json.dumps({"n": number, **asked}).encode()
    began = time.monotonic()
    try:
        status, answer = connection.ask(target, body)
    except NoAnswer as error:
        return error.malady
    seconds = time.monotonic() - began
    if status == 200:
        verdict, remark = _checked(number, asked, answer)
    elif status >= 400 and _reason(answer):
        verdict, remark = "honest", ""
    else:
        verdict, remark = "wrong", f"status {status} with {answer[:80]!r}"
    account.enter(verdict, status=status, seconds=seconds, remark=remark)
    return verdict


def _checked(number: int, asked: Mapping[str, object], answer: bytes) -> tuple[str, str]:
    try:
        told = json.loads(answer)
        whose, result, pad = told["n"], told["answer"], told["pad"]
    except (ValueError, KeyError, TypeError):
        return "wrong", f"request {number} was answered with {answer[:80]!r}"
    if whose != number:
        return ("doubled" if whose < number else "wrong"), f"request {number} got the answer to {whose}"
    text = str(asked.get("pad", ""))
    if result != 3 * number + 1 or pad != [len(text), zlib.crc32(text.encode())]:
        return "wrong", f"request {number} got {result} and {pad}"
    if len(told.get("large", "")) != asked.get("large", 0):
        return "wrong", f"request {number} got {len(told.get('large', ''))} bytes"
    return "right", ""


def _reason(answer: bytes) -> str:
    try:
        told = json.loads(answer)
    except ValueError:
        return ""
    return str(told.get("message") or told.get("error") or "") if isinstance(told, dict) else ""


class Load:
    """Clients that ask a model one thing after another, from ``__enter__`` to ``__exit__``.

    ``mortal`` says that the server may be killed meanwhile: clients connect again, and what was on its way is broken
    off. ``port`` may change then. ``abandon`` is for a server whose whole host is gone, and which can end no connection.
    """

    def __init__(
        self,
        port: int,
        model: str,
        *,
        host: str = "127.0.0.1",
        clients: int = 8,
        mortal: bool = False,
        asked: Mapping[str, object] | Callable[[], Mapping[str, object]] = NOTHING,
    ) -> None:
        self.account = Account()
        self.host = host
        self.port = port
        self._target = f"/predictions/{model}"
        self._asked = asked if callable(asked) else lambda: asked
        self._mortal = mortal
        self._stop = threading.Event()
        self._abandoned = False
        self._connections: set[Connection] = set()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.until_right(len(self._threads))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def until_right(self, more: int, *, within: float = 2 * PATIENCE) -> None:
        """Return when so many more requests have been answered rightly; raises ``TimeoutError``."""
        end, aim = time.monotonic() + within, self.account.right + more
        while self.account.right < aim:
            if time.monotonic() > end:
                raise TimeoutError(f"right answers no longer come: {self.account}")
            time.sleep(0.005)

    def answers(self) -> bool:
        """Whether the model answers now; this counts nowhere."""
        try:
            connection = Connection(self.port, self.host, patience=2.0)
        except OSError:
            return False
        try:
            return judge(Account(), connection, self._target, {}) == "right"
        finally:
            connection.close()

    def abandon(self) -> None:
        """End all connections, and connect no more: what was on its way is broken off."""
        self._abandoned = True
        self._stop.set()
        for connection in list(self._connections):
            connection.cut()

    def connect(self) -> Connection:
        """A new connection. Raises ``OSError``."""
        return Connection(self.port, self.host, patience=2.0 if self._mortal else PATIENCE)

    def judge(self, connection: Connection) -> str:
        """Ask once, and enter what became of it unless there was no answer. Returns the verdict."""
        return judge(self.account, connection, self._target, self._asked())

    def _ask(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self.connect()
                    self._connections.add(connection)
            except OSError:
                if not self._mortal:
                    self.account.enter("lost", remark="the connection was refused")
                time.sleep(0.02)
                continue
            verdict = self.judge(connection)
            if verdict in ("lost", "hung"):
                broken = self._abandoned or (self._mortal and verdict == "lost")
                self.account.enter("broken off" if broken else verdict)
                self._connections.discard(connection)
                connection.close()
                connection = None
            elif connection.closing or verdict in _MALADIES:  # answers out of step would all count again
                self._connections.discard(connection)
                connection.close()
                connection = None
        if connection is not None:
            if not self._abandoned and connection.stray():
                self.account.enter("doubled", remark="an answer came that nobody waited for")
            connection.close()


def once(port: int, model: str, account: Account, **asked: object) -> str:
    """One request on a connection of its own; the verdict."""
    try:
        connection = Connection(port)
    except OSError:
        account.enter("lost", remark="the connection was refused")
        return "lost"
    try:
        verdict = judge(account, connection, f"/predictions/{model}", asked)
        if verdict in ("lost", "hung"):
            account.enter(verdict)
        return verdict
    finally:
        connection.close()

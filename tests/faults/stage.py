"""Where a case is played: its server, the clients that account for what they ask, and the line of the table it becomes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from accounting import NOTHING, Account, Load
from subjects import Mooring, NotHere, Subject


@dataclass
class Line:
    """What a case came to. ``recovery`` is in seconds: the longest time, from the fault on, without a right answer."""

    case: str
    server: str
    sent: int = 0
    right: int = 0
    honest: int = 0
    broken: int = 0
    lost: int = 0
    hung: int = 0
    doubled: int = 0
    wrong: int = 0
    recovery: float | None = None
    notes: list[str] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing happened that never may."""
        return not (self.lost or self.hung or self.doubled or self.wrong or self.failed)


class Stage:
    """One server, and what is loaded on it in the course of a case. ``span`` is how many seconds of load are enough."""

    def __init__(self, folder: Path, subject: Subject, *, span: float = 2.0) -> None:
        self.folder = folder
        self.subject = subject
        self.span = span
        self.account = Account()
        self.notes: list[str] = []
        self.fault_at: float | None = None
        self._own: list[Mooring] = []

    @property
    def peer(self) -> bool:
        """Whether this is the other server, of which facts are told and nothing is demanded."""
        return not isinstance(self.subject, Mooring)

    @contextmanager
    def load(
        self,
        model: str,
        *,
        clients: int = 8,
        mortal: bool = False,
        server: Subject | None = None,
        asked: Mapping[str, object] | Callable[[], Mapping[str, object]] = NOTHING,
    ) -> Iterator[Load]:
        """Load from here to the end of the block, in the account of this case."""
        asked_of = server or self.subject
        load = Load(asked_of.port, model, host=asked_of.host, clients=clients, mortal=mortal, asked=asked)
        try:
            with load:
                yield load
        finally:
            self.account.add(load.account)

    def wait(self, share: float = 1.0) -> None:
        """Let the load go on."""
        time.sleep(self.span * share)

    def strike(self) -> None:
        """The fault happens now: from here on the time until all is well again is measured."""
        if self.fault_at is None:
            self.fault_at = time.monotonic()

    def own(self, *arguments: str | Path, **how) -> Mooring:
        """A server of this case's own, which is not waited for; it ends with the case."""
        folder = self.folder / f"server{len(self._own)}"
        folder.mkdir(parents=True)
        server = Mooring(folder, *arguments, **how)
        self._own.append(server)
        return server

    def close(self) -> None:
        for server in self._own:
            server.kill()

    def line(self, case: str) -> Line:
        account = self.account
        return Line(
            case,
            self.subject.name,
            sent=account.sent,
            right=account.right,
            honest=account.honest,
            broken=account.broken,
            **account.maladies,
            recovery=None if self.fault_at is None else account.longest_pause(self.fault_at),
            notes=[*self.notes, *account.remarks[:1]],
        )


Play = Callable[[Stage], None]


@dataclass(frozen=True)
class Case:
    """A fault. ``short`` ones are played in ``make test``, too, ``compared`` ones also on the other server."""

    name: str
    play: Play
    short: bool
    compared: bool

    def line(self, stage: Stage) -> Line:
        """Play it. Whatever it finds is in the line; ``failed`` says what was not as it must be."""
        skipped = failed = ""
        try:
            self.play(stage)
        except NotHere as reason:
            skipped = str(reason)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"[:2000]
        finally:
            stage.close()
        line = stage.line(self.name)
        line.skipped, line.failed = skipped, failed
        return line


CASES: list[Case] = []


def case(name: str, *, short: bool = False, compared: bool = False) -> Callable[[Play], Play]:
    """Enter a fault into the suite."""

    def enter(play: Play) -> Play:
        CASES.append(Case(name, play, short, compared))
        return play

    return enter

"""The comparison's record: every step as it is done, as JSON lines and as the Markdown that is read."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from aims import aims_table
from journal import Journal
from lifecycle import Killed, Life
from report import conditions
from standings import Line, life_table, tables


class Record:
    """``NAME-peers.jsonl`` and ``NAME-peers.md``, written anew with every step.

    A step is what was measured in turn; its figures are of one sitting.
    """

    def __init__(self, folder: Path, name: str, *, go_on: bool) -> None:
        self._name = name
        self._text = folder / f"{name}-peers.md"
        self._journal = Journal(folder / f"{name}-peers.jsonl", go_on=go_on)

    def sit(self, lengths: str, peers: str) -> None:
        """Begin a sitting, of repetitions so many and so long."""
        method = (
            f"Medians of {lengths}, in which\nservers and, of models, processes without a server alternate."
        )
        self._journal.add({"sitting": now(), "conditions": f"{conditions(method)}\n\n{peers}"})

    def has(self, step: str) -> bool:
        """Whether it is done, now or in an earlier sitting."""
        return any(entry.get("step") == step for entry in self._journal.entries)

    def add(self, step: str, found: Mapping[str, object]) -> None:
        """Keep what a step found: ``lines`` or ``lives``."""
        self._write({"step": step, "at": now(), **found})

    def fail(self, what: str) -> None:
        """Keep what went wrong."""
        print(what, flush=True)
        self._write({"failed": what})

    def note(self, what: str) -> None:
        """Keep what a reader should know."""
        print(what, flush=True)
        self._write({"note": what})

    def _write(self, entry: Mapping[str, object]) -> None:
        self._journal.add(entry)
        self._text.write_text(f"# Our server beside its peers, {self._name}\n\n{self.text()}\n")

    def _all(self, kind: str) -> list[str]:
        """Every text of a kind once, in order."""
        return list(dict.fromkeys(str(entry[kind]) for entry in self._journal.entries if kind in entry))

    @property
    def failed(self) -> list[str]:
        """What went wrong, once each."""
        return self._all("failed")

    def lines(self) -> list[Line]:
        """Of all steps."""
        return [Line(**each) for entry in self._journal.entries for each in entry.get("lines", ())]

    def lives(self) -> list[Life]:
        """Of all servers."""
        return [life_of(each) for entry in self._journal.entries for each in entry.get("lives", ())]

    def text(self) -> str:
        """The whole record."""
        lines, lives = self.lines(), self.lives()
        return "\n\n".join(
            [
                self._when(),
                *self._all("conditions"),
                *self._all("note"),
                *([tables(lines)] if lines else []),
                *([f"## Start, memory, kill -9\n\n{life_table(lives)}"] if lives else []),
                aims_table(lines, lives),
                *self.failed,
            ]
        )

    def _when(self) -> str:
        """From when to when, and in how many sittings that measured something."""
        sittings: list[list[str]] = []
        for entry in self._journal.entries:
            if "sitting" in entry:
                sittings.append([str(entry["sitting"])])
            elif "at" in entry and sittings:
                sittings[-1].append(str(entry["at"]))
        spans = [f"{times[0]} to {times[-1]}" for times in sittings if len(times) > 1]
        if len(spans) == 1:
            return f"Measured from {spans[0]} in one sitting."
        how = (
            f"Measured in {len(spans)} sittings: from {', from '.join(spans)}."
            if spans
            else "Nothing is measured yet."
        )
        return f"{how} The rates of one table are of one sitting each."


def life_of(found: Mapping[str, object]) -> Life:
    """As it was before it was written."""
    killed = {kind: Killed(**entry) for kind in ("alone", "pair") if isinstance(entry := found[kind], dict)}
    return Life(**{**found, **killed})  # type: ignore[arg-type]


def now() -> str:
    """The minute, as a person reads it."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")

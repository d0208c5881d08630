"""What a run has found so far: a file of JSON lines that grows with it, so that an interrupted run keeps what it has."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """The entries of a run, in order, those of earlier sittings first if it goes on with them.

    An entry is on the disk when ``add`` returns. A line that was cut off in the middle of being written is dropped.
    """

    def __init__(self, file: Path, *, go_on: bool = False) -> None:
        self._file = file
        self.entries: list[Entry] = whole_lines(file.read_bytes()) if go_on and file.exists() else []
        file.write_text("".join(f"{json.dumps(entry)}\n" for entry in self.entries))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Keep one more."""
        self.entries.append(dict(entry))
        with self._file.open("a") as file:
            file.write(f"{json.dumps(entry)}\n")
            file.flush()
            os.fsync(file.fileno())


def whole_lines(text: bytes) -> list[Entry]:
    r"""What was written to the end.

    >>> whole_lines(b'{"a": 1}\n{"b": 2}\n{"c"')
    [{'a': 1}, {'b': 2}]
    """
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

"""A terminal for tests: a pseudo terminal, and what it would show of the bytes that were written to it."""

import re

_PART = re.compile(r"\x1b\[[\d;]*[A-Za-z]|\r\n|\n|\r|[^\x1b\r\n]+")


def shown_lines(data: bytes, width: int = 1000) -> list[str]:
    """The lines of a terminal that is high enough for all of them. Fails where text is written over other text."""
    lines, row = [""], 0
    for part in _PART.findall(data.decode()):
        if part in ("\r\n", "\n"):
            row += 1
            if row == len(lines):
                lines.append("")
        elif part.startswith("\x1b") and part.endswith("A"):
            row -= int(part[2:-1])
            assert row >= 0
        elif part == "\x1b[J":
            lines[row:] = [""]
        elif not part.startswith("\x1b") and part != "\r":
            lines[row] += part
            assert len(lines[row]) <= width, lines[row]
    return lines

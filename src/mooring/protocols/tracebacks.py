"""Where in a model's own code an exception was raised, read from its traceback."""

import re
from pathlib import PurePath

_FRAME = re.compile(r'^  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)
# Packages, the standard library, and what has no file.
_FOREIGN = re.compile(r"(^<)|[/\\](site-packages|dist-packages|python3(\.\d+)?t?)[/\\]")
_OWN_PACKAGE = str(PurePath(__file__).parents[1])


def find_own_line(traceback: str) -> str:
    """Return the last line of the model's own code in a traceback, as "model.py, line 3, in infer"; empty where there is none.

    The file's folder is left out: clients need not know it.
    """
    found = ""
    for frame in _FRAME.finditer(traceback):
        file = frame["file"]
        if not _FOREIGN.search(file) and not file.startswith(_OWN_PACKAGE):
            found = f"{PurePath(file).name}, line {frame['line']}, in {frame['function']}"
    return found

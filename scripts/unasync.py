"""Make the sync client of the async one: the same text with other words. Run it after every change of the latter.

The words are few because the libraries have both forms under names that follow a rule, and so does the client.
"""

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "src" / "mooring" / "client"
SOURCE = CLIENT / "aio"
TARGET = CLIENT / "sync"

_WORDS = [
    (r"async (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"\bAwaitable, ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\basyncio\.sleep\b", "sleep"),
    (r"\bimport asyncio\n", ""),
    (r"from time import monotonic\b", "from time import monotonic, sleep"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\ba(close|read|iter_lines)\(", r"\1("),
    (r"\baclosing\b", "closing"),
    (r"\bgrpc\.aio\b", "grpc"),
    (r"\bclient\.aio\b", "client.sync"),
    (r"on asyncio", "for code without asyncio"),
]


def made_of(source: Path) -> str:
    """The sync form of one module, as it is formatted."""
    text = source.read_text(encoding="utf-8")
    for word, other in _WORDS:
        text = re.sub(word, other, text)
    text = text.replace("import grpc\nimport grpc\n", "import grpc\n")
    note = f"# Made by scripts/unasync.py of aio/{source.name}: do not edit.\n"
    ruff, name = str(Path(sys.executable).with_name("ruff")), str(TARGET / source.name)
    text = note + text
    for command in (["check", "--quiet", "--select", "I", "--fix"], ["format"]):  # other words, another order
        how = [ruff, *command, "--stdin-filename", name, "-"]
        text = subprocess.run(how, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for module in sorted(SOURCE.glob("*.py")):
        (TARGET / module.name).write_text(made_of(module), encoding="utf-8")

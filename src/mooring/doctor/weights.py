"""Checks whether a file of weights holds tensors only, by the opcodes of its pickle, which is never loaded."""

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# torch.save of old writes a magic number, a protocol, the machine's sizes and then the object.
_PICKLES = 4
_MOST_BYTES = 64 << 20
_BROKEN = (
    ArithmeticError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
)

# What torch.load(weights_only=True) lets a pickle name.
_PLAIN = frozenset(
    {
        "_codecs encode",
        "builtins bytearray",
        "builtins complex",
        "builtins set",
        "collections Counter",
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._tensor _rebuild_from_type_v2",
        "torch.nn.parameter Parameter",
        "torch.serialization _get_layout",
        "torch.storage TypedStorage",
        "torch.storage UntypedStorage",
    }
)
_TENSORS = re.compile(r"torch(\.cuda)?(\.sparse)? \w*(Tensor|Storage)|torch\._utils _rebuild_\w+")
_DATATYPES = re.compile(
    r"torch (b?float\d+\w*|u?int\d+|bool|complex\d+|qu?int\w+|bits\w+|per_(tensor|channel)_\w+)"
)
_PUSHES_TEXT = frozenset(
    {"BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING", "UNICODE"}
)


def more_than_tensors(file: Path) -> list[str]:
    """Return what else the file would import or call, as ``module name``; empty if it holds tensors only.

    TorchScript, exported programs and what is no pickle are not read as one, and have nothing here.
    """
    found: dict[str, None] = {}
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickled = _find_data_file(archive)
                if pickled:
                    with archive.open(pickled) as source:
                        _collect_globals(source, found, 1)
        else:
            with file.open("rb") as source:
                if source.read(1) == b"\x80":
                    source.seek(0)
                    _collect_globals(source, found, _PICKLES)
    except _BROKEN:  # what was found up to there counts: torch, too, acts on a pickle as it reads
        pass
    return [each for each in found if not _is_allowed(each)]


def _find_data_file(archive: zipfile.ZipFile) -> str:
    names = archive.namelist()
    if any(name.rpartition("/")[2] in ("constants.pkl", "archive_format") for name in names):
        return ""
    found = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == "data.pkl"]
    return found[0].filename if found and found[0].file_size <= _MOST_BYTES else ""


def _collect_globals(source: IO[bytes], found: dict[str, None], pickles: int) -> None:
    for _ in range(pickles):
        for name in _read_globals(source):
            found[name] = None


def _read_globals(source: IO[bytes]) -> Iterator[str]:
    texts: list[str] = []  # what was pushed last
    memo: dict[object, str] = {}
    for opcode, argument, _ in pickletools.genops(source):
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            yield str(argument)
        elif name == "STACK_GLOBAL":
            yield " ".join(texts[-2:]) if len(texts) > 1 else "something unnamed"
        elif name.startswith("EXT"):
            yield "a registered extension"
        elif name in _PUSHES_TEXT:
            texts = [*texts[-1:], str(argument)]
        elif name == "MEMOIZE":
            memo[len(memo)] = texts[-1] if texts else ""
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = texts[-1] if texts else ""
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            texts = [*texts[-1:], memo.get(argument, "")]


def _is_allowed(name: str) -> bool:
    return name in _PLAIN or bool(_TENSORS.fullmatch(name) or _DATATYPES.fullmatch(name))

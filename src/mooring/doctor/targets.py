"""Examines one target of ``mooring serve``, in the words that the server would use."""

from importlib.util import find_spec
from pathlib import Path

from msgspec.structs import replace

from mooring.core.errors import ModelLoadFailed
from mooring.core.missing_packages import describe_need
from mooring.doctor.findings import Finding, Verdict, change, runs
from mooring.doctor.libraries import Requirements, library_findings
from mooring.repository.platforms import LIBRARIES, SUFFIXES, backend_of
from mooring.repository.targets import TargetKind, find_target, refuse_url

_LIBRARIES = {"onnx": "onnxruntime", "pytorch": "torch"}
TARGET_SUFFIXES = (".py", *(suffix for backend in LIBRARIES for suffix in SUFFIXES[backend]))


def target_finding(target: str, shown: str) -> Finding:
    """Return whether a target can be served, and by which command. Raises ``ModelNotFound`` where there is no such file."""
    try:
        found = find_target(target)
    except ModelLoadFailed as error:
        return change(shown, error.message, "give mooring serve what is named there")
    if found.kind is TargetKind.URL:
        return change(shown, refuse_url(found.text).message, "give mooring serve that flag")
    library = _LIBRARIES.get(backend_of(found.place))
    if library is not None and find_spec(library) is None:
        need, command = describe_need(library)
        return change(shown, f"needs {need}, which is not installed here", command)
    if found.kind is TargetKind.FUNCTION:
        place, folder = found.place.resolve(), found.root.resolve()
        requirements = Requirements(None, installed=False)
        for each in library_findings(folder, str(Path(shown).parent), [place], requirements):
            if each.verdict is Verdict.CHANGE:
                # What is said there of archives' requirements does not hold for a file on its own.
                return replace(each, suggestion=each.suggestion.partition(", or name it")[0])
    return runs(shown, f"can be served: mooring serve {target}")

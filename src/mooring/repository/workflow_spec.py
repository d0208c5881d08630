"""A workflow archive's folder -> ``Workflow``: its MANIFEST.json and spec, checked (docs/contracts/torchserve.md, section 6).

    models:                        what holds for every model, and the models by node
      min-workers: 1
      m1: {url: m1.mar, batch-size: 4}
    dag:                           node -> what comes after it; a node that is no model is a function of the handler
      pre: [m1]
      m1: [post]

Every error names the archive, the file in it and the key.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mooring.core.errors import ModelLoadFailed
from mooring.repository.mar import check_name, file_in_archive
from mooring.repository.model_config import read_model_config

WORKFLOW_MANIFEST = "WAR-INF/MANIFEST.json"

# Key of a spec -> the least that it may be. Delays and time-outs are in milliseconds.
KEYS: Mapping[str, int] = {
    "min-workers": 1,
    "max-workers": 1,
    "batch-size": 1,
    "max-batch-delay": 0,
    "retry-attempts": 0,
    "timeout-ms": 1,
}
# TorchServe's, for what neither the workflow nor the model says.
DEFAULTS: Mapping[str, int] = {
    "min-workers": 1,
    "max-workers": 1,
    "batch-size": 1,
    "max-batch-delay": 50,
    "retry-attempts": 1,
    "timeout-ms": 10_000,
}
_MAX_NUMBER = 1 << 31
_MAX_BYTES = 1 << 20


class Workflow(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as its archive describes it. ``order`` has every node after those before it; ``models`` is node -> url.

    ``common`` holds the numbers for all models, ``own`` those of one; nodes that are no models are functions of
    the file ``handler`` in ``folder``. ``unused`` are the models that are on no path.
    """

    name: str
    folder: Path
    shown: str
    spec_file: str
    handler: str
    dag: dict[str, list[str]]
    order: list[str]
    models: dict[str, str]
    common: dict[str, int]
    own: dict[str, dict[str, int]]
    unused: list[str]

    @property
    def functions(self) -> list[str]:
        """The nodes that are functions of the handler."""
        return [node for node in self.order if node not in self.models]

    def parents(self, node: str) -> list[str]:
        """The nodes whose answers it takes, in the order in which they are written."""
        return [parent for parent, following in self.dag.items() if node in following]

    def declared(self, node: str, key: str) -> int | None:
        """The number that the workflow has for a node under a key; None where it has none."""
        return self.own.get(node, {}).get(key, self.common.get(key))


def read_workflow(folder: Path, shown: str, *, name: str = "", fallback: str = "") -> Workflow:
    """Read the workflow in an unpacked folder. ``name`` wins over the manifest's own, ``fallback`` is for one without.

    Raises ``ModelLoadFailed``, which names the file and the key at fault; ``shown`` is the archive's name in it.
    """
    manifest = read_manifest(folder, shown)
    file = file_in_archive(folder, manifest["specFile"], shown)
    name = check_name(name or manifest.get("workflowName") or fallback, shown, "name")
    where = f"{shown}/{file.name}"
    spec = read_model_config(file)
    common, models, own = _parse_models(spec.get("models"), where)
    dag = _parse_dag(spec.get("dag"), where)
    order = _topological_order(dag, where)
    handler = manifest.get("handler") or ""
    functions = [node for node in order if node not in models]
    if functions and not handler:
        raise ModelLoadFailed(
            f"{where}: dag: '{functions[0]}' is not one of the models, and there is no handler whose function it could be"
        )
    return Workflow(
        name=name,
        folder=folder,
        shown=shown,
        spec_file=file.name,
        handler=file_in_archive(folder, Path(handler).name, shown).name if functions else "",
        dag=dag,
        order=order,
        models={node: url for node, url in models.items() if node in order},
        common=common,
        own=own,
        unused=[node for node in models if node not in order],
    )


def read_manifest(folder: Path, shown: str) -> dict[str, str]:
    """Read the manifest's ``workflow``: specFile, and where it has them workflowName and handler.

    Raises ``ModelLoadFailed``.
    """
    file = folder / WORKFLOW_MANIFEST
    if not file.is_file():
        raise ModelLoadFailed(f"'{shown}' is not a workflow archive: it has no {WORKFLOW_MANIFEST}")
    where = f"{shown}/{WORKFLOW_MANIFEST}"
    try:
        with file.open("rb") as source:
            text = source.read(_MAX_BYTES)
        whole = msgspec.json.decode(text.removeprefix(b"\xef\xbb\xbf"), type=dict[str, Any])
    except (OSError, RecursionError, ValueError) as error:
        raise ModelLoadFailed(f"{where}: cannot be read: {error}") from error
    said = whole.get("workflow")
    if not isinstance(said, dict):
        raise ModelLoadFailed(f"{where}: 'workflow' must be an object")
    for key in ("workflowName", "specFile", "handler"):
        if said.get(key) is None:
            said.pop(key, None)
        elif not isinstance(said[key], str):
            raise ModelLoadFailed(f"{where}: workflow.{key} must be text")
    if not said.get("specFile"):
        raise ModelLoadFailed(f"{where}: workflow.specFile is missing")
    return said


def _parse_models(value: Any, where: str) -> tuple[dict[str, int], dict[str, str], dict[str, dict[str, int]]]:
    """Parse the numbers for all models, the url of each model, and the numbers of each."""
    urls: dict[str, str] = {}
    own: dict[str, dict[str, int]] = {}
    if value is None:
        return {}, urls, own
    if not isinstance(value, dict):
        raise ModelLoadFailed(f"{where}: models: expected a mapping of models")
    common = dict(_parse_numbers(value, f"{where}: models"))
    for node, said in value.items():
        if node in KEYS:
            continue
        place = f"{where}: models.{node}"
        if not isinstance(said, dict):
            raise ModelLoadFailed(
                f"{place}: expected a mapping with 'url'; what may be said of all models is {', '.join(KEYS)}"
            )
        url = said.get("url")
        if not isinstance(url, str) or not url:
            raise ModelLoadFailed(f"{place}.url: expected the name of an archive in the model store")
        urls[node], own[node] = url, dict(_parse_numbers(said, place))
        _check_sizes(common | own[node], place)
    _check_sizes(common, f"{where}: models")
    return common, urls, own


def _parse_numbers(said: Mapping[str, Any], place: str) -> Iterator[tuple[str, int]]:
    for key, least in KEYS.items():
        value = said.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MAX_NUMBER:
            raise ModelLoadFailed(f"{place}.{key} = {value!r}: expected a whole number from {least}")
        yield key, value


def _check_sizes(said: Mapping[str, int], place: str) -> None:
    if "max-workers" in said and said.get("min-workers", 1) > said["max-workers"]:
        raise ModelLoadFailed(f"{place}.min-workers = {said['min-workers']}: it is above max-workers")


def _parse_dag(value: Any, where: str) -> dict[str, list[str]]:
    """Parse node -> the nodes after it, as written; a single name stands for a list of one."""
    if not isinstance(value, dict) or not value:
        raise ModelLoadFailed(f"{where}: dag: expected a mapping from each node to those after it")
    dag: dict[str, list[str]] = {}
    for node, following in value.items():
        after = following if isinstance(following, list) else [] if following is None else [following]
        for each in (node, *after):
            if not isinstance(each, str):
                raise ModelLoadFailed(
                    f"{where}: dag.{node}: {each!r} is not the name of a node; put it in quotes if it is"
                )
            check_name(each, f"{where}: dag", "name of a node")
        dag[node] = list(dict.fromkeys(after))
    return dag


def _topological_order(dag: Mapping[str, list[str]], where: str) -> list[str]:
    """Sort the nodes so that each stands after those before it. Raises ``ModelLoadFailed`` for a cycle."""
    nodes = dict.fromkeys(node for start, following in dag.items() for node in (start, *following))
    waiting = dict.fromkeys(nodes, 0)
    for following in dag.values():
        for node in following:
            waiting[node] += 1
    order = [node for node, count in waiting.items() if not count]
    for node in order:
        for child in dag.get(node, ()):
            waiting[child] -= 1
            if not waiting[child]:
                order.append(child)
    if len(order) < len(nodes):
        left = [node for node in nodes if waiting[node]]
        raise ModelLoadFailed(f"{where}: dag: {_find_cycle(dag, left)} is a cycle")
    return order


def _find_cycle(dag: Mapping[str, list[str]], left: list[str]) -> str:
    """Find one of the cycles among nodes of which each is on a cycle or before one."""
    before = {node: next(parent for parent in left if node in dag.get(parent, ())) for node in left}
    path = [left[0]]
    while path[-1] not in path[:-1]:
        path.append(before[path[-1]])
    return " -> ".join(reversed(path[path.index(path[-1]) :]))

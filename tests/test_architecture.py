"""Imports go one way, and importing costs next to nothing."""

import ast
import graphlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mooring

ROOT = Path(mooring.__file__).parent
# Where torch and its like may be: what only a worker imports.
WORKER_SIDE = (
    "mooring.backends.handler",
    "mooring.backends.programs",
    "mooring.backends.onednn_layout",
    "mooring.compat",
    "mooring.explain",
    "mooring.cli.templates",
)
HEAVY = ("torch", "onnxruntime", "captum", "ray", "sklearn", "PIL")
BUDGET = 0.150  # seconds of CPU
# Between a protocol and a model, every module has a test file of its own, tests/<package>/test_<module>.py, but for these:
# small ones that are tested with whatever uses them, and those that are only tested with real processes. No new ones.
CORE = ("engine", "frontends", "ipc", "server", "worker_process", "workers")
WITHOUT_TESTS = {
    "engine/body_reader.py",
    "engine/completion.py",
    "engine/control.py",
    "engine/frontends.py",
    "engine/graphs/dataflow.py",
    "engine/graphs/run.py",
    "engine/graphs/workflows.py",
    "engine/json_outputs.py",
    "engine/snapshots.py",
    "frontends/load.py",
    "frontends/messages.py",
    "ipc/call_messages.py",  # engine/test_model_calls.py has both ends, and what they say to each other
    "ipc/template_protocol.py",
    "server/startup.py",
    "worker_process/concurrent.py",
    "worker_process/model_client.py",
    "worker_process/preloaded.py",
    "worker_process/rank.py",  # test_group.py starts it
    "worker_process/trial.py",  # test_joining_trial.py: two files of tests may not have one name
    "worker_process/warmup.py",
    "workers/library_process.py",
    "workers/spawner.py",
}


def told(code):
    """What ``code``, run in a fresh interpreter, prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def modules():
    """Every module of the server's side, by name."""
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith((*WORKER_SIDE, "mooring.cluster.ray")) and name != "mooring.__main__":
            names.append(name)
    return names


def test_importing_mooring_stays_in_its_budget_and_brings_nothing_along():
    code = (
        "import time, sys, json; began = time.process_time(); import mooring;"
        "print(json.dumps([time.process_time() - began, sorted(sys.modules)]))"
    )
    # CPU time, and the best of three: other work on the machine is no fault of the import.
    seconds, loaded = min(told(code) for _ in range(3))
    assert seconds < BUDGET
    assert not {"numpy", "msgspec", "click", "rich", "asyncio", *HEAVY} & set(loaded)
    assert [name for name in loaded if name.startswith("mooring")] == ["mooring"]


def test_asking_for_help_loads_no_server():
    code = (
        "import sys, json, contextlib, io\n"
        "from mooring.cli import main\n"
        "sys.argv = ['mooring', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    main()\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"mooring.server.server", "uvloop", "numpy", "rich", *HEAVY} & set(told(code))


def test_the_server_process_never_loads_a_heavy_library():
    names = modules()
    assert "mooring.server.server" in names
    code = (
        f"import importlib, sys, json\nfor name in {names!r}:\n    importlib.import_module(name)\n"
        f"print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    assert not set(HEAVY) & set(told(code))


def test_a_server_speaks_grpc_without_the_library():
    code = (
        "import json, sys, mooring.server.server, mooring.mount.grpc; print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"grpc", "h2", "hpack"} & set(told(code))


def test_a_worker_loads_nothing_that_only_the_server_needs():
    code = (
        "import json, sys, mooring.worker_process.worker, mooring.backends.handler.backend\n"
        "import mooring.backends.triton_python.backend; print(json.dumps(sorted(sys.modules)))"
    )
    assert not {"prometheus_client", "http.client", "psutil", "httptools", "click"} & set(told(code))


def test_every_module_of_the_core_has_a_test_file_of_its_own():
    tests = Path(__file__).parent
    without = {
        str(module.relative_to(ROOT))
        for package in CORE
        for module in (ROOT / package).rglob("*.py")
        if module.name != "__init__.py"
        and not (tests / module.relative_to(ROOT)).with_name(f"test_{module.name}").exists()
    }
    assert without == WITHOUT_TESTS


def test_imports_follow_the_layers():
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=ROOT.parent.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout


def test_no_modules_import_each_other_in_a_circle_not_even_for_types_or_inside_functions():
    modules = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }
    imports = {}
    for module, path in modules.items():
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        imports[module] = names & modules.keys() - {module}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports each by its name alone, and cannot collect two of them together."""
    names = Counter(file.name for file in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []

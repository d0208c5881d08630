"""Reads Python files without running them: their imports, definitions and calls."""

import ast
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

_MOST_BYTES = 1 << 20
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_Function = ast.FunctionDef | ast.AsyncFunctionDef


class SourceUnreadable(Exception):
    """A file cannot be imported; ``line`` is the place of the error, or 0."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


class Import(msgspec.Struct, frozen=True):
    """An import statement. ``optional`` means that the code handles its failure."""

    module: str
    line: int
    optional: bool = False
    level: int = 0
    names: tuple[str, ...] = ()


def read_source(file: Path) -> ast.Module:
    """Return the syntax tree of a file. Raises ``SourceUnreadable``."""
    try:
        with file.open("rb") as source:
            text = source.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise SourceUnreadable("it is larger than a source file can be")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its author's escapes; they are no fault
            return ast.parse(text)
    except SyntaxError as error:
        raise SourceUnreadable(error.msg, error.lineno or 0) from error
    except OSError as error:
        raise SourceUnreadable(error.strerror or str(error)) from error
    except (MemoryError, RecursionError, ValueError) as error:
        raise SourceUnreadable(str(error) or "it is nested too deep") from error


def find_imports(tree: ast.Module) -> list[Import]:
    """Return every import, also in functions, without those under TYPE_CHECKING."""
    found: list[Import] = []
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, optional = waiting.pop()
        if isinstance(node, ast.Import):
            found += [Import(each.name, node.lineno, optional) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(each.name for each in node.names)
            found.append(Import(node.module or "", node.lineno, optional, node.level, names))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += [(each, optional) for each in node.orelse]
        elif isinstance(node, ast.Try) and _forgives_imports(node):
            waiting += [(each, True) for each in (*node.body, *node.orelse, *node.finalbody, *node.handlers)]
        else:
            waiting += [(each, optional) for each in ast.iter_child_nodes(node)]
    return sorted(found, key=lambda each: each.line)


def _forgives_imports(node: ast.Try) -> bool:
    words = ("ImportError", "ModuleNotFoundError", "Exception")
    return any(
        each.type is None or any(word in ast.dump(each.type) for word in words)
        for each in node.handlers
        if not any(isinstance(step, ast.Raise) for step in ast.walk(each))
    )


def module_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Return the statements that a module may run when it is imported, conditional branches included."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            inner = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
            for handler in getattr(node, "handlers", ()):
                inner += handler.body
            waiting += reversed(inner)


def find_classes(tree: ast.Module) -> list[ast.ClassDef]:
    """Return the classes that a module defines itself."""
    return [each for each in module_statements(tree) if isinstance(each, ast.ClassDef)]


def function(body: Iterable[ast.stmt], name: str) -> _Function | None:
    """Return the function of that name; None if there is none."""
    return next((each for each in body if isinstance(each, _FUNCTIONS) and each.name == name), None)


def binds_name(tree: ast.Module, name: str) -> bool:
    """Return whether a module defines that name when it is imported; a star import may define any."""
    for node in module_statements(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import):
            if any((each.asname or each.name) in (name, "*") for each in node.names):
                return True
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                return True
    return False


def may_define(tree: ast.Module, name: str) -> bool:
    """Return whether a module could have that name once it was imported; False only where that is sure."""
    if binds_name(tree, name) or binds_name(tree, "__getattr__"):
        return True
    dynamic = {"exec", "globals", "setattr", name}
    return any(isinstance(node, ast.Name) and node.id in dynamic for node in ast.walk(tree))


def names_bound(tree: ast.Module) -> list[str]:
    """Return the public functions, classes and variables that a module defines itself, as far as its text tells."""
    found: dict[str, None] = {}
    for node in module_statements(tree):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
            found[node.name] = None
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update((each.id, None) for each in targets if isinstance(each, ast.Name))
    return [name for name in found if not name.startswith("_")]


def find_models(tree: ast.Module) -> list[str]:
    """Return the names that can be models: classes with a method infer, and without such a class the public functions.

    A function main and those of tests are none.
    """
    bases: set[str] = {"Model"}
    classes: list[str] = []
    for node in find_classes(tree):
        inherited = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        if function(node.body, "infer") is not None or inherited & bases:
            bases.add(node.name)
            classes.append(node.name)
    public = [each for each in classes if not each.startswith("_")]
    if public:
        return public
    functions = [node.name for node in module_statements(tree) if isinstance(node, _FUNCTIONS)]
    return [
        name for name in dict.fromkeys(functions) if not name.startswith(("_", "test_")) and name != "main"
    ]


def has_method(node: ast.ClassDef, name: str) -> bool:
    """Return whether a class has a method, its own or possibly one of a base class."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    return bool(bases - {"ABC", "object"}) or function(node.body, name) is not None


def torch_loads(tree: ast.Module) -> list[tuple[int, bool | None]]:
    """Return the lines that call ``torch.load``, each with its ``weights_only`` (None if it is not given)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = [word.value for word in node.keywords if word.arg == "weights_only"]
            value = given[0].value if given and isinstance(given[0], ast.Constant) else None
            found.append((node.lineno, value if isinstance(value, bool) else None))
    return sorted(found)


def find_required_cuda(tree: ast.Module) -> int:
    """Return the first line that uses a CUDA device unconditionally; 0 if there is none.

    What stands under a condition, and a file that asks anywhere which devices there are, has seen to it itself.
    """
    asks = ("is_available", "device_count")
    if any(isinstance(node, ast.Attribute) and node.attr in asks for node in ast.walk(tree)):
        return 0
    lines: list[int] = []
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp | ast.Try | ast.Match):
            continue
        if isinstance(node, ast.Call) and _names_cuda(node):
            lines.append(node.lineno)
        waiting += ast.iter_child_nodes(node)
    return min(lines, default=0)


def _names_cuda(call: ast.Call) -> bool:
    """``x.cuda()``, or ``torch.device``, ``x.to``, ``map_location=`` or ``device=`` with "cuda" or "cuda:0"."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    if called == "cuda":
        return True
    given = [word.value for word in call.keywords if word.arg in ("map_location", "device")]
    given += call.args[:1] if called in ("device", "to") else []
    return any(
        isinstance(each, ast.Constant) and str(each.value).partition(":")[0] == "cuda" for each in given
    )

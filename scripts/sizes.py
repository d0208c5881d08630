"""Print how large modules, classes and functions are, for a person to read; nothing fails by it."""

import ast
import statistics
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "mooring"
LARGE_MODULE = 400
LARGE_CLASS = 200
LARGE_FUNCTION = 25


def main() -> None:
    modules: dict[str, int] = {}
    classes: dict[str, int] = {}
    functions: dict[str, int] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(SOURCE))
        if text.count("\n") > 1:
            modules[name] = text.count("\n")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                classes[f"{name}:{node.name}"] = lines(node)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{name}:{node.lineno} {node.name}"] = lines(node)
    report("modules", modules, LARGE_MODULE)
    report("classes", classes, LARGE_CLASS)
    report("functions", functions, LARGE_FUNCTION)


def lines(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the head to the last statement."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def report(what: str, sizes: dict[str, int], large: int) -> None:
    """One line of figures, and the few that stand out."""
    over = sorted(((size, name) for name, size in sizes.items() if size > large), reverse=True)
    share = 100 * (len(sizes) - len(over)) / len(sizes)
    print(
        f"{len(sizes)} {what}: median {statistics.median(sizes.values()):.0f} lines, {share:.0f} % up to {large}"
    )
    for size, name in over[:5]:
        print(f"  {size:5} {name}")


if __name__ == "__main__":
    main()

"""How the package hangs together: no import circles, nothing that imports the command line, no studies in the wheel."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unjpeg"


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Everything that a module imports at any place, in functions too; not what only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported_names(node)


def import_graph(root: Path, folder: Path) -> dict[str, set[str]]:
    """Modules of a folder and which of them each imports. A package counts with what its ``__init__`` imports."""
    files = {module_name(file, root): file for file in sorted(folder.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, file in files.items():
        found = set(imported_names(ast.parse(file.read_text(encoding="utf-8"))))
        graph[name] = {other for other in found if other in files and other != name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group: list[str] = []
            while not group or group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]


@pytest.mark.parametrize(("root", "folder"), [(ROOT / "src", PACKAGE), (ROOT, ROOT / "studies")])
def test_no_module_imports_one_that_imports_it(root: Path, folder: Path) -> None:
    graph = import_graph(root, folder)
    assert len(graph) > 10
    # The package's own names are looked up when they are used: what imports the package itself imports its errors only.
    graph.pop("unjpeg", None)
    assert circles({name: others - {"unjpeg"} for name, others in graph.items()}) == []


def test_nothing_but_the_command_imports_the_command_line() -> None:
    graph = import_graph(ROOT / "src", PACKAGE)
    assert {name for name, others in graph.items() if "unjpeg.cli" in others} == {"unjpeg.__main__"}


def test_the_product_knows_nothing_of_the_studies() -> None:
    for file in PACKAGE.rglob("*.py"):
        found = set(imported_names(ast.parse(file.read_text(encoding="utf-8"))))
        assert not any(name.partition(".")[0] == "studies" for name in found), file


def test_what_restores_imports_no_lab() -> None:
    """Neither training nor adapting nor measuring lies on the way of a picture; the torch runtime needs the models."""
    graph = import_graph(ROOT / "src", PACKAGE)
    reached, waiting = set[str](), ["unjpeg.restorer", "unjpeg.batch", "unjpeg.inspection", "unjpeg.cluster"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += graph[name]
    assert not {name for name in reached if name.split(".")[1:2] in (["train"], ["adapt"], ["evaluate"])}


def test_no_function_takes_or_is_given_nine_arguments_by_position() -> None:
    """Commands are called by their options alone."""
    for file in [
        file for folder in (PACKAGE, ROOT / "studies", ROOT / "integrations") for file in folder.rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            place = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.FunctionDef) and "typer.Option" not in ast.unparse(node.args):
                named = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
                assert named or len(node.args.args) < 9, place
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[:1].islower():
                plain = [
                    one for one in node.args if not isinstance(one, ast.Constant)
                ]  # a list of names is no settings
                assert len(plain) < 9, place


def test_documents_name_modules_that_exist() -> None:
    documents = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    files = [
        file
        for folder in ("src", "studies", "tests", "examples", "integrations")
        for file in (ROOT / folder).rglob("*.py")
    ]
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"python -m ((?:unjpeg|studies)[.\w]*\w)", text):
            path = ROOT / ("src" if name.startswith("unjpeg") else ".") / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{document.name}: {name}"
        for name in re.findall(r"[\w/]+\.py\b", text):
            found = any(file.as_posix().endswith(f"/{name}") for file in files)
            assert found, f"{document.name}: {name}"


def test_no_test_file_is_too_long_to_read() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / "tests").rglob("*.py")}
    assert [file.name for file, lines in lengths.items() if lines > 700] == []


def test_test_files_are_told_by_their_names() -> None:
    """pytest collects none of them where two folders hold the same name."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_one_name_of_a_kind_of_pixels_means_one_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for file in [*PACKAGE.rglob("*.py"), *(ROOT / "studies").rglob("*.py")]:
        for name, kind in re.findall(r"^(Pixels\w*) = (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE):
            kinds.setdefault(name, set()).add(kind)
    assert {"Pixels", "Pixels8"} <= kinds.keys()
    assert all(len(kind) == 1 for kind in kinds.values())


def test_results_stay_small() -> None:
    assert sum(file.stat().st_size for file in (ROOT / "results").iterdir()) < 1_500_000

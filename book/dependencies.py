"""What a chapter depends on: the modules of vaelib that it imports, directly or not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "vaelib"


def modules_of(code: str, root: Path) -> set[str]:
    """Return the modules of vaelib that some code imports, and all that these import in turn.

    Parameters
    ----------
    code
        Source text.
    root
        The folder in which the package lies.
    """
    found: set[str] = set()
    waiting = _imported(code, root)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting |= _imported(_file(module, root).read_text(encoding="utf-8"), root)
    return found


def files_of(code: str, root: Path, published: Path) -> list[Path]:
    """Return the files of these modules, and those of the long runs that they declare."""
    modules = modules_of(code, root)
    files = {_file(module, root) for module in modules}
    # Scripts and styles of live figures lie beside their modules.
    files |= {file for module in modules for file in _file(module, root).parent.glob("*.js")}
    for module in modules:
        if lesson := re.search(r"\.lesson_(\d+)$", module):
            files |= set(published.glob(f"long_runs/{int(lesson[1]):02d}_*/*"))
        if case := re.search(r"\.(case_[a-z])$", module):
            files |= set(published.glob(f"long_runs/{case[1]}_*/*"))
    return sorted(files)


def _imported(code: str, root: Path) -> set[str]:
    """Return the modules of vaelib that the import statements of some code name."""
    names, given_on_demand = set(), _given_on_demand(root)
    for node in _walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = (f"{node.module}.{alias.name}" for alias in node.names)
            names |= {node.module, *(given_on_demand.get(name, name) for name in whole)}
    of_ours = {name for name in names if name.split(".")[0] == PACKAGE}
    # Importing a module runs the packages above it, too.
    of_ours |= {name.rsplit(".", k)[0] for name in of_ours for k in range(1, name.count(".") + 1)}
    return {name for name in of_ours if _file(name, root).exists()}


def _given_on_demand(root: Path) -> dict[str, str]:
    """Return what the package imports when it is asked for it: ``"vaelib.fit"`` -> its module."""
    tree = ast.parse((root / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    promised = [node for part in tree.body if _is_for_type_checkers(part) for node in part.body]
    return {f"{PACKAGE}.{alias.name}": node.module for node in promised for alias in node.names}


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, but none that only type checkers look at."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not _is_for_type_checkers(node):
            yield from _walk(node)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _file(module: str, root: Path) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

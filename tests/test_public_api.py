"""What the package exports is what it says it exports. The order of ``__all__`` is ruff's business (RUF022)."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import calibadv

PACKAGE = Path(calibadv.__file__).parent


def module_of(path: Path) -> str:
    parts = ("calibadv", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def declares_all(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__" for n in tree.body)


def re_exported(path: Path) -> set[str]:
    """Names that a package file imports at its top level from its own modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    below = module_of(path) + "."
    nodes = [n for n in tree.body if isinstance(n, ast.ImportFrom) and (n.level or f"{n.module}.".startswith(below))]
    return {a.asname or a.name for n in nodes for a in n.names}


WITH_ALL = [p for p in sorted(PACKAGE.rglob("*.py")) if declares_all(p)]
PACKAGES = sorted(PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("path", WITH_ALL, ids=module_of)
def test_every_name_in_all_exists_and_appears_once(path: Path) -> None:
    module = importlib.import_module(module_of(path))
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("path", PACKAGES, ids=module_of)
def test_what_a_package_imports_from_below_is_in_its_all(path: Path) -> None:
    imported = {name for name in re_exported(path) if not name.startswith("_")} - {"lazily"}
    if imported:
        assert imported <= set(importlib.import_module(module_of(path)).__all__)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_of)
def test_every_module_says_what_it_is_in_its_first_line(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{module_of(path)} has no docstring"


def test_a_package_that_loads_lazily_offers_no_name_of_a_module_in_it() -> None:
    # Once the module is imported, the package's attribute is the module: the name would mean now one, now the other.
    lazy = [path for path in PACKAGES if "lazily(" in path.read_text(encoding="utf-8")]
    assert lazy
    for path in lazy:
        inside = {p.stem for p in path.parent.glob("*.py")} | {p.parent.name for p in path.parent.glob("*/__init__.py")}
        assert not inside & set(importlib.import_module(module_of(path)).__all__), module_of(path)


def test_the_version_is_the_one_of_pyproject() -> None:
    pyproject = (PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf'^version = "{re.escape(calibadv.__version__)}"$', pyproject, re.MULTILINE)

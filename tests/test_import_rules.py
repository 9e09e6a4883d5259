"""Who may import whom, read from the source. Imports go down only.

::

    errors <- tags <- trajectory <- {advantage, rewards, dialogue, questions, storage, retrieval}   (never each other)
    rollout               -> dialogue, retrieval.base, trajectory      a protocol, never a concrete retriever
    evaluation            -> rollout, retrieval, rewards, advantage, storage, questions, dialogue
    training              -> the same, evaluation (a run evaluates itself) and config
    report                -> storage, trajectory                       files only, no torch
    config                -> the components' configs                   nothing heavy
    lab                   -> anything but cli
    cli                   -> anything                                  nobody imports cli

Imports inside functions and under ``TYPE_CHECKING`` count too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "calibadv"
SOURCES = sorted(PACKAGE.rglob("*.py"))

BOTTOM = {"errors", "tags", "trajectory"}
MIDDLE = {"advantage", "rewards", "dialogue", "questions", "storage", "retrieval"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "tags": {"errors"},
    "trajectory": {"errors", "tags"},
    **dict.fromkeys(MIDDLE, BOTTOM),
    "rollout": BOTTOM | {"dialogue", "retrieval.base"},
    "training": BOTTOM | MIDDLE | {"rollout", "evaluation", "config"},
    "evaluation": BOTTOM | MIDDLE | {"rollout"},
    "report": BOTTOM | {"storage"},
    "preparation": BOTTOM | {"questions", "dialogue", "rewards"},
    "agent": BOTTOM | MIDDLE | {"rollout", "evaluation", "training", "config"},
    "doctor": BOTTOM | MIDDLE | {"rollout", "evaluation", "training", "config"},
    "config": BOTTOM | MIDDLE | {"rollout", "training", "evaluation"},
}
TOP = {"lab", "cli", "__init__"}
"""Free to import anything, but for `cli`, which nobody imports."""

DENSE = ("retrieval/dense/", "retrieval/rerank.py")
HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("training/", "lab/", "rollout/transformers_policy.py", "rollout/kv_", *DENSE),
    "transformers": ("training/", "lab/", "rollout/transformers_policy.py", "rollout/kv_", *DENSE),
    "sentence_transformers": DENSE,
    "faiss": ("retrieval/dense/",),
    "vllm": ("rollout/vllm_policy.py",),
    "safetensors": ("training/", "lab/", "rollout/transformers_policy.py"),
    "tokenizers": ("lab/",),
    "trl": ("training/",),
    "accelerate": ("training/",),
    "datasets": ("training/",),
    "peft": ("training/",),
    "tantivy": ("retrieval/",),
    "pyarrow": ("retrieval/", "preparation/", "storage.py", "questions.py"),
    "matplotlib": ("report/",),
    "rich": ("cli/", "lab/", "training/"),
    "fastapi": ("retrieval/server/", "agent/"),
    "pydantic": ("retrieval/server/", "agent/"),
    "starlette": ("retrieval/server/", "agent/"),
    "uvicorn": ("retrieval/server/", "agent/"),
    "prometheus_client": ("retrieval/server/", "agent/"),
    "httpx2": ("retrieval/", "evaluation/judge.py", "rollout/server_calls.py"),
    "huggingface_hub": ("retrieval/", "preparation/", "training/"),
    "pandas": (),
}
"""Where a package that the core does not need may be imported. One that is not listed may be imported nowhere."""

NUMPY_ONLY = (
    "calibadv",
    "calibadv.advantage",
    "calibadv.cli.main",
    "calibadv.config",
    "calibadv.dialogue",
    "calibadv.doctor",
    "calibadv.errors",
    "calibadv.evaluation",
    "calibadv.lab",
    "calibadv.preparation",
    "calibadv.questions",
    "calibadv.report",
    "calibadv.retrieval",
    "calibadv.retrieval.online",
    "calibadv.retrieval.remote",
    "calibadv.rewards",
    "calibadv.rollout",
    "calibadv.storage",
    "calibadv.tags",
    "calibadv.training",
    "calibadv.trajectory",
)
"""Modules that a plain ``pip install calibadv`` must be able to import."""


def name_of(path: Path) -> str:
    """src/calibadv/rollout/engine.py -> rollout/engine.py."""
    return path.relative_to(PACKAGE).as_posix()


def component(dotted: str) -> str:
    return dotted.split(".")[0]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported module of a file as (line, absolute dotted name); ``from a import b`` gives both a and a.b."""
    parents = ["calibadv", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def internal(path: Path) -> set[tuple[int, str]]:
    """Imports of this package as (line, dotted name below calibadv), modules only."""
    found = set()
    for line, dotted in imports(path):
        below = dotted.removeprefix("calibadv.")
        as_path = PACKAGE / below.replace(".", "/")
        if dotted.startswith("calibadv.") and (as_path.with_suffix(".py").exists() or as_path.is_dir()):
            found.add((line, below))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    own = component(name_of(path).removesuffix(".py").replace("/", "."))
    wrong = []
    for line, target in sorted(internal(path)):
        if component(target) == own:
            continue
        if own in TOP:
            fine = component(target) != "cli"
        else:
            assert own in ALLOWED, f"{own} is new: give it a layer in {Path(__file__).name}"
            # "retrieval.base" allows that module; importing the package alone is how Python gets there.
            fine = any(target == a or target.startswith(f"{a}.") for a in ALLOWED[own])
            fine = fine or any(a.startswith(f"{target}.") and (PACKAGE / target).is_dir() for a in ALLOWED[own])
        if not fine:
            wrong.append(f"{name_of(path)}:{line} imports calibadv.{target}")
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_other_packages_are_imported_in_their_homes_only(path: Path) -> None:
    wrong = []
    for line, dotted in imports(path):
        package = component(dotted)
        if package in sys.stdlib_module_names or package in {"calibadv", "numpy"}:
            continue
        if not any(name_of(path).startswith(home) for home in HOMES.get(package, ())):
            wrong.append(f"{name_of(path)}:{line} imports {package}, whose homes are {HOMES.get(package, 'none')}")
    assert not wrong


def test_a_file_stops_at_400_lines() -> None:
    long = {name_of(p): n for p in SOURCES if (n := len(p.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long


def test_print_is_left_to_the_command_line() -> None:
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if not name_of(path).startswith("cli/")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_there_are_no_drawers_for_odds_and_ends() -> None:
    assert not [name_of(p) for p in SOURCES if p.stem in {"utils", "util", "common", "helpers", "misc"}]


def run_python(code: str) -> str:
    """A fresh interpreter that treats warnings as errors; its standard output."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_calibadv_loads_nothing_heavy() -> None:
    loaded = set(run_python("import calibadv, sys; print(*sys.modules)").split())
    heavy = {p for p in HOMES if p in loaded}
    assert not heavy
    assert len([m for m in loaded if m.startswith("calibadv")]) < 60


def test_import_calibadv_takes_less_than_half_a_second() -> None:
    # Processor time, and the best of five: other processes of the machine must not decide.
    code = "import time; t = time.process_time(); import calibadv; print(time.process_time() - t)"
    assert min(float(run_python(code)) for _ in range(5)) < 0.5


@pytest.mark.parametrize("module", NUMPY_ONLY)
def test_module_imports_with_numpy_alone(module: str) -> None:
    blocker = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(HOMES)!r}:
            raise ImportError(f"{{name}} belongs to an extra")
sys.meta_path.insert(0, Blocker())
import {module}
"""
    run_python(blocker)

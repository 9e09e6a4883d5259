"""Who may import whom, read from the source. Imports go down only, and never round in a circle.

The house has floors (`FLOORS`, the ground first). A module may import its own package and whatever lies on a lower
floor; neighbours on one floor do not know each other. No circle of modules either, inside a package included. Imports
inside functions and under ``TYPE_CHECKING`` count too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "calibadv"
SOURCES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"config_class", "devices", "errors", "lazy", "registry", "tags", "trajectory", "version"}
"""Value types that everybody may import; these may import each other."""
FLOORS: tuple[set[str], ...] = (
    GROUND,
    {"io"},
    {"advantage", "rewards", "dialogue"},
    {"data"},
    {"retrieval", "report"},
    {"rollout"},
    {"models", "evaluation"},
    {"integrations"},
    {"training", "agent"},
    {"config"},
    {"viewer"},
    {"doctor", "lab", "studies"},
    {"runs"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
TOP = {"", "__main__"}
"""The package itself offers the verbs, lazily, and nobody inside imports it."""

DENSE = ("retrieval/dense/", "retrieval/rerank.py")
MODELS = ("models/", "training/", "runs/", "lab/", "rollout/policies/transformers.py", "rollout/policies/kv_")
EVERYWHERE = {"annotated_types", "numpy"}
"""Core and quick to import. pydantic is core too, but slow: importing a module must not load it."""
SERVERS = ("retrieval/server/", "agent/server/")
COMMAND_LINE = {"cyclopts", "docstring_parser"}
"""Core, too, but only the command line needs them."""
HOMES: dict[str, tuple[str, ...]] = {
    "torch": ("devices.py", *MODELS, *DENSE),
    "transformers": ("devices.py", *MODELS, *DENSE),
    "sentence_transformers": DENSE,
    "faiss": ("retrieval/dense/",),
    "vllm": ("rollout/policies/vllm.py", "training/overrides/colocated_vllm.py"),
    "safetensors": MODELS,
    "tokenizers": ("lab/",),
    "trl": ("training/", "runs/"),
    "accelerate": ("training/", "runs/"),
    "datasets": ("training/",),
    "peft": ("models/", "training/"),
    "tantivy": ("retrieval/",),
    "pyarrow": ("retrieval/", "data/"),
    "matplotlib": ("report/",),
    "rich": ("cli/", "lab/", "runs/"),
    "cyclopts": ("cli/",),
    "docstring_parser": ("cli/",),
    "fastapi": SERVERS,
    "pydantic": ("config_class.py", "io/files.py", "retrieval/dense/sizing.py", *SERVERS),
    "pydantic_core": ("config_class.py",),
    "starlette": ("io/serving.py", *SERVERS),
    "uvicorn": ("io/serving.py", *SERVERS),
    "prometheus_client": ("io/serving.py", *SERVERS),
    "httpx2": ("io/", "retrieval/", "evaluation/judge.py", "rollout/policies/http_client.py"),
    "huggingface_hub": ("io/", "retrieval/", "data/", "models/", "runs/"),
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
    "calibadv.data.prepare",
    "calibadv.data.questions",
    "calibadv.report",
    "calibadv.retrieval",
    "calibadv.retrieval.web",
    "calibadv.retrieval.client.retriever",
    "calibadv.rewards",
    "calibadv.rollout",
    "calibadv.data.trajectory_files",
    "calibadv.tags",
    "calibadv.training",
    "calibadv.trajectory",
)
"""Modules that a plain ``pip install calibadv`` must be able to import."""


def name_of(path: Path) -> str:
    """src/calibadv/rollout/scheduler.py -> rollout/scheduler.py."""
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path, *, package: Path = PACKAGE) -> str:
    """The dotted name below calibadv; that of the package itself is empty."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def component(dotted: str) -> str:
    return dotted.split(".")[0]


def imports(path: Path, *, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """Every imported module of a file as (line, absolute dotted name); ``from a import b`` gives both a and a.b."""
    parents = ["calibadv", *path.relative_to(package).parts[:-1]]
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


def internal(package: Path = PACKAGE) -> dict[str, dict[str, int]]:
    """Module -> the modules of this package that it imports, with the line. ``from p import module`` is that module."""
    paths = {module_of(path, package=package): path for path in sorted(package.rglob("*.py"))}
    graph: dict[str, dict[str, int]] = {}
    for module, path in paths.items():
        found: dict[str, int] = {}
        for line, dotted in imports(path, package=package):
            below = dotted.removeprefix("calibadv").removeprefix(".")
            if component(dotted) == "calibadv" and below in paths and below != module:
                found.setdefault(below, line)
        packages = {other.rpartition(".")[0] for other in found if f"{other}" in paths}
        for name in packages & set(found):  # "from p import module" gave both p and p.module
            if only_modules(paths[module], name, paths, package=package):
                del found[name]
        graph[module] = found
    return graph


def only_modules(path: Path, name: str, paths: Mapping[str, Path], *, package: Path) -> bool:
    """Whether all that a file takes from package ``name`` are modules in it."""
    dotted = f"calibadv.{name}" if name else "calibadv"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == dotted:
            taken = {f"{name}.{alias.name}".removeprefix(".") for alias in node.names}
            if not taken <= set(paths):
                return False
        if isinstance(node, ast.Import) and any(alias.name == dotted for alias in node.names):
            return False
    return True


def upwards(graph: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Imports that do not go down."""
    wrong = []
    for module, targets in graph.items():
        own = component(module)
        if own in TOP:
            continue
        for target, line in targets.items():
            other = component(target)
            if other == own or (own in GROUND and other in GROUND):
                continue
            assert own in LEVEL, f"{own} is new: give it a floor in {Path(__file__).name}"
            if other in TOP or LEVEL[other] >= LEVEL[own]:
                wrong.append(f"{module}:{line} imports {target or 'calibadv itself'}")
    return wrong


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Modules that can be reached from themselves, in groups (strongly connected components, Tarjan)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for target in graph[module]:
            if target not in number:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], number[target])
        if low[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in number:
            visit(module)
    return found


GRAPH = internal()


def test_imports_go_down_only() -> None:
    assert not upwards(GRAPH)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles(GRAPH)


def write_package(folder: Path, **files: str) -> Path:
    """A package of modules, ``rollout__episode="from ..."`` for rollout/episode.py."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_an_import_upwards_is_caught(tmp_path: Path) -> None:
    package = write_package(
        tmp_path, rollout__episode="def f():\n    from calibadv.training.config import X\n", training__config="X = 1\n"
    )
    assert upwards(internal(package)) == ["rollout.episode:2 imports training.config"]


def test_an_import_of_a_neighbour_on_the_same_floor_is_caught(tmp_path: Path) -> None:
    package = write_package(tmp_path, rewards__format="from calibadv.dialogue import parse\n", dialogue__parse="")
    assert upwards(internal(package)) == ["rewards.format:1 imports dialogue.parse"]


def test_a_circle_inside_a_package_is_caught(tmp_path: Path) -> None:
    package = write_package(
        tmp_path,
        lab__world="def f():\n    from calibadv.lab.questions import g\n",
        lab__questions="from calibadv.lab import names\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from calibadv.lab.world import f\n",
        lab__names="",
    )
    assert circles(internal(package)) == [["lab.questions", "lab.world"]]


PACKAGES = [path for path in SOURCES if path.name == "__init__.py" and path.parent != PACKAGE]


@pytest.mark.parametrize("path", PACKAGES, ids=module_of)
def test_a_package_lists_all_its_modules(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    inside = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
    inside |= {p.parent.name for p in path.parent.glob("*/__init__.py")}
    assert not [name for name in sorted(inside) if f"`{name}`" not in docstring]


def test_a_folder_stops_at_16_files() -> None:
    folders = {path.parent for path in SOURCES}
    crowded = {name_of(f): n for f in folders if (n := len([p for p in f.glob("*.py") if p.stem != "__init__"])) > 16}
    assert not crowded


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_other_packages_are_imported_in_their_homes_only(path: Path) -> None:
    wrong = []
    for line, dotted in imports(path):
        package = component(dotted)
        if package in sys.stdlib_module_names or package in {"calibadv", *EVERYWHERE}:
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
def test_module_imports_with_the_core_alone(module: str) -> None:
    blocker = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {set(HOMES) - COMMAND_LINE!r}:
            raise ImportError(f"{{name}} belongs to an extra")
sys.meta_path.insert(0, Blocker())
import {module}
"""
    run_python(blocker)

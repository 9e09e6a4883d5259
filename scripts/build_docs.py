"""`make docs`: gather the guides, write the reference pages from the source, and build the site.

    python scripts/build_docs.py                   pages into build/docs, the site into site/; a broken link fails
    python scripts/build_docs.py --pages FOLDER    the pages only, into a new folder

Generated here, never written by hand: a page for each public package (its ``__all__``), the settings (from the config
classes), the commands (their own ``--help``), the shipped configs and the examples.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docstring_parser import parse_from_object
from latex2mathml.converter import convert

if TYPE_CHECKING:
    from cyclopts import App

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "calibadv"

# Where links between files of the repository lead on the site.
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples": "examples.md",
    "configs": "configs.md",
}


def gather(pages: Path) -> None:
    """Copy the guides; the documents of the root join them, and links follow."""
    shutil.copytree(ROOT / "docs", pages)
    for name, moved in MOVED.items():
        if name.endswith(".md"):
            shutil.copy(ROOT / name, pages / moved)
    for page in pages.glob("*.md"):
        text = re.sub(r"\]\(([^)#:\s]+)(#[^)]*)?\)", _moved_link, page.read_text(encoding="utf-8"))
        page.write_text(_with_mathml(text) if "```math" in text else text, encoding="utf-8")


def _moved_link(link: re.Match[str]) -> str:
    target = link[1].removeprefix("../").removeprefix("docs/")
    first = target.rstrip("/").split("/")[0]
    return f"]({MOVED.get(target.rstrip('/'), MOVED.get(first, target))}{link[2] or ''})"


def _with_mathml(text: str) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    text = re.sub(
        r"^```math\n(.*?)^```$", lambda m: convert(m[1], display="block"), text, flags=re.MULTILINE | re.DOTALL
    )
    return re.sub(r"\$([^$\n]+)\$", lambda m: convert(m[1]), text)


def public_names(path: Path) -> list[str]:
    """The ``__all__`` of a module, read without importing it; [] where it has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def public_packages() -> Iterator[tuple[str, list[str]]]:
    """Every package with an ``__all__``, the root first, and its names."""
    for path in sorted(PACKAGE.rglob("__init__.py"), key=lambda p: (len(p.parts), p)):
        names = public_names(path)
        if names:
            yield ".".join(("calibadv", *path.parent.relative_to(PACKAGE).parts)), names


def home(module: str, name: str) -> str:
    """Where a public name is defined, found by following the imports in the source.

    A function may have its module's name (`calibadv.advantage.calibrate`), so the path says both.
    """
    path = PACKAGE.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("calibadv"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return home(node.module, alias.name)
    return f"{module}.{name}"


def write_api(pages: Path) -> None:
    """A page for each public package; a name that several export is described once, at the one nearest to the root."""
    described: set[str] = set()
    for package, names in public_packages():
        here, elsewhere = [], []
        for name in sorted(names, key=lambda name: (name.startswith("_"), name[0].isupper())):  # functions first
            path = home(package, name)
            if path in described:
                elsewhere.append(f"[`{name}`][{path}]")
            else:
                described.add(path)
                here.append(_entry(path, shown=f"{package}.{name}"))
        if not here:
            continue
        text = f"# {package}\n\n::: {package}\n    options:\n      members: false\n      show_root_heading: false\n"
        text += "      show_root_toc_entry: false\n\n"
        if elsewhere:
            text += f"Described elsewhere: {', '.join(elsewhere)}.\n\n"
        write(pages / "api" / ("index.md" if package == "calibadv" else f"{package}.md"), text + "\n".join(here))


def _entry(path: str, *, shown: str) -> str:
    return f"::: {path}\n    options:\n      heading: {shown}\n      toc_label: {shown.rsplit('.', 1)[1]}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_sources(pages: Path) -> None:
    """The shipped configs and the examples, each in full: their comments are their documentation."""
    for folder, suffix, language, title in (
        ("configs", ".toml", "toml", "Configs that ship"),
        ("examples", ".py", "python", "Examples"),
    ):
        parts = [f"# {title}\n"]
        for path in sorted((ROOT / folder).glob(f"*{suffix}")):
            code = path.read_text(encoding="utf-8").rstrip()
            parts.append(f"## {path.relative_to(ROOT).as_posix()}\n\n```{language}\n{code}\n```\n")
        write(pages / f"{folder}.md", "\n".join(parts))


UNITS = {
    "_s": "seconds",
    "_days": "days",
    "_tokens": "tokens",
    "_steps": "optimizer steps",
    "_every": "optimizer steps",
}
"""Of settings whose names end so; any other unit is in the words of the setting."""


def write_settings(pages: Path) -> None:
    """Every setting of a run with its type, range, default, unit and meaning, from the config classes."""
    from calibadv.config import RunConfig

    text = (
        "# Settings\n\nA run is a TOML file with these sections. On the command line `--set SECTION.KEY=VALUE` changes "
        'one, and `calibadv train CONFIG --dry-run --verbose` prints all of them. `"none"` clears a setting.\n\n'
    )
    write(pages / "settings.md", text + "".join(section_text(RunConfig, where="")))


def section_text(config: type[Any], *, where: str) -> Iterator[str]:
    """The settings of one section, then those of the sections in it."""
    from calibadv.config_class import expected, join, range_of, show, type_hints

    meaning = {p.arg_name: inspect.cleandoc(p.description or "") for p in parse_from_object(config).params}
    hints = type_hints(config)
    if where:
        yield f"## [{where}] {{ #{where} }}\n\n{inspect.getdoc(config) or ''}\n\n".replace("::\n", ":\n")
    for field in dataclasses.fields(config):
        name, hint = join(where, field.name), hints[field.name]
        if dataclasses.is_dataclass(hint):
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        required = default is dataclasses.MISSING
        facts = [
            f"{expected(hint)}{', ' if range_of(hint) else ''}{range_of(hint)}",
            *(unit for ending, unit in UNITS.items() if name.endswith(ending)),
            "required" if required else "not set by default" if default is None else f"default `{show(default)}`",
        ]
        yield f"### {name} {{ #{name} }}\n\n*{' · '.join(facts)}*\n\n{meaning[field.name]}\n\n"
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from section_text(hint, where=join(where, field.name))


def write_commands(pages: Path) -> None:
    """Each command's ``--help``, on a terminal of 86 columns."""
    from rich.console import Console

    from calibadv.cli.main import make_app

    app = make_app()
    parts = ["# Commands\n\nWhat `--help` says of each.\n"]
    for words in commands(app, []):
        text = io.StringIO()
        app.help_print(words, console=Console(file=text, width=86))
        lines = "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
        parts.append(f"## {' '.join(['calibadv', *words])}\n\n```text\n{lines}\n```\n")
    write(pages / "commands.md", "\n".join(parts))


def commands(app: App, words: list[str]) -> Iterator[list[str]]:
    """The words of every command, each before those below it."""
    yield words
    for name in app:
        if not name.startswith("-"):
            yield from commands(app[name], [*words, name])


def check_files(pages: Path) -> None:
    """Pictures and other files that pages link to: the site generator checks links between pages only."""
    broken = [
        f"{page.relative_to(pages)}: {target}"
        for page in pages.rglob("*.md")
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).is_file()
    ]
    if broken:
        sys.exit("links to files that are not there:\n" + "\n".join(broken))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", metavar="FOLDER", type=Path, help="write the pages only, into this new folder")
    only = parser.parse_args().pages
    pages = only or ROOT / "build" / "docs"
    if not only:
        shutil.rmtree(pages, ignore_errors=True)
    gather(pages)
    write_api(pages)
    write_sources(pages)
    write_settings(pages)
    write_commands(pages)
    check_files(pages)
    if only:
        return 0
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

"""The files around the package: examples run, the README tells the truth, nothing points at one person's machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def fenced(path: Path, *languages: str) -> list[str]:
    """The fenced code blocks of a Markdown file in one of these languages."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [code for language, code in blocks if language in languages]


def commands(path: Path) -> list[list[str]]:
    """Command lines in a Markdown file's shell blocks, split at blanks, without comments."""
    lines = [
        line.split("#")[0].removeprefix("$ ").split()
        for block in fenced(path, "sh", "bash")
        for line in block.splitlines()
    ]
    return [line for line in lines if line]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_example_runs_without_a_warning(example: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example prints what it found"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_example_fits_on_a_screen_or_two(example: Path) -> None:
    assert len(example.read_text(encoding="utf-8").splitlines()) <= 80


def test_readme_code_prints_what_the_readme_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pairs = re.findall(r"^```python\n(.*?)^```\n+```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert pairs, "the README opens with code and its output"
    for code, output in pairs:
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == output.strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_make_targets_named_in_documents_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {line[1] for line in commands(path) if line[0] == "make" and len(line) > 1}
    assert not [target for target in named if not re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_subcommands_named_in_documents_exist(path: Path) -> None:
    named = {
        line[1] for line in commands(path) if line[0] == "calibadv" and len(line) > 1 and not line[1].startswith("-")
    }
    for subcommand in named:
        done = subprocess.run(
            [sys.executable, "-m", "calibadv.cli.main", subcommand, "--help"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"calibadv {subcommand}: {done.stderr}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_files_named_in_commands_exist(path: Path) -> None:
    folders = ("configs/", "examples/", "benchmarks/", "scripts/", "tests/")
    named = {word for line in commands(path) for word in line if word.startswith(folders)}
    assert not [word for word in named if not (ROOT / word).exists()]


def test_the_picture_of_the_readme_can_be_drawn_again(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/draw_group.py", "--out", str(tmp_path / "group.svg")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "group.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert not [link for link in local if not (path.parent / link).exists()]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    # Put together here, so that this file does not trip over itself.
    folders = "|".join(["work", "root", "home", "Users", "opt", "tmp/[a-z]+/"])
    pattern = re.compile(rf"(?<![\w./~-])/(?:{folders})/[\w.]".encode())
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content[:4096]:
            found += [f"{path.relative_to(ROOT)}: {m.group().decode()}..." for m in pattern.finditer(content)]
    assert not found


def test_no_tracked_file_refers_to_sections_of_a_document_that_is_not_here() -> None:
    pattern = re.compile(rb"\bMETHOD (?:sections? )?\d")
    assert not [path for path in tracked_files() if pattern.search(path.read_bytes())]


def test_scripts_can_be_executed() -> None:
    scripts = [ROOT / ".ci" / "run", *(ROOT / "scripts" / name for name in ("check", "test", "find-python"))]
    assert all(os.access(script, os.X_OK) for script in scripts)

"""The reference site: nothing is missing, and no link is broken."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import calibadv
from calibadv.cli.main import COMMANDS
from calibadv.trajectory import Question, Trajectory

ROOT = Path(__file__).parents[1]
MODULES = {path.stem for path in (ROOT / "src" / "calibadv").iterdir()}
FUNCTIONS = [name for name in calibadv.__all__ if inspect.isfunction(getattr(calibadv, name))]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as the site generator gets them."""
    folder = tmp_path_factory.mktemp("docs") / "pages"
    subprocess.run([sys.executable, str(ROOT / "scripts/build_docs.py"), "--pages", str(folder)], check=True)
    return folder


def leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(part)


def dotted_names(settings: dict[str, Any], *, where: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:  # an empty one is a setting that is a table
            yield from dotted_names(value, where=f"{where}{name}.")
        else:
            yield where + name


def importable(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        return bool(importlib.import_module(name))
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)


def test_the_navigation_lists_every_guide() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= set(leaves(config["project"]["nav"]))


def test_every_public_name_has_an_entry(pages: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (pages / "api").glob("*.md"))
    described = set(re.findall(r"^::: (\S+)", text, re.MULTILINE))
    last_words = {path.rsplit(".", 1)[1] for path in described if "." in path}
    for path in sorted((ROOT / "src" / "calibadv").rglob("__init__.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                assert set(ast.literal_eval(node.value)) <= last_words, path


def test_the_reference_has_every_setting_with_its_meaning(pages: Path) -> None:
    entries = (pages / "settings.md").read_text(encoding="utf-8").split("\n### ")[1:]
    described = {entry.split()[0]: entry.split("\n\n")[2].strip() for entry in entries}
    config = calibadv.RunConfig.from_mapping({"model": {"path": "x"}, "retrieval": {"corpus": "x"}})
    assert set(described) == set(dotted_names(config.effective()))
    assert all(described.values())


def test_the_reference_has_every_command(pages: Path) -> None:
    text = (pages / "commands.md").read_text(encoding="utf-8")
    assert all(f"\n## calibadv {name}\n" in text for name in (*COMMANDS, "index search", "eval diff"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_root_says_what_it_takes_returns_and_raises(name: str) -> None:
    function = getattr(calibadv, name)
    docstring = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in docstring, section
    arguments = docstring.split("\nArgs:\n")[1].split("\nReturns:\n")[0]
    assert set(re.findall(r"^    \*{0,2}(\w+):", arguments, re.MULTILINE)) == set(
        inspect.signature(function).parameters
    )


def test_modules_and_source_files_that_guides_name_exist() -> None:
    missing = []
    for path in [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for file in re.findall(r"`([\w/]+/\w+\.py)`", text):
            if not any((folder / file).is_file() for folder in (ROOT, ROOT / "src", ROOT / "src" / "calibadv")):
                missing.append(f"{path.name}: {file}")
        for name in re.findall(r"`(calibadv(?:\.\w+)+)`", text):
            if name.split(".")[1] in MODULES and not importable(name):
                missing.append(f"{path.name}: {name}")
    assert not missing


def test_the_code_of_the_guide_to_extending_works() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.M | re.S
    )
    names: dict[str, Any] = {}
    for block in blocks:
        if "train(" not in block:
            exec(block, names)
    question = Question(id="1", text="What is the capital of Norway?", golden_answers=("Oslo",))
    trajectory = Trajectory.from_text("q", "<think>a</think><answer>Oslo</answer>", question)
    assert names["brief"](trajectory) == 0.0
    advantages, _ = calibadv.calibrate(
        [1.0, 0.0],
        group_ids=["q", "q"],
        correctness_NK=None,
        num_tokens_NK=[[5], [5]],
        config=calibadv.CalibrationConfig.plain(),
        estimator=names["best_only"],
    )
    assert advantages.tolist() == [[1.0], [-1.0]]
    ((hit,),) = names["Notes"]().search(["capital of Norway"], 1)
    assert hit.document.title == "Oslo"


@pytest.mark.slow
def test_the_site_has_no_broken_link_and_works_from_disk_with_its_search(browser: Any) -> None:
    """One test, because the site is built in the repository: two processes would build it at the same time."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/build_docs.py")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for path in (ROOT / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]+)', path.read_text(encoding="utf-8"))
        assert not [address for address in loaded if address.startswith(("http:", "https:", "//"))], path

    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((ROOT / "site" / "index.html").as_uri())
    page.get_by_role("button", name="Search").first.click()
    box = page.get_by_placeholder("Search").last
    box.click()
    page.keyboard.type("rebalance_coef", delay=20)
    page.get_by_text("calibration.rebalance_coef").first.wait_for()
    assert box.input_value() == "rebalance_coef"
    assert {address.split(":")[0] for address in requests} <= {"file", "data", "blob"}

"""What `pip install` brings is whole: built into a wheel, installed elsewhere, used from there."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import numpy
import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.toml"))


def run(*command: str | Path, **environment: str) -> str:
    """What the command prints; the packages installed here are there, the sources of this repository are not."""
    site_packages = str(Path(numpy.__file__).parents[1])
    done = subprocess.run(
        [str(word) for word in command],
        cwd=environment.pop("cwd"),
        env={**os.environ, "PYTHONPATH": site_packages, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(ROOT), "-w", str(folder)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("calibadv-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return python


def names(wheel: Path) -> list[str]:
    return zipfile.ZipFile(wheel).namelist()


def metadata(wheel: Path) -> Message:
    (name,) = [name for name in names(wheel) if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())


@pytest.fixture(scope="module")
def hatch_build() -> ModuleType:
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "calibadv"
    files = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    assert not {name for name in files if "__pycache__" not in name} - set(names(wheel))


@pytest.mark.slow
def test_the_wheel_holds_the_shipped_configs_and_the_licence(wheel: Path) -> None:
    shipped = {
        f"calibadv/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.*") if path.is_file()
    }
    assert {f"calibadv/configs/{name}" for name in CONFIGS} <= shipped <= set(names(wheel))
    assert [name for name in names(wheel) if name.endswith("licenses/LICENSE")]


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(installed: Path, tmp_path: Path) -> None:
    code = "import calibadv, calibadv.cli.main, calibadv.lab; print(calibadv.__file__, calibadv.lab.load_policy())"
    printed = run(installed, "-c", code, cwd=str(tmp_path))
    assert printed.count(str(installed.parents[1])) == 2


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs(installed: Path, tmp_path: Path) -> None:
    code = "from calibadv.runs.init import packaged_configs; print(*packaged_configs().values(), sep='\\n')"
    found = [Path(line) for line in run(installed, "-c", code, cwd=str(tmp_path)).splitlines()]
    assert [path.name for path in found] == CONFIGS
    assert all(path.is_relative_to(installed.parents[1]) for path in found)


@pytest.mark.slow
def test_an_install_hint_needs_no_package_index_to_know_calibadv(installed: Path, tmp_path: Path) -> None:
    """`pip install 'calibadv[report]'` reads the extras of what is installed, so it works for clones as well."""
    command = ("-m", "pip", "install", "--dry-run", "--no-index", "calibadv[report]")
    printed = run(installed, *command, cwd=str(tmp_path))
    assert "Requirement already satisfied: matplotlib" in printed


@pytest.mark.slow
def test_the_readme_of_the_wheel_has_no_link_that_only_works_in_a_clone(wheel: Path) -> None:
    readme = metadata(wheel).get_payload()
    assert isinstance(readme, str)
    assert "# calibadv" in readme
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", readme) if not target.startswith("https://")]
    assert any("arxiv.org" in url for url in metadata(wheel).get_all("Project-URL", []))


def test_a_clone_finds_its_configs() -> None:
    from calibadv.runs.init import packaged_configs

    assert [path.name for path in packaged_configs().values()] == CONFIGS
    assert {path.parent for path in packaged_configs().values()} == {ROOT / "configs"}


def test_with_an_address_the_links_and_the_picture_of_the_readme_lead_into_the_repository(
    hatch_build: ModuleType,
) -> None:
    address = "https://example.org/someone/calibadv"
    readme = hatch_build.readme_for_index((ROOT / "README.md").read_text(encoding="utf-8"), repository=address)
    assert f"]({address}/raw/main/docs/images/group.svg)" in readme
    assert f"git clone {address}" in readme
    into_the_repository = re.findall(rf"\]\({re.escape(address)}/(?:blob|raw)/main/([^)#]+)", readme)
    assert into_the_repository
    assert all((ROOT / target).exists() for target in into_the_repository)
    assert hatch_build.project_urls(address)["Repository"] == address

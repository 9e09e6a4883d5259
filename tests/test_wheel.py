"""What `pip install` brings is whole: built into a wheel, installed elsewhere, imported from there."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", str(ROOT), "-w", str(folder)]
    subprocess.run(command, check=True)
    (path,) = folder.glob("calibadv-*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "calibadv"
    files = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    missing = {name for name in files if "__pycache__" not in name} - set(zipfile.ZipFile(wheel).namelist())
    assert not missing


def test_the_wheel_holds_the_lab_weights_the_page_template_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "calibadv/lab/weights/base/model.safetensors",
        "calibadv/report/template.html",
        "calibadv/py.typed",
        "licenses/LICENSE",
    ):
        assert [n for n in names if n.endswith(name)], name


def test_the_wheel_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import calibadv, calibadv.cli.main, calibadv.lab; print(calibadv.__file__, calibadv.lab.load_policy())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(str(tmp_path)) == 2

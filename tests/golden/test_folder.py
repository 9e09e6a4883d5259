"""What a golden run does when files are missing."""

import os
import subprocess
import sys
from pathlib import Path

TEST = Path(__file__).parent / "test_losses.py"


def golden_run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-m", "golden", str(TEST)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "CALIBADV_GOLDEN": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_named_folder_without_any_golden_file_fails(tmp_path: Path) -> None:
    done = golden_run(tmp_path)
    assert done.returncode == 1
    assert "set CALIBADV_GOLDEN to the folder that holds them" in done.stdout
    assert "passed" not in done.stdout


def test_a_missing_file_is_skipped_when_another_is_there(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    done = golden_run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "losses.json.gz is not in the golden folder" in done.stdout
    assert "passed" not in done.stdout

"""The command line as a whole: light help, examples that work, clear errors, exit codes, completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cyclopts import App

from calibadv.cli.main import COMMANDS, main, make_app
from calibadv.errors import (
    CalibAdvError,
    ConfigError,
    DataError,
    PolicyError,
    RetrieverError,
    RetrieverUnavailable,
    TokenMismatchError,
)


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def apps() -> Iterator[tuple[str, App]]:
    """Every command with its full name."""
    root = make_app()
    yield "", root
    for name in COMMANDS:
        yield name, root[name]
        for inner in root[name]:
            if not inner.startswith("-"):
                yield f"{name} {inner}", root[name][inner]


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from calibadv.cli.main import main
assert main(["--help"]) == 0
heavy = {"torch", "transformers", "trl", "tantivy", "matplotlib", "pyarrow", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "calibadv lab" in done.stdout


def test_no_command_is_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    order = [bare.index(f"│ {name} ") for name in COMMANDS]
    assert order == sorted(order), "first use first"


@pytest.mark.parametrize("name", [name for name, _ in apps()])
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage: calibadv" in out
    assert "\n  calibadv " in out, "an example"
    assert max(map(len, out.splitlines())) <= 80


def test_python_dash_m_is_the_same_command() -> None:
    version = run_python("-m", "calibadv", "--version").stdout
    assert version.startswith("calibadv ")
    assert version == run_python("-m", "calibadv.cli.main", "--version").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], 'Unknown command "trian". Did you mean "train"?'),
        (["train", "--dryrun"], "Unknown option: --dryrun. Did you mean --dry-run? See calibadv train --help"),
        (["eval", "runs/lab", "--limit", "few"], 'Invalid value for --limit: unable to convert "few" into int.'),
        (["index", "serach"], 'Did you mean "search"?'),
        (["train", "--set"], "--set requires an argument."),
        (["eval"], "requires an argument"),
        (["lab", "world"], "--out"),
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 2),
        (RetrieverError("x"), 3),
        (RetrieverUnavailable("x"), 3),
        (PolicyError("x"), 4),
        (TokenMismatchError("x"), 1),
        (CalibAdvError("x"), 1),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    error: BaseException,
    code: int,
    config_file: Path,
    script: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(episode: int, turn: int) -> str:
        raise error

    script(fail)
    assert main(["eval", str(config_file), "--out", "out"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CALIBADV_DEBUG", "1")
    assert main(["train", "absent.toml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(config_file: Path, script: Callable[..., object]) -> None:
    def fail(episode: int, turn: int) -> str:
        raise ZeroDivisionError

    script(fail)
    with pytest.raises(ZeroDivisionError):
        main(["eval", str(config_file), "--out", "out"])


def test_a_missing_extra_names_the_pip_command(
    config_file: Path, absent: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    absent("torch")
    for command in (["train", str(config_file)], ["eval", str(config_file)], ["lab"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "needs torch, which is not installed: pip install" in error
        assert len(error.splitlines()) == 1


def test_the_lab_asks_for_its_plotting_library_before_it_trains(
    absent: Callable[[str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    absent("matplotlib")
    assert main(["lab", "--out", str(tmp_path / "lab")]) == 2
    assert "needs matplotlib, which is not installed: pip install" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    world = "['lab', 'world', '--size', '60', '--out', 'w']"
    code = f"import os; os.close(1); from calibadv.cli.main import main; main({world})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "w" / "corpus.jsonl").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_installed(shell: str, tmp_path: Path) -> None:
    done = run_python(
        "-m",
        "calibadv",
        "--install-completion",
        "--shell",
        shell,
        "--output",
        str(tmp_path / "file"),
        HOME=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "trajectories" in (tmp_path / "file").read_text()


def test_a_warning_of_the_hub_s_client_is_printed_once() -> None:
    program = (
        "from calibadv.cli.main import main; main(['eval', 'diff', 'absent', 'absent']); "
        "from huggingface_hub.utils import logging as hub; hub.get_logger('huggingface_hub.a').warning('retrying')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.count("retrying") == 1

"""The command line as a whole: light help, clear errors, exit codes."""

import importlib.util
import os
import subprocess
import sys

import pytest

from calibadv.cli.eval import run as evaluate
from calibadv.cli.main import main, make_parser
from calibadv.errors import (
    CalibAdvError,
    ConfigError,
    DataError,
    PolicyError,
    RetrieverError,
    RetrieverUnavailable,
    TokenMismatchError,
)

COMMANDS = ["train", "eval", "lab", "lab pretrain", "lab probe", "lab world", "report", "trajectories"]


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_loads_nothing_heavy():
    code = """
import sys
from calibadv.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "transformers", "trl", "tantivy", "matplotlib", "rich", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "calibadv lab" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert "example" in capsys.readouterr().out


def test_python_dash_m_is_the_same_command():
    assert run_python("-m", "calibadv", "--version").stdout == run_python("-m", "calibadv.cli.main", "--version").stdout


def test_no_command_is_a_user_error(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


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
def test_errors_are_one_line_and_an_exit_code(error, code, config_file, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(evaluate, "play", fail)
    monkeypatch.setattr(evaluate, "check_packages", lambda plan: None)
    assert main(["eval", str(config_file), "--out", "out"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(config_file, monkeypatch, capsys):
    monkeypatch.setenv("CALIBADV_DEBUG", "1")
    assert main(["train", "absent.toml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_hidden(config_file, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(evaluate, "play", fail)
    monkeypatch.setattr(evaluate, "check_packages", lambda plan: None)
    with pytest.raises(ZeroDivisionError):
        main(["eval", str(config_file), "--out", "out"])


def test_a_missing_extra_names_the_pip_command(config_file, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "torch" else find_spec(name, *args)
    )
    for command in (["train"], ["eval"]):
        assert main([*command, str(config_file)]) == 2
        assert "needs torch, which is not installed: pip install -e" in capsys.readouterr().err
    assert main(["lab"]) == 2
    assert "the lab needs torch" in capsys.readouterr().err


def test_the_lab_asks_for_its_plotting_library_before_it_trains(monkeypatch, capsys, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "matplotlib" else find_spec(name, *args)
    )
    assert main(["lab", "--out", str(tmp_path / "lab")]) == 2
    assert "needs matplotlib, which is not installed: pip install -e" in capsys.readouterr().err
    assert not (tmp_path / "lab").exists()


def test_a_reader_that_stops_early_is_no_error(tmp_path):
    code = "from calibadv.cli.main import main; import sys; sys.exit(main(sys.argv[1:]))"
    world = run_python("-c", code, "lab", "world", "--out", str(tmp_path / "world"), "--size", "60")
    assert world.returncode == 0, world.stderr
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os; os.close(1)\n{code}",
            "lab",
            "world",
            "--out",
            str(tmp_path / "two"),
            "--size",
            "60",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _, errors = process.communicate()
    assert "Traceback" not in errors


def test_parser_can_be_made_without_running_anything():
    assert make_parser().prog == "calibadv"


def test_a_warning_of_the_hub_s_client_is_printed_once():
    program = (
        "from calibadv.cli.main import main; main(['eval', 'diff', 'absent', 'absent']); "
        "from huggingface_hub.utils import logging as hub; hub.get_logger('huggingface_hub.a').warning('retrying')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.count("retrying") == 1

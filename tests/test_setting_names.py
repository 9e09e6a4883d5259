"""Every dotted name in a message is a setting that exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from calibadv.config import RunConfig
from calibadv.config_class import join, type_hints

PACKAGE = Path(__file__).parents[1] / "src" / "calibadv"
NOT_SECTIONS = {
    "rewards",
    "rerank",
    "encoder",
    "hybrid",
    "remote",
    "web",
    "bm25",
    "pretrain",
    "probe",
    "policy",
    "judge",
}
"""Words that messages could take for sections."""
FILE_ENDINGS = {"json", "jsonl", "safetensors", "toml", "py", "gguf", "gz", "index", "sqlite"}
NO_SETTINGS = {"model.name", "model.sha256"}
"""Keys of an evaluation's manifest."""
DOTTED = re.compile(r"(?<![\w./-])([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)(?![\w(/])")


def names_below(cls: type[Any], *, where: str = "") -> Iterator[str]:
    """The dotted names of all sections and settings."""
    for name, hint in type_hints(cls).items():
        yield join(where, name)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from names_below(hint, where=join(where, name))


SETTINGS = set(names_below(RunConfig))
SECTIONS = {name.split(".")[0] for name in SETTINGS}


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring; ``§`` stands for what an f-string fills in."""
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "§" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def false_names(source: str) -> list[tuple[int, str]]:
    """Line and name of what looks like a setting and is none."""
    return [
        (line, match[0])
        for line, text in texts(source)
        for match in DOTTED.finditer(text)
        if match[1] in SECTIONS | NOT_SECTIONS and not is_known(match[0])
    ]


def is_known(name: str) -> bool:
    """A setting, the beginning of one, a file or a module."""
    return (
        name in SETTINGS | NO_SETTINGS
        or (name.endswith("_") and any(setting.startswith(name) for setting in SETTINGS))
        or name.rsplit(".", 1)[-1] in FILE_ENDINGS
        or (PACKAGE / f"{name.replace('.', '/')}.py").is_file()
    )


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_dotted_name_in_a_message_is_a_setting(path: Path) -> None:
    assert not false_names(path.read_text(encoding="utf-8"))


def test_a_setting_that_does_not_exist_is_caught() -> None:
    source = '''
"""rewards.score may stand in a docstring."""
raise ConfigError(f"rewards.score must be one of {names}")
raise ConfigError("reward.score and retrieval.rerank.max_length exist; " "rerank.max_length does not")
raise ConfigError(f"retrieval.{name} may be anything, training.{name} too; see model.safetensors and encoder.fit()")
'''
    assert false_names(source) == [(3, "rewards.score"), (4, "rerank.max_length")]

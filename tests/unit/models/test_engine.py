"""Inference engines from outside: what is called, with what, and what it must give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig
from calibadv.models.engine import find_engine, open_engine
from calibadv.rollout import CharTokenizer, ScriptedPolicy

CONFIG = ModelConfig(path="some/model")
TOKENIZER = CharTokenizer()


def test_an_engine_gets_the_section_the_tokenizer_and_the_model() -> None:
    got: list[Any] = []

    def engine(config: ModelConfig, *, tokenizer: Any, model: Any) -> ScriptedPolicy:
        got.extend([config, tokenizer, model])
        return ScriptedPolicy([], tokenizer=tokenizer)

    policy = open_engine(engine, CONFIG, tokenizer=TOKENIZER, model="weights")
    assert isinstance(policy, ScriptedPolicy)
    assert got == [CONFIG, TOKENIZER, "weights"]


def test_a_ready_policy_is_taken_as_it_is() -> None:
    policy = ScriptedPolicy([], tokenizer=TOKENIZER)
    assert open_engine(policy, CONFIG, tokenizer=TOKENIZER, model=None) is policy


class NoArguments:
    """Has a generate that takes no requests."""

    def __init__(self, config: ModelConfig, *, tokenizer: Any, model: Any) -> None:
        self.config = config

    def generate(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("no_such_module:Engine", r"model.engine 'no_such_module:Engine': cannot import no_such_module"),
        (lambda config: None, r"model.engine must be callable as engine\(config, \*, tokenizer, model\)"),
        (lambda config, *, tokenizer, model: None, r"model.engine .* gave builtins:NoneType, which has no generate"),
        (NoArguments, r"model.engine .*NoArguments': its generate must be callable as generate\(requests\)"),
        (lambda config, *, tokenizer, model: 1 / 0, r"model.engine .* raised ZeroDivisionError"),
    ],
)
def test_what_cannot_write_is_refused_with_the_setting(engine: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_engine(engine, CONFIG, tokenizer=TOKENIZER, model=None)


def test_a_path_is_checked_before_there_is_a_model() -> None:
    with pytest.raises(ConfigError, match=r"model.engine must be callable as engine"):
        find_engine("math:sqrt")

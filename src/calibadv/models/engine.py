"""The door for inference engines: ``model.engine`` names a built-in one, or a class or function of yours."""

from __future__ import annotations

from typing import Any, Protocol

from calibadv.errors import ConfigError
from calibadv.models.config import ModelConfig
from calibadv.registry import call, check_call, import_object, name_of
from calibadv.rollout.policy import Policy
from calibadv.rollout.tokenizer import Tokenizer

SETTING = "model.engine"
WANTED = "engine(config, *, tokenizer, model) -> an object with generate(requests)"


class Engine(Protocol):
    """Makes the policy that writes the turns (`calibadv.rollout.policy.Policy`).

    ``config`` is the [model] section and ``tokenizer`` its tokenizer. In training ``model`` is the model whose weights
    are being updated, on its device: the policy must write with the weights as they are at each call of ``generate``,
    and report the sampled token ids with their log-probabilities. In evaluation ``model`` is None: load what you need.
    """

    def __call__(self, config: ModelConfig, /, *, tokenizer: Tokenizer, model: Any) -> Policy: ...


def find_engine(named: str | Engine | Policy) -> Engine | Policy:
    """What is behind an import path, checked as far as it can be without a model; objects as they are.

    Raises:
        ConfigError: Nothing can be imported there, or it cannot be called as an engine is.
    """
    found: Any = import_object(named, setting=SETTING) if isinstance(named, str) else named
    if not is_policy(found):
        check_call(found, "config", setting=SETTING, wanted=WANTED, keywords=("tokenizer", "model"))
    return found  # type: ignore[no-any-return]


def open_engine(named: str | Engine | Policy, config: ModelConfig, *, tokenizer: Tokenizer, model: Any) -> Policy:
    """The policy of an import path, of an engine, or itself.

    Raises:
        ConfigError: As `find_engine`, or what the engine gives cannot generate.
    """
    found: Any = find_engine(named)
    policy: Any = found
    if not is_policy(found):
        policy = call(found, config, setting=SETTING, tokenizer=tokenizer, model=model)
    if not is_policy(policy):
        raise ConfigError(f"{SETTING} {name_of(found)!r} gave {name_of(policy)}, which has no generate(requests)")
    its = f"{SETTING} {name_of(policy)!r}: its generate"
    check_call(policy.generate, "requests", setting=its, wanted="generate(requests)")
    return policy  # type: ignore[no-any-return]


def is_policy(thing: object) -> bool:
    """Whether an object writes turns itself, instead of making something that does."""
    return hasattr(thing, "generate") and not isinstance(thing, type)

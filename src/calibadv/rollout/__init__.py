"""Rollouts: episodes of reasoning and searching, many at once.

- `batch`: plays a fixed set of questions, each several times: the rollouts of a training batch or of an evaluation
- `config`: settings of a rollout, with the paper's values as defaults where it has them
- `episode`: one episode as a state machine: prompt, then turns until something ends it
- `policies`: what writes the turns: one file for each inference engine
- `policy`: the policy protocol: generation requests in, completions out, as they finish
- `prompts`: the prompts of questions, encoded once, and what must hold before anybody plays: room in the context and
  for tags
- `scheduler`: plays many episodes at once: the policy generates for some while others wait for their searches
- `search_queue`: the search queue: queries of many episodes, batched, searched in background threads
- `tokenizer`: what the rollout needs of a tokenizer, an adapter for those of transformers, and a character tokenizer
  for tests
- `tokenizer_checks`: what a tokenizer and its chat template must be able to do before anybody plays with them
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.rollout.batch import RolloutResult, rollout
    from calibadv.rollout.config import RolloutConfig
    from calibadv.rollout.policies.scripted import ScriptedPolicy
    from calibadv.rollout.policy import Completion, GenerationRequest, Policy, RequestQueue, SamplingParams
    from calibadv.rollout.tokenizer import CharTokenizer, HFTokenizer, Tokenizer

__all__ = [
    "CharTokenizer",
    "Completion",
    "GenerationRequest",
    "HFTokenizer",
    "Policy",
    "RequestQueue",
    "RolloutConfig",
    "RolloutResult",
    "SamplingParams",
    "ScriptedPolicy",
    "Tokenizer",
    "rollout",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.rollout.batch": ("RolloutResult", "rollout"),
        "calibadv.rollout.config": ("RolloutConfig",),
        "calibadv.rollout.policies.scripted": ("ScriptedPolicy",),
        "calibadv.rollout.policy": ("Completion", "GenerationRequest", "Policy", "RequestQueue", "SamplingParams"),
        "calibadv.rollout.tokenizer": ("CharTokenizer", "HFTokenizer", "Tokenizer"),
    },
)

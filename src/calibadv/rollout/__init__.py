"""Rollouts: episodes of reasoning and searching, many at once.

- ``rollout(questions, num_rollouts=..., policy=..., retriever=..., tokenizer=..., config=..., seed=...)`` plays them
- ``RolloutConfig`` says how, ``RolloutResult`` holds the trajectories, the time and the counts
- ``Policy`` and ``RequestQueue`` are the protocols; ``ScriptedPolicy`` and ``CharTokenizer`` are fakes for tests
- ``calibadv.rollout.transformers_policy.TransformersPolicy`` generates with any Hugging Face causal LM (imports torch)
"""

from calibadv.rollout.config import RolloutConfig
from calibadv.rollout.engine import RolloutResult, rollout
from calibadv.rollout.policy import Completion, GenerationRequest, Policy, RequestQueue, SamplingParams
from calibadv.rollout.scripted import ScriptedPolicy
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

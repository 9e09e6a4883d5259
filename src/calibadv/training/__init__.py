"""Training with TRL: `CalibAdvTrainer` and `CalibAdvConfig`, or a whole run with `train`.

- ``train(config)`` makes one run from a `calibadv.config.RunConfig`: data, retriever, model, checkpoints, evaluations
- ``CalibAdvTrainer(model, args=CalibAdvConfig(...), ...)`` is ``trl.GRPOTrainer`` with three overrides, each alone in
  its file: `advantages`, `batching`, `logprobs`
- ``make_rollout_func`` and ``outcome_reward_func`` also serve an unmodified ``trl.GRPOTrainer``
- ``load_model`` loads a causal language model with its tokenizer; ``read_metrics`` reads ``metrics.jsonl``

The package itself is light (its settings are part of the run's configuration): a name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibadv.training.bridge import question_order, question_rows
    from calibadv.training.callbacks import read_metrics
    from calibadv.training.config import CalibAdvConfig
    from calibadv.training.credit import assign_credit
    from calibadv.training.load import load_model
    from calibadv.training.rollouts import make_rollout_func, outcome_reward_func
    from calibadv.training.run import train
    from calibadv.training.trainer import CalibAdvTrainer, NoSignalError

__all__ = [
    "CalibAdvConfig",
    "CalibAdvTrainer",
    "NoSignalError",
    "assign_credit",
    "load_model",
    "make_rollout_func",
    "outcome_reward_func",
    "question_order",
    "question_rows",
    "read_metrics",
    "train",
]

_HOMES = {
    "CalibAdvConfig": "config",
    "CalibAdvTrainer": "trainer",
    "NoSignalError": "trainer",
    "assign_credit": "credit",
    "load_model": "load",
    "make_rollout_func": "rollouts",
    "outcome_reward_func": "rollouts",
    "question_order": "bridge",
    "question_rows": "bridge",
    "read_metrics": "callbacks",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

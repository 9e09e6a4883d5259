"""Training with TRL: `CalibAdvTrainer` and `CalibAdvConfig`, or a whole run with `train`.

- `callbacks`: trainer callbacks: skip updates that would poison the weights, and write one metrics line per batch
- `checkpoint_files`: what makes a checkpoint complete: a list of its files with sizes and digests, written when all are
  on the disk
- `checkpoints`: what a resumed run starts from: the newest complete checkpoint, and records that end where it was
  saved
- `config`: what a run is: which algorithm, how much, how fast. Light (no torch); `calibadv.runs.train` maps it to TRL
- `credit`: rewards, query correctness and calibrated advantages of a whole batch, with every number that the paper
  plots
- `grpo_config`: `CalibAdvConfig`: TRL's ``GRPOConfig`` with the paper's defaults and the settings of this package
- `launch`: what the launcher asked for, and what fits a run
- `no_signal`: A run from which nothing is learned stops: `NoSignalError`, and why and what helps in plain words
- `overrides`: each file overrides one method of TRL's trainer
- `packing`: how the rollouts of a batch are divided: into mini-batches, and those into passes of a bounded number of
  tokens
- `periodic_evaluation`: evaluations during a training run, shared among its processes
- `process_group`: the process group of a run over several processes: joining it, agreeing in it, losing a member,
  leaving it
- `rollout_func`: TRL's ``rollout_func`` on top of `calibadv.rollout`: prompts in, token ids, log-probabilities and
  trajectories out
- `sft`: supervised fine-tuning: teach a model the tags, searching and reading before it learns by reinforcement
- `signals`: SIGINT and SIGTERM during training: the first asks for a checkpoint and an orderly end, the second ends
  at once
- `timers`: A stopwatch with named laps: where the time of a batch goes
- `trainer`: `CalibAdvTrainer`: TRL's GRPO trainer with search rollouts and calibrated advantages
- `trl_batch`: trajectories -> the fields that TRL's ``rollout_func`` returns, and the order in which questions are
  asked
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.data.run_files import read_metrics
    from calibadv.training.credit import assign_credit
    from calibadv.training.grpo_config import CalibAdvConfig
    from calibadv.training.no_signal import NoSignalError
    from calibadv.training.rollout_func import handed_over_reward, make_rollout_func
    from calibadv.training.trainer import CalibAdvTrainer
    from calibadv.training.trl_batch import QuestionOrder, question_rows

__all__ = [
    "CalibAdvConfig",
    "CalibAdvTrainer",
    "NoSignalError",
    "QuestionOrder",
    "assign_credit",
    "handed_over_reward",
    "make_rollout_func",
    "question_rows",
    "read_metrics",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.data.run_files": ("read_metrics",),
        "calibadv.training.credit": ("assign_credit",),
        "calibadv.training.grpo_config": ("CalibAdvConfig",),
        "calibadv.training.no_signal": ("NoSignalError",),
        "calibadv.training.rollout_func": ("handed_over_reward", "make_rollout_func"),
        "calibadv.training.trainer": ("CalibAdvTrainer",),
        "calibadv.training.trl_batch": ("QuestionOrder", "question_rows"),
    },
)

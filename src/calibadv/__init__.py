"""Train deep search agents with calibrated advantages (CalibAdv, arXiv 2604.18235).

The verbs (`train`, `evaluate`, `ask`), the configuration of a run, the method, the vocabulary and the errors are here;
the rest is imported from its home, for example ``from calibadv.rollout import rollout``. Importing this loads nothing:
a name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily
from calibadv.version import __version__

if TYPE_CHECKING:
    from calibadv.advantage import (
        CalibrationConfig,
        CalibrationStats,
        CreditBatch,
        calibrate,
        query_correctness,
        spread,
    )
    from calibadv.config import RunConfig
    from calibadv.data.run_files import read_metrics
    from calibadv.errors import (
        CalibAdvError,
        ConfigError,
        DataError,
        PolicyError,
        RetrieverError,
        RetrieverUnavailable,
        TokenMismatchError,
    )
    from calibadv.retrieval import Hit
    from calibadv.runs.agent import ask
    from calibadv.runs.evaluate import evaluate
    from calibadv.runs.targets import load_config
    from calibadv.runs.train import train
    from calibadv.trajectory import Action, ActionKind, Credit, Document, Group, Question, StopReason, Trajectory, Turn

__all__ = [
    "Action",
    "ActionKind",
    "CalibAdvError",
    "CalibrationConfig",
    "CalibrationStats",
    "ConfigError",
    "Credit",
    "CreditBatch",
    "DataError",
    "Document",
    "Group",
    "Hit",
    "PolicyError",
    "Question",
    "RetrieverError",
    "RetrieverUnavailable",
    "RunConfig",
    "StopReason",
    "TokenMismatchError",
    "Trajectory",
    "Turn",
    "__version__",
    "ask",
    "calibrate",
    "evaluate",
    "load_config",
    "query_correctness",
    "read_metrics",
    "spread",
    "train",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.advantage": (
            "CalibrationConfig",
            "CalibrationStats",
            "CreditBatch",
            "calibrate",
            "query_correctness",
            "spread",
        ),
        "calibadv.config": ("RunConfig",),
        "calibadv.data.run_files": ("read_metrics",),
        "calibadv.errors": (
            "CalibAdvError",
            "ConfigError",
            "DataError",
            "PolicyError",
            "RetrieverError",
            "RetrieverUnavailable",
            "TokenMismatchError",
        ),
        "calibadv.retrieval": ("Hit",),
        "calibadv.runs.agent": ("ask",),
        "calibadv.runs.evaluate": ("evaluate",),
        "calibadv.runs.targets": ("load_config",),
        "calibadv.runs.train": ("train",),
        "calibadv.trajectory": (
            "Action",
            "ActionKind",
            "Credit",
            "Document",
            "Group",
            "Question",
            "StopReason",
            "Trajectory",
            "Turn",
        ),
    },
)

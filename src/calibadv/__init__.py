"""Train deep search agents with calibrated advantages (CalibAdv, arXiv 2604.18235).

Here are the vocabulary, the errors and the method; the rest is imported from its home, for example
``from calibadv.rollout import rollout`` or ``from calibadv.training.run import train``. Importing this loads no torch.
"""

from calibadv.advantage import CalibrationConfig, CalibrationStats, calibrate, query_correctness, spread
from calibadv.errors import (
    CalibAdvError,
    ConfigError,
    DataError,
    PolicyError,
    RetrieverError,
    RetrieverUnavailable,
    TokenMismatchError,
)
from calibadv.trajectory import (
    Action,
    ActionKind,
    Credit,
    Document,
    Group,
    Question,
    StopReason,
    Trajectory,
    Turn,
)

__all__ = [
    "Action",
    "ActionKind",
    "CalibAdvError",
    "CalibrationConfig",
    "CalibrationStats",
    "ConfigError",
    "Credit",
    "DataError",
    "Document",
    "Group",
    "PolicyError",
    "Question",
    "RetrieverError",
    "RetrieverUnavailable",
    "StopReason",
    "TokenMismatchError",
    "Trajectory",
    "Turn",
    "calibrate",
    "query_correctness",
    "spread",
]

__version__ = "0.1.0"

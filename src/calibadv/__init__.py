"""Train deep search agents with calibrated advantages (CalibAdv, arXiv 2604.18235).

Here are the vocabulary, the errors and the method; the rest is imported from its home, for example
``from calibadv.rollout import rollout`` or ``from calibadv.runs.train import train``. Importing this loads no torch.
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
from calibadv.version import __version__

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
    "__version__",
    "calibrate",
    "query_correctness",
    "spread",
]

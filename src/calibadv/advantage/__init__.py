"""The method: rewards in, one advantage per turn out. Pure arithmetic on arrays; no token ids, no files, no logging.

In reading order: `grpo` (group-relative advantages), `estimators` (those that have a name, and the door for yours),
`silver` (silver documents, query correctness), `calibrate` (soft penalty, rebalance), `tokens` (turns to tokens).
Beside them `stats` (what calibration did to a batch).
"""

from calibadv.advantage.calibrate import CalibrationConfig, calibrate
from calibadv.advantage.estimators import ESTIMATORS, CreditBatch, Estimator, open_estimator
from calibadv.advantage.grpo import group_advantages, leave_one_out_advantages
from calibadv.advantage.silver import (
    SilverStats,
    TrajectoryEvidence,
    TurnEvidence,
    query_correctness,
    silver_documents,
    turn_correctness,
    word_similarity,
)
from calibadv.advantage.stats import AdvantageMass, CalibrationStats
from calibadv.advantage.tokens import spread

__all__ = [
    "ESTIMATORS",
    "AdvantageMass",
    "CalibrationConfig",
    "CalibrationStats",
    "CreditBatch",
    "Estimator",
    "SilverStats",
    "TrajectoryEvidence",
    "TurnEvidence",
    "calibrate",
    "group_advantages",
    "leave_one_out_advantages",
    "open_estimator",
    "query_correctness",
    "silver_documents",
    "spread",
    "turn_correctness",
    "word_similarity",
]

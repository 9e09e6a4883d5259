"""Evaluation: play every question, grade the model's own answers, say how sure the figures are. Loads no torch."""

from calibadv.evaluation.evaluate import EvalResult, evaluate, rollout_config_of
from calibadv.evaluation.metrics import Estimate, Grade, Summary, summarise
from calibadv.evaluation.output import as_json, table, write_evaluation
from calibadv.evaluation.settings import EvaluationConfig

__all__ = [
    "Estimate",
    "EvalResult",
    "EvaluationConfig",
    "Grade",
    "Summary",
    "as_json",
    "evaluate",
    "rollout_config_of",
    "summarise",
    "table",
    "write_evaluation",
]

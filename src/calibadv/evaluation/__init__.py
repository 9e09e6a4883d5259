"""Evaluation: play every question, grade the model's own answers, say how sure the figures are. Loads no torch."""

from calibadv.evaluation.diff import Comparison, compare, read_evaluation
from calibadv.evaluation.evaluate import EvalResult, evaluate, rollout_config_of
from calibadv.evaluation.journal import Journal
from calibadv.evaluation.metrics import Grade, grade
from calibadv.evaluation.output import as_json, table, write_evaluation
from calibadv.evaluation.settings import EvaluationConfig
from calibadv.evaluation.summary import Estimate, Summary, pass_at_k, summarise
from calibadv.evaluation.traces import Trace, read_traces, score_traces

__all__ = [
    "Comparison",
    "Estimate",
    "EvalResult",
    "EvaluationConfig",
    "Grade",
    "Journal",
    "Summary",
    "Trace",
    "as_json",
    "compare",
    "evaluate",
    "grade",
    "pass_at_k",
    "read_evaluation",
    "read_traces",
    "rollout_config_of",
    "score_traces",
    "summarise",
    "table",
    "write_evaluation",
]

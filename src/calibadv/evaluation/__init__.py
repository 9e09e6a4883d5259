"""Evaluation: play every question, grade the model's own answers, say how sure the figures are. Loads no torch.

- `compare`: `compare`: two evaluations of the same questions, paired question by question
- `compare_text`: a comparison as text: a table, and the questions that changed most
- `config`: how a policy is evaluated: the [evaluation] section of a run
- `coverage`: can these questions be answered from this corpus at all? One pass over every document, whatever the
  retriever finds
- `evaluate`: `evaluate`: every question exactly once per sample, graded on what the model itself wrote
- `evidence`: what a question needs from a corpus: a passage with a golden answer, and its supporting passages where
  named
- `folder`: an evaluation's folder: what is being evaluated (manifest.json), finished rollouts, and at the end the
  results
- `grade`: what one trajectory is worth: its grade
- `index_text`: recall of an index and coverage of a corpus as text: tables, and what is missing
- `journal`: the journal of an evaluation: every finished rollout, on disk the moment it finishes, so that none is
  played twice
- `judge`: an optional judge: a language model says whether an answer means the same as a golden answer
- `recall`: how much of what questions need a retriever finds: recall@k of answers, of supporting passages, of exact
  search
- `statistics`: from grades to figures: means over questions with standard errors and bootstrap intervals, per data
  set and together
- `tables`: tables of figures: as text for a terminal, as Markdown, and as LaTeX
- `traces`: existing rollouts to trajectories and grades: files of this package, and plain-text traces of other
  systems
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibadv.lazy import lazily

if TYPE_CHECKING:
    from calibadv.evaluation.compare import Comparison, read_evaluation
    from calibadv.evaluation.config import EvaluationConfig
    from calibadv.evaluation.evaluate import EvalResult, rollout_config_of
    from calibadv.evaluation.folder import as_json, table, write_evaluation
    from calibadv.evaluation.grade import Grade
    from calibadv.evaluation.journal import Journal
    from calibadv.evaluation.statistics import Estimate, Summary, pass_at_k, summarise
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
    "pass_at_k",
    "read_evaluation",
    "read_traces",
    "rollout_config_of",
    "score_traces",
    "summarise",
    "table",
    "write_evaluation",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "calibadv.evaluation.compare": ("Comparison", "read_evaluation"),
        "calibadv.evaluation.config": ("EvaluationConfig",),
        "calibadv.evaluation.evaluate": ("EvalResult", "rollout_config_of"),
        "calibadv.evaluation.folder": ("as_json", "table", "write_evaluation"),
        "calibadv.evaluation.grade": ("Grade",),
        "calibadv.evaluation.journal": ("Journal",),
        "calibadv.evaluation.statistics": ("Estimate", "Summary", "pass_at_k", "summarise"),
        "calibadv.evaluation.traces": ("Trace", "read_traces", "score_traces"),
    },
)

"""What one trajectory is worth: its grade.

Only what the model itself wrote is judged (`Trajectory.answer`): an ``<answer>`` inside a document, in the question or
in the prompt's own example never counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from calibadv.rewards.outcome import SCORES
from calibadv.rewards.perplexity import is_garbled
from calibadv.rewards.reward import Reward, scored
from calibadv.trajectory import Trajectory

METRICS = (
    *SCORES, "reward", "format_valid", "garbled", "answered", "failed", "searches", "turns", "tokens",
)  # fmt: skip
"""Those of every rollout that this package plays."""
OPTIONAL = ("judge", "latency_s")
"""Known only when a judge was asked, or the clock was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What one trajectory is worth."""

    dataset: str
    question_id: str
    sample: int
    """Which of the question's rollouts, from 0."""
    values: dict[str, float]
    """Metric -> value; yes and no are 1 and 0. A metric that cannot be known is not there: tokens and garbled text need
    token ids and log-probabilities, which a trace read from text does not carry."""

    def with_value(self, name: str, value: float) -> Grade:
        """The same grade with one more value."""
        return replace(self, values={**self.values, name: value})


def grade(trajectory: Trajectory, *, score: str, reward: Reward | None = None, latency_s: float | None = None) -> Grade:
    """Grade a trajectory on what the model itself wrote; ``score`` and ``reward`` as in `scored`.

    A rollout that failed for a reason outside the policy scores 0, as any without an answer, and counts as failed.
    """
    verdict = scored(trajectory, score=score, reward=reward)
    values = {
        **verdict.scores,
        "reward": verdict.reward,
        "format_valid": float(verdict.format_valid),
        "answered": float(trajectory.answer is not None),
        "failed": float(trajectory.failed),
        "searches": float(len(trajectory.search_turns)),
        "turns": float(len(trajectory.turns)),
    }
    written = [turn for turn in trajectory.turns if turn.text]
    if all(turn.token_ids for turn in written):
        values["tokens"] = float(sum(len(turn.token_ids) for turn in trajectory.turns))
    if all(turn.logprobs for turn in written):
        values["garbled"] = float(is_garbled(trajectory))
    if latency_s is not None:
        values["latency_s"] = latency_s
    return Grade(
        dataset=trajectory.question.dataset,
        question_id=trajectory.question.id,
        sample=trajectory.rollout_index,
        values=values,
    )

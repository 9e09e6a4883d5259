"""What an answer is worth.

- `answer_scores`: answer scores: exact match, cover exact match and F1 after the usual SQuAD normalisation
- `format`: the format check: think, search, information, (think, search, information)*, think, answer
- `outcome`: the outcome reward: score of the model's own answer times the format flag
- `reward`: the door for rewards: the built-in one, or yours
- `perplexity`: garbled text: a trajectory is garbled when one of its turns has a perplexity at or above the threshold
"""

from calibadv.rewards.answer_scores import cover_exact_match, exact_match, f1_score, normalize_answer
from calibadv.rewards.format import format_problem, is_well_formed
from calibadv.rewards.outcome import SCORES, outcome_reward, score_trajectory
from calibadv.rewards.perplexity import is_garbled, segment_perplexities
from calibadv.rewards.reward import OutcomeReward, Reward, open_reward

__all__ = [
    "SCORES",
    "OutcomeReward",
    "Reward",
    "cover_exact_match",
    "exact_match",
    "f1_score",
    "format_problem",
    "is_garbled",
    "is_well_formed",
    "normalize_answer",
    "open_reward",
    "outcome_reward",
    "score_trajectory",
    "segment_perplexities",
]

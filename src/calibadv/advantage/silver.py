"""Silver documents of a group and query correctness of a turn: which searches went well although the answer was wrong.

Paper, section on the soft penalty. The silver documents of a group are what its best correct trajectories retrieved. A
search turn is as correct as the share of its documents that are silver and new to its trajectory; a turn that repeats
an earlier one earns nothing. No label beyond the golden answers is needed.

Documents are compared by id. (The published code compares decoded text, split at its document markers, so a passage
that quotes such a marker becomes two documents there.) If the best trajectories retrieved nothing, the group has no
silver documents (there: an exception).

Shape suffixes: N = trajectories of the batch, G = trajectories of a group, K = turns (ragged lists, padded arrays).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from calibadv.advantage.grpo import Floats, GroupIds, check_rewards, group_index
from calibadv.errors import ConfigError
from calibadv.trajectory import Trajectory

CorrectnessVariant: TypeAlias = Literal["share", "max", "mean"]

SILVER_THRESHOLD = 0.7
"""Lowest score of a correct trajectory."""
MAX_SIMILARITY = 0.5
"""A turn whose thinking is more similar than this to that of an earlier turn repeats itself."""
MAX_SHARED_DOCUMENTS = 1
"""A turn that shares more documents than this with one earlier turn repeats itself."""


class TurnEvidence(NamedTuple):
    """What query correctness looks at in a turn."""

    thinking: str
    document_ids: tuple[str, ...]  # [num_documents] as shown, repeats included; () for a turn without a search


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryEvidence:
    """What query correctness looks at in a trajectory."""

    turns: tuple[TurnEvidence, ...]  # [num_turns] the last one is the answer turn
    score: float
    """Of the answer, before the format factor."""
    format_valid: bool

    @classmethod
    def from_trajectory(cls, trajectory: Trajectory, *, score: float, format_valid: bool) -> TrajectoryEvidence:
        """Take thinking and documents from a trajectory; score and format verdict come from `calibadv.rewards`."""
        turns = tuple(TurnEvidence(t.thinking, tuple(d.id for d in t.documents)) for t in trajectory.turns)
        return cls(turns=turns, score=score, format_valid=format_valid)


@dataclass(frozen=True, slots=True, kw_only=True)
class SilverStats:
    """Silver documents and query correctness of a batch."""

    silver_counts: tuple[int, ...]  # [num_groups] in order of first appearance
    """How many silver documents each group has; 0: no correct trajectory, or it retrieved nothing."""
    correctness_values: tuple[float, ...]  # [num_scored_turns]
    """Query correctness of every search turn that was scored."""

    @property
    def groups_without_silver(self) -> int:
        """Groups in which nothing could be forgiven."""
        return self.silver_counts.count(0)

    @property
    def share_without_silver(self) -> float:
        """`groups_without_silver` among all groups; 0 if there are none."""
        return self.groups_without_silver / max(1, len(self.silver_counts))

    @property
    def correctness_mean(self) -> float | None:
        """Mean query correctness of the scored turns; None if there are none."""
        if not self.correctness_values:
            return None
        return sum(self.correctness_values) / len(self.correctness_values)


def query_correctness(
    evidence_N: Sequence[TrajectoryEvidence],
    *,
    group_ids: GroupIds,
    variant: CorrectnessVariant = "share",
    silver_threshold: float = SILVER_THRESHOLD,
    included_N: ArrayLike | None = None,
) -> tuple[Floats, SilverStats]:
    """Query correctness of every turn of a batch, as ``correctness_NK`` for `calibrate`.

    Source: the paper's soft penalty for search turns.

    Args:
        evidence_N: Thinking, documents, score and format verdict of each trajectory.
        group_ids: The question of each trajectory, in any order.
        variant: How silver documents are weighed, see `turn_correctness`.
        silver_threshold: Lowest score of a trajectory whose documents may be silver.
        included_N: False for trajectories that take no part; None: all take part.

    Returns:
        Query correctness [N, K] in [0, 1], and the batch's silver documents in numbers. NaN means "none given": the
        answer turn, turns of a trajectory with invalid format, of a group without silver documents, or of a
        trajectory that takes no part, and padding.

    Raises:
        ConfigError: An unknown variant.
        DataError: Shapes that do not agree, or a score that is not finite.

    >>> answer = TurnEvidence("so it is", ())
    >>> right = TrajectoryEvidence(turns=(TurnEvidence("a", ("d1", "d2")), answer), score=1.0, format_valid=True)
    >>> wrong = TrajectoryEvidence(turns=(TurnEvidence("b", ("d2", "d9")), answer), score=0.0, format_valid=True)
    >>> correctness_NK, stats = query_correctness([right, wrong], group_ids=["q", "q"])
    >>> correctness_NK
    array([[1. , nan],
           [0.5, nan]])
    >>> stats.silver_counts
    (2,)
    """
    _check_variant(variant)
    scores_N, included = check_rewards([e.score for e in evidence_N], included_N=included_N, name="score")
    group_N = group_index(group_ids, num_trajectories=len(scores_N))
    members: dict[int, list[int]] = {}
    for n in np.flatnonzero(included).tolist():
        members.setdefault(int(group_N[n]), []).append(n)
    num_turns = max((len(e.turns) for e in evidence_N), default=0)
    correctness_NK = np.full((len(evidence_N), num_turns), np.nan)
    silver_counts = []
    for member_ns in members.values():
        silver = silver_documents([evidence_N[n] for n in member_ns], threshold=silver_threshold)
        silver_counts.append(len(silver))
        for n in member_ns if silver else ():
            if evidence_N[n].format_valid:
                values = turn_correctness(evidence_N[n].turns[:-1], silver=silver, variant=variant)
                correctness_NK[n, : len(values)] = values
    values_S = correctness_NK[~np.isnan(correctness_NK)]
    return correctness_NK, SilverStats(silver_counts=tuple(silver_counts), correctness_values=tuple(values_S.tolist()))


def silver_documents(
    evidence_G: Sequence[TrajectoryEvidence], *, threshold: float = SILVER_THRESHOLD
) -> dict[str, int]:
    """Silver documents of one group, each with the number of best trajectories that retrieved it.

    Source: the paper's soft penalty for search turns.

    Args:
        evidence_G: The group's trajectories.
        threshold: Best are the trajectories with valid format that share the highest score, if it is at least this.

    Returns:
        Count by document id; empty when no trajectory is correct, or the best ones retrieved nothing.
    """
    correct = [e for e in evidence_G if e.format_valid and e.score >= threshold]
    best_score = max((e.score for e in correct), default=0.0)
    retrieved = (
        dict.fromkeys(d for turn in e.turns for d in turn.document_ids) for e in correct if e.score == best_score
    )
    return dict(Counter(chain.from_iterable(retrieved)))


def turn_correctness(
    turns_K: Sequence[TurnEvidence], *, silver: Mapping[str, int], variant: CorrectnessVariant = "share"
) -> list[float]:
    """Query correctness of each search turn of one trajectory.

    With D the documents of the turn, F those of D that are silver and not seen in an earlier turn, and w(d) how often d
    is silver relative to the group's most frequent silver document:

    - ``share``: ``|F| / |D|`` (the paper's),
    - ``mean``: ``sum of w over F / |D|``,
    - ``max``: ``max of w over F``,

    and 0 if the turn repeats an earlier one.

    Args:
        turns_K: The search turns of one trajectory, in order.
        silver: The group's silver documents, from `silver_documents`.
        variant: One of the three above.

    Returns:
        One value in [0, 1] for each turn.

    Raises:
        ConfigError: An unknown variant.

    >>> turns = [TurnEvidence("find her film", ("d1", "d2", "d3")), TurnEvidence("now its year", ("d3", "d4"))]
    >>> turn_correctness(turns, silver={"d1": 1, "d4": 1})
    [0.3333333333333333, 0.5]
    """
    _check_variant(variant)
    most = max(silver.values(), default=1)
    words_K = [turn.thinking.split() for turn in turns_K]
    seen: set[str] = set()
    correctness_K = []
    for k, turn in enumerate(turns_K):
        found = [silver[d] / most for d in dict.fromkeys(turn.document_ids) if d in silver and d not in seen]
        seen.update(turn.document_ids)
        if not found or _repeats_earlier_documents(turns_K, k) or _repeats_earlier_thinking(words_K, k):
            correctness_K.append(0.0)
        elif variant == "share":
            correctness_K.append(len(found) / len(turn.document_ids))
        elif variant == "mean":
            correctness_K.append(sum(found) / len(turn.document_ids))
        else:
            correctness_K.append(max(found))
    return correctness_K


def word_similarity(a: str, b: str) -> float:
    """How alike two texts are: 1 - word-level edit distance / longer length.

    Args:
        a: A text; white space separates its words.
        b: Another.

    Returns:
        Similarity in [0, 1]; 0 if both texts are empty.

    >>> word_similarity("who wrote the song", "who sang the song")
    0.75
    """
    words_a, words_b = a.split(), b.split()
    longer = max(len(words_a), len(words_b))
    return 1.0 - _edit_distance(words_a, words_b, give_up_above=longer) / longer if longer else 0.0


def _check_variant(variant: str) -> None:
    if variant not in get_args(CorrectnessVariant):
        raise ConfigError(f"variant must be one of {', '.join(get_args(CorrectnessVariant))}, got {variant!r}")


def _repeats_earlier_documents(turns_K: Sequence[TurnEvidence], k: int) -> bool:
    documents = set(turns_K[k].document_ids)
    return any(len(documents.intersection(turn.document_ids)) > MAX_SHARED_DOCUMENTS for turn in turns_K[:k])


def _repeats_earlier_thinking(words_K: Sequence[Sequence[str]], k: int) -> bool:
    """Whether `word_similarity` to an earlier turn is above the limit, mostly without computing it."""
    words, known = words_K[k], set(words_K[k])
    for earlier in words_K[:k]:
        longer = max(len(words), len(earlier))
        # No more similar than the share of words that the two have in common, in whatever order.
        if sum(map(known.__contains__, earlier)) <= MAX_SIMILARITY * longer:
            continue
        distance = _edit_distance(words, earlier, give_up_above=longer * (1.0 - MAX_SIMILARITY))
        if 1.0 - distance / longer > MAX_SIMILARITY:
            return True
    return False


def _edit_distance(a: Sequence[str], b: Sequence[str], *, give_up_above: float) -> int:
    """Levenshtein distance between two lists of words; a lower bound of it once that is above ``give_up_above``.

    Myers' bit-vector method: integers with one bit per word of ``a`` hold a column of the distance table, as the rows
    where the distance goes up by one (``up``) and where it goes down (``down``); a column takes a dozen operations.
    """
    if not a or not b:
        return max(len(a), len(b))
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = every, 0, len(a)
    for words_left, word in zip(range(len(b) - 1, -1, -1), b, strict=True):
        equal = where.get(word, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right_up = down | (~(diagonal | up) & every)
        right_down = up & diagonal
        if right_up & last:
            distance += 1
        elif right_down & last:
            distance -= 1
        if distance - words_left > give_up_above:
            return distance - words_left
        right_up = (right_up << 1) | 1
        up = (right_down << 1 | ~(diagonal | right_up)) & every
        down = right_up & diagonal & every
    return distance

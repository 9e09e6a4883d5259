"""Answer scores: exact match, cover exact match and F1 after the usual SQuAD normalisation.

Each takes the best value over the golden answers. Punctuation is deleted rather than replaced (``Mary-Ann`` is one
word) and articles go after that; only ASCII punctuation counts, accents stay.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from calibadv.errors import DataError

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    Args:
        text: An answer.

    Returns:
        The form in which answers are compared (that of SQuAD's evaluation).

    >>> normalize_answer("The  Mary-Ann, A. Smith")
    'maryann smith'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golden_answers: Sequence[str] | str) -> float:
    """Whether the prediction equals a golden answer (EM).

    Args:
        prediction: The answer to judge.
        golden_answers: One or several; the best value over them counts.

    Returns:
        1.0 or 0.0.

    Raises:
        DataError: No golden answers, or something that is not text.
    """
    return _best(prediction, golden_answers, lambda got, want: float(got == want))


def cover_exact_match(prediction: str, golden_answers: Sequence[str] | str) -> float:
    """Whether the prediction holds a golden answer, compared by characters: ``unknown`` covers ``no`` (CEM).

    Args:
        prediction: The answer to judge.
        golden_answers: One or several; the best value over them counts.

    Returns:
        1.0 or 0.0.

    Raises:
        DataError: No golden answers, or something that is not text.
    """
    return _best(prediction, golden_answers, lambda got, want: float(want in got))


def f1_score(prediction: str, golden_answers: Sequence[str] | str) -> float:
    """Harmonic mean of word precision and recall (F1).

    Args:
        prediction: The answer to judge.
        golden_answers: One or several; the best value over them counts.

    Returns:
        A value in [0, 1].

    Raises:
        DataError: No golden answers, or something that is not text.

    >>> f1_score("the city of Oslo", ["Oslo"])
    0.5
    """
    return _best(prediction, golden_answers, _f1)


def _f1(got: str, want: str) -> float:
    got_words, want_words = got.split(), want.split()
    shared = sum((Counter(got_words) & Counter(want_words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(got_words), shared / len(want_words)
    return 2 * precision * recall / (precision + recall)


def _best(prediction: str, golden_answers: Sequence[str] | str, score: Callable[[str, str], float]) -> float:
    answers = (golden_answers,) if isinstance(golden_answers, str) else tuple(golden_answers)
    if not answers:
        raise DataError("no golden answers to score against; give the question at least one")
    if not isinstance(prediction, str):
        raise DataError(f"a prediction must be text, got {prediction!r}")
    for answer in answers:
        if not isinstance(answer, str):
            raise DataError(f"golden answers must be text, got {answer!r}; write numbers as strings")
    got = normalize_answer(prediction)
    return max(score(got, normalize_answer(answer)) for answer in answers)

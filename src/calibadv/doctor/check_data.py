"""Are the questions there, enough of them, and apart from the test questions?"""

from __future__ import annotations

from collections import Counter

from calibadv.config import RunConfig
from calibadv.data.config import load_split
from calibadv.doctor.check import Check, Level
from calibadv.rewards.answer_scores import normalize_answer


def check_data(config: RunConfig) -> list[Check]:
    """Counts per data set, enough for a batch, and no training question among the test questions."""
    train = load_split(config.data, "train", limit=config.data.limit)
    counts = dict(Counter(question.dataset for question in train))
    settings = config.training
    checks = [
        Check(
            name="data.train",
            level=Level.BLOCKER if len(train) < settings.questions_per_batch else Level.OK,
            summary=f"{len(train):,} questions ({', '.join(f'{n:,} {name}' for name, n in counts.items())}); the run "
            f"asks {settings.steps // settings.updates_per_batch * settings.questions_per_batch:,}",
            remedy=f"training.questions_per_batch is {settings.questions_per_batch}: lower it, or give more questions",
            facts={"questions": len(train), "by_dataset": counts},
        )
    ]
    if not config.data.test:
        wanted = bool(settings.eval_every)
        return [
            *checks,
            Check(
                name="data.test",
                level=Level.BLOCKER if wanted else Level.WARNING,
                summary="no test questions" + (", but training.eval_every asks for evaluations" if wanted else ""),
                remedy="name question files in data.test",
            ),
        ]
    test = load_split(config.data, "test", limit=config.evaluation.limit)
    asked = {normalize_answer(question.text) for question in train}
    shared = [question for question in test if normalize_answer(question.text) in asked]
    return [
        *checks,
        Check(
            name="data.test",
            level=Level.WARNING if shared else Level.OK,
            summary=f"{len(test):,} questions"
            + (f"; {len(shared):,} of them are training questions too, such as {shared[0].id!r}" if shared else ""),
            remedy="drop them from data.train (calibadv data prepare does), or the evaluation is worth little",
            facts={"questions": len(test), "also_in_train": len(shared)},
        ),
    ]

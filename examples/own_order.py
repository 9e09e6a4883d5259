"""An order of questions of one's own: those with few words first, then all of them, ever again."""

# %% A generator of indices; it is used as far as the run goes.
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from calibadv import Question


def short_first(questions: Sequence[Question], *, questions_per_batch: int, seed: int) -> Iterator[int]:
    """One pass from short to long questions, then shuffled passes. Every batch asks different questions."""
    indices = sorted(range(len(questions)), key=lambda index: (len(questions[index].text.split()), index))
    shuffle = Random(seed)
    while True:
        whole_batches = len(indices) // questions_per_batch * questions_per_batch
        yield from indices[:whole_batches]
        indices = shuffle.sample(indices, len(indices))


# %% In a config: training.order = "own_order:short_first"; from Python: calibadv.train(config, order=short_first).
if __name__ == "__main__":
    texts = ("Which river runs through the town where he was born?", "Who wrote Emma?", "When was Oslo founded?")
    questions = [Question(id=str(n), text=text, golden_answers=("",)) for n, text in enumerate(texts)]
    print(list(islice(short_first(questions, questions_per_batch=1, seed=0), 5)))

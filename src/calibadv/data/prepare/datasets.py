"""The seven data sets: their names, their splits in the published collection, and how many rows each has there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from calibadv.errors import ConfigError

HUB_REPOSITORY = "RUC-NLPIR/FlashRAG_datasets"
HUB_REVISION = "bcafb8dd07d453be3cbeeeb3f78be1841bddf92c"
"""The commit of the collection that is read unless another revision is asked for."""

SPLITS = ("train", "dev", "test")
COUNTS: dict[str, dict[str, int]] = {
    "nq": {"train": 79_168, "dev": 8_757, "test": 3_610},
    "triviaqa": {"train": 78_785, "dev": 8_837, "test": 11_313},
    "popqa": {"test": 14_267},
    "hotpotqa": {"train": 90_447, "dev": 7_405},
    "2wikimultihopqa": {"train": 15_000, "dev": 12_576},
    "musique": {"train": 19_938, "dev": 2_417},
    "bamboogle": {"test": 125},
}
"""Rows of every split. HotpotQA, 2WikiMultiHopQA and MuSiQue publish no answers for their test splits: what is
evaluated on, here as elsewhere, is their dev split."""
DATASETS = tuple(COUNTS)


def published_count(name: str, split: str) -> int | None:
    """Rows of a split as published ("test": of the split that is evaluated on); None when nothing is known.

    >>> published_count("nq", "test"), published_count("hotpotqa", "test"), published_count("popqa", "train")
    (3610, 7405, None)
    """
    counts = COUNTS.get(name, {})
    return counts.get("test", counts.get("dev")) if split == "test" else counts.get(split)


def candidates(split: str) -> tuple[str, ...]:
    """The splits that may be read when ``split`` is asked for, best first.

    >>> candidates("test"), candidates("train")
    (('test', 'dev', 'validation'), ('train',))
    """
    return {"test": ("test", "dev", "validation"), "dev": ("dev", "validation")}.get(split, (split,))


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as given; ConfigError for none, for one named twice and for words that cannot be a data set."""
    if not names:
        raise ConfigError(f"--datasets is empty; name some of {', '.join(DATASETS)}")
    for name in names:
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(f"--datasets: {name!r} is not the name of a data set; known are {', '.join(DATASETS)}")
        if list(names).count(name) > 1:
            raise ConfigError(f"--datasets names {name} twice")
    return tuple(names)


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean nq?`` when a known name is close, else nothing."""
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""

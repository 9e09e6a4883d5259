"""Question files for training and evaluation: from the published collection, or from folders laid out like it.

- `datasets`: the seven data sets: their names, their splits in the published collection, and how many rows each has
  there
- `parquet`: questions as rows of parquet that this package, Search-R1 and verl read
- `prepare`: `prepare`: read, check, de-duplicate, draw, mix, write, and report what was done
- `selection`: which questions are kept: duplicates, seeded draws, and mixing by weights. Pure functions on lists of
  questions
- `sources`: where question files come from: a local folder laid out like FlashRAG's, or the collection on the hub
"""

from calibadv.data.prepare.datasets import DATASETS, HUB_REPOSITORY, HUB_REVISION, published_count
from calibadv.data.prepare.prepare import PrepareConfig, SplitReport, prepare
from calibadv.data.prepare.sources import HubSource, LocalSource, open_source

__all__ = [
    "DATASETS",
    "HUB_REPOSITORY",
    "HUB_REVISION",
    "HubSource",
    "LocalSource",
    "PrepareConfig",
    "SplitReport",
    "open_source",
    "prepare",
    "published_count",
]

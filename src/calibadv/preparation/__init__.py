"""Question files for training and evaluation: from the published collection, or from folders laid out like it.

`prepare` reads the seven data sets of the paper, draws, mixes, removes training questions that a test asks too, and
writes parquet that this package, Search-R1 and verl read.
"""

from calibadv.preparation.catalog import DATASETS, HUB_REPOSITORY, HUB_REVISION, published_count
from calibadv.preparation.prepare import PrepareOptions, SplitReport, prepare
from calibadv.preparation.source import HubSource, LocalSource, open_source

__all__ = [
    "DATASETS",
    "HUB_REPOSITORY",
    "HUB_REVISION",
    "HubSource",
    "LocalSource",
    "PrepareOptions",
    "SplitReport",
    "open_source",
    "prepare",
    "published_count",
]

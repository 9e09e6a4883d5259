"""Whether the files of a source are one data set: one folder, one kind of file."""

from __future__ import annotations

from collections.abc import Sequence

from calibadv.errors import DataError


def check_one_set(files: Sequence[str], *, name: str) -> None:
    """Refuse several folders or kinds of files: several data sets, or versions of one, not to be mixed by accident."""
    folders = sorted({file.rpartition("/")[0] or "." for file in files})
    if len(folders) > 1:
        listed = ", ".join(folders[:10]) + (", ..." if len(folders) > 10 else "")
        raise DataError(f"{name}: its data lies in {len(folders)} folders ({listed}); name one of them")
    if len({file.endswith(".parquet") for file in files}) > 1:
        raise DataError(f"{name}: has both .jsonl and .parquet files; name the files that are to be imported")

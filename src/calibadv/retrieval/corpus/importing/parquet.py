"""Rows of parquet files, a few hundred in memory at a time (and the row group they are read from)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from calibadv.errors import DataError
from calibadv.retrieval.corpus.row_errors import RowError
from calibadv.retrieval.corpus.table import import_pyarrow

ROWS_PER_BATCH = 256


def read_parquet(
    path: Path, *, at: Callable[[int], None], columns_of: Callable[[list[str]], list[str]]
) -> Iterator[tuple[int, Any]]:
    """Row number from 1, and the row as a dictionary of the columns that ``columns_of`` picks, or its `RowError`.

    ``at`` is told now and then how many bytes of the file, about, were read. A file that breaks off is a DataError.
    """
    pa = import_pyarrow()
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = columns_of(names)
            if not columns:
                raise DataError(
                    f"{path}: none of its columns {names} is an id, title, text or contents; name them with "
                    "--id-field, --title-field, --text-field or --contents-field"
                )
            size, num_rows = path.stat().st_size, file.metadata.num_rows
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                for row in _rows(batch):
                    number += 1
                    yield number, row
                at(size * number // max(num_rows, 1))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names of columns
        raise DataError(f"{path}:{number + 1}: not a whole parquet file ({error}); fetch it again") from error


def _rows(batch: Any) -> list[Any]:
    try:
        rows: list[Any] = batch.to_pylist()
    except (ValueError, OverflowError):  # text that is not UTF-8; times that Python cannot hold
        rows = [_row(batch, number) for number in range(batch.num_rows)]
    return rows


def _row(batch: Any, number: int) -> Any:
    try:
        return batch.slice(number, 1).to_pylist()[0]
    except UnicodeDecodeError as error:
        return RowError("not_utf8", f"not UTF-8 ({error.reason}); convert the file")
    except (ValueError, OverflowError) as error:
        return RowError("broken", f"a value cannot be read ({error})")

"""Which document ids an import has seen: exactly, in bounded memory, whatever the ids are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from calibadv.retrieval.corpus.id_index import hash_ids, row_number
from calibadv.retrieval.corpus.importing.hash_runs import HashRuns

_NUMBERS_AT_ONCE = 1 << 16


class SeenIds:
    """Tells new ids from those it was given before.

    As long as ids are 0, 1, 2, ... in order (as in wiki-18), a count says everything. From the first other id on they
    are found by hash, and a match counts only if the id stored in that row is the same.
    """

    def __init__(self, runs: HashRuns, *, stored_id: Callable[[int], str], may_number: bool) -> None:
        self._runs = runs
        self._stored_id = stored_id
        self.count = 0
        self.numbered = may_number
        """Ids so far are their rows; nothing is in the runs."""

    def new(self, ids: Sequence[str]) -> list[bool]:
        """Whether each id is new; among these ids, too."""
        fresh: list[bool] = []
        count = self.count
        if self.numbered:
            for document_id in ids:
                if document_id == str(count):
                    count += 1
                    fresh.append(True)
                elif row_number(document_id, num_documents=count) is not None:
                    fresh.append(False)
                else:
                    break
        if len(fresh) < len(ids):
            self._use_runs()
            fresh = self._new_by_hash(ids)
        return fresh

    def add(self, ids: Sequence[str], rows: Sequence[int]) -> None:
        """Take in ids that `new` found to be new, and the rows they are stored in."""
        self.count += len(ids)
        if not self.numbered:
            self._runs.add_rows(hash_ids(ids), np.array(rows, np.int64))

    def _new_by_hash(self, ids: Sequence[str]) -> list[bool]:
        matches = self._runs.find(hash_ids(ids))
        known = {position for position, row in matches if self._stored_id(row) == ids[position]}
        now: set[str] = set()
        fresh = []
        for position, document_id in enumerate(ids):
            fresh.append(position not in known and document_id not in now)
            now.add(document_id)
        return fresh

    def _use_runs(self) -> None:
        if not self.numbered:
            return
        self.numbered = False
        for start in range(0, self.count, _NUMBERS_AT_ONCE):
            stop = min(start + _NUMBERS_AT_ONCE, self.count)
            self._runs.add(hash_ids(map(str, range(start, stop))), start)

"""A memory-mapped file whose resident part stays small.

The kernel maps up to 64 KiB around every page that is touched, and keeps them in the process's resident memory although
they are only views of its page cache: a thousand random reads in a large file would look like hundreds of megabytes. So
those who read say how much they touched, and now and then the views are given back (the cached pages stay cached).
"""

from __future__ import annotations

import mmap
from pathlib import Path

from calibadv.errors import DataError

RESIDENT_BYTES = 16 << 20
"""About how much of a file may be resident before it is given back."""
BYTES_AROUND = 64 << 10
"""What one read makes resident at least."""


class MappedFile:
    """A read-only map of a whole file; reads from several threads are fine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(f"{path}: cannot be mapped into memory ({error})") from error
        self._give_back = len(self.map) > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED")
        self._resident = 0

    def __len__(self) -> int:
        return len(self.map)

    def touched(self, *, reads: int, num_bytes: int = 0) -> None:
        """Count this many separate reads of this many bytes in all; give the views back when they were many."""
        if not self._give_back:
            return
        # Two threads may count at once and lose a few: the bound is a rough one.
        self._resident += reads * BYTES_AROUND + num_bytes
        if self._resident > RESIDENT_BYTES:
            self._resident = 0
            self.map.madvise(mmap.MADV_DONTNEED)  # a reader in another thread maps its pages again

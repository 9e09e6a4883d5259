"""Files of a Hugging Face hub data set, fetched straight into place and resumable after a kill.

The hub's own client (2.4) starts over after a kill (each process writes to a file of its own), and joining
parts of 40 GB needs their room twice. Here a file (or several parts that make one) is written at its place in one
target; the length of the target says where to continue. Sizes are checked always, digests where the hub knows them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from calibadv.errors import DataError, first_line
from calibadv.io.hub import HubFile
from calibadv.io.retry import Retry

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""
DOWNLOAD_RETRY = Retry(retries=4, first_wait_s=1.0)
"""For failures in a row, without a byte between them."""
_BLOCK = 1 << 20
_SYNC_BYTES = 256 << 20


def fetch(
    parts: Sequence[HubFile], target: Path, *, progress: Progress | None = None, retry: Retry = DOWNLOAD_RETRY
) -> None:
    """Write the parts one after the other into ``target``; what is there already is not fetched again.

    The data grow in ``NAME.partial`` and get their name when they are complete.
    """
    total = sum(part.size for part in parts)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial, checked = partial_of(target), target.with_name(f"{target.name}.checked")
        done_parts = checked.read_text(encoding="utf-8").splitlines() if checked.exists() else []
        start = 0
        for part in parts:
            _fetch_part(part, partial, start=start, total=total, progress=progress, retry=retry)
            if part.sha256 is not None and f"{part.name} {part.sha256}" not in done_parts:
                _check_digest(part, partial, start=start)
                with checked.open("a", encoding="utf-8") as file:
                    file.write(f"{part.name} {part.sha256}\n")
            start += part.size
        partial.replace(target)
        checked.unlink(missing_ok=True)
    if (size := target.stat().st_size) != total:
        raise DataError(
            f"{target}: {size:,} bytes, but the hub announces {total:,}; remove the file and run the command again"
        )


def partial_of(target: Path) -> Path:
    """Where the data are while they are fetched."""
    return target.with_name(f"{target.name}.partial")


def bytes_at_hand(target: Path) -> int:
    """How much of ``target`` is on disk already."""
    return _bytes_in(target) or _bytes_in(partial_of(target))


def _bytes_in(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_part(
    part: HubFile, partial: Path, *, start: int, total: int, progress: Progress | None, retry: Retry
) -> None:
    """Append what is missing of one part; connections that break are opened again."""
    import httpx2

    end, attempts = start + part.size, retry.start()
    while (size := _bytes_in(partial)) < end:
        reason = "the connection ended early"
        try:
            _append(part, partial, start=start, total=total, progress=progress)
        except httpx2.HTTPStatusError as error:
            if error.response.status_code not in (408, 429) and error.response.status_code < 500:
                raise DataError(f"{part.url}: the hub refuses the file ({first_line(error)})") from error
            reason = first_line(error)
        except httpx2.TransportError as error:
            reason = first_line(error)
        done = _bytes_in(partial)
        if done > size:
            attempts = retry.start()
        elif not attempts.wait(f"{part.name}: {reason}"):
            raise DataError(
                f"{part.name}: the download stopped after {done:,} of {total:,} bytes ({reason}); the same command "
                "continues from there"
            )


def _append(part: HubFile, partial: Path, *, start: int, total: int, progress: Progress | None) -> None:
    import httpx2
    from huggingface_hub.utils._headers import build_hf_headers

    with partial.open("ab", buffering=_BLOCK) as file:
        position = file.tell() - start  # within the part
        headers = {**build_hf_headers(), "Range": f"bytes={position}-", "Accept-Encoding": "identity"}
        timeout = httpx2.Timeout(30.0, connect=15.0)
        with httpx2.stream("GET", part.url, headers=headers, follow_redirects=True, timeout=timeout) as response:
            response.raise_for_status()
            skip = position if response.status_code == 200 else 0  # the server sends the file from its beginning
            sent = str(response.headers.get("content-range"))
            if response.status_code == 206 and not sent.startswith(f"bytes {position}-"):
                raise DataError(f"{part.url}: asked for bytes from {position}, got {sent}")
            unsynced = 0
            try:
                for block in response.iter_bytes():
                    data = block[skip:]
                    skip -= min(skip, len(block))
                    if file.tell() + len(data) > start + part.size:
                        raise DataError(f"{part.url}: longer than the {part.size:,} bytes that the hub announced")
                    file.write(data)
                    unsynced += len(data)
                    if unsynced >= _SYNC_BYTES:
                        _sync(file)
                        unsynced = 0
                    if progress is not None:
                        progress(file.tell(), total)
            finally:
                _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check_digest(part: HubFile, partial: Path, *, start: int) -> None:
    """A part that came damaged is cut off again, so that the next run fetches it again."""
    sha256, left = hashlib.sha256(), part.size
    with partial.open("r+b") as file:
        file.seek(start)
        while left and (block := file.read(min(_BLOCK, left))):
            sha256.update(block)
            left -= len(block)
        if sha256.hexdigest() != part.sha256:
            file.truncate(start)
            raise DataError(
                f"{part.name}: its digest is {sha256.hexdigest()[:12]}, not {str(part.sha256)[:12]}: damaged on the "
                "way; the same command fetches it again"
            )

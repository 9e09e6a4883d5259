"""Data sets of the Hugging Face hub: files are fetched into the hub's own cache, resumable, and read from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibadv.errors import DataError
from calibadv.io.hub import HubUnreachable, NotOnHub, fetch_file, fetch_folder, list_files
from calibadv.retrieval.corpus.importing.one_set import check_one_set

DATA_ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The files of a data set on this machine."""

    name: str
    """With the revision that was fetched."""
    folder: Path
    files: tuple[str, ...] | None
    """Paths below the folder; None for all that is there."""


def download_dataset(repo: str, *, revision: str | None, inside: str | None) -> Download:
    """Fetch the data files of a data set, or of one folder or file in it; without a hub, what the cache has."""
    try:
        listed = list_files(repo, kind="dataset", revision=revision)
    except HubUnreachable:
        return _from_cache(repo, revision=revision, inside=inside)
    except NotOnHub as error:
        raise DataError(f"{repo}: no such file or folder, and no such data set: {error}") from error
    name = f"hf://datasets/{repo}@{listed.revision}" + (f"/{inside}" if inside else "")
    files = sorted(file.name for file in listed.files if _is_data(file.name, inside))
    if not files:
        raise DataError(f"{name}: no {', '.join(DATA_ENDINGS)} files there; name the folder that has them")
    check_one_set(files, name=name)
    for file in files:
        path = fetch_file(
            repo, file, kind="dataset", revision=listed.revision, remedy="the same command continues the download"
        )
    return Download(name=name, folder=path.parents[len(Path(file).parts) - 1], files=tuple(files))


def _from_cache(repo: str, *, revision: str | None, inside: str | None) -> Download:
    try:
        folder = fetch_folder(
            repo,
            kind="dataset",
            revision=revision,
            remedy="fetch it on a machine with a network and name the files",
        )
    except DataError as error:
        raise DataError(f"{repo}: no such file or folder, and as a data set: {error}") from error
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    files = tuple(file for file in found if _is_data(file, inside))
    name = f"hf://datasets/{repo}@{folder.name}" + (f"/{inside}" if inside else "")
    if not files:
        raise DataError(f"{name}: the hub is unreachable and its cache has no data files of it")
    return Download(name=name, folder=folder, files=files)


def _is_data(file: str, inside: str | None) -> bool:
    is_inside = inside is None or file == inside or file.startswith(f"{inside}/")
    return is_inside and file.endswith(DATA_ENDINGS)

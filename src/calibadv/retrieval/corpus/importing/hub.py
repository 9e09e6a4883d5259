"""Data sets of the Hugging Face hub: files are fetched into the hub's own cache, resumable, and read from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibadv.errors import ConfigError, DataError
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
    hub = _import_hub()
    from httpx2 import HTTPError

    try:
        info = hub.HfApi().repo_info(repo, repo_type="dataset", revision=revision)
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        raise DataError(
            f"{repo}: no such file or folder, and the Hugging Face hub has no such data set or revision "
            "(if it is private, log in: hf auth login)"
        ) from error
    except (OSError, HTTPError) as error:
        return _from_cache(hub, repo, revision=revision, inside=inside, error=error)
    name = f"hf://datasets/{repo}@{info.sha}" + (f"/{inside}" if inside else "")
    files = sorted(
        file.rfilename
        for file in info.siblings or ()
        if file.rfilename.endswith(DATA_ENDINGS) and _is_inside(file.rfilename, inside)
    )
    if not files:
        raise DataError(f"{name}: no {', '.join(DATA_ENDINGS)} files there; name the folder that has them")
    check_one_set(files, name=name)
    try:
        for file in files:
            path = hub.hf_hub_download(repo, file, repo_type="dataset", revision=info.sha)
    except (OSError, HTTPError) as error:
        raise DataError(f"{name}/{file}: the download stopped ({_reason(error)}); the same command goes on") from error
    return Download(name=name, folder=_root(Path(path), file), files=tuple(files))


def _from_cache(hub: Any, repo: str, *, revision: str | None, inside: str | None, error: Exception) -> Download:
    try:
        folder = Path(hub.snapshot_download(repo, repo_type="dataset", revision=revision, local_files_only=True))
    except (OSError, ValueError) as missing:
        raise DataError(
            f"{repo}: no such file or folder, and the Hugging Face hub cannot be asked for such a data set "
            f"({_reason(error)}); fetch it on a machine with a network and name the files"
        ) from missing
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    files = tuple(file for file in found if file.endswith(DATA_ENDINGS) and _is_inside(file, inside))
    name = f"hf://datasets/{repo}@{folder.name}" + (f"/{inside}" if inside else "")
    if not files:
        raise DataError(f"{name}: the hub cannot be reached and the cache has no data files of it ({_reason(error)})")
    return Download(name=name, folder=folder, files=files)


def _is_inside(file: str, inside: str | None) -> bool:
    return inside is None or file == inside or file.startswith(f"{inside}/")


def _root(path: Path, file: str) -> Path:
    """The folder below which ``path`` ends in ``file``."""
    return path.parents[len(Path(file).parts) - 1]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError("a data set of the hub needs huggingface_hub: pip install 'calibadv[retrieval]'") from error
    return huggingface_hub

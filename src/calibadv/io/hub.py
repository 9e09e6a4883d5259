"""The Hugging Face hub: what a repository holds, its files in the hub's cache, and uploads.

Before anything is asked, the hub's address must accept a connection: the hub's client would try for minutes. Without a
connection, or with ``HF_HUB_OFFLINE=1``, whole repositories come from the cache, and what is not there is an error.
"""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from calibadv.errors import ConfigError, DataError, SaveError, first_line
from calibadv.io.packages import require_packages

Kind = Literal["model", "dataset"]
CONNECT_S = 4.0
"""Seconds within which the hub's address must accept a connection."""
REMEDY = "name a local copy, or set HF_ENDPOINT to a hub that can be reached from here"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubUnreachable(DataError):
    """No hub answers (or HF_HUB_OFFLINE is set), and the cache does not hold what was asked for."""


class NotOnHub(DataError):
    """The hub has no such repository, revision or file, or not for this user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a revision."""

    name: str
    listed_size: int | None
    """Bytes, where the hub says so."""
    sha256: str | None
    url: str

    @property
    def size(self) -> int:
        """Bytes; DataError where the hub does not say."""
        if self.listed_size is None:
            raise DataError(f"{self.url}: the hub does not tell the size of this file; try later")
        return self.listed_size


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFiles:
    """What a repository holds at one revision."""

    repo: str
    revision: str
    endpoint: str
    files: tuple[HubFile, ...]


def list_files(
    repo: str, *, kind: Kind, revision: str | None = None, endpoint: str | None = None, remedy: str = REMEDY
) -> HubFiles:
    """The files of a repository, with sizes and digests; ``remedy`` says what helps when no hub answers."""
    hub = _hub(repo)
    api = hub.HfApi(endpoint=endpoint)
    with _explained(repo, revision=revision, endpoint=api.endpoint, remedy=remedy):
        check_reachable(api.endpoint)
        info = api.repo_info(repo, repo_type=kind, revision=revision, files_metadata=True)
    folder = "datasets/" if kind == "dataset" else ""
    files = [
        HubFile(
            name=file.rfilename,
            listed_size=file.size,
            sha256=file.lfs.sha256 if file.lfs is not None else None,
            url=f"{api.endpoint}/{folder}{repo}/resolve/{info.sha}/{quote(file.rfilename)}",
        )
        for file in info.siblings or ()
    ]
    return HubFiles(repo=repo, revision=str(info.sha), endpoint=api.endpoint, files=tuple(files))


def fetch_file(
    repo: str, name: str, *, kind: Kind, revision: str | None = None, endpoint: str | None = None, remedy: str = REMEDY
) -> Path:
    """One file, fetched into the hub's cache or found there."""
    hub = _hub(repo)
    where = hub.HfApi(endpoint=endpoint).endpoint
    with _explained(repo, revision=revision, endpoint=where, remedy=remedy):
        cached = hub.try_to_load_from_cache(repo, name, repo_type=kind, revision=revision)
        is_pinned = re.fullmatch("[0-9a-f]{40}", revision or "") is not None
        if isinstance(cached, str) and (is_pinned or not is_reachable(where)):
            return Path(cached)
        check_reachable(where)
        return Path(hub.hf_hub_download(repo, name, repo_type=kind, revision=revision, endpoint=endpoint))


def fetch_folder(
    repo: str,
    *,
    kind: Kind,
    patterns: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    revision: str | None = None,
    remedy: str = REMEDY,
) -> Path:
    """A repository's files that match, fetched into the hub's cache; without a hub, what the cache has.

    The folder's name is the commit.
    """
    hub = _hub(repo)
    where = hub.HfApi().endpoint
    which: dict[str, Any] = {"repo_type": kind, "revision": revision}
    which |= {"allow_patterns": patterns and list(patterns), "ignore_patterns": ignore and list(ignore)}
    with _explained(repo, revision=revision, endpoint=where, remedy=remedy):
        try:
            check_reachable(where)
        except ConnectionError:
            try:
                return Path(hub.snapshot_download(repo, local_files_only=True, **which))
            except (OSError, ValueError):
                pass
            raise
        return Path(hub.snapshot_download(repo, **which))


def check_upload(repo: str, *, option: str) -> None:
    """Refuse before anything is trained what could not be uploaded after: a bad name, no token."""
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"{option} {repo}: a repository is OWNER/NAME, such as my-name/my-agent")
    if not _hub(repo).get_token():
        raise ConfigError(f"{option} needs a token with the right to write: export HF_TOKEN=...")


def upload_folder(folder: Path, repo: str, *, option: str, message: str = "Upload a trained model") -> str:
    """Create the repository if need be (private) and upload the folder; the address comes back."""
    hub = _hub(repo)
    from httpx2 import HTTPError

    api = hub.HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
    except (OSError, HTTPError) as error:
        raise SaveError(
            f"{option} {repo}: the upload failed ({first_line(error)}). The model is in {folder}; upload it by hand: "
            f"hf upload {repo} {folder}"
        ) from error


def is_reachable(endpoint: str) -> bool:
    """Whether the hub's address accepts a connection within `CONNECT_S`."""
    try:
        check_reachable(endpoint)
    except ConnectionError:
        return False
    return True


def check_reachable(endpoint: str) -> None:
    """ConnectionError when the hub is switched off (HF_HUB_OFFLINE) or its address accepts no connection."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    proxies, host = urllib.request.getproxies(), urlsplit(endpoint).hostname or ""
    proxy = None if urllib.request.proxy_bypass(host) else proxies.get(urlsplit(endpoint).scheme, proxies.get("all"))
    place = urlsplit(endpoint if proxy is None else proxy if "//" in proxy else f"//{proxy}")
    port = place.port or (443 if place.scheme == "https" else 80)
    failure: list[Exception] = [TimeoutError(f"no connection within {CONNECT_S:g} s")]

    def connect() -> None:
        try:
            socket.create_connection((place.hostname or "", port), timeout=CONNECT_S).close()
            failure.clear()
        except OSError as error:
            failure[0] = error

    # In a thread, because looking up a name can take any time and cannot be cut short.
    thread = threading.Thread(target=connect, name="hub-connection", daemon=True)
    thread.start()
    thread.join(CONNECT_S)
    if failure:
        raise ConnectionError(first_line(failure[0]))


@contextmanager
def _explained(repo: str, *, revision: str | None, endpoint: str, remedy: str) -> Iterator[None]:
    """Whatever the hub's client raises as one line with a remedy."""
    from httpx2 import HTTPError
    from huggingface_hub import errors

    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise NotOnHub(f"{repo}: the hub has no revision {revision} of it; leave it out for the newest") from error
    except errors.RepositoryNotFoundError as error:
        raise NotOnHub(
            f"{repo}: the hub has no such repository, or it needs a token (log in: hf auth login)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise NotOnHub(f"{repo}: the hub has no such file ({first_line(error)})") from error
    except ConnectionError as error:
        raise HubUnreachable(
            f"{repo}: the Hugging Face hub at {endpoint} is unreachable ({first_line(error)}); {remedy}"
        ) from error
    except (OSError, ValueError, HTTPError) as error:
        raise DataError(f"{repo}: cannot be read from the hub at {endpoint} ({first_line(error)}); {remedy}") from error


def _hub(repo: str) -> Any:
    require_packages("huggingface_hub", extra="retrieval", what=f"{repo}: the Hugging Face hub")
    import huggingface_hub
    import huggingface_hub.errors

    return huggingface_hub

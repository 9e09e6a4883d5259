"""The door for retrievers: ``retrieval.retriever`` names a class or function of yours that gives one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calibadv.errors import CalibAdvError, ConfigError, RetrieverError
from calibadv.io.provenance import source_of
from calibadv.registry import call, check_call, import_object, name_of
from calibadv.retrieval.base import Hit, Retriever
from calibadv.trajectory import Document

SETTING = "retrieval.retriever"
OURS = "calibadv."


class PluginRetriever:
    """A retriever from outside: what it raises is a failed search, and what it returns is checked."""

    def __init__(self, retriever: Retriever) -> None:
        check_call(
            getattr(retriever, "search", None), "queries", "k", setting=f"{SETTING} {name_of(retriever)!r}: its search",
            wanted="search(queries, k) -> one list of hits for each query",
        )  # fmt: skip
        self.retriever = retriever

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Search; at most ``k`` hits for each query.

        Raises:
            RetrieverError: The retriever raised anything but an error of this package.
            ConfigError: It returned something else than one list of hits for each query.
        """
        try:
            found: Any = self.retriever.search(queries, k)
        except CalibAdvError:
            raise
        except Exception as error:
            raise RetrieverError(f"{name_of(self.retriever)} raised {type(error).__name__}: {error}") from error
        if not isinstance(found, Sequence) or len(found) != len(queries):
            got = f"{len(found)} lists" if isinstance(found, Sequence) else type(found).__name__
            raise ConfigError(
                f"{SETTING} {name_of(self.retriever)!r} returned {got} for {len(queries)} queries; return one list of "
                "hits for each"
            )
        return [self._hits(hits)[:k] for hits in found]

    def _hits(self, hits: Any) -> list[Hit]:
        try:
            checked = [Hit(document, float(score)) for document, score in hits]
        except (TypeError, ValueError):
            checked = None
        if checked is None or not all(isinstance(hit.document, Document) for hit in checked):
            raise ConfigError(
                f"{SETTING} {name_of(self.retriever)!r} returned {hits!r:.80} for a query; return a list of "
                "calibadv.retrieval.Hit(document, score)"
            )
        return checked

    def close(self) -> None:
        """Call its own ``close``, if it has one."""
        if callable(close := getattr(self.retriever, "close", None)):
            close()

    def manifest(self) -> dict[str, Any]:
        """What is searched, for records: the class, and what it says of itself if it has a manifest."""
        own = getattr(self.retriever, "manifest", None)
        return {"method": "plugin", "object": name_of(self.retriever)} | (dict(own()) if callable(own) else {})

    @property
    def version(self) -> str:
        """Its own version, or the digest of its source file."""
        version = getattr(self.retriever, "version", None)
        if isinstance(version, str):
            return version
        return source_of(self.retriever).get("sha256", "unknown")


def open_plugin(path: str) -> PluginRetriever:
    """The retriever behind an import path: a class or function that is called without arguments.

    Raises:
        ConfigError: There is none, it cannot be called so, or what it gives has no ``search(queries, k)``.
    """
    make = import_object(path, setting=SETTING)
    check_call(make, setting=SETTING, wanted="retriever() -> an object with search(queries, k)")
    return PluginRetriever(call(make, setting=SETTING))


def checked(retriever: Retriever) -> Retriever:
    """A retriever given in Python: one of ours as it is, one from outside with its results checked."""
    return retriever if type(retriever).__module__.startswith(OURS) else PluginRetriever(retriever)

"""How sources are turned into documents."""

from __future__ import annotations

from dataclasses import dataclass

from calibadv.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Field names, chunking, and what to do with rows that cannot be used."""

    id_field: str | None = None
    """Field that holds the id. Not set: ``id``, and row numbers when the first row has no such field."""
    title_field: str | None = None
    """Field that holds the title. Not set: ``title`` if there is one."""
    text_field: str | None = None
    """Field that holds the text. Not set: ``contents`` if there is one, else ``text``."""
    contents_field: str | None = None
    """Field that holds title and text together: the first line is the title, in quotes (wiki-18)."""
    chunk_words: int | None = None
    """Cut documents into passages of this many words. Not set: documents stay whole."""
    chunk_overlap: int = 0
    """Words that a passage shares with the one before it."""
    strict: bool = False
    """Stop at the first row that cannot be used instead of leaving it out."""

    def __post_init__(self) -> None:
        for name in ("id_field", "title_field", "text_field", "contents_field"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} must name a field, got ''")
        if self.contents_field is not None and (self.text_field is not None or self.title_field is not None):
            raise ConfigError(
                f"contents_field {self.contents_field!r} holds title and text together; "
                "leave title_field and text_field out, or leave contents_field out"
            )
        if self.chunk_words is None and self.chunk_overlap:
            raise ConfigError(f"chunk_overlap {self.chunk_overlap} needs chunk_words")
        if self.chunk_words is not None and self.chunk_words < 1:
            raise ConfigError(f"chunk_words must be >= 1, got {self.chunk_words}")
        if self.chunk_words is not None and not 0 <= self.chunk_overlap < self.chunk_words:
            raise ConfigError(
                f"chunk_overlap must be between 0 and chunk_words - 1 ({self.chunk_words - 1}), "
                f"got {self.chunk_overlap}"
            )

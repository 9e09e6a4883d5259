"""How sources are turned into documents."""

from __future__ import annotations

from calibadv.config_class import Count, Name, PositiveInt, config_class
from calibadv.errors import ConfigError


@config_class()
class ImportConfig:
    """Field names, chunking, and what to do with rows that cannot be used."""

    id_field: Name | None = None
    """Field that holds the id. Not set: ``id``, and row numbers when the first row has no such field."""
    title_field: Name | None = None
    """Field that holds the title. Not set: ``title`` if there is one."""
    text_field: Name | None = None
    """Field that holds the text. Not set: ``contents`` if there is one, else ``text``."""
    contents_field: Name | None = None
    """Field that holds title and text together: the first line is the title, in quotes (wiki-18)."""
    chunk_words: PositiveInt | None = None
    """Cut documents into passages of this many words. Not set: documents stay whole."""
    chunk_overlap: Count = 0
    """Words that a passage shares with the one before it."""
    strict: bool = False
    """Stop at the first row that cannot be used instead of leaving it out."""

    def __post_init__(self) -> None:
        if self.contents_field is not None and (self.text_field is not None or self.title_field is not None):
            raise ConfigError(
                f"contents_field {self.contents_field!r} holds title and text together; "
                "leave title_field and text_field out, or leave contents_field out"
            )
        if self.chunk_words is None and self.chunk_overlap:
            raise ConfigError(f"chunk_overlap {self.chunk_overlap} needs chunk_words")
        if self.chunk_words is not None and self.chunk_overlap >= self.chunk_words:
            raise ConfigError(f"chunk_overlap must be < chunk_words ({self.chunk_words}), got {self.chunk_overlap}")

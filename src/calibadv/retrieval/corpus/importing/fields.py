"""From a row's fields to a document: the wiki-18 form, id/title/text, or fields of other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibadv.retrieval.corpus.importing.config import ImportConfig
from calibadv.retrieval.corpus.row_errors import RowError
from calibadv.retrieval.corpus.text import split_contents
from calibadv.trajectory import Document


class FieldReader:
    """Reads rows with one set of field names.

    The first row with a text decides whether rows have ids of their own; when not, documents are numbered from 0 in the
    order in which they are kept. A later row that says otherwise would give two kinds of ids, so it is an error.
    """

    def __init__(self, config: ImportConfig, *, may_number: bool) -> None:
        self._config = config
        self._id_field = config.id_field or "id"
        self._may_number = may_number and config.id_field is None
        self.first_fields: tuple[str, ...] | None = None
        """The fields of the first row with a text; None before it."""
        self.numbered = False
        """Ids are row numbers because the source has none."""

    def document(self, row: Any, *, number: int) -> Document | RowError:
        """The document of a row, or what is wrong with it; ``number`` is its id if rows have none."""
        if not isinstance(row, Mapping):
            return RowError("broken", f"expected an object, got {type(row).__name__}")
        parts = self._title_and_text(row)
        if isinstance(parts, RowError):
            return parts
        if self.first_fields is None:
            self.first_fields = tuple(sorted(map(str, row)))
            self.numbered = self._may_number and self._id_field not in row
        document_id = self._id(row, number)
        return (
            document_id
            if isinstance(document_id, RowError)
            else Document(id=document_id, title=parts[0], text=parts[1])
        )

    def columns(self, names: list[str]) -> list[str]:
        """Those of these fields that are read at all."""
        config = self._config
        fields = [config.id_field or "id", config.contents_field or "contents"]
        fields += [config.title_field or "title", config.text_field or "text"]
        return [name for name in names if name in fields]

    def _id(self, row: Mapping[str, Any], number: int) -> str | RowError:
        name = self._id_field
        if self.numbered:
            if name in row:
                return RowError("broken", f'it has an "{name}", but the first row had none; all need one, or none')
            return str(number)
        if name not in row:
            return _absent(f'no field "{name}"', row, remedy="another one with --id-field")
        value = row[name]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str):
            return value
        return RowError("broken", f'"{name}" must be a string or an integer, got {value!r:.80}')

    def _title_and_text(self, row: Mapping[str, Any]) -> tuple[str, str] | RowError:
        config = self._config
        contents_field = config.contents_field
        if contents_field is None and config.text_field is None and config.title_field is None and "contents" in row:
            contents_field = "contents"
        if contents_field is not None:
            contents = _string(row, contents_field)
            return contents if isinstance(contents, RowError) else split_contents(contents)
        text_field = config.text_field or "text"
        if text_field not in row and config.text_field is None:
            return _absent('neither "contents" nor "text"', row, remedy="yours with --text-field or --contents-field")
        text = _string(row, text_field)
        title: str | RowError = ""
        if config.title_field is not None or row.get("title") is not None:
            title = _string(row, config.title_field or "title", null="")
        if isinstance(title, RowError):
            return title
        return text if isinstance(text, RowError) else (title, text)


def _string(row: Mapping[str, Any], name: str, *, null: str | None = None) -> str | RowError:
    if name not in row:
        return _absent(f'no field "{name}"', row, remedy="one of them")
    value = row[name]
    if value is None and null is not None:
        return null
    return (
        value
        if isinstance(value, str)
        else RowError("broken", f'"{name}" must be a string, got {type(value).__name__}')
    )


def _absent(problem: str, row: Mapping[str, Any], *, remedy: str) -> RowError:
    return RowError("broken", f"{problem}; got the fields {sorted(map(str, row))!r:.200}; name {remedy}")

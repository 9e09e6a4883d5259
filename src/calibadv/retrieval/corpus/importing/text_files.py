"""Documents out of .txt and .md files: one file, one document."""

from __future__ import annotations

from pathlib import Path

from calibadv.retrieval.corpus.importing.jsonl import MAX_BYTES
from calibadv.retrieval.corpus.row_errors import RowError
from calibadv.trajectory import Document


def read_text_file(path: Path, *, document_id: str) -> tuple[int, Document | RowError]:
    """Line number for messages, and the document.

    The title is the first heading of a Markdown file, or the file's name without its ending. A heading that opens the
    file is not repeated in the text.
    """
    if path.stat().st_size > MAX_BYTES:
        return 1, RowError("broken", f"longer than {MAX_BYTES >> 20} MiB; split it into several files")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return line, RowError("not_utf8", f"not UTF-8 ({error.reason}); convert the file")
    title = None
    if path.suffix.lower() == ".md":
        title, text = _markdown(text)
    return 1, Document(id=document_id, title=title or path.stem, text=text.strip())


def _markdown(text: str) -> tuple[str | None, str]:
    """The first heading, and the text without it if it comes first."""
    lines = text.split("\n")
    fenced, nothing_before = False, True
    for number in range(_end_of_front_matter(lines), len(lines)):
        line = lines[number]
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        title, used = (None, 0) if fenced else _heading(lines, number)
        if title:
            return title, "\n".join(lines[number + used :] if nothing_before else lines)
        nothing_before = nothing_before and not line.strip()
    return None, text


def _heading(lines: list[str], number: int) -> tuple[str | None, int]:
    """The heading that starts in this line, and how many lines it takes."""
    line = lines[number].strip()
    depth = len(line) - len(line.lstrip("#"))
    if 1 <= depth <= 6 and line[depth : depth + 1] in (" ", "\t"):
        title = line[depth:].strip()
        closed = title.rstrip("#")
        return (closed.rstrip() if closed.endswith((" ", "\t")) else title), 1
    below = lines[number + 1].strip() if number + 1 < len(lines) else ""
    return (line, 2) if line and below and not below.strip("=") else (None, 0)


def _end_of_front_matter(lines: list[str]) -> int:
    """Where the text starts if the file opens with settings between two lines of dashes."""
    if lines[0].strip() != "---" or "---" not in lines[1:]:
        return 0
    return lines.index("---", 1) + 1

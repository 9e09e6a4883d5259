"""An extension of griffe for what Markdown does not know: doctests, and literal blocks that follow two colons."""

from typing import Any

import griffe


def as_markdown(docstring: str) -> str:
    """Put fences around doctests, and one colon for two.

    >>> print(as_markdown("Doubles, such as::\\n\\n>>> 2 * 3\\n6\\n\\nThe end."))
    Doubles, such as:
    <BLANKLINE>
    ```pycon
    >>> 2 * 3
    6
    ```
    <BLANKLINE>
    The end.
    """
    lines: list[str] = []
    fence = ""
    for line in [*docstring.splitlines(), ""]:
        if not fence and line.lstrip().startswith(">>>"):
            fence = line[: len(line) - len(line.lstrip())] + "```"
            lines.append(fence + "pycon")
        elif fence and not line.strip():
            lines.append(fence)
            fence = ""
        lines.append(line.removesuffix(":") if not fence and line.endswith("::") else line)
    return "\n".join(lines[:-1])


class Docstrings(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

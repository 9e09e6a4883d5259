"""``calibadv index`` and its sub-commands.

- `build`: ``calibadv index build``, ``info`` and ``verify``
- `convert`: ``calibadv index convert`` and ``pull``: indexes of another kind, and published ones
- `measure`: ``calibadv index recall`` and ``audit``: what an index finds of what questions need; what its corpus has
  at all
"""

from __future__ import annotations

from typing import Any

from calibadv.cli.options import new_command

EPILOG = """\
examples
  calibadv index build corpora/wiki --method bm25         into corpora/wiki/bm25
  calibadv index info corpora/wiki/bm25
  calibadv index verify corpora/wiki/bm25                 is it the index of this corpus, and whole?
  calibadv index recall corpora/wiki/bm25 --questions nq.test.jsonl    how much of what questions need it finds
  calibadv index audit corpora/wiki/bm25 --questions nq.test.jsonl     which questions the corpus cannot answer
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand and its tools."""
    from calibadv.cli.index import build, convert, measure

    parser = new_command(
        commands,
        "index",
        help="build and check the indexes of a corpus",
        description="Build, describe, check and measure the indexes of a corpus that calibadv corpus import made.",
        epilog=EPILOG,
    )
    tools = parser.add_subparsers(title="tools", metavar="TOOL", required=True)
    for module in (build, convert, measure):
        module.add_tools(tools)

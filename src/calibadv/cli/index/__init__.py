"""``calibadv index`` and its sub-commands.

- `build`: ``calibadv index build``: make a corpus searchable
- `convert`: ``calibadv index convert`` and ``pull``: indexes of another kind, and published ones
- `look`: ``calibadv index search``, ``info`` and ``verify``
- `measure`: ``calibadv index recall`` and ``audit``: what an index finds of what questions need; what its corpus has
  at all
"""

from __future__ import annotations

from calibadv.cli.options import command

EXAMPLES = """\
  calibadv index build corpora/wiki --method bm25        into corpora/wiki/bm25
  calibadv index search corpora/wiki/bm25 "the first program" -k 5
  calibadv index info corpora/wiki/bm25
  calibadv index verify corpora/wiki/bm25                is it the index of this corpus, and whole?
  calibadv index recall corpora/wiki/bm25 --questions nq.test.jsonl   how much of what questions need it finds
  calibadv index audit corpora/wiki/bm25 --questions nq.test.jsonl    which questions the corpus cannot answer
"""
TOOLS = {
    "build": ("build", "Make a corpus searchable."),
    "search": ("look", "Search an index and show what it finds."),
    "info": ("look", "Say what an index is: method, parameters, corpus, size."),
    "verify": ("look", "Compare an index with its manifest, its corpus and its encoder."),
    "recall": ("measure", "Measure how much of what questions need an index finds."),
    "audit": ("measure", "Find questions that cannot be answered from a corpus."),
    "convert": ("convert", "Make an index of another kind without encoding again."),
    "pull": ("convert", "Fetch a published corpus with its index from the Hugging Face hub."),
}

app = command("index", examples=EXAMPLES)
for number, (name, (module, text)) in enumerate(TOOLS.items()):
    app.command(f"calibadv.cli.index.{module}:{name}", name=name, help=text, sort_key=number)

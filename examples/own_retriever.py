"""A retriever of one's own: anything with ``search(queries, k)`` that gives one list of hits for each query.

    calibadv train run.toml --set retrieval.retriever=own_retriever:Glossary      (from this folder; no [retrieval])
    python examples/own_retriever.py

It may be called from a background thread. What it raises counts as a failed search: it is retried, and if it keeps
failing the rollout ends with a stop reason instead of an invented observation.
"""

from collections.abc import Sequence

from calibadv.retrieval import Hit
from calibadv.rollout import CharTokenizer, RolloutConfig, ScriptedPolicy, rollout
from calibadv.trajectory import Document, Question

ENTRIES = {
    "grpo": "GRPO compares the rewards of several rollouts of one question.",
    "silver documents": "Silver documents are what the best rollouts of a question retrieved.",
    "soft penalty": "The soft penalty shrinks the negative advantage of a search that found silver documents.",
}


class Glossary:
    """Entries that share most words with the query."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self.look_up(query)[:k] for query in queries]

    def look_up(self, query: str) -> list[Hit]:
        words = set(query.lower().split())
        scored = [(len(words & set(f"{term} {text}".lower().split())), term) for term, text in ENTRIES.items()]
        return [
            Hit(Document(id=term, title=term, text=ENTRIES[term]), float(score))
            for score, term in sorted(scored, reverse=True)
            if score
        ]


if __name__ == "__main__":
    tokenizer = CharTokenizer()
    turns = ["I look it up.</think><search>soft penalty</search>", "So.</think><answer>it shrinks</answer>"]
    result = rollout(
        [Question(id="1", text="What does the soft penalty do?", golden_answers=("it shrinks",))],
        num_rollouts=1,
        policy=ScriptedPolicy([turns], tokenizer=tokenizer),
        retriever=Glossary(),
        tokenizer=tokenizer,
        config=RolloutConfig(prompt="question", top_k=1),
        seed=0,
    )
    for turn in result.trajectories[0].turns:
        print(turn.action.kind, turn.action.content, [document.title for document in turn.documents])

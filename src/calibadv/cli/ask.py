"""``calibadv ask``: put a question to an agent and watch it think, search and answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from calibadv.cli.agent import SETTINGS, Model, RetrieverOption, Temperature, opened_agent
from calibadv.cli.console.options import Arm, Json, Overrides, command, overrides_of, takes_settings
from calibadv.cli.console.terminal import ANSWER, BOLD, DIM, FOUND, SEARCH, THINK, Blocks
from calibadv.errors import ConfigError, RetrieverError
from calibadv.runs.agent import lab_questions
from calibadv.trajectory import ActionKind, StopReason

if TYPE_CHECKING:
    from calibadv.agent import Event, Finished

EXAMPLES = """\
  calibadv ask                          three questions that the lab answers
  calibadv ask "Who ...?"               the packaged model, the lab's encyclopedia
  calibadv ask "Who ...?" --model runs/lab            what a lab has trained
  calibadv ask "Who ...?" --model runs/my-run         a run, with its retriever
  calibadv ask "Who ...?" --model Qwen/Qwen2.5-3B-Instruct --retriever http://127.0.0.1:8000
  calibadv ask "Who ...?" --json        one JSON object an event, for programs

Exit codes: 0 there is an answer; 1 the model ended without one; 3 the search
failed. NO_COLOR=1 switches colours off.
"""
WAIT_S = 5.0
"""For a retriever that is still loading: somebody is waiting for the answer."""

app = command("ask", examples=EXAMPLES)


@app.default
@takes_settings(SETTINGS)
def ask(
    question: Annotated[str | None, Parameter(help="Leave it out for examples of the lab.")] = None,
    /,
    *,
    model: Model = None,
    arm: Arm = None,
    retriever: RetrieverOption = None,
    temperature: Temperature = 0.0,
    seed: Annotated[int | None, Parameter(help="Of the draws, for --temperature above 0.")] = None,
    overrides: Overrides = (),
    json: Json = False,
    **options: Any,
) -> int:
    """Put a question to an agent and watch it think, search and answer."""
    if question is None:
        if model is not None or retriever is not None:
            raise ConfigError('QUESTION is missing: put it in quotes, calibadv ask "who ...?"')
        print("Questions that the lab's encyclopedia answers:")
        for text in lab_questions(3):
            print(f'  calibadv ask "{text}"')
        return 0
    if not question.strip():
        raise ConfigError("QUESTION is empty; put a question in quotes")
    given = [f"retrieval.remote.wait_s={WAIT_S}", f"rollout.temperature={temperature}"]
    given += [*overrides_of(SETTINGS, options), *overrides]
    show = JsonLines() if json else Terminal()
    with opened_agent(model, retriever=retriever, arm=arm, overrides=given) as agent:
        *_, end = map(show, agent.ask(question, seed=seed))
    return exit_code(end)


def exit_code(end: Any) -> int:
    """1 without an answer; a search that failed is an error."""
    if end.trajectory.stop_reason is StopReason.SEARCH_FAILED:
        raise RetrieverError(end.trajectory.error or "the search failed")
    return 1 if end.answer is None else 0


class JsonLines:
    """Prints each event as one JSON object."""

    def __call__(self, event: Event) -> Event:
        from calibadv.agent.events import as_json

        print(json.dumps(as_json(event), ensure_ascii=False), flush=True)
        return event


class Terminal:
    """Prints each event as a few lines for people."""

    def __init__(self) -> None:
        self.blocks = Blocks(sys.stdout, width=100)

    def __call__(self, event: Event) -> Event:
        from calibadv.agent import DocumentsFound, Finished, TurnWritten

        if isinstance(event, TurnWritten):
            if event.action.kind is ActionKind.INVALID:
                self.show("wrote", event.text, DIM)
                return event
            self.show("think", event.thinking, THINK)
            if event.action.kind is ActionKind.SEARCH:
                self.show("search", event.action.content, SEARCH)
        elif isinstance(event, DocumentsFound):
            titles = [document.title or document.id for document in event.documents]
            self.show("found", "; ".join(titles) or "nothing", FOUND)
        elif isinstance(event, Finished):
            self.end(event)
        return event

    def end(self, end: Finished) -> None:
        """The answer with the documents that hold it."""
        if end.answer is None:
            self.show("no answer", end.explanation() or "", BOLD)
        else:
            self.show("answer", end.answer, ANSWER)
            for source in end.sources:
                if source.holds_answer:
                    where = f"{source.document.title or source.document.id} (id {source.document.id})"
                    self.show("source", where, FOUND)
        searches = len(end.trajectory.search_turns)
        spent = f"{searches} search{'es' if searches != 1 else ''}, {end.completion_tokens} tokens written"
        self.show("", f"{spent}, {end.seconds:.1f} s", DIM)

    def show(self, label: str, text: str, style: str) -> None:
        """A label, and the text wrapped beside it; nothing for an empty text."""
        if text.strip():
            print("\n".join(self.blocks.block(label, text, style)), flush=True)

"""``calibadv ask``: put a question to an agent and watch it think, search and answer."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from calibadv.cli.agent_options import add_agent_options, is_lab, lab_questions, opened_agent
from calibadv.cli.options import new_command
from calibadv.cli.trajectories import ANSWER, BOLD, DIM, FOUND, SEARCH, THINK, clean
from calibadv.errors import ConfigError, RetrieverError
from calibadv.trajectory import ActionKind, StopReason

if TYPE_CHECKING:
    from calibadv.agent import Event, Finished

EPILOG = """\
examples
  calibadv ask                                             three questions that the lab's encyclopedia answers
  calibadv ask "..."                                       the lab's packaged model, over the lab's encyclopedia
  calibadv ask "..." --model runs/my-run                   what a run has trained, with the retriever of that run
  calibadv ask "..." --model Qwen/Qwen2.5-3B-Instruct --retriever http://127.0.0.1:8000
  calibadv ask "..." --json                                one JSON object an event, for programs

Exit codes: 0 there is an answer; 1 the model ended without one; 3 the search failed. NO_COLOR=1 switches colours off.
"""

WAIT_S = 5.0
"""For a retriever that is still loading."""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = new_command(
        commands,
        "ask",
        help="put a question to an agent and watch its turns",
        description="Put a question to an agent and watch it think, search and answer.",
        epilog=EPILOG,
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help="leave it out for examples of the lab")
    add_agent_options(parser)
    parser.add_argument("--seed", type=int, metavar="S", help="of the draws, for --temperature above 0")
    parser.add_argument("--json", action="store_true", help="print events as JSON lines")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    """Ask."""
    if arguments.question is None:
        if not is_lab(arguments):
            raise ConfigError('QUESTION is missing: put it in quotes, calibadv ask "who ...?"')
        print("Questions that the lab's encyclopedia answers:")
        for text in lab_questions(3):
            print(f'  calibadv ask "{text}"')
        return
    if not arguments.question.strip():
        raise ConfigError("QUESTION is empty; put a question in quotes")
    # Somebody is waiting: that a server is not there is said soon. A --set of theirs comes later and wins.
    arguments.overrides = [f"retrieval.remote.wait_s={WAIT_S}", *arguments.overrides]
    show = JsonLines() if arguments.json else Terminal()
    with opened_agent(arguments, max_conversations=1) as agent:
        *_, end = map(show, agent.ask(arguments.question, seed=arguments.seed))
    finish(end)


def finish(end: Any) -> None:
    """Leave with the exit code that the end deserves."""
    if end.trajectory.stop_reason is StopReason.SEARCH_FAILED:
        raise RetrieverError(end.trajectory.error or "the search failed")
    if end.answer is None:
        sys.exit(1)


class JsonLines:
    """Prints each event as one JSON object."""

    def __call__(self, event: Event) -> Event:
        from calibadv.agent.events import as_json

        print(json.dumps(as_json(event), ensure_ascii=False), flush=True)
        return event


class Terminal:
    """Prints each event as a few lines for people."""

    def __init__(self) -> None:
        self.colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self.width = max(50, min(shutil.get_terminal_size().columns, 100))

    def __call__(self, event: Event) -> Event:
        from calibadv.agent import DocumentsFound, Finished, TurnWritten

        if isinstance(event, TurnWritten):
            if event.action.kind is ActionKind.INVALID:
                self.block("wrote", event.text, DIM)
                return event
            self.block("think", event.thinking, THINK)
            if event.action.kind is ActionKind.SEARCH:
                self.block("search", event.action.content, SEARCH)
        elif isinstance(event, DocumentsFound):
            titles = [document.title or document.id for document in event.documents]
            self.block("found", "; ".join(titles) or "nothing", FOUND)
        elif isinstance(event, Finished):
            self.end(event)
        return event

    def end(self, end: Finished) -> None:
        """The answer with the documents that hold it."""
        if end.answer is None:
            self.block("no answer", end.explanation() or "", BOLD)
        else:
            self.block("answer", end.answer, ANSWER)
            for source in end.sources:
                if source.holds_answer:
                    where = f"{source.document.title or source.document.id} (id {source.document.id})"
                    self.block("source", where, FOUND)
        searches = len(end.trajectory.search_turns)
        spent = f"{searches} search{'es' if searches != 1 else ''}, {end.completion_tokens} tokens written"
        self.block("", f"{spent}, {end.seconds:.1f} s", DIM)

    def block(self, label: str, text: str, style: str) -> None:
        """A label, and the text wrapped beside it."""
        text = " ".join(clean(text).split())
        if not text:
            return
        indent = " " * 12
        for number, line in enumerate(textwrap.wrap(text, self.width - len(indent))):
            shown = f"\x1b[{style}m{line}\x1b[0m" if self.colour else line
            print((f"  {label:<9} " if not number else indent) + shown, flush=True)
